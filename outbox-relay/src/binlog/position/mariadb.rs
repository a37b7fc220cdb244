//! MariaDB's GTID positions: the last transaction of each domain.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use outbox_core::Error;

use super::malformed;

/// One transaction: its replication domain, the server that committed it, its number in the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MariaDbGtid {
    pub domain: u32,
    pub server: u32,
    pub number: u64,
}

/// The last transaction of each domain, as in `@@gtid_binlog_pos`; it stands for all up to there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MariaDbGtids {
    last: BTreeMap<u32, (u32, u64)>,
}

impl MariaDbGtids {
    /// Makes a transaction the last of its domain.
    pub fn add(&mut self, gtid: &MariaDbGtid) {
        self.last.insert(gtid.domain, (gtid.server, gtid.number));
    }

    /// Whether a transaction is its domain's last or before it.
    pub fn contains(&self, gtid: &MariaDbGtid) -> bool {
        self.last.get(&gtid.domain).is_some_and(|(_, number)| *number >= gtid.number)
    }

    /// Whether every domain of the other stands here too, and not further back.
    pub fn includes(&self, other: &Self) -> bool {
        other
            .last
            .iter()
            .all(|(domain, (_, number))| self.last.get(domain).is_some_and(|(_, here)| here >= number))
    }
}

impl fmt::Display for MariaDbGtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (domain, (server, number))) in self.last.iter().enumerate() {
            write!(f, "{}{domain}-{server}-{number}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for MariaDbGtids {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut set = Self::default();
        for gtid in text.split(',').map(str::trim).filter(|gtid| !gtid.is_empty()) {
            let mut parts = gtid.split('-');
            let parsed = (|| {
                let (domain, server, number) = (parts.next()?, parts.next()?, parts.next()?);
                let gtid = MariaDbGtid {
                    domain: domain.parse().ok()?,
                    server: server.parse().ok()?,
                    number: number.parse().ok()?,
                };
                parts.next().is_none().then_some(gtid)
            })();
            let parsed = parsed.ok_or_else(|| malformed(text, "DOMAIN-SERVER-NUMBER,…"))?;
            if set.last.contains_key(&parsed.domain) {
                return Err(malformed(text, "each domain once"));
            }
            set.add(&parsed);
        }
        Ok(set)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gtid() -> impl Strategy<Value = MariaDbGtid> {
        (0..4_u32, any::<u32>(), any::<u64>()).prop_map(|(domain, server, number)| MariaDbGtid {
            domain,
            server,
            number,
        })
    }

    pub(crate) fn set() -> impl Strategy<Value = MariaDbGtids> {
        prop::collection::vec(gtid(), 0..6).prop_map(|gtids| {
            let mut set = MariaDbGtids::default();
            gtids.iter().for_each(|gtid| set.add(gtid));
            set
        })
    }

    proptest! {
        #[test]
        fn it_stands_for_all_up_to_the_last(set in set(), gtid in gtid()) {
            let mut after = set.clone();
            after.add(&gtid);
            prop_assert!(after.contains(&gtid));
            prop_assert_eq!(after.includes(&set), !set.contains(&gtid) || set == after
                || set.last[&gtid.domain].1 == gtid.number);
            prop_assert_eq!(after.to_string().parse::<MariaDbGtids>()?, after);
        }
    }

    #[test]
    fn each_domain_stands_once() {
        assert!("0-1-5,0-2-6".parse::<MariaDbGtids>().is_err());
        assert!("0-1".parse::<MariaDbGtids>().is_err());
        assert_eq!("0-21-5, 1-22-7".parse::<MariaDbGtids>().unwrap().to_string(), "0-21-5,1-22-7");
    }
}
