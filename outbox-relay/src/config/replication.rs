//! `[[replication]]`: copies of a source's tables in a target database, by the source's binary log.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::{ByteSize, Secret};

/// What a replication holds in memory. With the program itself it stays below 128 MiB.
const MEMORY_BYTES: u64 = 48 * 1024 * 1024;
/// What one read of a copy takes: long enough to be quick, short enough to disturb nobody.
const CHUNK_BYTES: u64 = 2 * 1024 * 1024;

/// One replication: tables of one source that are kept as copies in one target database, consistent with each
/// other.
///
/// ```
/// use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig};
///
/// let table = ReplicationTableConfig {
///     columns: vec!["id".into(), "hash(email) as email_hash".into()],
///     ..ReplicationTableConfig::new("customer_db.customer")
/// };
/// let replication = ReplicationConfig {
///     table: vec![table],
///     ..ReplicationConfig::new("order", "mysql://repl@a.example:3306", "mysql://repl@b.example:3306/order_db")
/// };
/// # #[cfg(feature = "binlog")]
/// assert_eq!(replication.problems(), ["table[0].columns: hash(…) needs the replication's hash_key"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicationConfig {
    /// Its name, under which the target keeps its checkpoint: `[a-z0-9_-]`, at most 100 characters.
    pub name: String,
    /// `mysql://user:password@host:port`, MySQL or MariaDB. A database in the URL is not needed.
    pub source: Secret,
    /// Whether the connections to the source are encrypted, and its certificate and name verified. Default false.
    pub source_tls: bool,
    /// A PEM file with CAs that are trusted besides the system's, with `source_tls`.
    pub source_ca: Option<PathBuf>,
    /// A PEM file with the certificate that is shown to a source which asks for one.
    pub source_client_certificate: Option<PathBuf>,
    /// A PEM file with its key, without a password; an RSA key in PKCS#1.
    pub source_client_key: Option<PathBuf>,
    /// `mysql://user:password@host:port/database`, MySQL or MariaDB: where the copies and the checkpoint are.
    pub target: Secret,
    /// As `source_tls`, for the target.
    pub target_tls: bool,
    /// As `source_ca`, for the target.
    pub target_ca: Option<PathBuf>,
    /// As `source_client_certificate`, for the target.
    pub target_client_certificate: Option<PathBuf>,
    /// As `source_client_key`, for the target.
    pub target_client_key: Option<PathBuf>,
    /// The id under which the source knows this reader, another one than those of all servers and readers of the
    /// source. Default: one at random.
    pub server_id: Option<u32>,
    /// The key of `hash(column)`, at least 16 bytes. With another key the hashes are others.
    pub hash_key: Option<Secret>,
    /// What is held in memory, 8 MiB to 16 GiB; larger transactions wait on disk. Default 48 MiB.
    pub memory_bytes: ByteSize,
    /// What one read of a copy takes, 64 KiB to 1 GiB, at most a quarter of `memory_bytes`. Default 2 MiB.
    pub chunk_bytes: ByteSize,
    /// The copies.
    pub table: Vec<ReplicationTableConfig>,
}

/// One copy.
///
/// ```
/// use outbox_relay::config::ReplicationTableConfig;
///
/// let products = ReplicationTableConfig {
///     target: Some("product_copy".into()),
///     columns: vec!["id".into(), "price as unit_price".into()],
///     filter: Some("status <> 'draft'".into()),
///     ..ReplicationTableConfig::new("product_db.product")
/// };
/// assert_eq!(products.source_name(), ("product_db", "product"));
/// assert_eq!(products.target_name(), "product_copy");
/// // Without a name of its own it has the table's.
/// assert_eq!(ReplicationTableConfig::new("product_db.category").target_name(), "category");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicationTableConfig {
    /// The table that is followed, `database.table`, as the source spells it.
    pub source: String,
    /// The copy's name in the target database. Default: the table's own.
    pub target: Option<String>,
    /// Its columns: `name`, `price as unit_price`, `hash(email) as email_hash`, `'eu' as shard`. Default: all.
    pub columns: Vec<String>,
    /// Which rows it has, as `status <> 'draft'`. Default: all.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// The columns of a unique key without NULL, by the source's names, for a table without a primary key.
    pub key: Vec<String>,
    /// Whether `run` creates the copy if it is missing. Default false.
    pub create: bool,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            source: Secret::default(),
            source_tls: false,
            source_ca: None,
            source_client_certificate: None,
            source_client_key: None,
            target: Secret::default(),
            target_tls: false,
            target_ca: None,
            target_client_certificate: None,
            target_client_key: None,
            server_id: None,
            hash_key: None,
            memory_bytes: MEMORY_BYTES.into(),
            chunk_bytes: CHUNK_BYTES.into(),
            table: Vec::new(),
        }
    }
}

