//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Everything that needs servers: installs them, runs them, tests against them.
///
/// Servers are thrown away at the end. One that runs already is used instead of a new one if it is named:
/// OUTBOX_TEST_MARIADB_URL and OUTBOX_TEST_MYSQL_URL (mysql://USER:PASSWORD@HOST:PORT),
/// OUTBOX_TEST_POSTGRES_URL (postgres://USER:PASSWORD@HOST:PORT/postgres), OUTBOX_TEST_AMQP_URL
/// (amqp://USER:PASSWORD@HOST:PORT/%2f) together with OUTBOX_TEST_RABBITMQ_MANAGEMENT_URL
/// (http://USER:PASSWORD@HOST:PORT). Each account must be a superuser.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version = None, subcommand_required = true)]
pub(crate) struct Lab {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What the lab does.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Install the servers and client libraries that are missing (Debian packages; MySQL and RabbitMQ 4 from Debian unstable)
    Install {
        /// Only print the commands that would run
        #[arg(long)]
        print: bool,
    },
    /// Start the servers, print their URLs as shell exports, stop them at Ctrl-C
    Serve {
        /// With RabbitMQ 4 in the place of this machine's RabbitMQ
        #[arg(long)]
        rabbitmq_4: bool,
    },
    /// Install, start the servers, run all tests but the longest faults, which `faults --full` runs; those of the broker
    /// once more with RabbitMQ 4
    Test {
        /// All of them with RabbitMQ 4 in the place of this machine's RabbitMQ
        #[arg(long)]
        rabbitmq_4: bool,
        /// Passed on to `cargo nextest run`, or `cargo test` where nextest is missing: filters, flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The fault tests: crashes, outages, cut lines, locks, clocks; prints what was injected and counted
    Faults {
        /// Many rounds of each, large backlogs: takes hours
        #[arg(long)]
        full: bool,
        /// With RabbitMQ 4 in the place of this machine's RabbitMQ
        #[arg(long)]
        rabbitmq_4: bool,
        /// Passed on as for `test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the benchmarks
    Bench {
        /// Small sizes: shows that the benchmarks work, not how fast anything is
        #[arg(long)]
        quick: bool,
        /// Only this benchmark
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// A part of the size of those that measure replications, as 0.2
        #[arg(long, value_name = "PART")]
        scale: Option<f64>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Waits for the end of its standard input, then ends what the lab of that folder has left
    #[command(hide = true)]
    Watch { folder: PathBuf },
}
