//! MySQL's GTID sets: intervals of transaction numbers per server and tag.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use outbox_core::Error;
use uuid::Uuid;

use super::malformed;

/// The longest tag that MySQL takes, in bytes.
const TAG_BYTES_MAX: usize = 32;

/// One transaction: the server that committed it, a tag (MySQL 8.3 and later; empty for most), its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct MySqlGtid {
    pub server: Uuid,
    pub tag: String,
    pub number: u64,
}

/// A set of transactions, as in `@@gtid_executed`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MySqlGtids {
    /// Half-open intervals, sorted, neither overlapping nor touching, none empty.
    intervals: BTreeMap<(Uuid, String), Vec<(u64, u64)>>,
}

impl MySqlGtids {
    /// Adds one transaction.
    pub fn add(&mut self, gtid: &MySqlGtid) {
        // The next number of the last interval is by far the most frequent case: no key is cloned for it.
        let interval = (gtid.number, gtid.number + 1);
        match self.intervals.get_mut(&(gtid.server, gtid.tag.clone())) {
            Some(intervals) => insert(intervals, interval),
            None => {
                self.intervals.insert((gtid.server, gtid.tag.clone()), vec![interval]);
            }
        }
    }

    /// Whether a transaction is in the set.
    pub fn contains(&self, gtid: &MySqlGtid) -> bool {
        self.covers(&(gtid.server, gtid.tag.clone()), (gtid.number, gtid.number + 1))
    }

    /// Whether all of another set is in this one.
    pub fn includes(&self, other: &Self) -> bool {
        other
            .intervals
            .iter()
            .all(|(key, intervals)| intervals.iter().all(|interval| self.covers(key, *interval)))
    }

    fn covers(&self, key: &(Uuid, String), (start, end): (u64, u64)) -> bool {
        self.intervals.get(key).is_some_and(|intervals| {
            let after = intervals.partition_point(|(from, _)| *from <= start);
            after.checked_sub(1).is_some_and(|at| intervals[at].1 >= end)
        })
    }

    /// The set as COM_BINLOG_DUMP_GTID takes it; with tags in the format of MySQL 8.3.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let tagged = self.intervals.keys().any(|(_, tag)| !tag.is_empty());
        let count = self.intervals.len() as u64;
        // Tagged: the first and the last byte hold the format (1), the count lies between.
        let head = if tagged { 1 << 56 | count << 8 | 1 } else { count };
        let mut bytes = head.to_le_bytes().to_vec();
        for ((server, tag), intervals) in &self.intervals {
            bytes.extend_from_slice(server.as_bytes());
            if tagged {
                // A variable-length integer of one byte; tags have at most 32.
                bytes.push((tag.len() as u8) << 1);
                bytes.extend_from_slice(tag.as_bytes());
            }
            bytes.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
            for (start, end) in intervals {
                bytes.extend_from_slice(&start.to_le_bytes());
                bytes.extend_from_slice(&end.to_le_bytes());
            }
        }
        bytes
    }
}

/// Puts an interval in, merging what then touches.
fn insert(intervals: &mut Vec<(u64, u64)>, (mut start, mut end): (u64, u64)) {
    let first = intervals.partition_point(|(_, until)| *until < start);
    let mut last = first;
    while let Some((from, until)) = intervals.get(last).filter(|(from, _)| *from <= end) {
        start = start.min(*from);
        end = end.max(*until);
        last += 1;
    }
    intervals.splice(first..last, [(start, end)]);
}

impl fmt::Display for MySqlGtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for ((server, tag), intervals) in &self.intervals {
            match last {
                Some(before) if before == server => {}
                before => write!(f, "{}{server}", if before.is_some() { "," } else { "" })?,
            }
            last = Some(server);
            if !tag.is_empty() {
                write!(f, ":{tag}")?;
            }
            for (start, end) in intervals {
                write!(f, ":{start}")?;
                if *end > start + 1 {
                    write!(f, "-{}", end - 1)?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for MySqlGtids {
    type Err = Error;

    /// As the server prints it, with or without white space and line breaks.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || malformed(text, "UUID:1-5:9,UUID:tag:1");
        let mut set = Self::default();
        for group in text.split(',').map(str::trim).filter(|group| !group.is_empty()) {
            let mut parts = group.split(':').map(str::trim);
            let server: Uuid = parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong)?;
            let mut tag = String::new();
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    let is_tag = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                    if !is_tag || part.len() > TAG_BYTES_MAX {
                        return Err(wrong());
                    }
                    tag = part.to_ascii_lowercase();
                    continue;
                }
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
                    return Err(wrong());
                };
                // The server's numbers are signed.
                if first == 0 || last < first || last >= i64::MAX as u64 {
                    return Err(wrong());
                }
                insert(set.intervals.entry((server, tag.clone())).or_default(), (first, last + 1));
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn gtid() -> impl Strategy<Value = MySqlGtid> {
        (0..3_u128, prop::sample::select(vec!["", "a", "orders_1"]), 1..40_u64).prop_map(
            |(server, tag, number)| MySqlGtid {
                server: Uuid::from_u128(server),
                tag: tag.to_owned(),
                number,
            },
        )
    }

    fn set_of<'g>(gtids: impl IntoIterator<Item = &'g MySqlGtid>) -> MySqlGtids {
        let mut set = MySqlGtids::default();
        gtids.into_iter().for_each(|gtid| set.add(gtid));
        set
    }

    pub(crate) fn set() -> impl Strategy<Value = MySqlGtids> {
        prop::collection::vec(gtid(), 0..60).prop_map(|gtids| set_of(&gtids))
    }

    proptest! {
        #[test]
        fn it_holds_what_was_added_in_any_order(gtids in prop::collection::vec(gtid(), 0..120), probe in gtid()) {
            let model: BTreeSet<_> = gtids.iter().cloned().collect();
            let set = set_of(&gtids);
            prop_assert_eq!(set.contains(&probe), model.contains(&probe));
            prop_assert_eq!(&set, &set_of(&model));
            prop_assert_eq!(&set.to_string().parse::<MySqlGtids>()?, &set);
        }

        #[test]
        fn a_set_includes_its_parts_and_no_more(gtids in prop::collection::vec(gtid(), 1..80), cut in 0..80_usize) {
            let (whole, part) = (set_of(&gtids), set_of(&gtids[..cut.min(gtids.len())]));
            prop_assert!(whole.includes(&part));
            let rest = gtids.iter().all(|gtid| part.contains(gtid));
            prop_assert_eq!(part.includes(&whole), rest);
        }
    }

    #[test]
    fn it_reads_and_writes_the_server_s_notation() {
        let text = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7:orders:1:3-4,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:9";
        let set: MySqlGtids = text.parse().unwrap();
        assert_eq!(set.to_string(), text.replace('\n', ""));
        assert_eq!("".parse::<MySqlGtids>().unwrap(), MySqlGtids::default());
        for wrong in
            ["x:1", "3e11fa47-71ca-11e1-9e33-c80aa9429562:0", "3e11fa47-71ca-11e1-9e33-c80aa9429562:5-3"]
        {
            assert!(wrong.parse::<MySqlGtids>().is_err(), "{wrong}");
        }
    }
}
