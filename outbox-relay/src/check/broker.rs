//! RabbitMQ: that it answers, and that exchanges and queues are as they are declared.

use outbox_core::Result;

use super::{About, Finding, Level};
use crate::config::Config;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut about = About::new("broker");
    about.warn_exposed(
        config.broker.exposed_host(),
        "write amqps:// and RabbitMQ's TLS port, by default 5671, and give `ca` if its CA is a private one",
    );
    match look(config).await {
        Err(error) => {
            let remedy = if error.to_string().contains("TLS to RabbitMQ") {
                "correct broker.ca, broker.client_certificate or broker.client_key, or the server's certificate"
            } else if error.is_outage() {
                "start RabbitMQ, or correct host and port in broker.url"
            } else {
                "correct broker.url, or the user's permissions with rabbitmqctl set_permissions"
            };
            about.bad(error.to_string(), remedy);
        }
        Ok((wrong, version)) if wrong.is_empty() => {
            let declared = if config.broker.declare { "fits, or will be declared" } else { "is there" };
            about.ok(format!(
                "{:?} answers as {version}; exchange {:?} {declared}",
                config.broker.url, config.broker.exchange
            ));
        }
        Ok((wrong, _)) => {
            for text in wrong {
                // Messages that wait where nobody reads are news; anything else keeps the relay from working.
                let level = if text.contains(" holds ") { Level::Warning } else { Level::Bad };
                let fix = of_conflict(&text);
                about.add(level, text, fix);
            }
        }
    }
    about.findings
}

/// What is wrong, and which version it is; that is asked only of one that answers.
async fn look(config: &Config) -> Result<(Vec<String>, String)> {
    let broker = config.broker.rabbitmq()?;
    Ok((broker.check().await?, broker.version().await?))
}

/// The command in the text of a conflict, which takes away what exists with other settings.
fn of_conflict(text: &str) -> Option<String> {
    let start = text.find("rabbitmqctl delete_queue").or_else(|| text.find("rabbitmqadmin --vhost"))?;
    let command = text[start..].split(" (").next()?;
    Some(command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_has_a_command() {
        let queue = "declaring queue q: x-queue-type is classic and should be quorum, at RabbitMQ at h; use the same \
                     settings everywhere, or delete the queue once it is empty: rabbitmqctl delete_queue -p 'v' 'q' (it is \
                     declared again if `declare` is on)";
        assert_eq!(of_conflict(queue).as_deref(), Some("rabbitmqctl delete_queue -p 'v' 'q'"));
        assert_eq!(of_conflict("NOT_FOUND - no queue 'q' in vhost '/'"), None);
    }
}
