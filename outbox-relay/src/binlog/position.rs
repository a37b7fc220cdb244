//! Where in a source's history a reader stands: GTIDs of MySQL or MariaDB, and file with offset.

mod mariadb;
mod mysql;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use outbox_core::{Error, ErrorKind};

pub use mariadb::{MariaDbGtid, MariaDbGtids};
pub use mysql::{MySqlGtid, MySqlGtids};

/// A place between two transactions of a source. A reader resumes by GTIDs where it has them, since these hold on
/// every server of a replication group, else by file and offset, which hold on one server only.
///
/// As text, the way it is stored: `mysql:UUID:1-5;file:bin.000003:1234`, `mariadb:0-1-5;file:…`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// All transactions up to here.
    pub gtids: Option<Gtids>,
    /// The binlog file and the offset in it.
    pub file: Option<FileOffset>,
    /// Where to begin reading for the rows of XA transactions that are prepared but neither committed nor rolled
    /// back here; what lies between there and here is not given out again.
    pub replay_from: Option<Box<Position>>,
}

/// Transactions by their global ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gtids {
    /// MySQL's set of intervals.
    MySql(MySqlGtids),
    /// MariaDB's last id of each domain.
    MariaDb(MariaDbGtids),
}

/// One transaction by its global id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gtid {
    /// MySQL's.
    MySql(MySqlGtid),
    /// MariaDB's.
    MariaDb(MariaDbGtid),
}

/// A binlog file and an offset in it, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FileOffset {
    pub name: String,
    pub offset: u64,
}

impl Position {
    /// By GTIDs alone.
    pub fn at_gtids(gtids: Gtids) -> Self {
        Self { gtids: Some(gtids), ..Self::default() }
    }

    /// By file and offset alone.
    pub fn at_file(name: impl Into<String>, offset: u64) -> Self {
        Self { file: Some(FileOffset { name: name.into(), offset }), ..Self::default() }
    }

    /// Whether all that `mark` contains is contained here too. Compared by GTIDs if both have them, else by file;
    /// `None` if they have nothing in common to compare.
    pub fn has_reached(&self, mark: &Self) -> Option<bool> {
        match (&self.gtids, &mark.gtids) {
            (Some(Gtids::MySql(here)), Some(Gtids::MySql(there))) => Some(here.includes(there)),
            (Some(Gtids::MariaDb(here)), Some(Gtids::MariaDb(there))) => Some(here.includes(there)),
            _ => match (&self.file, &mark.file) {
                (Some(here), Some(there)) => here.partial_cmp(there).map(Ordering::is_ge),
                _ => None,
            },
        }
    }
}

impl Position {
    /// Leaves only what holds on another server of the same replication group.
    pub(crate) fn forget_file(&mut self) {
        self.file = None;
        if let Some(replay_from) = &mut self.replay_from {
            replay_from.forget_file();
        }
    }
}

impl Gtids {
    /// Adds one transaction.
    ///
    /// # Errors
    /// `Invalid` when the id is of the other product.
    pub fn add(&mut self, gtid: &Gtid) -> Result<(), Error> {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql(gtid)) => set.add(gtid),
            (Self::MariaDb(set), Gtid::MariaDb(gtid)) => set.add(gtid),
            _ => {
                let text = "the source is MySQL and the position MariaDB's, or the other way round";
                return Err(Error::new(ErrorKind::Invalid, text));
            }
        }
        Ok(())
    }

    /// Whether a transaction is in it; never one of the other product.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql(gtid)) => set.contains(gtid),
            (Self::MariaDb(set), Gtid::MariaDb(gtid)) => set.contains(gtid),
            _ => false,
        }
    }
}

