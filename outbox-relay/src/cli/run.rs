//! `run`: relays and replicates until a signal ends it, or until nothing is left.

use std::path::Path;

use outbox_core::broker::Broker;
use tokio_util::sync::CancellationToken;

use super::{End, reload, replication, signals};
use crate::config::Config;
use crate::leftovers::Leftovers;
use crate::relay::{Left, Relay};
use crate::replication::{Replication, run_all};
use crate::status::Shown;
use crate::subscribers::Watched;

pub(super) async fn run(config: &Config, file: &Path, until_idle: bool) -> End {
    if config.outbox.is_empty() && config.replication.is_empty() {
        return End::Wrong(
            "there is nothing to relay: the configuration has no section [[outbox]] or [[replication]]"
                .into(),
        );
    }
    // Without an outbox there need not be a broker either.
    let relay = match config.outbox.is_empty() {
        true => Ok(None),
        // Replications go on though no outbox fits.
        false if !config.replication.is_empty() => Relay::from_config(config).map(|relay| Some(relay.stay())),
        false => Relay::from_config(config).map(Some),
    };
    let (relay, replications) = match (relay, replication::from_config(config)) {
        (Ok(relay), Ok(replications)) => (relay, replications),
        (Err(error), _) | (_, Err(error)) => return End::Wrong(error.to_string()),
    };
    for outbox in &config.outbox {
        let (from, to) = (&outbox.database, &config.broker.url);
        tracing::info!(outbox = outbox.name, "relaying {from} to {to}, exchange {}", config.broker.exchange);
    }
    for replication in &config.replication {
        let (from, to) = (&replication.source, &replication.target);
        tracing::info!(replication = replication.name, "replicating {from} to {to}");
    }
    let shutdown = CancellationToken::new();
    if let Err(error) = signals::end_on_signals(shutdown.clone()) {
        return End::Failed(format!("listening for signals: {error}"));
    }
    let shown = Shown {
        outboxes: relay.as_ref().map(Relay::statuses).unwrap_or_default(),
        subscribers: match config.admin.token {
            Some(_) => Watched::start(config.subscriber.clone(), shutdown.clone()),
            // Nobody would read it.
            None => Watched::default(),
        },
        leftovers: match (relay.is_some(), config.broker.rabbitmq()) {
            (true, Ok(broker)) if config.admin.token.is_some() => {
                Leftovers::start(broker, &config.broker.exchange, shutdown.clone())
            }
            _ => Leftovers::default(),
        },
        replications: replications.iter().map(Replication::status).collect(),
    };
    let token = match crate::admin::serve(&config.admin, shown, shutdown.clone()).await {
        Ok(token) => token,
        Err(error) => return End::Wrong(error.to_string()),
    };
    let resettings = relay.as_ref().map(Relay::resettings);
    if let Err(error) = reload::on_signal(config.clone(), file.to_owned(), resettings, token) {
        return End::Failed(format!("listening for signals: {error}"));
    }
    if until_idle {
        return run_until_idle(relay, replications, &shutdown).await;
    }
    let relaying = async {
        let Some(relay) = relay else { return Ok(()) };
        let ran = relay.run(shutdown.clone()).await;
        if ran.is_err() {
            shutdown.cancel();
        }
        ran
    };
    let (ran, ()) = tokio::join!(relaying, run_all(replications, shutdown.clone()));
    match ran {
        Ok(()) => End::Done,
        Err(error) => End::Failed(error.to_string()),
    }
}

async fn run_until_idle<B: Broker>(
    relay: Option<Relay<B>>,
    replications: Vec<Replication>,
    shutdown: &CancellationToken,
) -> End {
    let relaying = async {
        match relay {
            Some(relay) => relay.run_until_idle(shutdown.clone()).await,
            None => Ok(Vec::new()),
        }
    };
    let (relayed, mut left) = tokio::join!(relaying, replication::until_idle(replications, shutdown));
    match relayed {
        Ok(parked) if parked.is_empty() => {}
        Ok(parked) => left.insert(0, name_left(&parked)),
        Err(error) => left.insert(0, error.to_string()),
    }
    if left.is_empty() && shutdown.is_cancelled() {
        return End::Failed("ended by a signal before all was delivered".into());
    }
    if left.is_empty() { End::Done } else { End::Failed(left.join("\n")) }
}

fn name_left(left: &[Left]) -> String {
    let mut text = String::from("what is left is parked:");
    for Left { outbox, keys } in left {
        for key in keys {
            text.push_str(&format!(
                "\noutbox {outbox}: {} {}, row {}, {} attempts: {}",
                key.aggregate_type, key.aggregate_id, key.head_id, key.attempts, key.last_error
            ));
        }
    }
    text
}
