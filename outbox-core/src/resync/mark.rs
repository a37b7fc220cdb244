//! What resyncs send beside rows, all as event `current`, which copies are bound to and handlers never see: a
//! mark in every bucket at the begin and at the end, and keys whose row is gone.

use serde::{Deserialize, Serialize};

use crate::entity::{Image, Operation};
use crate::error::Result;
use crate::message::{BUCKETS, Message, bucket_of};

/// The begin or the end of a resync in one bucket.
///
/// The scan starts after the begin marks are on the broker, and the end marks follow after all rows of the scan
/// are. So what a copy shows from before the begin mark and the scan did not send is gone at the source, but for
/// changes that were committed late: what comes after the begin mark with an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The request.
    pub(crate) resync: i64,
    pub(crate) at: At,
    /// Whether all entities are sent: else copies drop nothing at the end.
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum At {
    Begin,
    End,
}

/// A `current` message that is no row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Notice {
    Mark(Mark),
    /// A key without a row, as the fields of the primary key.
    Gone {
        resync: i64,
        key: Image,
    },
}

impl Notice {
    /// The notice in the payload of a `current` message; none in that of a row.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        // Rows are `{"after": …}`.
        let is_current = message.event() == Operation::Current.name();
        is_current.then(|| serde_json::from_slice(message.payload()).ok()).flatten()
    }

    pub(crate) fn message(&self, aggregate: &str, key: impl Into<String>) -> Result<Message> {
        Message::fresh(aggregate, key, Operation::Current.name(), serde_json::to_vec(self)?)
    }
}

/// A message with this mark for each of these buckets.
pub(crate) fn messages(aggregate: &str, mark: Mark, is_meant: impl Fn(u16) -> bool) -> Result<Vec<Message>> {
    let keys = keys(aggregate).into_iter().enumerate();
    keys.filter(|(bucket, _)| u16::try_from(*bucket).is_ok_and(&is_meant))
        .map(|(_, key)| Notice::Mark(mark).message(aggregate, key))
        .collect()
}

/// A key in each bucket, the same ones every time: what a mark is routed by.
fn keys(aggregate: &str) -> Vec<String> {
    let mut keys = vec![None; usize::from(BUCKETS)];
    let mut missing = keys.len();
    let mut number = 0_u32;
    while missing > 0 {
        let key = format!("resync-mark-{number}");
        let place = &mut keys[usize::from(bucket_of(aggregate, &key))];
        if place.is_none() {
            *place = Some(key);
            missing -= 1;
        }
        number += 1;
    }
    keys.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_gets_its_mark() {
        let mark = Mark { resync: 7, at: At::Begin, all: true };
        let all = messages("product", mark, |_| true).unwrap();
        assert_eq!(all.iter().map(Message::bucket).collect::<Vec<_>>(), (0..BUCKETS).collect::<Vec<_>>());
        assert!(all.iter().all(|message| Notice::of(message) == Some(Notice::Mark(mark))));
        assert_eq!(messages("product", mark, |bucket| bucket == 9).unwrap().len(), 1);
    }

    #[test]
    fn a_row_is_no_notice() {
        let row = |event| Message::fresh("product", "7", event, br#"{"after":{"id":7}}"#.to_vec()).unwrap();
        assert_eq!(Notice::of(&row("current")), None);
        let gone = Notice::Gone { resync: 1, key: Image::new() };
        let message = gone.message("product", "7").unwrap();
        assert_eq!(Notice::of(&message), Some(gone));
        let other = Message::new("product", "7", "updated", message.payload().to_vec()).unwrap();
        assert_eq!(Notice::of(&other), None);
    }
}
