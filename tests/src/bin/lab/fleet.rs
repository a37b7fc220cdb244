//! All servers of one lab: the shared ones, started together, and those that tests have spawned.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Instant;

use outbox_tests::lab_client;

use crate::debian::LeftOut;
use crate::failure::{Failure, Result};
use crate::folder::{Folder, Record};
use crate::server::tls::Mode;
use crate::server::{Extra, Kind, Server, probe};
use crate::signals::Stop;

/// By name; a server's own lock is held while it is started or stopped.
type Servers = BTreeMap<String, Arc<Mutex<Server>>>;

/// The servers, and who is not among them.
#[derive(Debug)]
pub(crate) struct Fleet {
    folder: Folder,
    servers: Mutex<Servers>,
    /// Named by the environment, with their versions.
    named: Vec<(Kind, String)>,
    left_out: Vec<LeftOut>,
    spawned: AtomicU32,
    /// Tests that ask for RabbitMQ get RabbitMQ 4.
    has_rabbitmq_4: AtomicBool,
    stop: Stop,
    /// Read by each command from a test, written by the end: none may start a server behind it.
    ending: RwLock<bool>,
}

impl Fleet {
    /// Starts every server that the environment does not name, all at the same time.
    pub(crate) fn start(left_out: Vec<LeftOut>, stop: &Stop) -> Result<Self> {
        let begin = Instant::now();
        let (named, own): (Vec<Kind>, Vec<Kind>) = Kind::FIRST
            .into_iter()
            .filter(|kind| left_out.iter().all(|left_out| left_out.kind != *kind))
            .partition(|kind| kind.named().is_some());
        let named: Vec<(Kind, String)> =
            named.into_iter().map(|kind| Ok((kind, version_of_named(kind)?))).collect::<Result<_>>()?;
        let folder = Folder::create()?;
        let servers = start_all(&own, &folder, stop).inspect_err(|_| folder.remove())?;
        eprintln!("lab: servers started: {}, in {:.1} s", servers.len(), begin.elapsed().as_secs_f64());
        Ok(Self {
            folder,
            servers: Mutex::new(servers),
            named,
            left_out,
            spawned: AtomicU32::new(1),
            has_rabbitmq_4: AtomicBool::new(false),
            stop: stop.clone(),
            ending: RwLock::new(false),
        })
    }

