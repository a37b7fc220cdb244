//! The consumer's record of what it has applied, and of what it has set aside.

use std::borrow::Cow;

use crate::error::Error;
use crate::message::{Frame, Headers};

/// Why a message stands in `inbox_held`: the column `state`.
///
/// A subscriber writes the first three. The others are asked for by an operator, who writes them into the row
/// of a [`Dead`](Self::Dead) one; the subscriber does it, and the row is gone.
///
/// ```
/// use outbox_core::HeldState;
///
/// /// What an operator runs to have the dead messages of a kind dealt with.
/// fn ask_for(what: HeldState) -> String {
///     let (what, dead) = (what.name(), HeldState::Dead.name());
///     format!("UPDATE inbox_held SET state = '{what}' WHERE state = '{dead}' AND kind = ?")
/// }
/// let asked = [HeldState::Replay, HeldState::Force, HeldState::Discard].map(HeldState::name);
/// assert_eq!(asked, ["replay", "force", "discard"]);
/// assert!(ask_for(HeldState::Replay).contains("SET state = 'replay' WHERE state = 'dead'"));
///
/// let untouched = [HeldState::Retry, HeldState::Waiting].map(HeldState::name);
/// assert_eq!(untouched, ["retry", "waiting"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeldState {
    /// It has failed and is tried again at `next_at`.
    Retry,
    /// An earlier message of its key stands before it.
    Waiting,
    /// Set aside with its error until somebody decides.
    Dead,
    /// To be applied now; it is dead again if it fails.
    Replay,
    /// As replay, although the inbox may have forgotten that it was applied before.
    Force,
    /// To be forgotten: it counts as applied, without an effect.
    Discard,
}

impl HeldState {
    pub(crate) const ALL: [Self; 6] =
        [Self::Retry, Self::Waiting, Self::Dead, Self::Replay, Self::Force, Self::Discard];

    /// The text in the column `state`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Replay => "replay",
            Self::Force => "force",
            Self::Discard => "discard",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What waits behind a held message: the column `holds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Holds {
    Nothing,
    /// Later messages of its key.
    Key,
    /// The consumer.
    All,
}

impl Holds {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Key => "key",
            Self::All => "all",
        }
    }
}

/// How something failed.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct Failure {
    pub error: String,
    /// What it came from, the root last.
    pub causes: Option<String>,
}

impl Failure {
    /// So much of an error's text is kept.
    const CHARS_MAX: usize = 2000;

    pub(crate) fn of(error: &Error) -> Self {
        let below = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        let causes: Vec<_> = below.map(|cause| text(&cause.to_string())).collect();
        let causes = Some(causes.join("\n")).filter(|causes| !causes.is_empty());
        Self { error: text(&error.to_string()), causes: causes.map(|causes| text(&causes)) }
    }
}

/// A text as every database takes it: PostgreSQL's has no NUL.
pub(crate) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}").chars().take(Failure::CHARS_MAX).collect()
}

/// A name as every database takes it: no longer than its column either.
pub(crate) fn name(name: &str) -> String {
    let name = text(name);
    let ends = name.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= NAME_COLUMN_BYTES).last().unwrap_or_default();
    name.get(..end).unwrap_or_default().to_owned()
}

/// The columns of MySQL's that hold names and keys.
pub(crate) const NAME_COLUMN_BYTES: usize = 255;

/// A key as every database takes it, and as long as it is. Where two keys become one, they wait for each other.
pub(crate) fn key(key: &str) -> Cow<'_, str> {
    if key.contains('\0') { Cow::Owned(key.replace('\0', "\u{1a}")) } else { Cow::Borrowed(key) }
}

/// A row of `inbox_held` to be written: a message as it arrived, with the reason why it was set aside.
#[derive(Debug)]
#[doc(hidden)]
pub struct HeldMessage<'a> {
    pub consumer: &'a str,
    /// The property as it arrived, which may be no UUID.
    pub message_id: &'a str,
    /// -1 when it did not decode.
    pub bucket: i16,
    pub kind: &'a str,
    /// This and the key are empty when it did not decode.
    pub aggregate: &'a str,
    pub key: &'a str,
    pub state: HeldState,
    pub holds: Holds,
    pub attempts: i32,
    /// Of a retry.
    pub next_in_ms: Option<i64>,
    pub failure: Option<&'a Failure>,
    /// Source, generation and id, when it decoded.
    pub version: Option<(&'a str, i64, i64)>,
    pub routing_key: &'a str,
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

/// How the tries at a row of `inbox_held` stand.
#[derive(Debug, diesel::QueryableByName)]
#[doc(hidden)]
pub struct HeldTry {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub state: String,
    /// In a row, without a noted end.
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub begun: i32,
}

/// A row of `inbox_held` that is to be served.
#[derive(Debug, diesel::QueryableByName)]
#[doc(hidden)]
pub struct HeldFrame {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub message_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub kind: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub aggregate_type: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub aggregate_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub state: String,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub attempts: i32,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub routing_key: String,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    pub headers: Vec<u8>,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    pub payload: Vec<u8>,
}

impl HeldFrame {
    /// The frame as it arrived, the content type among its headers only.
    pub(crate) fn frame(&self) -> Frame {
        Frame {
            routing_key: self.routing_key.clone(),
            message_id: self.message_id.clone(),
            kind: self.kind.clone(),
            content_type: String::new(),
            headers: Headers::from_json(&self.headers).unwrap_or_default(),
            body: self.payload.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        for state in HeldState::ALL {
            assert_eq!(HeldState::parse(state.name()), Some(state));
        }
        assert_eq!(HeldState::parse("asleep"), None);
    }

    #[test]
    fn names_and_keys_fit_their_columns() {
        assert_eq!(name("a\0b"), "a\u{fffd}b");
        for long in ["\0".repeat(200), "ä".repeat(200), "x".repeat(300)] {
            assert!((253..=255).contains(&name(&long).len()), "{}", name(&long).len());
        }
        assert_eq!(key("a\0b"), "a\u{1a}b");
        assert_eq!(key("größe"), "größe");
    }

    #[test]
    fn a_failure_keeps_its_causes_and_no_nul() {
        #[derive(Debug)]
        struct Outer(std::fmt::Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("out\0er")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let failure = Failure::of(&Error::application(Outer(std::fmt::Error)).context("doing"));
        assert_eq!(failure.error, "doing: out\u{fffd}er");
        assert_eq!(failure.causes.as_deref(), Some(std::fmt::Error.to_string().as_str()));
        assert_eq!(Failure::of(&Error::invalid("flat")).causes, None);
    }
}
