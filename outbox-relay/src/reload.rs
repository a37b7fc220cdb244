//! What a new configuration changes in a running relay: a pipe whose outbox is set differently is ended in order
//! and started again with its new settings, the others go on; the rest needs a restart.

use crate::config::{Config, OutboxConfig, Secret};

/// What differs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Outboxes of the same name with other settings.
    pub outboxes: Vec<OutboxConfig>,
    /// The console's new token.
    pub token: Option<Secret>,
    /// Keys that stay as they were until a restart.
    pub needs_restart: Vec<String>,
}

/// Compares the configuration in force with a new one.
///
/// ```
/// use outbox_relay::{Config, OutboxConfig, reload};
///
/// let outbox = OutboxConfig::new("product", "sqlite:///var/lib/product.db");
/// let old = Config { outbox: vec![outbox.clone()], ..Config::default() };
/// let new = Config { outbox: vec![OutboxConfig { attempts: 9, ..outbox }], ..Config::default() };
/// let changes = reload::compare(&old, &new);
/// assert_eq!(changes.outboxes[0].attempts, 9);
/// assert!(changes.needs_restart.is_empty());
/// ```
pub fn compare(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    let mut needs_restart = |is_equal: bool, key: &str| {
        if !is_equal {
            changes.needs_restart.push(key.to_owned());
        }
    };
    let (was, is) = (&old.broker, &new.broker);
    needs_restart(was.url == is.url, "broker.url");
    needs_restart(was.auth == is.auth, "broker.auth");
    needs_restart(was.ca == is.ca, "broker.ca");
    needs_restart(was.client_certificate == is.client_certificate, "broker.client_certificate");
    needs_restart(was.client_key == is.client_key, "broker.client_key");
    needs_restart(was.exchange == is.exchange, "broker.exchange");
    needs_restart(was.declare == is.declare, "broker.declare");
    needs_restart(was.unrouted == is.unrouted, "broker.unrouted");
    needs_restart(was.discard == is.discard, "broker.discard");
    needs_restart(old.admin.listen == new.admin.listen, "admin.listen");
    needs_restart(old.subscriber == new.subscriber, "subscriber");
    // Without a token nothing is served, and that is decided at the start.
    needs_restart(old.admin.token.is_some() == new.admin.token.is_some(), "admin.token");
    needs_restart(old.replication == new.replication, "replication");
    let find = |config: &Config, name: &str| config.outbox.iter().find(|outbox| outbox.name == name).cloned();
    for outbox in &old.outbox {
        needs_restart(find(new, &outbox.name).is_some(), &format!("outbox {:?} is gone", outbox.name));
    }
    for outbox in &new.outbox {
        match find(old, &outbox.name) {
            None => needs_restart(false, &format!("outbox {:?} is new", outbox.name)),
            Some(old) if old != *outbox => changes.outboxes.push(outbox.clone()),
            Some(_) => {}
        }
    }
    if let (Some(old), Some(new)) = (&old.admin.token, &new.admin.token)
        && old != new
    {
        changes.token = Some(new.clone());
    }
    changes
}

impl Changes {
    /// The configuration that is in force once they are applied.
    pub fn apply_to(&self, config: &mut Config) {
        for outbox in &self.outboxes {
            if let Some(old) = config.outbox.iter_mut().find(|old| old.name == outbox.name) {
                *old = outbox.clone();
            }
        }
        if self.token.is_some() {
            config.admin.token.clone_from(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(outboxes: &[(&str, u32)], token: Option<&str>) -> Config {
        let mut config = Config::default();
        config.admin.token = token.map(Secret::new);
        let outbox = |(name, attempts): &(&str, u32)| OutboxConfig {
            attempts: *attempts,
            ..OutboxConfig::new(*name, "sqlite:///x.db")
        };
        config.outbox = outboxes.iter().map(outbox).collect();
        config
    }

    #[test]
    fn what_can_be_applied_is_told_from_what_needs_a_restart() {
        let old = config(&[("a", 5), ("b", 5), ("gone", 5)], Some("old"));
        let mut new = config(&[("a", 9), ("b", 5), ("new", 5)], Some("new"));
        new.broker.exchange = "other".into();
        new.admin.listen = "127.0.0.1:1".into();
        let changes = compare(&old, &new);
        let changed: Vec<_> = changes.outboxes.iter().map(|o| (o.name.as_str(), o.attempts)).collect();
        assert_eq!(changed, [("a", 9)]);
        assert_eq!(changes.token, Some(Secret::new("new")));
        let expected =
            ["broker.exchange", "admin.listen", "outbox \"gone\" is gone", "outbox \"new\" is new"];
        assert_eq!(changes.needs_restart, expected);

        let mut in_force = old;
        changes.apply_to(&mut in_force);
        let again = compare(&in_force, &new);
        assert_eq!((again.outboxes.len(), again.token), (0, None), "applied once");
        assert_eq!(again.needs_restart, expected, "still needed");
    }

    #[test]
    fn a_token_that_comes_or_goes_needs_a_restart() {
        let (with, without) = (config(&[], Some("t")), config(&[], None));
        assert_eq!(compare(&with, &without).needs_restart, ["admin.token"]);
        assert_eq!(compare(&without, &with).needs_restart, ["admin.token"]);
        assert_eq!(compare(&with, &with), Changes::default());
    }
}
