//! The lab's temporary folder, and that nothing of the lab is left behind.
//!
//! A lab that ends by itself, by Ctrl-C or by SIGTERM stops its servers and removes its folder. For one that is
//! killed there are two more lines of defence. A *watchdog*, the same program started with the folder's name,
//! holds the reading end of a pipe; the kernel closes the writing end with the lab, however that ended, and the
//! watchdog then ends the processes that the folder's record names. Should the watchdog be killed too, the next
//! lab *sweeps*: a folder whose lock nobody holds belongs to no lab that lives.

use std::env;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal};

use crate::failure::{Doing as _, Failure, Result};
use crate::install;
use crate::process::{descendants, started_at};
use crate::signals::POLL;

const PREFIX: &str = "outbox-lab-";
const LOCK: &str = "lock";
const RECORD: &str = "processes";

/// A path to a Unix socket holds at most 107 bytes, and ours have up to 30 behind the folder.
const PATH_BYTES_MAX: usize = 75;

/// How long processes of a dead lab may take to end in good order.
const REAP_PATIENCE: Duration = Duration::from_secs(2);

/// The lab's own folder; removed by [`Folder::remove`].
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Held as long as the lab lives.
    _lock: File,
    /// Its standard input is the pipe that the lab's death closes.
    _watchdog: Child,
}

impl Folder {
    /// Sweeps what dead labs left, and makes a folder that goes with this one.
    pub(crate) fn create() -> Result<Self> {
        let temp = env::temp_dir();
        sweep(&temp);
        let unique =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        let path = temp.join(format!("{PREFIX}{}-{unique:x}", process::id()));
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(Failure::new(format!(
                "{} is too long for the paths of sockets in it",
                path.display()
            ))
            .remedy("set TMPDIR to a folder with a shorter path"));
        }
        DirBuilder::new().mode(0o711).create(&path).doing(|| format!("creating {}", path.display()))?;
        // PostgreSQL's account must pass through, whatever the umask is.
        fs::set_permissions(&path, Permissions::from_mode(0o711))
            .doing(|| format!("opening {} to the servers' accounts", path.display()))?;
        let lock = lock(&path)?;
        let watchdog = watchdog(&path)?;
        Ok(Self { path, _lock: lock, _watchdog: watchdog })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where to write down the processes that must not outlive the lab.
    pub(crate) fn record(&self) -> Record {
        Record::new(&self.path)
    }

    /// Removes it; its processes must have ended.
    pub(crate) fn remove(&self) {
        remove_all(&self.path);
    }
}

/// The list of processes that must not outlive the lab: a line `group|process PID START SIGNAL` each.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    file: PathBuf,
}

impl Record {
    /// The record in that folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { file: folder.join(RECORD) }
    }

    /// Adds a process group, to be ended by `signal`, or SIGKILL if that takes too long.
    pub(crate) fn group(&self, leader: Pid, signal: Signal) -> Result<()> {
        self.add("group", leader, signal)
    }

    /// Adds a single process.
    pub(crate) fn process(&self, pid: Pid, signal: Signal) -> Result<()> {
        self.add("process", pid, signal)
    }

    fn add(&self, what: &str, pid: Pid, signal: Signal) -> Result<()> {
        let pid = pid.as_raw_pid();
        let start = started_at(pid).unwrap_or_else(|| "0".to_owned());
        let line = format!("{what} {pid} {start} {}\n", signal.as_raw());
        // One short write, so that lines of servers that start together do not mix.
        File::options()
            .create(true)
            .append(true)
            .open(&self.file)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .doing(|| format!("writing {}", self.file.display()))
    }

    fn read(&self) -> Vec<Left> {
        fs::read_to_string(&self.file).unwrap_or_default().lines().filter_map(Left::parse).collect()
    }
}

/// A process or group that a dead lab may have left.
#[derive(Debug)]
struct Left {
    group: bool,
    pid: Pid,
    start: String,
    signal: Signal,
}

