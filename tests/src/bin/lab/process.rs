//! Processes that the lab starts: each in a process group of its own, its output in a log.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::failure::{Doing as _, Failure, Result};
use crate::folder::Record;
use crate::signals::POLL;

/// A killed process ends as soon as the kernel gets to it.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A running process and all that it started.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pid: Pid,
}

impl Running {
    /// Starts `command` in a process group of its own, so that the terminal's Ctrl-C does not reach a server
    /// which tests still use, and so that it ends as a whole. The folder is told how to end it should the lab
    /// not live to do so: by `last_signal` first.
    pub(crate) fn start(
        mut command: Command,
        log: &Path,
        record: &Record,
        last_signal: Signal,
    ) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child =
            redirect(&mut command, log)?.process_group(0).spawn().doing(|| format!("starting {program}"))?;
        let pid = Pid::from_child(&child);
        record.group(pid, last_signal)?;
        Ok(Self { child, pid })
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills all at one moment: the first process is frozen meanwhile, so that it starts none, and its end,
    /// which PostgreSQL's processes watch for, comes last. A commit that waits for a standby would give up
    /// waiting then, and show for a moment what the standby lacks.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = rustix::process::kill_process(self.pid, Signal::STOP);
            for pid in descendants(self.pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        self.stop(Signal::KILL, KILL_PATIENCE);
    }

    /// Sends `signal` to the first process and gives it time to end; then kills all that is left.
    pub(crate) fn stop(&mut self, signal: Signal, patience: Duration) {
        // Listed before the signal: a process whose parent has gone is no longer found as a descendant.
        let tree = descendants(self.pid);
        if self.ended().is_none() {
            let _ = rustix::process::kill_process(self.pid, signal);
            let deadline = Instant::now() + patience;
            while self.ended().is_none() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        }
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        for pid in &tree {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        let _ = self.child.wait();
        // A server that is started again must not meet the old one's processes on its data.
        let deadline = Instant::now() + KILL_PATIENCE;
        while Instant::now() < deadline && tree.iter().any(|pid| lives(*pid)) {
            thread::sleep(POLL);
        }
    }
}

/// Runs a command that ends by itself, its output in `log`.
pub(crate) fn run(mut command: Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = redirect(&mut command, log)?.status().doing(|| format!("starting {program}"))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{program} ended with {status}")).log(log))
}

fn redirect<'a>(command: &'a mut Command, log: &Path) -> Result<&'a mut Command> {
    let output =
        File::options().create(true).append(true).open(log).doing(|| format!("writing {}", log.display()))?;
    let errors = output.try_clone().doing(|| format!("writing {}", log.display()))?;
    Ok(command.stdin(Stdio::null()).stdout(output).stderr(errors))
}

/// All processes below `ancestor`. PostgreSQL's, for one, leave the process group.
pub(crate) fn descendants(ancestor: Pid) -> Vec<Pid> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| Some((pid, stat_field(pid, 4)?.parse().ok()?)))
        .collect();
    let mut found = vec![ancestor.as_raw_pid()];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

/// It exists, and is more than an entry that nobody has collected yet.
fn lives(pid: Pid) -> bool {
    stat_field(pid.as_raw_pid(), 3).is_some_and(|state| state != "Z" && state != "X")
}

/// When the process started, in the kernel's ticks: with the number it names a process for good, since
/// numbers are given again.
pub(crate) fn started_at(pid: i32) -> Option<String> {
    stat_field(pid, 22)
}

/// A field of `/proc/PID/stat`, counted from 1 as in the manual; from the third on, because the second, the
/// program's name, may hold spaces.
fn stat_field(pid: i32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(") ")?;
    behind_name.split(' ').nth(number - 3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_process_takes_its_descendants_along_even_those_that_left_the_group() {
        let folder = std::env::temp_dir().join(format!("outbox-test-of-lab-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 1000 & sleep 1000 & echo started; wait"]);
        let log = folder.join("log");
        let mut running = Running::start(command, &log, &Record::new(&folder), Signal::KILL).unwrap();
        let mut tree = Vec::new();
        while tree.len() < 2 {
            tree = descendants(running.pid);
        }
        running.stop(Signal::TERM, Duration::from_secs(5));
        for pid in tree {
            assert!(!lives(pid), "{pid:?} lives");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(started_at(own), started_at(own));
        assert!(started_at(own).is_some_and(|ticks| ticks.parse::<u64>().is_ok()));
        assert_eq!(started_at(i32::MAX), None);
    }
}
