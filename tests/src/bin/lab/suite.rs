//! The verbs that run something against the servers.

use std::env;
use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use outbox_tests::lab_client;
use rustix::process::{Pid, Signal};

use crate::control;
use crate::failure::{Doing as _, Failure, Result};
use crate::fleet::Fleet;
use crate::install;
use crate::process::descendants;
use crate::programs;
use crate::signals::{POLL, Stop};

/// Fault tests that run side by side: most of the time they wait for something to be noticed.
const FAULTS_AT_A_TIME: &str = "4";
/// What only `--full` runs, besides its many rounds: a disk of a server's own has to be mounted, three nodes of RabbitMQ
/// take half a minute to start, and the broker's faults and the lines to it are not different for a relay of the other
/// database.
const ONLY_IN_FULL: &str = "test(a_full_disk) | test(a_queue_whose_leader) | test(/^postgres::(brokers|clocks)::/) | test(/^(mariadb|mysql)::networks::a_(slow|line|half_open_connection_to_the_broker)/) | test(/^mysql::loads::a_l/)";
/// The faults of subscribers stand in a suite that other runs take as well, in their short form.
const SUBSCRIBERS: &str = "binary(=subscribing) & (test(/::(killing|outages|sleeping)::/) | test(all_that_is_malformed_is_set_aside))";
/// What is run with RabbitMQ 4 besides: what knows the broker's own behaviour.
const WITH_BOTH_BROKERS: &str = "test(/^(rabbitmq_broker|brokers|end_to_end|tls_broker)::/) | test(programs::check) | binary(=subscribing) & test(/(over_rabbitmq|crashing)::/) | test(/^mariadb::(brokers|killing|sleeping|timeouts)::/) | test(/^postgres::killing::/) - test(a_queue_whose_leader)";
/// The columns of what fault tests report.
const FAULT_COLUMNS: [&str; 7] =
    ["fault", "injected", "server", "written", "delivered", "applied", "repeats absorbed"];

/// How long the tests may take to end after a signal.
const INTERRUPT_PATIENCE: Duration = Duration::from_secs(5);
const TERMINATE_PATIENCE: Duration = Duration::from_secs(15);