impl Left {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let group = words.next()? == "group";
        let pid = Pid::from_raw(words.next()?.parse().ok()?)?;
        let start = words.next()?.to_owned();
        let signal = Signal::from_named_raw(words.next()?.parse().ok()?)?;
        Some(Self { group, pid, start, signal })
    }

    /// SIGCONT harms nobody and tells whether somebody is there.
    fn is_there(&self) -> bool {
        self.signal(Signal::CONT)
    }

    /// Sends a signal unless the number has gone to somebody else; whether anything was there.
    fn signal(&self, signal: Signal) -> bool {
        // A group may outlive its leader, and keeps the number from being given again as long as it does.
        match started_at(self.pid.as_raw_pid()) {
            Some(start) if start != self.start => false,
            None if !self.group => false,
            _ if self.group => rustix::process::kill_process_group(self.pid, signal).is_ok(),
            _ => rustix::process::kill_process(self.pid, signal).is_ok(),
        }
    }
}

/// The watchdog's whole life: waits for the lab's death, then clears up. A lab that ended well has left no
/// folder.
pub(crate) fn watch(folder: &Path) -> Result<()> {
    let mut until_closed = Vec::new();
    std::io::stdin().read_to_end(&mut until_closed).doing(|| "waiting for the lab's end".to_owned())?;
    if folder.is_dir() {
        reap(folder);
    }
    Ok(())
}

fn watchdog(folder: &Path) -> Result<Child> {
    let itself = env::current_exe().doing(|| "finding the lab's own program".to_owned())?;
    Command::new(itself)
        .arg("watch")
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .doing(|| "starting the lab's watchdog".to_owned())
}

/// Takes the lock under another name first: a sweeping lab must never find it free while its owner lives.
fn lock(folder: &Path) -> Result<File> {
    let unlocked = folder.join("lock.new");
    let take = || {
        let file = File::create(&unlocked)?;
        file.lock()?;
        fs::rename(&unlocked, folder.join(LOCK))?;
        Ok::<_, std::io::Error>(file)
    };
    take().doing(|| format!("locking {}", folder.display()))
}

/// Clears up after labs that were killed together with their watchdogs.
fn sweep(temp: &Path) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let folder = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours {
            continue;
        }
        // No lock file: just being made. Not to be opened: another user's.
        if let Ok(lock) = File::options().write(true).open(folder.join(LOCK))
            && lock.try_lock().is_ok()
        {
            eprintln!("lab: removing what a killed lab left in {}", folder.display());
            reap(&folder);
        }
    }
}

fn reap(folder: &Path) {
    let left = Record::new(folder).read();
    // cargo forwards no signal: what it runs would live on.
    let below: Vec<Pid> =
        left.iter().filter(|one| !one.group && one.is_there()).flat_map(|one| descendants(one.pid)).collect();
    for one in &left {
        one.signal(one.signal);
    }
    let deadline = Instant::now() + REAP_PATIENCE;
    while Instant::now() < deadline && left.iter().any(Left::is_there) {
        thread::sleep(POLL);
    }
    for one in &left {
        one.signal(Signal::KILL);
    }
    for pid in below {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    remove_all(folder);
}

/// Ends the mounts of small disks, also where a server still has files open there.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| Path::new(at).starts_with(folder));
    for at in below {
        if let Some(mut umount) = install::privileged("umount") {
            // Its folder stays then, and the lab says so.
            let _ = umount.args(["-l", at]).status();
        }
    }
}

/// Servers that were killed this moment may still be writing, so one try is not always enough.
fn remove_all(folder: &Path) {
    unmount_below(folder);
    for _ in 0..50 {
        if fs::remove_dir_all(folder).is_ok() || !folder.exists() {
            return;
        }
        thread::sleep(POLL);
    }
    eprintln!("lab: could not remove {}", folder.display());
}
