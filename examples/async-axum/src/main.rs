//! A product service on axum and diesel-async whose writes are recorded in an outbox: see `--help`.

mod client;
mod database;
mod failure;
mod product;
mod service;
mod story;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Parser;
use tokio::net::TcpListener;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A product service on axum and diesel-async whose writes are recorded in an outbox.
///
/// It serves on a free port, sends itself some requests, and prints them with their answers and with what the
/// outbox then holds. Exits 0 only if these are the expected messages, no more and no less.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The database: SQLite, or PostgreSQL with `--features postgres`; an empty one, unless with --serve.
    /// Default: an SQLite file in a temporary folder.
    #[arg(long, value_name = "URL")]
    database: Option<String>,

    /// Serves until Ctrl-C instead, and says how to run the relay beside it.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:3000")]
    serve: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("async-axum: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let url = options.database.unwrap_or_else(|| format!("sqlite://{}/product.db", folder.path().display()));
    let pool = database::open(&url).await?;
    let address = options.serve.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, service::router(pool.clone()));

    if options.serve.is_some() {
        println!("serving http://{address}/products until Ctrl-C; the relay beside it:");
        println!("  outbox-relay init");
        println!("  BROKER_URL=amqp://… PRODUCT_DATABASE={url} outbox-relay run");
        server.with_graceful_shutdown(interrupted()).await?;
        return Ok(true);
    }
    tokio::spawn(server.into_future());
    story::play(address, &pool).await
}

async fn interrupted() {
    // Without a handler for it, Ctrl-C still ends the process.
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("async-axum: no handler for Ctrl-C: {error}");
        std::future::pending().await
    }
}
