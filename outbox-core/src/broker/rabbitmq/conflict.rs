//! What RabbitMQ says about an exchange or a queue that exists with other settings, in words that say which.

use std::fmt;

/// What a policy may set as well as an argument, so that its absence among the arguments says nothing.
const BY_POLICY: [&str; 5] = [
    "alternate-exchange",
    "x-dead-letter-exchange",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-overflow",
];

/// One setting that differs; RabbitMQ names the first it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict<'t> {
    /// `queue` or `exchange`.
    kind: &'t str,
    name: &'t str,
    vhost: &'t str,
    /// `type`, `durable`, or an argument as `x-queue-type`.
    argument: &'t str,
    /// What it is there.
    is: Said<'t>,
    /// What it should be.
    wanted: Said<'t>,
}

/// What RabbitMQ says of a value. Its text has 255 bytes at most, and long names leave no room for the end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said<'t> {
    Value(&'t str),
    /// It is not set.
    Unset,
    Cut,
}

impl<'t> Conflict<'t> {
    /// Reads `inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the value 'quorum' of type 'longstr'
    /// but current is none`, and what is said so of types and flags: `received 'topic' but current is 'direct'`.
    pub(super) fn of(said: &'t str) -> Option<Self> {
        let (_, said) = said.split_once("inequivalent arg '")?;
        let (argument, said) = said.split_once("' for ")?;
        let (kind, said) = said.split_once(" '")?;
        let (name, said) = said.split_once("' in vhost '")?;
        let (vhost, said) = said.split_once("': received ")?;
        let (wanted, is) = said.split_once(" but current is ").unwrap_or((said, ""));
        Some(Self { kind, name, vhost, argument, is: Said::of(is), wanted: Said::of(wanted) })
    }

    /// Whether it may be set by a policy instead, of which RabbitMQ says nothing here.
    pub(super) fn may_be_by_policy(&self) -> bool {
        !matches!(self.is, Said::Value(_)) && BY_POLICY.contains(&self.argument)
    }

    /// The command that takes away what exists, so that it can be declared again.
    pub(super) fn remedy(&self) -> String {
        let Self { kind, name, vhost, .. } = self;
        if *kind == "queue" {
            format!("delete the queue once it is empty: rabbitmqctl delete_queue -p '{vhost}' '{name}'")
        } else {
            // Bindings go with an exchange; subscribers bind again when they start.
            format!(
                "delete the exchange and start the subscribers again: rabbitmqadmin --vhost='{vhost}' delete exchange \
                 name='{name}'"
            )
        }
    }
}

impl<'t> Said<'t> {
    /// `'topic'`, `the value 'quorum' of type 'longstr'`, or `none`.
    fn of(said: &'t str) -> Self {
        if said.starts_with("none") {
            return Self::Unset;
        }
        let quoted = said.strip_prefix("the value ").unwrap_or(said).strip_prefix('\'');
        let value = quoted.and_then(|quoted| quoted.split_once('\''));
        value.map_or(Self::Cut, |(value, _)| Self::Value(value))
    }
}

impl fmt::Display for Conflict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argument, .. } = self;
        match (self.is, self.wanted) {
            (Said::Value(is), Said::Value(wanted)) => write!(f, "{argument} is {is} and should be {wanted}"),
            (Said::Unset, Said::Value(wanted)) => write!(f, "{argument} is not set and should be {wanted}"),
            (Said::Value(is), Said::Unset) => write!(f, "{argument} is {is} and should not be set"),
            (Said::Cut, Said::Value(wanted)) => write!(f, "{argument} is not {wanted}, which it should be"),
            (Said::Cut, Said::Unset) => write!(f, "{argument} is set and should not be"),
            (_, Said::Cut) | (Said::Unset, Said::Unset) => write!(f, "{argument} differs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rabbitmq_says_is_understood() {
        for (said, told, remedy) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'shop' in vhost '/': received 'topic' but \
                 current is 'direct'",
                "type is direct and should be topic",
                "--vhost='/' delete exchange name='shop'",
            ),
            (
                "inequivalent arg 'x-queue-type' for queue 'order.0' in vhost 'v': received the value 'quorum' of type \
                 'longstr' but current is none",
                "x-queue-type is not set and should be quorum",
                "delete_queue -p 'v' 'order.0'",
            ),
            (
                "inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received the value '50' of type \
                 'signedint' but current is the value '7' of type 'signedint'",
                "x-delivery-limit is 7 and should be 50",
                "delete_queue -p '/' 'q'",
            ),
            (
                "inequivalent arg 'alternate-exchange' for exchange 'shop' in vhost '/': received none but current is \
                 the value 'shop.unrouted' of type 'longstr'",
                "alternate-exchange is shop.unrouted and should not be set",
                "name='shop'",
            ),
            (
                "inequivalent arg 'alternate-exchange' for exchange 'long' in vhost '/': received the value \
                 'long.unrouted' of type 'longstr' but current is ...",
                "alternate-exchange is not long.unrouted, which it should be",
                "name='long'",
            ),
            (
                "inequivalent arg 'alternate-exchange' for exchange 'longer' in vhost '/': received the value 'longer....",
                "alternate-exchange differs",
                "name='longer'",
            ),
        ] {
            let conflict = Conflict::of(said).unwrap();
            assert_eq!(conflict.to_string(), told);
            assert!(conflict.remedy().contains(remedy), "{}", conflict.remedy());
        }
        assert_eq!(Conflict::of("NOT_FOUND - no queue 'q' in vhost '/'"), None);
    }

    #[test]
    fn what_a_policy_may_have_set_is_no_conflict_for_those_who_only_look() {
        let of = |argument: &str, is: &str| {
            let said = format!(
                "inequivalent arg '{argument}' for exchange 'x' in vhost '/': received the value 'a' of type \
                 'longstr' but current is {is}"
            );
            Conflict::of(&said).unwrap().may_be_by_policy()
        };
        assert!(of("alternate-exchange", "none"));
        assert!(of("alternate-exchange", "..."), "nobody knows");
        assert!(!of("alternate-exchange", "the value 'b' of type 'longstr'"));
        assert!(!of("x-queue-type", "none"));
    }
}
