//! The command line.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tracing::warn;

use crate::{
    api,
    config::{self, Loaded, Sources},
    telemetry,
};

use super::{
    check,
    database::Database,
    dry_run,
    keys::{self, KeyCommand},
    output::{print, print_done},
    serve,
};

/// Every setting, as a file.
const EXAMPLE: &str = include_str!("../../pgmq-gateway.example.toml");

/// PGMQ, the message queue inside PostgreSQL, over HTTP.
///
/// Without a command, and without any settings, the gateway starts a private PostgreSQL that keeps
/// its data, and serves its queues on http://127.0.0.1:8080; /docs there shows what it can do. Set
/// DATABASE_URL to serve the queues of a database that you have.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// A TOML file with settings; pgmq-gateway.example.toml shows them all. The variable
    /// PGMQ_GATEWAY_CONFIG can name it too. Environment variables win over it:
    /// PGMQ_GATEWAY__SERVER__PORT=9000 is [server] port = 9000.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address to listen on; wins over the file and the environment, as the next two do.
    #[arg(long, global = true, value_name = "ADDRESS")]
    host: Option<String>,
    /// The port to listen on.
    #[arg(long, global = true)]
    port: Option<String>,
    /// The database that holds the queues. Others on this machine can see it in the list of processes:
    /// DATABASE_URL is better for one with a password.
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve HTTP. This is what runs when no command is given.
    Serve,
    /// Install PGMQ where it is missing and bring schema pgmq_gateway up to date, then exit.
    ///
    /// For administrators: run it with a DATABASE_URL that may create schemas, so that the gateway
    /// itself can run with a role that may not.
    Migrate {
        /// Also grant this role the rights that the gateway needs.
        #[arg(long, value_name = "ROLE")]
        grant_to: Option<String>,
    },
    /// Make, list, rotate and revoke the keys with which clients are let in.
    ///
    /// They are kept in the database, hashed, and gateways look at them every second.
    Keys {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Print the OpenAPI document.
    Openapi,
    /// Print the settings in force and where each came from; secrets are hidden.
    Config {
        /// Print every setting with its default and its range instead, as a file to begin with.
        #[arg(long)]
        example: bool,
    },
    /// Look at all that a start needs, configuration, files, listeners, database and rights, without serving and
    /// without changing anything: exit code 0 or 1.
    Check,
    /// Ask a gateway with the same settings on this machine whether it is ready: exit code 0 or 1.
    Healthcheck {
        /// Ask only whether it runs, not whether its database answers.
        #[arg(long)]
        live: bool,
    },
}

/// Why a command failed: one line for the person who gave it.
type Failure = Box<dyn std::error::Error>;

impl Cli {
    /// Where the settings come from.
    fn sources(&self) -> Sources {
        let given = [
            ("server.host", "--host", &self.host),
            ("server.port", "--port", &self.port),
            ("database.url", "--database-url", &self.database_url),
        ];
        let given = given
            .into_iter()
            .filter_map(|(key, option, value)| value.clone().map(|value| (key, option, value)));
        // Not left to the parser of the command line, which takes an empty one for a mistake.
        let named = || env::var_os(config::CONFIG_FILE).filter(|file| !file.is_empty());
        Sources {
            file: self.config.clone().or_else(|| named().map(PathBuf::from)),
            environment: env::vars_os().collect(),
            options: given.collect(),
        }
    }
}

/// Runs a command to its end.
pub async fn run(cli: Cli) -> ExitCode {
    let sources = cli.sources();
    match execute(cli, &sources).await {
        Ok(code) => code,
        Err(failure) => {
            telemetry::last_line(config::log_format(&sources), &failure.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli, sources: &Sources) -> Result<ExitCode, Failure> {
    let command = cli.command.unwrap_or(Command::Serve);
    if matches!(command, Command::Openapi) {
        print(&(api::openapi().to_pretty_json()? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(command, Command::Config { example: true }) {
        print(EXAMPLE)?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = config::load(sources)?;
    match command {
        Command::Openapi => {}
        Command::Config { .. } => {
            tell(&loaded.warnings);
            print(&effective(&loaded))?;
        }
        Command::Check => {
            tell(&loaded.warnings);
            dry_run::run(&loaded.settings).await?;
        }
        Command::Healthcheck { live } => return Ok(check::run(&loaded.settings, live).await),
        Command::Migrate { grant_to } => {
            init_logs(&loaded);
            let database = Database::open_briefly(&loaded.settings).await?;
            let outcome = database.migrate(&loaded.settings, grant_to.as_deref()).await;
            database.stop().await;
            print_done(&format!("PGMQ {}; schema pgmq_gateway is up to date", outcome?))?;
        }
        Command::Keys { command } => {
            tell(&loaded.warnings);
            keys::run(&loaded.settings, command).await?;
        }
        Command::Serve => {
            init_logs(&loaded);
            return Ok(serve::run(&loaded.settings).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init_logs(loaded: &Loaded) {
    telemetry::init_logs(&loaded.settings.log);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
}

/// Tells a person what a log would.
fn tell(warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(io::stderr(), "pgmq-gateway: {warning}");
    }
}

/// The settings as TOML, each with its source behind it. What is not set or not shown is commented out, so that a
/// file of it can be used.
fn effective(loaded: &Loaded) -> String {
    let mut lines = Vec::new();
    let mut section = "";
    for entry in &loaded.effective {
        let (in_section, name) = entry.key.split_once('.').unwrap_or(("", &entry.key));
        if in_section != section {
            lines.push(format!("[{in_section}]"));
            section = in_section;
        }
        let comment = if entry.is_whole() { "" } else { "# " };
        let setting = format!("{comment}{name} = {}", entry.value);
        lines.push(format!("{setting:<42} # {}", entry.source));
    }
    lines.join("\n") + "\n"
}
