//! The verbs of `outbox-relay`. Exit code 0 is done, 1 failed or not healthy, 2 wrong usage or
//! configuration. Results go to standard output, everything else to standard error.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::check::{self, Level};
use crate::config::{self, Config, Environment};
use crate::outbox::store::{Database, Store};
use crate::report;
use crate::subscribers::{self, SubscriberReport};

mod dead;
mod migrate;
mod reload;
mod replication;
mod resync;
mod run;
mod running;
mod signals;
mod verify;

/// What is logged without `RUST_LOG`; what lapin logs as an error comes back to us as one.
const LOG: &str = "info,lapin=off";

#[derive(Debug, Parser)]
#[command(
    name = "outbox-relay",
    version,
    about = "Takes committed messages from outbox tables to RabbitMQ, and keeps copies of tables."
)]
struct Arguments {
    /// The configuration
    #[arg(short, long, global = true, value_name = "FILE", default_value = "outbox-relay.toml")]
    config: PathBuf,
    /// How the log on standard error is written
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a commented configuration
    Init {
        /// Overwrite the file if it is there
        #[arg(long)]
        force: bool,
    },
    /// Connect to everything and say what is wrong, each with what repairs it
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Create or upgrade the tables of outboxes, subscribers and replications in the configured databases
    Migrate {
        /// Connect to nothing; print the SQL for this database instead, for other tools to apply
        #[arg(long, value_name = "DATABASE")]
        sql: Option<migrate::SqlOf>,
        /// What to print: the tables of a service that writes, of a subscriber, of a replication's target, or the doorbell
        #[arg(long, requires = "sql", default_value = "outbox")]
        role: migrate::Role,
    },
    /// Relay and replicate until SIGTERM or SIGINT
    Run {
        /// End once all that was committed before the start is delivered and applied; exit code 1 if something of it
        /// is parked, held or set aside
        #[arg(long)]
        until_idle: bool,
    },
    /// Stop an outbox or a replication, wherever it runs, until `resume`; what is in flight is settled
    Pause {
        /// The outbox or replication
        name: String,
        /// Why, for those who look
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let an outbox or a replication go on
    Resume {
        /// The outbox or replication
        name: String,
    },
    /// Make copies anew, in place, while they are in use
    Snapshot {
        /// The replication
        name: String,
        /// One of its copies; all of them, from where the source is now, if left out
        table: Option<String>,
    },
    /// Compare copies with their source, while both are in use; exit code 1 if anything differs
    Verify(verify::Arguments),
    /// Show what was set aside, replay or discard it
    Dead {
        #[command(subcommand)]
        verb: dead::Verb,
    },
    /// Have the service send its entities again, for copies that are new or have lost something
    Resync(resync::Resync),
    /// After a restore of an outbox from a backup: raise its generation and send everything again
    Generation(resync::Generation),
    /// Show backlog, leases, keys that wait or are parked, subscribers, and how far copies are
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Only ask whether the relay of this configuration lives, for health checks that restart it: exit code 1 if
        /// nothing answers at `admin.listen`
        #[arg(long, conflicts_with = "json")]
        live: bool,
    },
}

/// How a verb ended; the text for standard error is in it.
enum End {
    Done,
    Failed(String),
    Wrong(String),
}

/// Runs the program with these arguments.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap too, with code 0.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    log_to_stderr(arguments.log_format);
    match verb(arguments).await {
        End::Done => ExitCode::SUCCESS,
        End::Failed(text) => end(1, &text),
        End::Wrong(text) => end(2, &text),
    }
}

