//! How a test reaches the servers that `cargo lab` runs, and the launcher itself.
//!
//! Servers are found by environment variables, the launcher by a socket on which it takes one line and answers
//! with one. A test that restarts or kills a server must do so on a [`PrivateServer`]: the shared ones serve
//! every test of the run at the same time.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// MariaDB, `mysql://root:PASSWORD@127.0.0.1:PORT`.
pub const MARIADB_URL: &str = "OUTBOX_TEST_MARIADB_URL";
/// MySQL, `mysql://root:PASSWORD@127.0.0.1:PORT`; unset if this run leaves MySQL out (see [`LEFT_OUT`]).
pub const MYSQL_URL: &str = "OUTBOX_TEST_MYSQL_URL";
/// PostgreSQL, `postgres://postgres:PASSWORD@127.0.0.1:PORT/postgres`.
pub const POSTGRES_URL: &str = "OUTBOX_TEST_POSTGRES_URL";
/// RabbitMQ, `amqp://guest:guest@127.0.0.1:PORT/%2f`; of two versions, one after the other.
pub const AMQP_URL: &str = "OUTBOX_TEST_AMQP_URL";
/// RabbitMQ's management API, `http://guest:guest@127.0.0.1:PORT`.
pub const RABBITMQ_MANAGEMENT_URL: &str = "OUTBOX_TEST_RABBITMQ_MANAGEMENT_URL";
/// The launcher's control socket, a path.
pub const CONTROL: &str = "OUTBOX_TEST_CONTROL";
/// The servers that this run does without, separated by commas: `mysql`, `rabbitmq4`.
pub const LEFT_OUT: &str = "OUTBOX_TEST_LEFT_OUT";
/// Set for `cargo lab faults --full`: many rounds of each fault.
pub const FAULTS_FULL: &str = "OUTBOX_FAULTS_FULL";
/// The seed of what is random in the fault tests; 1 if unset.
pub const FAULT_SEED: &str = "OUTBOX_FAULT_SEED";
/// A file to which each fault test adds a line: words of the table that `cargo lab faults` prints, separated by
/// tabs.
pub const FAULT_REPORT: &str = "OUTBOX_FAULT_REPORT";

/// Longer than the slowest start of a server on a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// The URL in `variable`, or `None` if the run does without that server.
///
/// # Errors
/// If the variable is missing although its server was not left out: then the test was not started by the lab.
pub fn url(variable: &str) -> Result<Option<String>, String> {
    if let Ok(url) = env::var(variable) {
        return Ok(Some(url));
    }
    let left_out = env::var(LEFT_OUT).unwrap_or_default();
    if variable == MYSQL_URL && left_out.split(',').any(|name| name == "mysql") {
        return Ok(None);
    }
    Err(missing(variable))
}

/// Tells the launcher to `stop|kill|start|restart NAME`, and waits until it is done.
///
/// NAME is `mariadb`, `mysql`, `postgres`, `rabbitmq`, or the name of a [`PrivateServer`]. A server that was
/// started again has the same port and data, and takes connections when this returns.
///
/// # Errors
/// If the launcher is missing or refuses, in its words.
pub fn control(command: &str) -> Result<(), String> {
    ask(command).map(drop)
}

/// Sends one command and gives what stands behind the `ok` of the answer.
///
/// # Errors
/// As [`control`].
pub fn ask(command: &str) -> Result<String, String> {
    let path = env::var(CONTROL).map_err(|_| missing(CONTROL))?;
    let failed = |doing: &str, e: std::io::Error| {
        format!("{doing} the lab at {path} for `{command}`: {e}; is `cargo lab` still running?")
    };
    let mut stream = UnixStream::connect(&path).map_err(|e| failed("connecting to", e))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(|e| failed("setting up", e))?;
    stream.write_all(format!("{command}\n").as_bytes()).map_err(|e| failed("asking", e))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|e| failed("reading the answer of", e))?;
    let answer = answer.trim_end();
    match answer.strip_prefix("ok") {
        Some(rest) => Ok(rest.trim_start().to_owned()),
        None => Err(format!("`{command}`: {}", answer.strip_prefix("error: ").unwrap_or(answer))),
    }
}

fn missing(variable: &str) -> String {
    format!("{variable} is not set; run the tests with `cargo lab test`, which starts the servers")
}

/// A server of the caller's own, to be stopped and killed at will; removed when dropped.
///
/// ```no_run
/// use outbox_tests::lab_client::PrivateServer;
///
/// let broker = PrivateServer::spawn("rabbitmq")?;
/// println!("publishing to {}", broker.url());
/// broker.kill()?;
/// broker.start()?; // the same port, and what was on disk
/// # Ok::<(), String>(())
/// ```
#[derive(Debug)]
pub struct PrivateServer {
    name: String,
    url: String,
    management_url: Option<String>,
    tls_url: Option<String>,
}

impl PrivateServer {
    /// Starts a fresh `mariadb`, `mysql`, `postgres` or `rabbitmq`; takes 2 to 10 seconds.
    ///
    /// # Errors
    /// As [`control`]; also for `mysql` when the run leaves it out.
    pub fn spawn(kind: &str) -> Result<Self, String> {
        Self::ask_for(&format!("spawn {kind}"))
    }

