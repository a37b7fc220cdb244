//! Servers out of Debian unstable, unpacked into a cache folder.
//!
//! No stable Debian has MySQL, and this one's RabbitMQ is older than many of our users'. `debootstrap` makes a small system
//! with the server, of which only the files are used: the server is started through that system's own loader and
//! libraries, which needs neither a chroot nor root. Unstable may be out of order on any day, so these are the
//! servers that a run may leave out, loudly.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use crate::failure::{Doing as _, Failure, Result};
use crate::install::privileged;
use crate::programs;
use crate::server::Kind;

/// A system of Debian unstable, for one server.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) kind: Kind,
    /// Below the cache folder.
    name: &'static str,
    /// Which Debian.
    suite: &'static str,
    package: &'static str,
    /// What shows that the server is there.
    program: &'static str,
}

/// MySQL, which only Debian unstable has.
pub(crate) const MYSQL: System = System {
    kind: Kind::Mysql,
    name: "mysql-sid",
    suite: "sid",
    package: "mysql-server-core",
    program: "usr/sbin/mysqld",
};

/// RabbitMQ 4, as new as there is.
pub(crate) const RABBITMQ_4: System = System {
    kind: Kind::Rabbitmq4,
    name: "rabbitmq-sid",
    suite: "sid",
    package: "rabbitmq-server",
    program: "usr/lib/rabbitmq/bin/rabbitmq-server",
};

/// All of them.
pub(crate) const SYSTEMS: [&System; 2] = [&MYSQL, &RABBITMQ_4];

/// A server that is not to be had now.
#[derive(Debug)]
pub(crate) struct LeftOut {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

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

impl System {
    /// Where it is: below `OUTBOX_LAB_CACHE`, or else the user's cache folder.
    pub(crate) fn folder(&self) -> PathBuf {
        cache().join(self.name)
    }

    /// The server.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder().join(self.program)
    }

    /// The server is installed.
    pub(crate) fn is_there(&self) -> bool {
        self.program().is_file()
    }

    /// The command that [`ensure`](Self::ensure) would run, for `install --print`; none if nothing is to be done.
    pub(crate) fn command_to_print(&self) -> Option<String> {
        (self.kind.named().is_none() && !self.is_there()).then(|| self.by_hand())
    }

    /// Installs the server if it is not there. A failure is said loudly and leaves the server out of the run.
    pub(crate) fn ensure(&self) -> Option<LeftOut> {
        if self.kind.named().is_some() || self.is_there() {
            return None;
        }
        let failure = self.make().err()?;
        let Self { kind, .. } = *self;
        eprintln!("lab: WARNING: {kind} is left out, nothing is tested against it: {failure}");
        let reason = failure.to_string().lines().next().unwrap_or_default().to_owned();
        Some(LeftOut { kind, reason })
    }

    /// The dynamic loader and the folder of libraries; their names tell the processor.
    ///
    /// # Errors
    /// When the system is not whole.
    pub(crate) fn loader(&self) -> Result<(PathBuf, PathBuf)> {
        let folder = self.folder();
        let entries = |part: &str| {
            fs::read_dir(folder.join(part)).into_iter().flatten().flatten().map(|entry| entry.path())
        };
        let named = |path: &Path, part: &str| {
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(part))
        };
        let libraries = entries("usr/lib").find(|path| named(path, "-linux-gnu") && path.is_dir());
        let loader = entries("lib64").chain(entries("lib")).find(|path| named(path, "ld-linux"));
        loader.zip(libraries).ok_or_else(|| {
            Failure::new(format!("the {} in {} is not whole", self.kind, folder.display()))
                .remedy(format!("run: rm -r {} && cargo lab install", folder.display()))
        })
    }

    /// debootstrap's arguments before the folder and the mirror.
    fn arguments(&self) -> [String; 3] {
        ["--variant=minbase".to_owned(), format!("--include={}", self.package), self.suite.to_owned()]
    }

    fn by_hand(&self) -> String {
        format!("debootstrap {} {}", self.arguments().join(" "), self.folder().display())
    }

    fn make(&self) -> Result<()> {
        let cache = cache();
        fs::create_dir_all(&cache).doing(|| format!("creating {}", cache.display()))?;
        // Two labs at once would unpack it twice, and each would take the other's folder for leavings.
        let lock = File::create(cache.join("lock")).doing(|| format!("writing to {}", cache.display()))?;
        lock.lock().doing(|| format!("locking {}", cache.display()))?;
        if self.is_there() {
            return Ok(());
        }
        let Self { kind, suite, .. } = self;
        eprintln!("lab: fetching {kind} from Debian {suite} into {}", self.folder().display());
        let log = cache.join(format!("{}.log", self.name));
        // debootstrap knows Debian's own mirror; the machine's may be the only one that it reaches.
        let made = self.debootstrap(&log, None).or_else(|first| match apt_mirror() {
            Some(mirror) => self.debootstrap(&log, Some(&mirror)),
            None => Err(first),
        });
        made.and_then(|()| {
            if self.is_there() {
                Ok(())
            } else {
                let what = format!("debootstrap ended well, but without {}", self.program);
                Err(Failure::new(what).log(&log))
            }
        })
    }

    fn debootstrap(&self, log: &Path, mirror: Option<&str>) -> Result<()> {
        let target = self.folder();
        let partial = target.with_extension(format!("partial-{}", process::id()));
        let by_hand = self.by_hand();
        let Some(mut shell) = privileged("sh") else {
            return Err(
                Failure::new("only root can run debootstrap").remedy(format!("run as root: {by_hand}"))
            );
        };
        let output = File::create(log).doing(|| format!("writing {}", log.display()))?;
        let errors = output.try_clone().doing(|| format!("writing {}", log.display()))?;
        let debootstrap = programs::find("debootstrap").unwrap_or_else(|| "debootstrap".into());
        let status = shell
            .args(["-euc", MAKE, "lab"])
            .args([&target, &partial])
            .args(["timeout", DEBOOTSTRAP_SECONDS_MAX])
            .arg(debootstrap)
            .args(self.arguments())
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
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    env::var_os("OUTBOX_LAB_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("outbox-lab"))
}

/// The mirror of Debian that apt uses here.
fn apt_mirror() -> Option<String> {
    let uris = programs::output("apt-get", &["indextargets", "--format", "$(REPO_URI)", "Origin: Debian"])?;
    uris.lines().find(|uri| !uri.contains("security")).map(str::to_owned)
}
