//! Numbers as ratios: ours against the bare optimum, side by side in one run on one machine.
//!
//! `cargo lab bench` starts the servers and runs this in release mode.

mod apply;
mod database;
mod decode;
mod derive;
mod drain;
mod idle;
mod latency;
mod process;
mod raw;
mod replication;
mod table;
mod tax;

use std::process::ExitCode;

use clap::Parser;

use table::Measure;

/// As the relay has it, and as the guide advises services with many messages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a benchmark may fail with: shown, and the process ends with 1.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures the relay against raw lapin and bare SQL, subscribers against bare upserts, the write side against plain
/// Diesel, and the reading of binary logs against `mysqlbinlog`.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Fewer rows and one run: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Only the measures whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Rows of the large backlog.
    #[arg(long, value_name = "ROWS", default_value_t = 5_000_000)]
    backlog: usize,
    /// How much replications are measured with: 1 is 1.1 million changes, a million updates of one row, and one
    /// transaction of five million rows.
    #[arg(long, value_name = "PART", default_value_t = 1.0)]
    scale: f64,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    rows: usize,
    payload_bytes: usize,
    runs: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Failure> {
    let size = if options.quick {
        Size { rows: 20_000, payload_bytes: 500, runs: 1 }
    } else {
        Size { rows: 200_000, payload_bytes: 500, runs: 3 }
    };
    let tell = |measure: &Measure| println!("{}", if options.json { measure.json() } else { measure.row() });
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    if !options.json {
        println!(
            "{} rows of {} bytes, {} runs, median (spread: highest ÷ lowest)",
            size.rows, size.payload_bytes, size.runs
        );
        println!("{}", Measure::HEADING);
    }
    for server in [drain::MARIADB, drain::POSTGRES] {
        if wanted(&format!("drain {}", server.name)) {
            drain::measure(&server, size).await?.iter().for_each(tell);
        }
    }
    if wanted("drain large") {
        tell(&drain::measure_large(if options.quick { 4 } else { 16 }, size.runs).await?);
    }
    for server in [drain::MARIADB, drain::POSTGRES] {
        if wanted(&format!("memory {}", server.name)) {
            let rows = if options.quick { 100_000 } else { 1_000_000 };
            tell(&drain::measure_memory(&server, rows, size.payload_bytes).await?);
        }
    }
    for server in [drain::MARIADB, drain::POSTGRES] {
        // Filling it takes minutes.
        if !options.quick && wanted(&format!("backlog {}", server.name)) {
            tell(&drain::measure_backlog(&server, options.backlog, size.payload_bytes).await?);
        }
    }
    for server in [drain::MARIADB, drain::MYSQL, drain::POSTGRES] {
        if wanted(&format!("latency {}", server.name)) {
            let samples = if options.quick { 40 } else { 200 };
            latency::measure(&server, samples, size.runs).await?.iter().for_each(tell);
        }
    }
    for server in [drain::MARIADB, drain::POSTGRES] {
        if wanted(&format!("idle {}", server.name)) {
            let seconds = if options.quick { 8 } else { 30 };
            idle::measure(&server, seconds, size.runs).await?.iter().for_each(tell);
        }
        if wanted(&format!("apply {}", server.name)) {
            let size = Size { rows: size.rows / 2, ..size };
            apply::measure(&server, size).await?.iter().for_each(tell);
        }
    }
    if wanted("decode mariadb") {
        tell(&decode::measure(size).await?);
    }
    for product in replication::PRODUCTS {
        let scale = if options.quick { options.scale.min(0.02) } else { options.scale };
        let size = replication::Size::scaled(scale, size.runs);
        replication::measure(product, size, wanted, tell).await?;
    }
    if wanted("derive") {
        derive::measure(if options.quick { 1 } else { 5 })?.iter().for_each(tell);
    }
    let turns = if options.quick {
        tax::Turns { single: 50, batch: 3, runs: 1 }
    } else {
        tax::Turns { single: 400, batch: 20, runs: 3 }
    };
    tax::measure(turns, wanted)?.iter().for_each(tell);
    Ok(())
}