/// The verb `serve`.
pub(crate) fn serve(stop: &Stop, rabbitmq_4: bool) -> Result<ExitCode> {
    with_servers(stop, |fleet| {
        if rabbitmq_4 {
            must_switch_to_rabbitmq_4(fleet)?;
        }
        let mut exports = String::new();
        for (name, value) in fleet.variables() {
            exports.push_str(&format!("export {name}='{value}'\n"));
        }
        let mut output = std::io::stdout();
        output
            .write_all(exports.as_bytes())
            .and_then(|()| output.flush())
            .doing(|| "printing the URLs".to_owned())?;
        eprintln!("lab: {}; Ctrl-C stops them", fleet.summary());
        while !stop.asked() {
            thread::sleep(POLL);
            if let Some(crashed) = fleet.crashed().pop() {
                return Err(crashed);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The verb `test`. Arguments choose among all tests; without, the fault tests come by themselves, and then those of the
/// broker with another RabbitMQ.
pub(crate) fn test(stop: &Stop, rabbitmq_4: bool, args: &[String]) -> Result<ExitCode> {
    with_servers(stop, |fleet| {
        if rabbitmq_4 {
            must_switch_to_rabbitmq_4(fleet)?;
        }
        let mut status = build_programs(fleet, stop)?;
        let is_split = has_nextest() && args.is_empty();
        if status.success() {
            let others: &[&str] =
                if is_split { &["-E", "not (binary(=faults) | test(a_full_disk))"] } else { &[] };
            status = run(fleet, stop, suites(fleet, others, args))?;
        }
        if is_split && status.success() {
            status = run_faults(fleet, stop, false, args)?;
        }
        if is_split && status.success() && !rabbitmq_4 && has_switched_to_rabbitmq_4(fleet) {
            status = run(fleet, stop, suites(fleet, &["-E", WITH_BOTH_BROKERS], args))?;
        }
        // nextest leaves the examples in the documentation out; a filter is not meant for them.
        if is_split && status.success() {
            let mut examples = cargo();
            examples.args(["test", "--doc", "--workspace", "--all-features"]);
            status = run(fleet, stop, examples)?;
        }
        Ok(exit_code(status))
    })
}

/// Unstable may have one that does not start: it is left out, loudly.
fn has_switched_to_rabbitmq_4(fleet: &Fleet) -> bool {
    fleet.switch_to_rabbitmq_4().unwrap_or_else(|failure| {
        eprintln!("lab: WARNING: RabbitMQ 4 is left out, nothing is tested against it: {failure}");
        false
    })
}

/// What was asked for is not left out.
fn must_switch_to_rabbitmq_4(fleet: &Fleet) -> Result<()> {
    if fleet.switch_to_rabbitmq_4()? {
        return Ok(());
    }
    Err(Failure::new("there is no RabbitMQ 4 of the lab's own").remedy(format!(
        "see above why it was not installed; or, if a broker is named: unset {}",
        lab_client::AMQP_URL
    )))
}

/// The verb `faults`.
pub(crate) fn faults(stop: &Stop, full: bool, rabbitmq_4: bool, args: &[String]) -> Result<ExitCode> {
    with_servers(stop, |fleet| {
        if rabbitmq_4 {
            must_switch_to_rabbitmq_4(fleet)?;
        }
        let mut status = build_programs(fleet, stop)?;
        if status.success() {
            status = run_faults(fleet, stop, full, args)?;
        }
        Ok(exit_code(status))
    })
}

/// Runs the fault tests and prints what they report.
fn run_faults(fleet: &Fleet, stop: &Stop, full: bool, args: &[String]) -> Result<ExitStatus> {
    let at_a_time: &[&str] = if has_nextest() { &["--test-threads", FAULTS_AT_A_TIME] } else { &[] };
    let profile: &[&str] = if has_nextest() && full { &["--profile", "faults-full"] } else { &[] };
    let short = format!("not ({ONLY_IN_FULL})");
    let all = format!("binary(=faults) | ({SUBSCRIBERS})");
    let is_chosen = has_nextest() && args.is_empty();
    let is_short = is_chosen && !full;
    let filter: &[&str] = match (is_chosen, full) {
        (true, true) => &["--test", "subscribing", "-E", &all],
        (true, false) => &["-E", &short],
        (false, _) => &[],
    };
    if is_short {
        eprintln!("lab: left to `cargo lab faults --full`: {ONLY_IN_FULL}");
    }
    let mut tests = suites(fleet, &[&["--test", "faults"], profile, at_a_time, filter].concat(), args);
    let report = fleet.fault_report();
    tests.env(lab_client::FAULT_REPORT, &report);
    if full {
        tests.env(lab_client::FAULTS_FULL, "1");
    }
    let status = run(fleet, stop, tests)?;
    // Missing if no test came to its end.
    let lines = fs::read_to_string(&report).unwrap_or_default();
    print!("{}", fault_table(&lines));
    Ok(status)
}

/// The lines in the order of their words, in columns.
fn fault_table(lines: &str) -> String {
    let mut rows: Vec<Vec<&str>> = lines.lines().map(|line| line.split('\t').collect()).collect();
    rows.sort_unstable();
    rows.insert(0, FAULT_COLUMNS.to_vec());
    let width = |column| rows.iter().filter_map(|row| row.get(column)).map(|cell: &&str| cell.len()).max();
    let widths: Vec<usize> = (0..FAULT_COLUMNS.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut table = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell =
                if [0, 2].contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            table.push_str(if column == 0 { "" } else { "  " });
            table.push_str(&cell);
        }
        table.push('\n');
    }
    table
}

/// The programs that the suites run; only their own package's tests would have cargo build them.
fn build_programs(fleet: &Fleet, stop: &Stop) -> Result<ExitStatus> {
    let mut build = cargo();
    build.args(["build", "--workspace", "--all-features", "--bin", "outbox-relay", "--bin", "supply-chain"]);
    run(fleet, stop, build)
}

/// The test runner, with the tests of a server that was left out skipped, which it counts.
fn suites(fleet: &Fleet, filter: &[&str], args: &[String]) -> Command {
    let mut tests = cargo();
    let runner: &[&str] = if has_nextest() { &["nextest", "run"] } else { &["test"] };
    tests.args(runner).args(["--workspace", "--all-features"]).args(filter).args(args);
    let left_out = fleet.variables().into_iter().find(|(name, _)| *name == lab_client::LEFT_OUT);
    if let Some((_, names)) = left_out.filter(|(_, names)| !names.is_empty()) {
        if !args.iter().any(|arg| arg == "--") {
            tests.arg("--");
        }
        names.split(',').for_each(|name| {
            tests.args(["--skip", name]);
        });
    }
    tests
}

/// The verb `bench`.
pub(crate) fn bench(
    stop: &Stop,
    quick: bool,
    only: Option<&str>,
    scale: Option<f64>,
    json: bool,
) -> Result<ExitCode> {
    with_servers(stop, |fleet| {
        // Together with the relay that it measures: built by itself it would have other features, and build all anew.
        let mut build = cargo();
        build.args(["build", "--release", "--package", "outbox-tests", "--package", "outbox-relay"]);
        build.args(["--features", "outbox-tests/servers", "--bin", "bench", "--bin", "outbox-relay"]);
        let built = run(fleet, stop, build)?;
        if !built.success() {
            return Ok(exit_code(built));
        }
        let lab = env::current_exe().doing(|| "looking for this program".to_owned())?;
        let profiles = lab.ancestors().nth(2).unwrap_or(&lab);
        let mut bench = Command::new(profiles.join("release/bench"));
        bench.args(quick.then_some("--quick")).args(json.then_some("--json"));
        if let Some(name) = only {
            bench.args(["--only", name]);
        }
        if let Some(scale) = scale {
            bench.args(["--scale", &scale.to_string()]);
        }
        run(fleet, stop, bench).map(exit_code)
    })
}

/// Installs, starts the servers, does it, ends the servers. A server that crashed meanwhile fails the run even
/// if what ran did not notice.
fn with_servers(stop: &Stop, then: impl FnOnce(&Fleet) -> Result<ExitCode>) -> Result<ExitCode> {
    let left_out = install::everything()?;
    let fleet = Arc::new(Fleet::start(left_out, stop)?);
    let result = control::listen(&fleet).and_then(|()| then(&fleet));
    let crashed = fleet.crashed();
    let summary = fleet.summary();
    fleet.end();
    for failure in &crashed {
        eprintln!("lab: {failure}");
    }
    let code = result?;
    eprintln!("lab: {summary}");
    Ok(if crashed.is_empty() { code } else { ExitCode::FAILURE })
}

fn has_nextest() -> bool {
    programs::find("cargo-nextest").is_some()
        || programs::output("cargo", &["nextest", "--version"]).is_some()
}

/// cargo, without what the cargo that runs the lab has set for the lab's own package: a build script that reads
/// it would run again.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| text.starts_with(p))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it to its end, or to the user's.
fn run(fleet: &Fleet, stop: &Stop, mut command: Command) -> Result<ExitStatus> {
    let mut child = command
        .envs(fleet.variables())
        .spawn()
        .doing(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    // In the lab's own group: the terminal stays its, and Ctrl-C reaches it as it does without the lab.
    fleet.record().process(Pid::from_child(&child), Signal::TERM)?;
    loop {
        if let Some(status) = child.try_wait().doing(|| "waiting for cargo".to_owned())? {
            return Ok(status);
        }
        if stop.asked() {
            end(&mut child, stop);
            return Err(Failure::interrupted());
        }
        thread::sleep(POLL);
    }
}

/// Gives the tests time to end by themselves. After Ctrl-C they have the signal already, and a second one would
/// make them drop everything; it is only sent if they seem not to have heard.
fn end(child: &mut Child, stop: &Stop) {
    let pid = Pid::from_child(child);
    let tree = descendants(pid);
    let ends_within = |patience: Duration, child: &mut Child| {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
            thread::sleep(POLL);
        }
        !matches!(child.try_wait(), Ok(None))
    };
    if !(stop.by_interrupt() && ends_within(INTERRUPT_PATIENCE, child)) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        ends_within(TERMINATE_PATIENCE, child);
    }
    for pid in tree.into_iter().chain(descendants(pid)) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Ended by a signal: as a shell says it.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_faults_is_sorted_and_in_columns() {
        let table = fault_table("lock\t3\tMySQL\t10\t11\t10\t1\nkill\t100\tMariaDB\t5\t-\t-\t-\n");
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("fault  injected  server "), "{table}");
        assert!(lines[1].starts_with("kill        100  MariaDB "), "{table}");
        assert!(lines[2].starts_with("lock          3  MySQL   "), "{table}");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{table}");
    }
}
