//! A supply chain of three services that share product data through an outbox: see `--help`.

#[cfg(feature = "servers")]
mod binlog;
mod changes;
mod cli;
mod database;
mod order;
#[cfg(feature = "servers")]
mod processes;
mod product;
mod purchase;
mod report;
mod schema;
mod servers;
mod story;
mod tasks;

use std::process::ExitCode;

use clap::Parser;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Error, Result};

use cli::{Mode, Options};
use database::Database;
use report::Report;
use servers::{Names, Place};
use story::Pools;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    #[cfg(feature = "servers")]
    if let Some(role) = options.role {
        return match options.mode {
            Mode::Messages => processes::play(role, &options).await,
            Mode::Binlog => binlog::play(&options).await,
        };
    }
    match run(&options).await {
        Ok(ended) => {
            if options.json {
                println!("{}", serde_json::to_string(&ended).unwrap_or_default());
            } else {
                ended.print();
            }
            if ended.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("supply-chain: {error}");
            ExitCode::from(if error.kind() == outbox_core::ErrorKind::Invalid { 2 } else { 1 })
        }
    }
}

/// The end of the story, of either kind.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Ended {
    Messages(Report),
    #[cfg(feature = "servers")]
    Binlog(binlog::Report),
}

impl Ended {
    fn print(&self) {
        match self {
            Self::Messages(report) => report.print(),
            #[cfg(feature = "servers")]
            Self::Binlog(report) => report.print(),
        }
    }

    fn is_equal(&self) -> bool {
        match self {
            Self::Messages(report) => report.is_equal(),
            #[cfg(feature = "servers")]
            Self::Binlog(report) => report.is_equal(),
        }
    }
}

async fn run(options: &Options) -> Result<Ended> {
    let refuse = |text: &str| Err(Error::new(outbox_core::ErrorKind::Invalid, text));
    if options.console {
        return refuse("--console comes with a later version");
    }
    if options.mode == Mode::Messages {
        return messages(options).await.map(Ended::Messages);
    }
    if options.database.is_empty() || options.database.iter().any(|url| !url.starts_with("mysql://")) {
        return refuse(
            "--mode binlog reads the binary log of MySQL or MariaDB: give --database mysql://user:password@host:port, \
             once or three times",
        );
    }
    if options.broker.is_some() || options.processes {
        return refuse("--mode binlog needs no broker: leave --broker and --processes out");
    }
    #[cfg(feature = "servers")]
    return binlog::run(options).await.map(Ended::Binlog);
    #[cfg(not(feature = "servers"))]
    Err(servers::not_built("a database server"))
}

async fn messages(options: &Options) -> Result<Report> {
    let place = Place::prepare(&options.database)?;
    if !options.json {
        println!("databases: {}", place.describe());
        println!("broker:    {}", options.broker.as_deref().map_or("in this process", |_| "RabbitMQ"));
    }
    let report = match place.scheme() {
        "sqlite" => on_database::<diesel::SqliteConnection>(options, &place).await,
        #[cfg(feature = "servers")]
        "mysql" => on_database::<diesel::MysqlConnection>(options, &place).await,
        #[cfg(feature = "servers")]
        _ => on_database::<diesel::PgConnection>(options, &place).await,
        #[cfg(not(feature = "servers"))]
        _ => Err(servers::not_built("a database server")),
    };
    if options.keep {
        println!("kept: {}", place.urls().join(" "));
        place.keep();
    }
    report
}

async fn on_database<C: Database>(options: &Options, place: &Place) -> Result<Report> {
    let (pools, names) = (Pools::<C>::open(place.urls())?, Names::fresh());
    match &options.broker {
        None => {
            let parts = tasks::Tasks::new(place, &pools, MemoryBroker::new(), names, options.crash);
            story::tell(options, pools, parts).await
        }
        #[cfg(feature = "servers")]
        Some(url) => {
            let broker = outbox_core::broker::rabbitmq::RabbitMq::new(url)?.exchange(names.exchange());
            let report = if options.crash || options.processes {
                let parts = processes::Processes::new(place, url, names.clone(), options.crash)?;
                story::tell(options, pools, parts).await
            } else {
                let parts = tasks::Tasks::new(place, &pools, broker.clone(), names.clone(), options.crash);
                story::tell(options, pools, parts).await
            };
            broker.remove(&names.queues()).await?;
            report
        }
        #[cfg(not(feature = "servers"))]
        Some(_) => Err(servers::not_built("RabbitMQ")),
    }
}