    /// The same on a disk of its own that [`fill`](Self::fill) can fill, 400 MiB in memory.
    ///
    /// # Errors
    /// As [`PrivateServer::spawn`]; also when nobody here may mount that disk.
    pub fn spawn_small(kind: &str) -> Result<Self, String> {
        Self::ask_for(&format!("spawn-small {kind}"))
    }

    /// A `mariadb` or `mysql` that stores names of tables in lower case and compares them without case.
    ///
    /// # Errors
    /// As [`PrivateServer::spawn`].
    pub fn spawn_lower_case(kind: &str) -> Result<Self, String> {
        Self::ask_for(&format!("spawn-lower-case {kind}"))
    }

    /// A `postgres` that speaks German.
    ///
    /// # Errors
    /// As [`PrivateServer::spawn`].
    pub fn spawn_german() -> Result<Self, String> {
        Self::ask_for("spawn-german")
    }

    /// One with TLS and the certificates in a folder: `ca.pem`, whose clients it trusts, `server.pem` and
    /// `server.key`. With `mutual` it takes no client without a certificate. The databases take TLS only, on
    /// their port; RabbitMQ has another port for it, see [`PrivateServer::tls_url`].
    ///
    /// # Errors
    /// As [`PrivateServer::spawn`]; also when the folder's path has a space in it.
    pub fn spawn_with_tls(kind: &str, certificates: &Path, mutual: bool) -> Result<Self, String> {
        let mode = if mutual { "mutual-tls" } else { "tls" };
        Self::ask_for(&format!("spawn {kind} {mode} {}", certificates.display()))
    }

    /// Another RabbitMQ in the cluster of this one, from [`PrivateServer::spawn`]. The nodes find each other by the
    /// first one's name server: that one should live longest.
    ///
    /// # Errors
    /// As [`PrivateServer::spawn`]; also when this is no RabbitMQ.
    pub fn spawn_beside(&self) -> Result<Self, String> {
        Self::ask_for(&format!("spawn-beside {}", self.name))
    }

    /// A standby of this PostgreSQL: a copy of its data that follows it, and takes reads until it is promoted.
    ///
    /// # Errors
    /// As [`PrivateServer::spawn`]; also when this is no PostgreSQL.
    pub fn spawn_standby(&self) -> Result<Self, String> {
        Self::ask_for(&format!("spawn-standby {}", self.name))
    }

    fn ask_for(command: &str) -> Result<Self, String> {
        let answer = ask(command)?;
        let mut words = answer.split_whitespace().map(str::to_owned);
        match (words.next(), words.next()) {
            (Some(name), Some(url)) => {
                Ok(Self { name, url, management_url: words.next(), tls_url: words.next() })
            }
            _ => Err(format!("`{command}`: the lab answered {answer:?}, not a name and a URL")),
        }
    }

    /// Leaves no byte free on the disk of a server from [`spawn_small`](Self::spawn_small).
    ///
    /// # Errors
    /// As [`control`].
    pub fn fill(&self) -> Result<(), String> {
        control(&format!("fill {}", self.name))
    }

    /// Gives back what [`fill`](Self::fill) took. A server that has ended for want of room has to be started.
    ///
    /// # Errors
    /// As [`control`].
    pub fn free(&self) -> Result<(), String> {
        control(&format!("free {}", self.name))
    }

    /// Its name at the lab; of RabbitMQ's node it is what stands before `@localhost`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, in the form of the shared server's variable.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The management API's URL, for RabbitMQ.
    pub fn management_url(&self) -> Option<&str> {
        self.management_url.as_deref()
    }

    /// RabbitMQ's with TLS, `amqps://guest:guest@localhost:PORT/%2f`, if it was spawned with it.
    pub fn tls_url(&self) -> Option<&str> {
        self.tls_url.as_deref()
    }

    /// Stops it in good order; RabbitMQ takes 6 seconds for that.
    ///
    /// # Errors
    /// As [`control`].
    pub fn stop(&self) -> Result<(), String> {
        control(&format!("stop {}", self.name))
    }

    /// Kills it, as a power cut would.
    ///
    /// # Errors
    /// As [`control`].
    pub fn kill(&self) -> Result<(), String> {
        control(&format!("kill {}", self.name))
    }

    /// Starts it again on the same port and data.
    ///
    /// # Errors
    /// As [`control`].
    pub fn start(&self) -> Result<(), String> {
        control(&format!("start {}", self.name))
    }

    /// Runs `rabbitmqctl` on it, with these arguments.
    ///
    /// # Errors
    /// As [`control`]; also when the command fails.
    pub fn rabbitmqctl(&self, arguments: &str) -> Result<(), String> {
        control(&format!("rabbitmqctl {} {arguments}", self.name))
    }

    /// Stops it in good order and starts it again on the same port and data.
    ///
    /// # Errors
    /// As [`control`].
    pub fn restart(&self) -> Result<(), String> {
        control(&format!("restart {}", self.name))
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        // Nothing is lost by a failure here: the lab reaps every server when it ends.
        let _ = control(&format!("remove {}", self.name));
    }
}