impl ReplicationConfig {
    /// A replication with every default and no table yet.
    ///
    /// ```
    /// use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig};
    ///
    /// let mut replication =
    ///     ReplicationConfig::new("order", "mysql://repl@127.0.0.1:3306", "mysql://repl@127.0.0.1:3307/order_db");
    /// replication.table.push(ReplicationTableConfig::new("product_db.product"));
    /// # #[cfg(feature = "binlog")]
    /// assert!(replication.problems().is_empty());
    /// ```
    pub fn new(name: impl Into<String>, source: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            source: Secret::new(source),
            target: Secret::new(target),
            ..Self::default()
        }
    }

    /// What is wrong with it, each problem with the key.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |is_right: bool, text: &str| {
            if !is_right {
                found.push(text.to_owned());
            }
        };
        let name_is_right = (1..=100).contains(&self.name.len())
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        check(
            name_is_right,
            "name: is needed, 1 to 100 of [a-z0-9_-]; the target keeps the checkpoint under it",
        );
        check(
            is_mysql(&self.source).is_some(),
            "source: is needed, mysql://user:password@host:port; the databases stand with the tables",
        );
        check(
            is_mysql(&self.target).is_some_and(|database| !database.is_empty()),
            "target: is needed, mysql://user:password@host:port/database",
        );
        check(self.server_id != Some(0), "server_id: 1 or above, and no other server's or reader's");
        check(
            self.hash_key.as_ref().is_none_or(|key| key.expose().len() >= 16),
            "hash_key: at least 16 bytes, or the hashes can be guessed",
        );
        let memory = self.memory_bytes.get();
        check((8 << 20..=16 << 30).contains(&memory), "memory_bytes: 8 MiB to 16 GiB");
        let chunk = self.chunk_bytes.get();
        check((64 << 10..=1 << 30).contains(&chunk), "chunk_bytes: 64 KiB to 1 GiB");
        check(
            chunk <= memory / 4,
            "chunk_bytes: at most a quarter of memory_bytes, as several are under way",
        );
        check(
            !self.table.is_empty(),
            "table: there is none; add a section [[replication.table]] with source",
        );
        check(cfg!(feature = "binlog"), "this build of the program has no binlog mode (feature `binlog`)");
        found.extend(self.tls_problems());
        for (number, table) in self.table.iter().enumerate() {
            let told = table.problems(self).into_iter();
            found.extend(told.map(|problem| format!("table[{number}].{problem}")));
        }
        found
    }

    /// Whether it writes a table of the same database as another one, and which.
    pub(super) fn shared_table(&self, other: &Self) -> Option<&str> {
        let mine = self.table.iter().map(ReplicationTableConfig::target_name);
        let is_theirs = |name: &&str| other.table.iter().any(|table| table.target_name() == *name);
        if self.target.is_empty() || self.target != other.target {
            None
        } else {
            mine.into_iter().find(is_theirs)
        }
    }
}

impl ReplicationTableConfig {
    /// All columns and rows of `source` (`database.table`), under its own name.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// The followed table's database and name.
    pub fn source_name(&self) -> (&str, &str) {
        self.source.split_once('.').unwrap_or(("", &self.source))
    }

    /// The copy's name.
    pub fn target_name(&self) -> &str {
        self.target.as_deref().unwrap_or(self.source_name().1)
    }

    fn problems(&self, replication: &ReplicationConfig) -> Vec<String> {
        let mut found = Vec::new();
        let (database, table) = self.source_name();
        if database.is_empty() || table.is_empty() {
            found.push("source: is needed, \"database.table\"".into());
        } else if table.contains('.') || self.source.contains('`') {
            found.push("source: \"database.table\", one point between the two names and no quotes".into());
        }
        let target = self.target_name();
        if !table.is_empty() && (target.is_empty() || target.contains('.') || target.chars().count() > 64) {
            found
                .push("target: the name of a table in the target's database, without that database's".into());
        }
        if self.filter.as_deref().is_some_and(|filter| filter.trim().is_empty()) {
            found.push("where: is empty; leave it out for all rows".into());
        }
        let is_hashed = |column: &String| column.trim().to_ascii_lowercase().starts_with("hash(");
        if self.columns.iter().any(is_hashed) && replication.hash_key.is_none() {
            found.push("columns: hash(…) needs the replication's hash_key".into());
        }
        found
    }
}

