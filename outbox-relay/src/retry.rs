//! The only place that decides between waiting, parking and stopping, with the operator's remedy for each.

use std::time::Duration;

use outbox_core::{Error, ErrorKind, RetryPolicy};

/// Which side of a pipe an error came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where messages come from.
    Source,
    /// Where they go.
    Target,
}

/// What to do after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Try again after a wait, without end.
    Wait {
        /// What an operator can do.
        remedy: &'static str,
    },
    /// Waiting cannot help: somebody has to change something first. At its start a relay ends with it;
    /// later it waits all the same, since whoever repairs it at night should not have to restart it too.
    Stop {
        /// What an operator has to do.
        remedy: &'static str,
    },
}

impl Decision {
    /// What an operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Wait { remedy } | Self::Stop { remedy } => remedy,
        }
    }
}

/// Parts of a database's words, and what helps.
const DATABASE: &[(&str, &str)] = &[
    ("unknown database", "create the database, or correct its name in the URL"),
    ("role \"", "correct the user in the URL, or create it"),
    ("no such table", "create the tables with `outbox-relay migrate`"),
    ("unknown column", "upgrade the tables with `outbox-relay migrate`"),
    ("no such column", "upgrade the tables with `outbox-relay migrate`"),
    ("column \"", "upgrade the tables with `outbox-relay migrate`"),
    ("doesn't exist", "create the tables with `outbox-relay migrate`"),
    ("does not exist", "check the database's name, then create the tables with `outbox-relay migrate`"),
    (": tls: ", "change what the text names; `outbox-relay check` tries again"),
    ("valid client certificate", "give this outbox `client_certificate` and `client_key`"),
    ("insecure transport", "set `tls = true` for this outbox, and `ca` if the server's CA is a private one"),
    ("no encryption", "set `tls = true` for this outbox, and `ca` if the server's CA is a private one"),
    ("unable to open database", "check the path; `outbox-relay migrate` creates the file and its tables"),
];

/// Words of a server that refuses us.
const REFUSED: &[&str] = &[
    "access denied",
    "password authentication failed",
    "authentication",
    "command denied",
    "permission denied",
];

/// What to do after an error of one side.
pub fn decide(error: &Error, side: Side) -> Decision {
    let text = error.to_string().to_ascii_lowercase();
    let is_refused = REFUSED.iter().any(|words| text.contains(words));
    if side == Side::Source && text.starts_with("paused by ") {
        return Decision::Wait { remedy: "`outbox-relay resume` ends it" };
    }
    let is_missing = DATABASE.iter().find(|(words, _)| text.contains(words));
    if let (Side::Source, Some((_, remedy))) = (side, is_missing) {
        return Decision::Stop { remedy };
    }
    match (side, error.kind()) {
        (Side::Source, ErrorKind::Outage) => {
            Decision::Wait { remedy: "the relay goes on by itself once the database answers" }
        }
        (Side::Source, ErrorKind::Invalid) if text.contains(": connecting: ") => {
            Decision::Stop { remedy: "correct the outbox's database in the configuration" }
        }
        (Side::Source, ErrorKind::Invalid) => {
            Decision::Stop { remedy: "writers and relay must agree; `outbox-relay check` says more" }
        }
        // Passwords and grants are changed while relays run: this passes.
        (Side::Source, _) if is_refused => Decision::Wait {
            // MariaDB refuses a user whom it would only take over TLS in the same words.
            remedy: "check user, password and grants, and whether the server wants `tls = true`; `outbox-relay check` \
                     names missing grants",
        },
        (Side::Source, _) => Decision::Wait { remedy: "`outbox-relay check` looks at the database's side" },
        (Side::Target, ErrorKind::Outage) => {
            Decision::Wait { remedy: "nothing is lost; the relay goes on by itself once the broker answers" }
        }
        (Side::Target, _) => Decision::Wait {
            remedy: "nothing is lost; check the broker's exchange, queues and permissions with `outbox-relay check`",
        },
    }
}

/// When a refused message is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// After this time.
    Wait(Duration),
    /// Not before somebody says so: its key is parked.
    Park,
}

/// What follows the `attempts`-th refusal of a message.
///
/// The wait doubles from the policy's first to its longest. It is written into the database, so it carries
/// no jitter: keys fail at different times anyway.
pub fn after_refusal(policy: &RetryPolicy, attempts: u32) -> Attempt {
    if attempts >= policy.max_attempts {
        return Attempt::Park;
    }
    let factor = policy.multiplier.powi(i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX));
    let seconds = (policy.initial.as_secs_f64() * factor).min(policy.max.as_secs_f64());
    Attempt::Wait(Duration::try_from_secs_f64(seconds).unwrap_or(policy.max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_wait_longer_and_then_park() {
        let policy = RetryPolicy {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(3),
            multiplier: 2.0,
            max_attempts: 4,
        };
        let waits: Vec<_> = (1..=4).map(|attempts| after_refusal(&policy, attempts)).collect();
        let wait = |s| Attempt::Wait(Duration::from_secs(s));
        assert_eq!(waits, [wait(1), wait(2), wait(3), Attempt::Park]);
        let endless = RetryPolicy { max_attempts: u32::MAX, ..policy };
        assert_eq!(after_refusal(&endless, 1_000_000), wait(3));
    }

    #[test]
    fn a_missing_table_stops_and_a_wrong_password_waits() {
        let error = |text: &str| Error::new(ErrorKind::Database, text);
        let missing = decide(&error("Table 'shop.outbox_meta' doesn't exist"), Side::Source);
        assert!(matches!(missing, Decision::Stop { remedy } if remedy.contains("migrate")));
        let refused = decide(&error("Access denied for user 'relay'@'%'"), Side::Source);
        assert!(matches!(refused, Decision::Wait { remedy } if remedy.contains("grants")));
    }
}