    /// Puts RabbitMQ 4 in the place of RabbitMQ, for all tests from now on; false if the run has none, or uses a broker
    /// that the environment names.
    pub(crate) fn switch_to_rabbitmq_4(&self) -> Result<bool> {
        let kind = Kind::Rabbitmq4;
        if kind.named().is_some() || self.left_out.iter().any(|left_out| left_out.kind == kind) {
            return Ok(false);
        }
        let (name, server) = create(kind, &self.folder, &self.stop)?;
        if let Some(before) = self.all().remove(Kind::Rabbitmq.name()) {
            locked(&before).discard();
        }
        self.all().insert(name, server);
        self.has_rabbitmq_4.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// What the tests are told by environment variables.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        for server in self.list() {
            let server = locked(&server);
            let place = server.place();
            if place.name == place.kind.name() {
                variables.push((place.kind.variable(), place.url()));
                let management = place.management_url();
                variables.extend(management.map(|url| (lab_client::RABBITMQ_MANAGEMENT_URL, url)));
            }
        }
        for (kind, _) in &self.named {
            variables.extend(kind.named().map(|url| (kind.variable(), url)));
            if *kind == Kind::Rabbitmq {
                let management = env::var(lab_client::RABBITMQ_MANAGEMENT_URL).ok();
                variables.extend(management.map(|url| (lab_client::RABBITMQ_MANAGEMENT_URL, url)));
            }
        }
        variables.push((lab_client::CONTROL, self.control_socket().display().to_string()));
        let left_out: Vec<&str> = self.left_out.iter().map(|left_out| left_out.kind.name()).collect();
        variables.push((lab_client::LEFT_OUT, left_out.join(",")));
        variables
    }

    /// Where tests reach the lab.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Where fault tests leave their lines.
    pub(crate) fn fault_report(&self) -> PathBuf {
        self.folder.path().join("faults.tsv")
    }

    /// Where to write down processes that must not outlive the lab.
    pub(crate) fn record(&self) -> Record {
        self.folder.record()
    }

    /// Which servers the run had, for its last line.
    pub(crate) fn summary(&self) -> String {
        let mut used: Vec<String> = Vec::new();
        for server in self.list() {
            let server = locked(&server);
            if server.place().name == server.place().kind.name() {
                used.push(format!("{} {}", server.place().kind, server.version()));
            }
        }
        used.extend(
            self.named.iter().map(|(kind, version)| {
                format!("{kind} {version} named by the environment").replace("  ", " ")
            }),
        );
        let left_out: Vec<String> =
            self.left_out.iter().map(|LeftOut { kind, reason }| format!("{kind}: {reason}")).collect();
        let left_out = match left_out.len() {
            0 => "0".to_owned(),
            number => format!("{number} ({})", left_out.join("; ")),
        };
        format!("servers used: {} ({}); left out: {left_out}", used.len(), used.join(", "))
    }

    /// One failure for each server that ended by itself.
    pub(crate) fn crashed(&self) -> Vec<Failure> {
        self.list().iter().filter_map(|server| locked(server).crashed()).collect()
    }

    /// Carries out a command of a test: the answer behind `ok`.
    pub(crate) fn command(&self, line: &str) -> Result<String> {
        let ending = self.ending.read().unwrap_or_else(PoisonError::into_inner);
        if *ending {
            return Err(Failure::new("the lab is ending"));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["list"] => return Ok(self.all().keys().cloned().collect::<Vec<_>>().join(" ")),
            ["spawn", kind] => return self.spawn(kind, Extra::Nothing),
            ["spawn-beside", name] => {
                let peer = locked(&*self.find_private(name)?).as_peer()?;
                return self.spawn(peer.kind.name(), Extra::Beside(peer));
            }
            ["spawn-standby", name] => {
                let port = locked(&*self.find_private(name)?).place().port;
                return self.spawn(Kind::Postgres.name(), Extra::Standby(port));
            }
            ["spawn-lower-case", kind] => return self.spawn(kind, Extra::LowerCase),
            ["spawn-german"] => return self.spawn(Kind::Postgres.name(), Extra::German),
            ["spawn-small", kind] => return self.spawn(kind, Extra::SmallDisk),
            ["spawn", kind, mode @ ("tls" | "mutual-tls"), folder] => {
                let mode = if mode == "tls" { Mode::Server } else { Mode::Mutual };
                return self.spawn(kind, Extra::Tls(mode, Path::new(folder)));
            }
            ["remove", name] => return self.remove(name),
            [verb @ ("start" | "stop" | "kill" | "restart"), name] => {
                let server = self.find(name)?;
                let mut server = locked(&server);
                match verb {
                    "stop" | "restart" => server.stop(),
                    "kill" => server.kill(),
                    _ => {}
                }
                if matches!(verb, "start" | "restart") {
                    server.start(&self.stop)?;
                }
            }
            ["rabbitmqctl", name, ref arguments @ ..] => {
                locked(&*self.find_private(name)?).rabbitmqctl(arguments)?;
            }
            ["fill", name] => locked(&*self.find_private(name)?).fill()?,
            ["free", name] => locked(&*self.find_private(name)?).free()?,
            _ => {
                return Err(Failure::new(format!(
                    "unknown command {line:?}; there are start|stop|kill|restart|remove NAME, \
                     spawn KIND [tls|mutual-tls FOLDER], spawn-small KIND, spawn-lower-case KIND, \
                     spawn-german, spawn-standby NAME, spawn-beside NAME, fill|free NAME, rabbitmqctl NAME ARGUMENTS, list"
                )));
            }
        }
        Ok(String::new())
    }

    /// Ends every server and removes the folder. Commands of tests that are being carried out end first.
    pub(crate) fn end(&self) {
        self.stop.ask();
        let mut ending = self.ending.write().unwrap_or_else(PoisonError::into_inner);
        *ending = true;
        self.all().clear();
        self.folder.remove();
    }

    fn spawn(&self, kind: &str, extra: Extra<'_>) -> Result<String> {
        let kind = self.kind(kind).map_err(Failure::new)?;
        if let Some(LeftOut { reason, .. }) = self.left_out.iter().find(|left_out| left_out.kind == kind) {
            return Err(Failure::new(format!("{kind} is left out of this run: {reason}")));
        }
        let number = self.spawned.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{}-{number}", kind.name());
        let server = Server::create((kind, extra), &name, self.folder.path(), self.record(), &self.stop)?;
        let place = server.place();
        let answer = [Some(name.clone()), Some(place.url()), place.management_url(), place.tls_url()];
        let answer = answer.into_iter().flatten().collect::<Vec<_>>().join(" ");
        self.all().insert(name, Arc::new(Mutex::new(server)));
        Ok(answer)
    }

    /// The kind of a server that tests ask for by this name.
    fn kind(&self, name: &str) -> std::result::Result<Kind, String> {
        match name.parse()? {
            Kind::Rabbitmq if self.has_rabbitmq_4.load(Ordering::Relaxed) => Ok(Kind::Rabbitmq4),
            kind => Ok(kind),
        }
    }

    fn remove(&self, name: &str) -> Result<String> {
        let server = self.find_private(name)?;
        self.all().remove(name);
        locked(&server).discard();
        Ok(String::new())
    }

    /// One that belongs to a single test.
    fn find_private(&self, name: &str) -> Result<Arc<Mutex<Server>>> {
        if name.parse::<Kind>().is_ok() {
            return Err(Failure::new(format!("{name} is shared by all tests; spawn one for this")));
        }
        self.find(name)
    }

    fn find(&self, name: &str) -> Result<Arc<Mutex<Server>>> {
        let servers = self.all();
        servers.get(name).cloned().ok_or_else(|| match name.parse::<Kind>() {
            Ok(kind) if kind.named().is_some() => {
                Failure::new(format!("{name} is not the lab's: {} names it", kind.variable()))
            }
            _ => {
                let there = servers.keys().cloned().collect::<Vec<_>>().join(", ");
                Failure::new(format!("no server {name:?}; there are {there}"))
            }
        })
    }

    fn list(&self) -> Vec<Arc<Mutex<Server>>> {
        self.all().values().cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn locked(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failure is told once all have started or failed; those that did start end with it.
fn start_all(kinds: &[Kind], folder: &Folder, stop: &Stop) -> Result<Servers> {
    thread::scope(|scope| {
        let start = |kind| scope.spawn(move || create(kind, folder, stop));
        let threads: Vec<_> = kinds.iter().copied().map(start).collect();
        let results: Vec<Result<_>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("a thread of the lab panicked"))))
            .collect();
        results.into_iter().collect()
    })
}

