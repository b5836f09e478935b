//! `check`: what a start would find, without serving and without changing anything.

use crate::{
    auth::Access,
    config::Settings,
    embedded::EmbeddedServer,
    store::{self, Inspection},
};

use super::{Database, StartError, capacity, output::print, preflight};

/// Looks at everything in turn and says what it found; the first thing that would stop a start is the error.
pub(super) async fn run(settings: &Settings) -> Result<(), StartError> {
    say("configuration", "fine")?;
    let settings = &capacity::fit(settings)?;
    let found = preflight::listeners(settings).await?;
    for found in &found {
        say("listeners", found)?;
    }
    if found.is_empty() {
        say("listeners", "free")?;
    }
    preflight::before_a_new_one(settings).await?;
    let access = preflight::access(settings).await?;
    preflight::master_key(settings)?;
    let has_keys = settings.auth.has_keys() || settings.jwt.is_on();
    say(
        "keys",
        if has_keys { "those of the configuration can be used" } else { "none is configured" },
    )?;
    if settings.database.url.is_none() {
        return look_at_private(settings, &access).await;
    }
    let database = Database::open(settings).await?;
    database.reach_all(settings).await?;
    let direct = database.direct_options(settings)?;
    let found = store::inspect(&direct, settings.database.install_pgmq).await?;
    say("database", &describe(&found))?;
    preflight::before_the_schema(settings, &access, &direct).await?;
    let missing = found.missing_rights();
    say("rights", missing.as_deref().unwrap_or("sufficient"))
}

/// Looks at the private PostgreSQL, which is not started for this.
async fn look_at_private(settings: &Settings, access: &Access) -> Result<(), StartError> {
    EmbeddedServer::inspect(&settings.embedded)?;
    let is_new = EmbeddedServer::is_new(&settings.embedded)?;
    let found = if is_new { "is made by the first start" } else { "is there" };
    say("database", &format!("none is configured: a private PostgreSQL {found}"))?;
    if is_new {
        return Ok(());
    }
    match preflight::before_the_private_one(settings, access).await? {
        Some(doubt) => say("keys", &doubt),
        None => Ok(()),
    }
}

fn describe(found: &Inspection) -> String {
    let pgmq = match (&found.pgmq, found.installs) {
        (None, _) => "PGMQ is missing, and a start installs it".to_owned(),
        (Some(pgmq), true) => format!("PGMQ {pgmq}, which a start upgrades"),
        (Some(pgmq), false) => format!("PGMQ {pgmq}"),
    };
    let schema = if found.migrates { "is brought up to date by a start" } else { "is up to date" };
    format!("{pgmq}; schema pgmq_gateway {schema}")
}

fn say(what: &str, found: &str) -> Result<(), StartError> {
    print(&format!("{what}: {found}\n"))
}