fn end(code: u8, text: &str) -> ExitCode {
    if !text.is_empty() {
        eprintln!("outbox-relay: {text}");
    }
    ExitCode::from(code)
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    // lapin writes the payload of every returned message there.
    let filter = match "lapin::returned_messages=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false);
    // In tests it is set already.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

async fn verb(arguments: Arguments) -> End {
    // These need no configuration.
    match arguments.verb {
        Verb::Init { force } => return init(&arguments.config, force),
        Verb::Migrate { sql: Some(sql), role } => return migrate::print_sql(sql, role),
        _ => {}
    }
    let config = match config::from_file(&arguments.config, &Environment::of_process()) {
        Ok(config) => config,
        Err(problems) => return End::Wrong(format!("the configuration is wrong:\n{problems}")),
    };
    match arguments.verb {
        Verb::Init { .. } => End::Done,
        Verb::Check { json } => check(&config, json).await,
        Verb::Migrate { .. } => migrate::migrate(&config).await,
        Verb::Run { until_idle } => run::run(&config, &arguments.config, until_idle).await,
        Verb::Dead { verb } => dead::run(&config, verb).await,
        Verb::Pause { name, reason } => pause(&config, &name, Some(&reason)).await,
        Verb::Resume { name } => pause(&config, &name, None).await,
        Verb::Resync(asked) => resync::resync(&config, asked).await,
        Verb::Generation(asked) => resync::generation(&config, asked).await,
        Verb::Verify(arguments) => verify::run(&config, &arguments).await,
        Verb::Snapshot { name, table } => replication::snapshot(&config, &name, table.as_deref()).await,
        Verb::Status { live: true, .. } => running::live(&config.admin).await,
        Verb::Status { json, live: false } => status(&config, json).await,
    }
}

fn init(path: &Path, force: bool) -> End {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(path).and_then(|mut file| file.write_all(config::EXAMPLE.as_bytes()));
    match written {
        Ok(()) => {
            println!(
                "{} is written; fill in broker and database, then run `outbox-relay check`",
                path.display()
            );
            End::Done
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            End::Wrong(format!("{} is there already; --force overwrites it", path.display()))
        }
        Err(error) => End::Failed(format!("writing {}: {error}", path.display())),
    }
}

async fn check(config: &Config, json: bool) -> End {
    let findings = check::all(config).await;
    if json {
        print_json(&findings);
    } else {
        for finding in &findings {
            println!("{finding}");
        }
    }
    if findings.iter().any(|finding| finding.level == Level::Bad) {
        End::Failed(String::new())
    } else {
        End::Done
    }
}

/// Pauses an outbox or a replication for a reason, or resumes it.
async fn pause(config: &Config, name: &str, reason: Option<&str>) -> End {
    if let Some(replication) = replication::named(config, name) {
        return replication::pause(replication, reason).await;
    }
    let outbox = match crate::dead::outboxes(config, Some(name)) {
        Ok(outboxes) => outboxes[0],
        Err(error) => return End::Wrong(error.to_string()),
    };
    let acted = async {
        let mut store = Store::new(Database::of(outbox)?, "");
        match reason {
            Some(reason) => store.set_pause(&actor(), reason).await,
            None => store.clear_pause(&actor()).await,
        }
    };
    match (acted.await, reason) {
        (Ok(true), Some(_)) => {
            println!("outbox {name}: paused; its relays stop within the length of a lease")
        }
        (Ok(false), Some(_)) => println!("outbox {name}: was paused already"),
        (Ok(true), None) => println!("outbox {name}: its relays go on within the length of a lease"),
        (Ok(false), None) => println!("outbox {name}: was not paused"),
        (Err(error), _) => return End::Failed(format!("outbox {name}: {error}")),
    }
    End::Done
}

/// Who is at the keyboard, for `outbox_audit`.
fn actor() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), crate::outbox::host())
}

async fn status(config: &Config, json: bool) -> End {
    let (mut outboxes, mut pipes) = tokio::join!(report::all(config), running::pipes(&config.admin));
    for report in &mut outboxes {
        if let Some(pipe) = pipes.remove(&report.outbox) {
            (report.rates, report.relay) = (Some(pipe.rates), Some(pipe.relay));
        }
    }
    let subscribers = subscribers::all(&config.subscriber).await;
    let replications = crate::replication::report::all(config).await;
    if json {
        // One list: an entry has `outbox`, `subscriber` or `replication`.
        let outboxes = outboxes.iter().map(serde_json::to_value);
        let subscribers = subscribers.iter().map(serde_json::to_value);
        let replications = replications.iter().map(serde_json::to_value);
        let all: Result<Vec<_>, _> = outboxes.chain(subscribers).chain(replications).collect();
        match all {
            Ok(all) => print_json(&all),
            Err(error) => return End::Failed(format!("printing JSON: {error}")),
        }
    } else {
        outboxes.iter().for_each(|report| println!("{report}"));
        subscribers.iter().for_each(|report| println!("{report}"));
        replications.iter().for_each(|report| println!("{report}"));
    }
    let is_healthy = outboxes.iter().all(report::Report::is_healthy)
        && subscribers.iter().all(SubscriberReport::is_healthy)
        && replications.iter().all(crate::replication::report::Report::is_healthy);
    if is_healthy { End::Done } else { End::Failed(String::new()) }
}

fn print_json<T: serde::Serialize>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("outbox-relay: printing JSON: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verbs_are_well_formed() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
        let arguments =
            Arguments::try_parse_from(["outbox-relay", "run", "--until-idle", "-c", "x.toml"]).unwrap();
        assert_eq!(arguments.config, PathBuf::from("x.toml"));
        assert!(matches!(arguments.verb, Verb::Run { until_idle: true }));
    }

    #[tokio::test]
    async fn sql_is_printed_without_a_configuration() {
        let parse = |more: &[&str]| {
            Arguments::try_parse_from([&["outbox-relay", "-c", "missing.toml", "migrate"], more].concat())
        };
        for arguments in [&["--sql", "mysql"][..], &["--sql", "sqlite", "--role", "inbox"]] {
            assert!(matches!(verb(parse(arguments).unwrap()).await, End::Done));
        }
        assert!(matches!(verb(parse(&[]).unwrap()).await, End::Wrong(_)), "to connect it needs one");
        for (dialect, is_there) in [("postgres", true), ("mysql", false)] {
            let end = verb(parse(&["--sql", dialect, "--role", "bell"]).unwrap()).await;
            assert_eq!(matches!(end, End::Done), is_there, "{dialect}");
        }
        for wrong in [&["--sql", "oracle"][..], &["--role", "inbox"]] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn init_does_not_overwrite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.toml");
        assert!(matches!(init(&path, false), End::Done));
        assert!(matches!(init(&path, false), End::Wrong(_)));
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert!(matches!(init(&path, true), End::Done));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), config::EXAMPLE);
    }
}
