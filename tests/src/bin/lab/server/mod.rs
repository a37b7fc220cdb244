//! One server: its data folder, its ports, its process.
//!
//! What differs between the servers stands in one file for each, with the same three functions: `prepare` makes
//! the data folder once, `command` starts the server on it, `url` says how it is reached. How each is asked
//! whether it is ready stands in `probe`.

pub(crate) mod mariadb;
pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod probe;
pub(crate) mod rabbitmq;
pub(crate) mod tls;

use std::env;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use outbox_tests::lab_client;
use rustix::process::Signal;
use tls::{Mode, Tls};

use crate::failure::{Doing as _, Failure, Result};
use crate::folder::{Record, unmount_below};
use crate::install;
use crate::ports;
use crate::process::{self, Running};
use crate::signals::Stop;

/// The password of every account that the lab makes.
pub(crate) const PASSWORD: &str = "outbox";

/// Far above the usual (2 to 5 seconds): another build may have the processors.
const START_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// The disk of a server that is to fill it: twice what the largest has when it is empty.
const SMALL_DISK: &str = "size=400m";
/// What fills it.
const BALLAST: &str = "ballast";
/// A throw-away server is not worth waiting for.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The servers that the tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mariadb,
    Mysql,
    Postgres,
    Rabbitmq,
    /// In the place of [`Kind::Rabbitmq`], for the tests that run with both.
    Rabbitmq4,
}

impl Kind {
    /// Those that a run begins with.
    pub(crate) const FIRST: [Self; 4] = [Self::Mariadb, Self::Mysql, Self::Postgres, Self::Rabbitmq];
    /// All of them.
    const ALL: [Self; 5] = [Self::Mariadb, Self::Mysql, Self::Postgres, Self::Rabbitmq, Self::Rabbitmq4];

    /// Its name on the control socket and in the lab's folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
            Self::Postgres => "postgres",
            Self::Rabbitmq => "rabbitmq",
            Self::Rabbitmq4 => "rabbitmq4",
        }
    }

    /// The environment variable with its URL.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Mariadb => lab_client::MARIADB_URL,
            Self::Mysql => lab_client::MYSQL_URL,
            Self::Postgres => lab_client::POSTGRES_URL,
            Self::Rabbitmq | Self::Rabbitmq4 => lab_client::AMQP_URL,
        }
    }

    /// The URL by which the environment names a server that runs already.
    pub(crate) fn named(self) -> Option<String> {
        env::var(self.variable()).ok().filter(|url| !url.is_empty())
    }

    fn is_rabbitmq(self) -> bool {
        matches!(self, Self::Rabbitmq | Self::Rabbitmq4)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mariadb => "MariaDB",
            Self::Mysql => "MySQL",
            Self::Postgres => "PostgreSQL",
            Self::Rabbitmq => "RabbitMQ",
            Self::Rabbitmq4 => "RabbitMQ 4",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            format!("no such server: {name:?}; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Where a server lives: the same for all its starts.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Holds its data and whatever else is its own.
    pub(crate) folder: PathBuf,
    /// For its temporary files, away from its disk, which may be small. Not the machine's: a MariaDB that starts
    /// deletes whatever temporary tables it finds there, those of the others too.
    pub(crate) temporary: PathBuf,
    /// What it prints.
    pub(crate) log: PathBuf,
    pub(crate) port: u16,
    /// RabbitMQ: the management API, the distribution's listener, and its name server.
    pub(crate) more_ports: [u16; 3],
    /// Set for a server with TLS; the databases have nothing else then.
    pub(crate) tls: Option<Tls>,
    /// MariaDB, MySQL: names of databases and tables are stored in lower case and compared without case.
    pub(crate) is_lower_case: bool,
    /// PostgreSQL: it speaks German.
    pub(crate) is_german: bool,
    /// PostgreSQL: the port of the one whose standby it is.
    pub(crate) primary: Option<u16>,
    /// RabbitMQ: a node of the cluster that it is to be in.
    pub(crate) peer: Option<Peer>,
}

/// What one RabbitMQ has to know of another to become a node of its cluster.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// The port of the name server that they share.
    pub(crate) names: u16,
}

