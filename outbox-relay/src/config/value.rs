//! Values that a configuration writes as text: durations, sizes, and secrets that never show.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A text that is a secret or holds one: a URL with a password, a token. It shows without it.
///
/// ```
/// use outbox_relay::config::Secret;
///
/// let url = Secret::new("mysql://relay:hunter2@db.example/product");
/// assert_eq!(format!("{url}"), "mysql://relay:***@db.example/product");
/// assert_eq!(format!("{:?}", Secret::new("a token")), "***");
/// assert_eq!(url.expose(), "mysql://relay:hunter2@db.example/product");
/// assert!(!url.is_empty() && Secret::default().is_empty());
///
/// let quoted = "access denied for relay with hunter2";
/// assert_eq!(url.scrub(quoted), "access denied for relay with ***");
/// ```
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: only for those who open the connection with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text` with this secret's parts taken out, for errors of drivers that quote what they were given.
    pub fn scrub(&self, text: &str) -> String {
        let mut text = text.replace(&self.0, &self.to_string());
        if let Some(password) = self.password().filter(|p| !p.is_empty()) {
            text = text.replace(password, "***");
        }
        text
    }

    fn password(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let (user, _) = authority.rsplit_once('@')?;
        user.split_once(':').map(|(_, password)| password)
    }
}

impl fmt::Display for Secret {
    /// `mysql://relay:***@host/db`; what is no URL shows as `***` altogether. Parameters are left out, they
    /// may hold passwords too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return f.write_str(if self.0.is_empty() { "" } else { "***" });
        };
        let rest = rest.split('?').next().unwrap_or_default();
        let Some((user, host)) = rest.rsplit_once('@') else {
            return write!(f, "{scheme}://{rest}");
        };
        match user.split_once(':') {
            Some((user, _)) => write!(f, "{scheme}://{user}:***@{host}"),
            None => write!(f, "{scheme}://{user}@{host}"),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A time that is written as `250ms`, `10s`, `5m`, `1h` or `3d`.
///
/// ```
/// use std::time::Duration;
/// use outbox_relay::config::{Environment, Interval, from_text};
///
/// let text = "broker.url = 'amqp://h'\n[[outbox]]\nname = 'a'\ndatabase = 'sqlite:///a.db'\nlease = '2m'";
/// let config = from_text(text, &Environment::default())?;
/// assert_eq!(config.outbox[0].lease.get(), Duration::from_secs(120));
/// // In code it is made of a Duration.
/// assert_eq!(config.outbox[0].lease, Interval::from(Duration::from_secs(120)));
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(Duration);

impl Interval {
    /// The time.
    pub fn get(self) -> Duration {
        self.0
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no time; write it as \"250ms\", \"10s\", \"5m\", \"1h\" or \"3d\"");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let ms = match text[digits..].trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

impl From<Duration> for Interval {
    fn from(time: Duration) -> Self {
        Self(time)
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A size that is written as a number of bytes or as `64 KiB`, `8 MiB`, `1 GiB`.
///
/// ```
/// use outbox_relay::config::{ByteSize, Environment, from_text};
///
/// let text = "broker.url = 'amqp://h'\n[[outbox]]\nname = 'a'\ndatabase = 'sqlite:///a.db'\nbatch_bytes = '1 MiB'";
/// let config = from_text(text, &Environment::default())?;
/// assert_eq!(config.outbox[0].batch_bytes.get(), 1_048_576);
/// // In code it is made of a number of bytes.
/// assert_eq!(config.outbox[0].batch_bytes, ByteSize::from(1 << 20));
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// The number of bytes.
    pub fn get(self) -> u64 {
        self.0
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no size; write a number of bytes, or \"64 KiB\", \"8 MiB\", \"1 GiB\"");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let factor = match text[digits..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bytes(u64),
            Text(String),
        }
        match Form::deserialize(from)? {
            Form::Bytes(bytes) => Ok(Self(bytes)),
            Form::Text(text) => Self::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(Interval::parse("250ms").unwrap().get(), Duration::from_millis(250));
        assert_eq!(Interval::parse("5 m").unwrap().get(), Duration::from_secs(300));
        assert!(Interval::parse("10").is_err());
        assert!(Interval::parse("s").is_err());
        assert!(Interval::parse("-1s").is_err());
        assert_eq!(ByteSize::parse("8 MiB").unwrap().get(), 8 << 20);
        assert_eq!(ByteSize::parse("70000").unwrap().get(), 70000);
        assert!(ByteSize::parse("8 MB").is_err());
    }

    #[test]
    fn a_password_shows_nowhere() {
        let url = Secret::new("postgres://u:p@ss@h:5/db?password=pp");
        assert_eq!(format!("{url} {url:?}"), "postgres://u:***@h:5/db postgres://u:***@h:5/db");
        assert_eq!(
            url.scrub("cannot parse p@ss in postgres://u:p@ss@h:5/db?password=pp"),
            "cannot parse *** in postgres://u:***@h:5/db"
        );
        assert_eq!(Secret::new("token").to_string(), "***");
        assert_eq!(Secret::new("sqlite:///tmp/a.db").to_string(), "sqlite:///tmp/a.db");
    }
}