/// The database of a `mysql://` URL with a host.
fn is_mysql(url: &Secret) -> Option<String> {
    let url = Url::parse(url.expose()).ok().filter(|url| url.scheme() == "mysql" && url.has_host())?;
    Some(url.path().trim_matches('/').to_owned())
}

#[cfg(all(test, feature = "binlog"))]
mod tests {
    use crate::config::{Environment, from_text};

    const SMALL: &str = r#"
        [[replication]]
        name = "order"
        source = "mysql://repl:hunter2@h:3306"
        target = "mysql://repl:hunter2@h:3307/order_db"
        hash_key = "hunter2hunter2hunter2"
        [[replication.table]]
        source = "product_db.product"
        target = "product_copy"
        columns = ["id", "price as unit_price", "hash(email) as email"]
        where = "status <> 'draft'"
        [[replication.table]]
        source = "product_db.category"
        create = true
    "#;

    fn problems(text: &str) -> String {
        from_text(text, &Environment::default()).map_or_else(|found| found.to_string(), |_| String::new())
    }

    #[test]
    fn replications_need_neither_broker_nor_outbox() {
        let config = from_text(SMALL, &Environment::default()).unwrap();
        let [product, category] = &config.replication[0].table[..] else { panic!("{config:?}") };
        assert_eq!(product.columns.len(), 3);
        assert_eq!(product.filter.as_deref(), Some("status <> 'draft'"));
        assert_eq!((category.target_name(), category.create), ("category", true));
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn unknown_keys_name_the_nearest_and_all_problems_come_at_once() {
        let text = SMALL
            .replace("where =", "wehre =")
            .replace("create = true", "create = true\nsource_tables = 1\ncolumns = 7")
            .replace("hash_key = \"hunter2hunter2hunter2\"", "hash_kye = \"x\"\nmemory_bytes = 7")
            .replace("/order_db", "");
        let found = problems(&text);
        for part in [
            "replication[0].table[0].wehre: unknown key; did you mean \"where\"?",
            "replication[0].table[1].source_tables: unknown key; did you mean",
            "replication[0].table[1].columns: is a integer, not a list of texts",
            "replication[0].hash_kye: unknown key; did you mean \"hash_key\"?",
            "replication[0].memory_bytes: 8 MiB to 16 GiB",
            "replication[0].target: is needed",
            "replication[0].table[0].columns: hash(…) needs",
        ] {
            assert!(found.contains(part), "{part} not in\n{found}");
        }
    }

    #[test]
    fn names_and_copies_are_nobody_elses() {
        let found = problems(&format!("{SMALL}\n{SMALL}"));
        assert!(found.contains("replication[1].name: \"order\" is replication[0]'s too"), "{found}");
        assert!(
            found.contains("replication[1].table: \"product_copy\" is written by replication[0] too"),
            "{found}"
        );
        let outbox =
            "[broker]\nurl = \"amqp://h\"\n[[outbox]]\nname = \"order\"\ndatabase = \"mysql://u@h/a\"";
        let found = problems(&format!("{outbox}\n{SMALL}"));
        assert!(found.contains("replication[0].name: \"order\" is outbox[0]'s too"), "{found}");
    }

    #[test]
    fn the_environment_reaches_a_table() {
        let environment = Environment::of([
            ("OUTBOX_REPLICATION__0__SERVER_ID", "77"),
            ("OUTBOX_REPLICATION__0__TABLE__1__COLUMNS", "id, name"),
            ("OUTBOX_REPLICATION__0__TABLE__1__CREATE", "false"),
        ]);
        let config = from_text(SMALL, &environment).unwrap();
        assert_eq!(config.replication[0].server_id, Some(77));
        assert_eq!(config.replication[0].table[1].columns, ["id", "name"]);
        assert!(!config.replication[0].table[1].create);
    }
}
