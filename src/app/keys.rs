//! `keys`: making them, listing them, and ending them.

use std::{
    fs,
    io::{self, Write},
    time::Duration,
};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use tokio::time::sleep;

use crate::{
    auth,
    config::{Settings, Sqs},
    domain::{Grant, KeyHash, KeyLimits, MasterKey, NewApiKey},
    store::{self, ListedKey},
};

use super::{
    StartError,
    database::Database,
    output::{print, print_done},
};

/// Time for a gateway to load the keys.
const TIME_TO_LOAD: Duration = Duration::from_millis(500);
/// The shortest life that a key can be given.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// The longest time that can be asked for: a thousand years as they are read.
const MAX_TIME: Duration = Duration::from_secs(1000 * 31_557_600);

/// What to do with the keys in the database. A command that changes them ends when gateways have had the time to look
/// at them again.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key, and print it: it is shown this once, and only its hash is kept.
    Create {
        /// What people call it, and the logs.
        #[arg(long)]
        name: String,
        /// What it may do: rights among send, receive, manage and admin, and queues by name, in which
        /// `*` stands for any characters. Can be given more than once.
        #[arg(long = "grant", value_name = "RIGHTS:QUEUES", required = true)]
        grants: Vec<Grant>,
        /// The end of its life, such as 90days or 12h from now; none if not given.
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires_in: Option<Duration>,
        /// Requests in a second.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        requests_per_second: Option<u32>,
        /// Clients that wait with it at the same time, at each gateway.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        max_waiters: Option<u32>,
        /// Print it as an access key id and a secret access key, with which AWS SDKs sign.
        #[arg(long)]
        aws: bool,
    },
    /// List the keys, without what is secret in them.
    List,
    /// End a key for good.
    Revoke {
        /// Its id, which stands in it behind the first `_`.
        id: String,
    },
    /// Give a key a new secret, and print it.
    Rotate {
        /// Its id.
        id: String,
        /// For how long the old one is taken too, such as 1h.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
        overlap: Duration,
        /// Print it as an access key id, which is a new one too, and a secret access key.
        #[arg(long)]
        aws: bool,
    },
}

impl KeyCommand {
    /// Whether there is something for it to do where no key has been made yet.
    fn makes_the_first(&self) -> bool {
        matches!(self, Self::Create { .. })
    }

    /// Whether it takes the schema as this program knows it; to the others the table of the keys is enough.
    fn takes_the_schema(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Rotate { aws: true, .. })
    }
}

/// Does it.
pub(super) async fn run(settings: &Settings, command: KeyCommand) -> Result<(), StartError> {
    if let Some((directory, is_new)) = Database::private(settings)? {
        if is_new && !command.makes_the_first() {
            return Err(StartError::NoDatabase(directory));
        }
        let made = if is_new { ", which is made now" } else { "" };
        tell(&format!(
            "no database is configured: this is about the private PostgreSQL in {}{made}",
            directory.display()
        ));
    }
    let database = Database::reach(settings).await?;
    let is_change = !matches!(command, KeyCommand::List);
    let outcome = administer(&database, settings, command).await;
    // No gateway is on a server that was started for this.
    let is_known = database.is_ours();
    database.stop().await;
    outcome?;
    if is_change && !is_known {
        until_looked_at(settings).await;
    }
    Ok(())
}

async fn administer(
    database: &Database,
    settings: &Settings,
    command: KeyCommand,
) -> Result<(), StartError> {
    let options = database.direct_options(settings)?;
    let limits = &settings.database;
    let kept = if command.takes_the_schema() {
        let install = limits.install_pgmq;
        store::prepare(&options, install, limits.connect_timeout()).await?.master_key
    } else {
        store::check_keys(&options).await?;
        None
    };
    // Asked for by those alone who need it: a key can be revoked where its file is gone.
    let master = || master_key(&settings.sqs, kept.clone());
    match command {
        KeyCommand::Create { name, grants, expires_in, requests_per_second, max_waiters, aws } => {
            let id = auth::new_key_id();
            let made = Made::new(&id, aws.then_some(&master))?;
            let new = NewApiKey {
                id: id.clone(),
                name,
                hash: KeyHash::of(&made.key),
                grants: grants.iter().map(Grant::to_string).collect(),
                expires_in,
                limits: KeyLimits { requests_per_second, max_waiters },
            };
            store::create_key(&options, &new).await?;
            show(id, &made)?;
        }
        KeyCommand::List => print(&(table(&store::list_keys(&options, None).await?) + "\n"))?,
        KeyCommand::Revoke { id } => {
            store::revoke_key(&options, &id).await?;
            print_done(&format!("{id} is revoked"))?;
        }
        KeyCommand::Rotate { id, overlap, aws } => {
            let made = Made::new(&id, aws.then_some(&master))?;
            let hash = KeyHash::of(&made.key);
            store::rotate_key(&options, &id, hash, overlap).await?;
            show(id, &made)?;
        }
    }
    Ok(())
}