impl Place {
    fn new(kind: Kind, extra: &Extra<'_>, name: &str, lab: &Path) -> Result<Self> {
        let (folder, temporary) = (lab.join(name), lab.join(format!("{name}.tmp")));
        for new in [&folder, &temporary] {
            fs::create_dir(new).doing(|| format!("creating {}", new.display()))?;
        }
        let tls = match extra {
            Extra::Tls(mode, certificates) => Some(Tls::copy(*mode, certificates, &folder)?),
            _ => None,
        };
        let peer = if let Extra::Beside(peer) = extra { Some(peer.clone()) } else { None };
        let names = peer.as_ref().map_or_else(ports::free, |peer| Ok(peer.names))?;
        Ok(Self {
            tls,
            is_lower_case: matches!(extra, Extra::LowerCase),
            is_german: matches!(extra, Extra::German),
            primary: if let Extra::Standby(port) = extra { Some(*port) } else { None },
            peer,
            kind,
            name: name.to_owned(),
            log: lab.join(format!("{name}.log")),
            folder,
            temporary,
            port: ports::free()?,
            more_ports: [ports::free()?, ports::free()?, names],
        })
    }

    fn prepare(&self) -> Result<()> {
        match self.kind {
            Kind::Mariadb => mariadb::prepare(self),
            Kind::Mysql => mysql::prepare(self),
            Kind::Postgres => postgres::prepare(self),
            Kind::Rabbitmq | Kind::Rabbitmq4 => rabbitmq::prepare(self),
        }
    }

    fn command(&self) -> Result<Command> {
        match self.kind {
            Kind::Mariadb => mariadb::command(self),
            Kind::Mysql => mysql::command(self),
            Kind::Postgres => postgres::command(self),
            Kind::Rabbitmq | Kind::Rabbitmq4 => rabbitmq::command(self),
        }
    }

    /// How tests reach it.
    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::Mariadb | Kind::Mysql => format!("mysql://root:{PASSWORD}@127.0.0.1:{}", self.port),
            Kind::Postgres => postgres::url(self),
            Kind::Rabbitmq | Kind::Rabbitmq4 => rabbitmq::url(self),
        }
    }

    /// RabbitMQ's management API.
    pub(crate) fn management_url(&self) -> Option<String> {
        self.kind.is_rabbitmq().then(|| rabbitmq::management_url(self))
    }

    /// RabbitMQ's, on the port that it has for TLS.
    pub(crate) fn tls_url(&self) -> Option<String> {
        self.tls_port().map(|port| format!("amqps://guest:guest@localhost:{port}/%2f"))
    }

    /// RabbitMQ's; it opens it after the other one.
    fn tls_port(&self) -> Option<u16> {
        self.tls.as_ref().filter(|_| self.kind.is_rabbitmq()).map(|tls| tls.port)
    }

    /// PostgreSQL waits for its clients on SIGTERM, and disconnects them on SIGINT.
    fn stop_signal(&self) -> Signal {
        if self.kind == Kind::Postgres { Signal::INT } else { Signal::TERM }
    }

    /// PostgreSQL leaves a shared memory segment behind when killed; SIGQUIT is its quickest way that does not.
    fn last_signal(&self) -> Signal {
        if self.kind == Kind::Postgres { Signal::QUIT } else { Signal::KILL }
    }
}

/// What a server has besides.
#[derive(Debug, Clone)]
pub(crate) enum Extra<'a> {
    Nothing,
    /// TLS, with the certificates in a folder.
    Tls(Mode, &'a Path),
    /// A small disk of its own, in memory.
    SmallDisk,
    /// Names of tables in lower case, as on the file systems of other machines.
    LowerCase,
    /// Another language than English.
    German,
    /// The data of the PostgreSQL at a port, which it follows.
    Standby(u16),
    /// A place in a RabbitMQ's cluster.
    Beside(Peer),
}

/// A server of the lab's own; ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    place: Place,
    record: Record,
    version: String,
    running: Option<Running>,
    /// Some servers end by themselves when there is no room left.
    has_been_full: bool,
}

