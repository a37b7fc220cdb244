//! Where the three databases are: files in a temporary folder, made on a server for this run, or named.

use outbox_core::{Error, ErrorKind, Result};

#[cfg(feature = "servers")]
use crate::database::ORDER_QUEUES;
use crate::database::Service;

/// The three databases; those made for this run are gone when it is dropped, unless kept.
#[derive(Debug)]
pub(crate) struct Place {
    urls: [String; 3],
    /// Holds the folder as long as the run.
    folder: Option<tempfile::TempDir>,
    /// The server on which databases were made, and their names.
    made: Option<(String, [String; 3])>,
}

/// The names of a run at its broker, of which several runs may make use at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// What sets this run apart.
    pub(crate) run: String,
}

impl Names {
    /// Names that no other run has.
    pub(crate) fn fresh() -> Self {
        Self { run: format!("{}-{}", stamp(), std::process::id()) }
    }

    /// The exchange.
    #[cfg(feature = "servers")]
    pub(crate) fn exchange(&self) -> String {
        format!("supply-chain-{}", self.run)
    }

    /// A service's name as a subscriber.
    pub(crate) fn subscriber(&self, service: Service) -> String {
        format!("{}-{}", service.name(), self.run)
    }

    /// The subscribers' queues.
    #[cfg(feature = "servers")]
    pub(crate) fn queues(&self) -> Vec<String> {
        let of =
            |service, count| (0..count).map(move |number| format!("{}.{number}", self.subscriber(service)));
        of(Service::Order, ORDER_QUEUES).chain(of(Service::Purchase, 1)).collect()
    }
}

/// Milliseconds since 1970.
fn stamp() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis())
}

/// A part of the story that this build leaves out.
#[cfg(not(feature = "servers"))]
pub(crate) fn not_built(what: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "this build has no {what}: use `cargo run -p supply-chain --features servers -- …` \
             (needs libmariadb-dev and libpq-dev; `cargo lab install` installs them)"
        ),
    )
}

impl Place {
    /// Makes what the options ask for.
    ///
    /// # Errors
    /// `Invalid` for a wrong number of URLs or a wrong scheme; else what the server says.
    pub(crate) fn prepare(databases: &[String]) -> Result<Self> {
        match databases {
            [] => Self::in_a_folder(),
            [server] if scheme_of(server)? == "sqlite" => Err(Error::new(
                ErrorKind::Invalid,
                "--database sqlite://… names one file; give three, or leave it out for a temporary folder",
            )),
            [server] => Self::on_a_server(server),
            [product, order, purchase] => {
                let urls = [product.clone(), order.clone(), purchase.clone()];
                let schemes: Vec<_> = urls.iter().map(|url| scheme_of(url)).collect::<Result<_>>()?;
                if schemes.iter().any(|scheme| *scheme != schemes[0]) {
                    let text = "the three --database URLs need one scheme: the story has one driver";
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
                Ok(Self { urls, folder: None, made: None })
            }
            _ => Err(Error::new(ErrorKind::Invalid, "give --database once or three times")),
        }
    }

    fn in_a_folder() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("supply-chain-").tempdir().map_err(Error::application)?;
        let urls =
            Service::ALL.map(|service| format!("sqlite://{}/{}.db", folder.path().display(), service.name()));
        Ok(Self { urls, folder: Some(folder), made: None })
    }

    fn on_a_server(server: &str) -> Result<Self> {
        let (stamp, id) = (stamp(), std::process::id());
        let names = Service::ALL.map(|service| format!("supply_{}_{stamp}_{id}", service.name()));
        let parsed = url::Url::parse(server).map_err(|_| bad_url(server))?;
        let urls = names.clone().map(|name| {
            let mut url = parsed.clone();
            url.set_path(&name);
            url.to_string()
        });
        for name in &names {
            on_server(server, &format!("create database {name}"))?;
        }
        Ok(Self { urls, folder: None, made: Some((server.to_owned(), names)) })
    }

    /// `sqlite`, `mysql` or `postgres`.
    pub(crate) fn scheme(&self) -> &'static str {
        // All were checked when the place was prepared.
        scheme_of(&self.urls[0]).unwrap_or("sqlite")
    }

    /// The databases of product, order and purchase.
    pub(crate) fn urls(&self) -> &[String; 3] {
        &self.urls
    }

    /// The database of one service.
    pub(crate) fn url(&self, service: Service) -> &str {
        &self.urls[service as usize]
    }

    /// For people; without passwords.
    pub(crate) fn describe(&self) -> String {
        match (&self.folder, &self.made) {
            (Some(folder), _) => format!("three SQLite files in {}", folder.path().display()),
            (_, Some((_, names))) => format!("{} on a {} server", names.join(", "), self.scheme()),
            _ => format!("three of yours, {}", self.scheme()),
        }
    }

    /// Leaves the databases there.
    pub(crate) fn keep(mut self) {
        self.made = None;
        if let Some(folder) = self.folder.take() {
            let _kept = folder.keep();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((server, names)) = &self.made {
            for name in names {
                if let Err(error) = on_server(server, &format!("drop database {name}")) {
                    eprintln!("supply-chain: dropping {name}: {error}");
                }
            }
        }
    }
}

fn scheme_of(url: &str) -> Result<&'static str> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("sqlite") => Ok("sqlite"),
        Some("mysql") => Ok("mysql"),
        Some("postgres" | "postgresql") => Ok("postgres"),
        _ => Err(bad_url(url)),
    }
}

fn bad_url(url: &str) -> Error {
    // Only what stands before a password is shown.
    let shown = url.split("//").next().unwrap_or_default();
    Error::new(
        ErrorKind::Invalid,
        format!("--database {shown}…: use sqlite://, mysql://user:password@host:port or postgres://…"),
    )
}

#[cfg(feature = "servers")]
fn on_server(server: &str, statement: &str) -> Result<()> {
    use diesel::connection::{Connection, SimpleConnection};
    let connect = |e: diesel::ConnectionError| {
        Error::with_source(ErrorKind::Outage, "the database server cannot be reached", e)
    };
    match scheme_of(server)? {
        "mysql" => {
            diesel::MysqlConnection::establish(server).map_err(connect)?.batch_execute(statement)?;
        }
        _ => diesel::PgConnection::establish(server).map_err(connect)?.batch_execute(statement)?,
    }
    Ok(())
}

#[cfg(not(feature = "servers"))]
fn on_server(_server: &str, _statement: &str) -> Result<()> {
    Err(not_built("a database server"))
}