/// Shows a secret. A closed pipe is an error here, as nobody sees it later.
fn show(id: String, made: &Made) -> Result<(), StartError> {
    let mut stdout = io::stdout();
    let written = writeln!(stdout, "{}", made.shown).and_then(|()| stdout.flush());
    written.map_err(|source| StartError::NotShown { id, source })
}

/// Waits until gateways have looked at the keys once more, so that what comes next in a script can use them, and says
/// what is known of that: none has been asked.
async fn until_looked_at(settings: &Settings) {
    let interval = settings.auth.refresh_interval();
    sleep(interval + TIME_TO_LOAD).await;
    let every = interval.as_millis();
    tell(&format!(
        "it is in the database, at which gateways look every {every} ms (auth.refresh_interval_ms); one that cannot \
         goes by the keys that it knew, and its log says so"
    ));
}

/// Tells a person what is no part of what was asked for.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A new key, and what its owner is shown of it.
struct Made {
    key: String,
    shown: String,
}

impl Made {
    /// Of an access key if there is a way to a master key, and of a key of the gateway's own otherwise.
    fn new(
        id: &str,
        master: Option<&impl Fn() -> Result<Option<MasterKey>, StartError>>,
    ) -> Result<Self, StartError> {
        let Some(master) = master else {
            let key = auth::new_key(id);
            return Ok(Self { shown: key.clone(), key });
        };
        let master = master()?.ok_or(StartError::NoMasterKey)?;
        let access = auth::new_access_key_id(id).ok_or(StartError::NoAccessKey)?;
        let secret = master.secret(&access);
        let shown = format!("AWS_ACCESS_KEY_ID={access}\nAWS_SECRET_ACCESS_KEY={secret}");
        Ok(Self { key: master.api_key(&access), shown })
    }
}

/// What secrets of access keys are derived from: a file where one is configured, and otherwise what is kept in
/// the database.
pub(super) fn master_key(
    settings: &Sqs,
    kept: Option<MasterKey>,
) -> Result<Option<MasterKey>, StartError> {
    let Some(path) = &settings.master_key_file else { return Ok(kept) };
    let fails = |reason: String| StartError::MasterKey { path: path.clone(), reason };
    let bytes = fs::read(path).map_err(|error| fails(error.to_string()))?;
    let key = MasterKey::new(bytes.trim_ascii_end());
    let reason = || fails(format!("it has fewer than {} bytes", MasterKey::MIN_BYTES));
    key.map(Some).ok_or_else(reason)
}

/// The life of a new key, which is not over at its beginning.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time < MIN_LIFETIME {
        return Err("a key lives for a second at least".to_owned());
    }
    Ok(time)
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > MAX_TIME {
        return Err("a thousand years are the most".to_owned());
    }
    Ok(time)
}

/// Characters up to which the columns of the list are aligned.
const MAX_WIDTH: usize = 100;

fn table(keys: &[ListedKey]) -> String {
    let head = ["ID", "STATE", "GRANTS", "CREATED", "EXPIRES", "LAST USED", "NAME"];
    let mut rows = vec![head.map(str::to_owned)];
    let day = |time: Option<DateTime<Utc>>| {
        time.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%d %H:%M").to_string())
    };
    rows.extend(keys.iter().map(|key| {
        let (created, expires) = (day(Some(key.created_at)), day(key.expires_at));
        let used = day(key.last_used_at);
        let grants = key.grants.join(" ");
        // Whatever SQL put there stays in its line.
        let line = |text: &str| text.replace(char::is_control, "?");
        let (id, grants, name) = (line(&key.id), line(&grants), line(&key.name));
        [id, key.state.to_string(), grants, created, expires, used, name]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let width = |column| width(column).unwrap_or(0).min(MAX_WIDTH);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
