//! RabbitMQ: that it answers, and that exchanges and queues are as they are declared.

use super::{About, Finding, Level};
use crate::config::Config;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut about = About::new("broker");
    let checked = match config.broker.rabbitmq() {
        Ok(broker) => broker.check().await,
        Err(error) => Err(error),
    };
    match checked {
        Err(error) => {
            let remedy = if error.is_outage() {
                "start RabbitMQ, or correct host and port in broker.url"
            } else {
                "correct broker.url, or the user's permissions with rabbitmqctl set_permissions"
            };
            about.bad(error.to_string(), remedy);
        }
        Ok(wrong) if wrong.is_empty() => {
            let declared = if config.broker.declare { "fits, or will be declared" } else { "is there" };
            about.ok(format!(
                "{:?} answers; exchange {:?} {declared}",
                config.broker.url, config.broker.exchange
            ));
        }
        Ok(wrong) => {
            for text in wrong {
                // Messages that wait where nobody reads are news; anything else keeps the relay from working.
                let level = if text.contains(" holds ") { Level::Warning } else { Level::Bad };
                about.add(level, text, None);
            }
        }
    }
    about.findings
}