/// One that all tests share, and its name.
fn create(kind: Kind, folder: &Folder, stop: &Stop) -> Result<(String, Arc<Mutex<Server>>)> {
    let begin = Instant::now();
    let server = Server::create((kind, Extra::Nothing), kind.name(), folder.path(), folder.record(), stop)?;
    eprintln!("lab: {kind} {} after {:.1} s", server.version(), begin.elapsed().as_secs_f64());
    Ok((kind.name().to_owned(), Arc::new(Mutex::new(server))))
}

/// A server that the environment names must be there.
fn version_of_named(kind: Kind) -> Result<String> {
    let url = kind.named().unwrap_or_default();
    let variable = kind.variable();
    let address = probe::address(&url)
        .ok_or_else(|| Failure::new(format!("{variable} must be SCHEME://USER:PASSWORD@HOST:PORT")))?;
    if kind == Kind::Rabbitmq && env::var_os(lab_client::RABBITMQ_MANAGEMENT_URL).is_none() {
        return Err(Failure::new(format!(
            "{variable} is set without {}",
            lab_client::RABBITMQ_MANAGEMENT_URL
        ))
        .remedy("set both, or neither"));
    }
    probe::ready(kind, address).ok_or_else(|| {
        Failure::new(format!("no {kind} answers at {address}, which {variable} names"))
            .remedy(format!("start it, or unset {variable}: then the lab starts one of its own"))
    })
}
