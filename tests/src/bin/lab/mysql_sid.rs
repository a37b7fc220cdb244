//! MySQL out of Debian unstable, unpacked into a cache folder.
//!
//! No stable Debian has MySQL. `debootstrap` makes a small system with it, of which only the files are used:
//! `server/mysql.rs` starts the server through that system's own loader and libraries. Unstable may be out of
//! order on any day, so MySQL is the one server that a run may leave out, loudly.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use crate::failure::{Doing as _, Failure, Result};
use crate::install::privileged;
use crate::programs;
use crate::server::Kind;

/// Whether there is a MySQL to test against.
#[derive(Debug)]
pub(crate) enum Mysql {
    /// Installed in the cache.
    There,
    /// Named by the environment.
    Named,
    /// Not to be had now; the reason.
    LeftOut(String),
}

/// debootstrap's arguments before the folder and the mirror.
const ARGS: [&str; 3] = ["--variant=minbase", "--include=mysql-server-core", "sid"];

/// Bounds a mirror that hangs; 30 seconds are usual.
const DEBOOTSTRAP_SECONDS_MAX: &str = "900";

/// Makes the system in a folder of another name first, so that one that was interrupted is never taken as
/// whole. Such leavings are removed without going into other file systems: a /proc may be mounted there.
/// `$1` is the folder, `$2` the one to be renamed, the rest is the command.
const MAKE: &str = r#"
target=$1 partial=$2
shift 2
trap 'rm -rf --one-file-system "$partial"' EXIT
rm -rf --one-file-system "$target".partial-*
"$@"
rm -rf --one-file-system "$partial"/var/cache/apt/archives "$partial"/var/lib/apt/lists
mv -T "$partial" "$target"
"#;

/// Where the system is: below `OUTBOX_LAB_CACHE`, or else the user's cache folder.
pub(crate) fn folder() -> PathBuf {
    cache().join("mysql-sid")
}

/// The server is installed.
pub(crate) fn is_there() -> bool {
    folder().join("usr/sbin/mysqld").is_file()
}

/// The command that [`ensure`] would run, for `install --print`; none if nothing is to be done.
pub(crate) fn command_to_print() -> Option<String> {
    (Kind::Mysql.named().is_none() && !is_there())
        .then(|| format!("debootstrap {} {}", ARGS.join(" "), folder().display()))
}

/// Installs the server if it is not there. A failure is said loudly and leaves MySQL out of the run.
pub(crate) fn ensure() -> Mysql {
    if Kind::Mysql.named().is_some() {
        return Mysql::Named;
    }
    if is_there() {
        return Mysql::There;
    }
    match make() {
        Ok(()) => Mysql::There,
        Err(failure) => {
            eprintln!("lab: WARNING: MySQL is left out, nothing is tested against it: {failure}");
            Mysql::LeftOut(failure.to_string().lines().next().unwrap_or_default().to_owned())
        }
    }
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    env::var_os("OUTBOX_LAB_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("outbox-lab"))
}

fn make() -> Result<()> {
    let cache = cache();
    fs::create_dir_all(&cache).doing(|| format!("creating {}", cache.display()))?;
    // Two labs at once would unpack it twice, and each would take the other's folder for leavings.
    let lock = File::create(cache.join("lock")).doing(|| format!("writing to {}", cache.display()))?;
    lock.lock().doing(|| format!("locking {}", cache.display()))?;
    if is_there() {
        return Ok(());
    }
    eprintln!("lab: fetching MySQL from Debian unstable into {}", folder().display());
    let log = cache.join("debootstrap.log");
    // debootstrap knows Debian's own mirror; the machine's may be the only one that it reaches.
    let made = debootstrap(&log, None).or_else(|first| match apt_mirror() {
        Some(mirror) => debootstrap(&log, Some(&mirror)),
        None => Err(first),
    });
    made.and_then(|()| {
        if is_there() {
            Ok(())
        } else {
            Err(Failure::new("debootstrap ended well, but without a mysqld").log(&log))
        }
    })
}

fn debootstrap(log: &Path, mirror: Option<&str>) -> Result<()> {
    let target = folder();
    let partial = target.with_extension(format!("partial-{}", process::id()));
    let by_hand = format!("debootstrap {} {}", ARGS.join(" "), target.display());
    let Some(mut shell) = privileged("sh") else {
        return Err(Failure::new("only root can run debootstrap").remedy(format!("run as root: {by_hand}")));
    };
    let output = File::create(log).doing(|| format!("writing {}", log.display()))?;
    let errors = output.try_clone().doing(|| format!("writing {}", log.display()))?;
    let debootstrap = programs::find("debootstrap").unwrap_or_else(|| "debootstrap".into());
    let status = shell
        .args(["-euc", MAKE, "lab"])
        .args([&target, &partial])
        .args(["timeout", DEBOOTSTRAP_SECONDS_MAX])
        .arg(debootstrap)
        .args(ARGS)
        .arg(&partial)
        .args(mirror)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .doing(|| "running debootstrap".to_owned())?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("debootstrap ended with {status}")).log(log).remedy(format!(
        "run as root: {by_hand} (name a mirror behind the folder if its own is not reached)"
    )))
}

/// The mirror of Debian that apt uses here.
fn apt_mirror() -> Option<String> {
    let uris = programs::output("apt-get", &["indextargets", "--format", "$(REPO_URI)", "Origin: Debian"])?;
    uris.lines().find(|uri| !uri.contains("security")).map(str::to_owned)
}