impl PartialOrd for FileOffset {
    /// By the number at the end of the name, then the offset; names of two series do not compare.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let number = |name: &str| -> Option<(String, u64)> {
            let (base, number) = name.rsplit_once('.')?;
            Some((base.to_owned(), number.parse().ok()?))
        };
        if self.name == other.name {
            return Some(self.offset.cmp(&other.offset));
        }
        let ((base, n), (other_base, m)) = (number(&self.name)?, number(&other.name)?);
        (base == other_base).then(|| n.cmp(&m))
    }
}

impl fmt::Display for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.offset)
    }
}

impl FromStr for FileOffset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text.rsplit_once(':').and_then(|(name, offset)| {
            let offset = offset.parse().ok()?;
            (!name.is_empty()).then(|| Self { name: name.to_owned(), offset })
        });
        parsed.ok_or_else(|| malformed(text, "FILE:OFFSET"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        match &self.gtids {
            Some(Gtids::MySql(set)) => write!(f, "mysql:{set}")?,
            Some(Gtids::MariaDb(set)) => write!(f, "mariadb:{set}")?,
            None => {}
        }
        if self.gtids.is_some() {
            between = ";";
        }
        if let Some(file) = &self.file {
            write!(f, "{between}file:{file}")?;
            between = ";";
        }
        if let Some(replay) = &self.replay_from {
            write!(f, "{between}replay;{replay}")?;
        }
        Ok(())
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut position = Self::default();
        let mut rest = Some(text.trim());
        while let Some(here) = rest {
            if let Some(replay) = here.strip_prefix("replay;") {
                position.replay_from = Some(Box::new(replay.parse()?));
                break;
            }
            let (part, after) = match here.split_once(';') {
                Some((part, after)) => (part, Some(after)),
                None => (here, None),
            };
            match part.split_once(':') {
                Some(("mysql", set)) => position.gtids = Some(Gtids::MySql(set.parse()?)),
                Some(("mariadb", set)) => position.gtids = Some(Gtids::MariaDb(set.parse()?)),
                Some(("file", file)) => position.file = Some(file.parse()?),
                _ => return Err(malformed(text, "mysql:SET;file:NAME:OFFSET")),
            }
            rest = after;
        }
        Ok(position)
    }
}

/// The error for a text that is not what it has to be.
fn malformed(text: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("`{text}` is not a position: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> impl Strategy<Value = FileOffset> {
        ("[a-z:.-]{1,8}\\.[0-9]{6}", any::<u64>()).prop_map(|(name, offset)| FileOffset { name, offset })
    }

    fn position() -> impl Strategy<Value = Position> {
        let gtids = prop_oneof![
            mysql::tests::set().prop_map(Gtids::MySql),
            mariadb::tests::set().prop_map(Gtids::MariaDb)
        ];
        let plain = prop_oneof![
            (gtids, prop::option::of(file())).prop_map(|(gtids, file)| (Some(gtids), file)),
            file().prop_map(|file| (None, Some(file)))
        ];
        let plain = plain.prop_map(|(gtids, file)| Position { gtids, file, replay_from: None });
        (plain.clone(), prop::option::of(plain))
            .prop_map(|(at, from)| Position { replay_from: from.map(Box::new), ..at })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed(position in position()) {
            prop_assert_eq!(&position.to_string().parse::<Position>()?, &position);
            prop_assert_eq!(position.has_reached(&position), Some(true));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Position>();
        }
    }

    #[test]
    fn files_are_in_the_order_of_their_numbers() {
        let at = |name: &str, offset| Position::at_file(name, offset);
        assert_eq!(at("bin.1000000", 4).has_reached(&at("bin.999999", 900)), Some(true));
        assert_eq!(at("bin.000002", 4).has_reached(&at("bin.000002", 5)), Some(false));
        assert_eq!(at("bin.000002", 4).has_reached(&at("other.000001", 5)), None);
    }

    #[test]
    fn an_empty_text_is_no_position() {
        assert!("".parse::<Position>().is_err());
        assert!("mysql:nonsense".parse::<Position>().is_err());
        assert!("bin.000001:4".parse::<Position>().is_err());
    }
}
