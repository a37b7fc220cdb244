//! RabbitMQ: that it answers, and that exchanges and queues are as they are declared.

use super::{About, Finding, Level};
use crate::config::Config;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut about = About::new("broker");
    if let Some(host) = config.broker.exposed_host() {
        let fix = "write amqps:// and RabbitMQ's TLS port, by default 5671, and give `ca` if its CA is a private one";
        about.warn(format!("connection to {host} is not encrypted"), fix);
    }
    let checked = match config.broker.rabbitmq() {
        Ok(broker) => broker.check().await,
        Err(error) => Err(error),
    };
    match checked {
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
                let fix = of_conflict(&text);
                about.add(level, text, fix);
            }
        }
    }
    about.findings
}

/// The command that takes away what exists with other settings, so that it is declared again. RabbitMQ's words are
/// `inequivalent arg 'ARG' for queue 'NAME' in vhost 'VHOST': received … but current is …`.
fn of_conflict(text: &str) -> Option<String> {
    let (_, said) = text.split_once("inequivalent arg ")?;
    let mut words = said.split('\'');
    let (kind, name, vhost) = (words.nth(2)?, words.next()?, words.nth(1)?);
    match kind.trim() {
        "for queue" => Some(format!("rabbitmqctl delete_queue -p '{vhost}' '{name}' # once it is empty")),
        // rabbitmqctl cannot. Bindings go with an exchange; subscribers bind again when they start.
        "for exchange" => Some(format!(
            "rabbitmqadmin --vhost='{vhost}' delete exchange name='{name}' # then start the subscribers again"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_has_a_command() {
        let exchange = "declaring exchange shop: RabbitMQ at h answers: PRECONDITION_FAILED - inequivalent arg \
                        'alternate-exchange' for exchange 'shop' in vhost '/': received none but current is the \
                        value 'shop.unrouted' of type 'longstr'; it exists with other settings";
        let fix = of_conflict(exchange).unwrap();
        assert!(fix.starts_with("rabbitmqadmin --vhost='/' delete exchange name='shop'"), "{fix}");
        let queue = "inequivalent arg 'x-queue-type' for queue 'order.0' in vhost 'v': received the value";
        let fix = of_conflict(queue).unwrap();
        assert!(fix.starts_with("rabbitmqctl delete_queue -p 'v' 'order.0'"), "{fix}");
        assert_eq!(of_conflict("NOT_FOUND - no queue 'q' in vhost '/'"), None);
    }
}