impl Server {
    /// Makes a fresh one in the lab's folder and starts it.
    pub(crate) fn create(
        (kind, extra): (Kind, Extra<'_>),
        name: &str,
        lab: &Path,
        record: Record,
        stop: &Stop,
    ) -> Result<Self> {
        let place = Place::new(kind, &extra, name, lab)?;
        if matches!(extra, Extra::SmallDisk) {
            let mut mount = install::privileged("mount").ok_or_else(|| {
                Failure::new("only root can mount a small disk for a server")
                    .remedy("run this test as root, or let sudo run without a password")
            })?;
            mount.args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(&place.folder);
            process::run(mount, &place.log)?;
        }
        place.prepare().map_err(|failure| {
            failure.remedy(format!("check that {kind} is installed whole: cargo lab install"))
        })?;
        let mut server = Self { place, record, version: String::new(), running: None, has_been_full: false };
        server.start(stop)?;
        Ok(server)
    }

    /// What another node of its cluster needs, if it is a RabbitMQ.
    pub(crate) fn as_peer(&self) -> Result<Peer> {
        let Place { kind, name, folder, more_ports: [_, _, names], .. } = &self.place;
        if !kind.is_rabbitmq() {
            return Err(Failure::new(format!("{name} is {kind}, not RabbitMQ")));
        }
        Ok(Peer { kind: *kind, name: name.clone(), folder: folder.clone(), names: *names })
    }

    /// Where it lives and how it is reached.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// As it names it itself.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Starts it on the ports and the data that it has, and waits until it takes connections. Nothing is done
    /// if it runs.
    pub(crate) fn start(&mut self, stop: &Stop) -> Result<()> {
        if self.running.as_mut().is_some_and(|running| running.ended().is_none()) {
            return Ok(());
        }
        let place = &self.place;
        let deadline = Instant::now() + START_PATIENCE;
        let mut running = Running::start(place.command()?, &place.log, &self.record, place.last_signal())?;
        loop {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
            if let Some(version) = probe::ready(place.kind, address)
                && place.management_url().is_none_or(|_| probe::http(place.more_ports[0]))
                && place.tls_port().is_none_or(probe::listens)
            {
                self.version = if place.kind == Kind::Postgres { postgres::version() } else { version };
                self.running = Some(running);
                return Ok(());
            }
            let what = match running.ended() {
                Some(status) => format!("{} did not start: it ended with {status}", place.kind),
                None if Instant::now() > deadline => {
                    format!("{} takes no connections after {} s", place.kind, START_PATIENCE.as_secs())
                }
                None => match stop.pause() {
                    Ok(()) => continue,
                    Err(interrupted) => {
                        running.stop(place.last_signal(), END_PATIENCE);
                        return Err(interrupted);
                    }
                },
            };
            running.stop(place.last_signal(), END_PATIENCE);
            return Err(Failure::new(what).log(&place.log).remedy(format!(
                "see what its log says; or name a server that runs: {}=URL cargo lab ...",
                place.kind.variable()
            )));
        }
    }

    /// Stops it in good order; its data stay.
    pub(crate) fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop(self.place.stop_signal(), STOP_PATIENCE);
        }
    }

    /// Kills it; its data stay as they are.
    pub(crate) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// Runs `rabbitmqctl` on it.
    pub(crate) fn rabbitmqctl(&self, arguments: &[&str]) -> Result<()> {
        match self.place.kind {
            Kind::Rabbitmq | Kind::Rabbitmq4 => rabbitmq::control(&self.place, arguments),
            kind => Err(Failure::new(format!("{} is {kind}, not RabbitMQ", self.place.name))),
        }
    }

    /// Leaves no room on its disk, which has to be its own.
    pub(crate) fn fill(&mut self) -> Result<()> {
        self.has_been_full = true;
        let path = self.place.folder.join(BALLAST);
        let mut file = fs::File::create(&path).doing(|| format!("creating {}", path.display()))?;
        let zeros = vec![0; 1024 * 1024];
        loop {
            match file.write(&zeros) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).doing(|| format!("writing {}", path.display())),
            }
        }
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<()> {
        let path = self.place.folder.join(BALLAST);
        fs::remove_file(&path).doing(|| format!("removing {}", path.display()))
    }

    /// Ends it and deletes its data. The log stays, for who looks into a failure.
    pub(crate) fn discard(&mut self) {
        self.end();
        unmount_below(&self.place.folder);
        // What is left over goes with the lab's folder.
        for folder in [&self.place.folder, &self.place.temporary] {
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn end(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop(self.place.last_signal(), END_PATIENCE);
        }
    }

    /// Why it no longer runs, if nobody stopped it.
    pub(crate) fn crashed(&mut self) -> Option<Failure> {
        let status = self.running.as_mut()?.ended().filter(|_| !self.has_been_full)?;
        let what = format!("{} ({}) ended by itself with {status}", self.place.kind, self.place.name);
        Some(Failure::new(what).log(&self.place.log))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("oracle".parse::<Kind>().is_err_and(|e| e.contains("mariadb, mysql, postgres, rabbitmq")));
    }
}
