//! `cargo lab`: everything that a developer or CI does with servers.
//!
//! It installs what is missing, runs throw-away servers on free loopback ports below the temporary folder, and
//! runs the tests, the fault tests or the benchmarks against them. This room only reads the command line; it
//! links no database's client library, because it is what installs them.

mod cli;
mod control;
mod debian;
mod failure;
mod fleet;
mod folder;
mod install;
mod ports;
mod process;
mod programs;
mod server;
mod signals;
mod suite;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Lab, Verb};
use crate::failure::Result;
use crate::signals::Stop;

fn main() -> ExitCode {
    let verb = Lab::parse().verb;
    run(verb).unwrap_or_else(|failure| {
        eprintln!("lab: {failure}");
        ExitCode::from(failure.exit_code())
    })
}

fn run(verb: Verb) -> Result<ExitCode> {
    // The watchdog outlives the lab that a signal ends: it must not be ended by the same one.
    if let Verb::Watch { folder } = verb {
        return folder::watch(&folder).map(|()| ExitCode::SUCCESS);
    }
    let stop = Stop::on_signals()?;
    match verb {
        Verb::Install { print } => install::run(print),
        Verb::Serve { rabbitmq_4 } => suite::serve(&stop, rabbitmq_4),
        Verb::Test { rabbitmq_4, args } => suite::test(&stop, rabbitmq_4, &args),
        Verb::Faults { full, rabbitmq_4, args } => suite::faults(&stop, full, rabbitmq_4, &args),
        Verb::Bench { quick, only, scale, json } => suite::bench(&stop, quick, only.as_deref(), scale, json),
        Verb::Watch { .. } => Ok(ExitCode::SUCCESS),
    }
}
