//! `check`: what a start would find, without serving and without changing anything.

use std::io::{self, Write};

use crate::{
    config::Settings,
    embedded::EmbeddedServer,
    store::{self, Inspection},
};

use super::{Database, StartError, capacity, preflight};

/// Looks at everything in turn and says what it found; the first thing that would stop a start is the error.
pub(super) async fn run(settings: &Settings) -> Result<(), StartError> {
    say("configuration", "fine");
    let settings = &capacity::fit(settings)?;
    let in_use = preflight::places_in_use(settings).await?;
    for place in &in_use {
        let found = format!("{place} is in use: fine if it is by the gateway to be replaced");
        say("listeners", &found);
    }
    if in_use.is_empty() {
        say("listeners", "free");
    }
    preflight::before_a_new_one(settings).await?;
    let access = preflight::access(settings).await?;
    say("keys", "those of the configuration can be used");
    if settings.database.url.is_none() {
        let is_new = EmbeddedServer::is_new(&settings.embedded)?;
        let found = if is_new { "is made by the first start" } else { "is there" };
        say("database", &format!("none is configured: a private PostgreSQL {found}"));
        return Ok(());
    }
    let database = Database::open(settings).await?;
    database.reach_all(settings).await?;
    let direct = database.direct_options(settings)?;
    let found = store::inspect(&direct, settings.database.install_pgmq).await?;
    say("database", &describe(&found));
    preflight::before_the_schema(settings, &access, &direct).await?;
    say("rights", "sufficient");
    Ok(())
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

fn say(what: &str, found: &str) {
    // As with `| head`.
    let _ = writeln!(io::stdout(), "{what}: {found}");
}
