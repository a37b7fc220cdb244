//! A database of its own for each test, on the servers that `cargo lab` started.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use outbox_tests::lab_client;

/// The databases that every suite runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Sqlite,
    Mariadb,
    Mysql,
    Postgres,
}

/// A fresh database; dropped with this.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    pub(crate) url: String,
    server: Server,
    /// Where it was made.
    admin: String,
    name: String,
    _folder: Option<tempfile::TempDir>,
}

/// The URL in an environment variable that `cargo lab` sets.
pub(crate) fn server_url(variable: &str) -> String {
    let url = lab_client::url(variable).unwrap_or_else(|error| panic!("{error}"));
    url.unwrap_or_else(|| panic!("{variable}: this run does without that server"))
}

/// A name that no other test of this run has.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{prefix}_{}_{}_{count}", now.as_millis() % 1_000_000_000, std::process::id())
}

impl Server {
    /// What the lab calls a server of this kind, of which a test can have one of its own.
    #[allow(dead_code, reason = "not every suite has servers of its own")]
    pub(crate) fn lab_kind(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
            Self::Postgres => "postgres",
            Self::Sqlite => unreachable!("it has no server"),
        }
    }

    fn admin_url(self) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Mariadb => server_url(lab_client::MARIADB_URL),
            Self::Mysql => server_url(lab_client::MYSQL_URL),
            Self::Postgres => server_url(lab_client::POSTGRES_URL),
        }
    }

    fn execute(self, url: &str, statement: &str) {
        match self {
            Self::Sqlite => {}
            Self::Mariadb | Self::Mysql => {
                diesel::MysqlConnection::establish(url).unwrap().batch_execute(statement).unwrap();
            }
            Self::Postgres => {
                diesel::PgConnection::establish(url).unwrap().batch_execute(statement).unwrap();
            }
        }
    }

    /// A fresh database, empty.
    pub(crate) fn empty(self) -> TestDatabase {
        self.empty_at(self.admin_url())
    }

    /// A fresh database, empty, on the server of this URL.
    pub(crate) fn empty_at(self, admin: String) -> TestDatabase {
        let name = unique("t");
        if self == Self::Sqlite {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}/test.db", folder.path().display());
            return TestDatabase { url, server: self, admin, name, _folder: Some(folder) };
        }
        self.execute(&admin, &format!("create database {name}"));
        let mut url = url::Url::parse(&admin).unwrap();
        url.set_path(&name);
        TestDatabase { url: url.to_string(), server: self, admin, name, _folder: None }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let force = if self.server == Server::Postgres { " with (force)" } else { "" };
        let (server, admin, name) = (self.server, self.admin.clone(), self.name.clone());
        // A server that a test has stopped takes its databases along.
        let _ = std::panic::catch_unwind(|| server.execute(&admin, &format!("drop database {name}{force}")));
    }
}

/// Waits until a condition holds; fails after 60 seconds with what is being waited for.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    until_within(Duration::from_secs(60), what, condition).await;
}

/// Waits until a condition holds; fails after `limit` with what is being waited for.
pub(crate) async fn until_within<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < limit, "still waiting after {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A program of this workspace, as `cargo lab` has built it beside the tests.
pub(crate) fn program(name: &str) -> std::path::PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join(name);
    assert!(path.exists(), "{} is not built: run `cargo lab test`", path.display());
    path
}

/// What the package `faketime` brings, which shifts the clock of a program; `cargo lab install` installs it.
#[allow(dead_code, reason = "not every suite has a clock that is wrong")]
pub(crate) fn faketime() -> std::path::PathBuf {
    let found = std::fs::read_dir("/usr/lib").unwrap().flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    found.expect("libfaketime.so.1 is missing: run `cargo lab install`")
}

/// Where a relay may serve; free a moment ago.
#[allow(dead_code, reason = "not every suite has a relay that serves")]
pub(crate) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// What the relay answers to a GET; `None` while nobody listens.
#[allow(dead_code, reason = "not every suite has a relay that serves")]
pub(crate) fn get(address: &str, path: &str, token: Option<&str>) -> Option<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\n{token}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1)?.parse().ok()?;
    Some((code, answer))
}
