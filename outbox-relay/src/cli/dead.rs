//! `outbox-relay dead …`.

use clap::Subcommand;
use outbox_core::{ErrorKind, Result};
use serde::Serialize;

use super::{End, print_json};
use crate::config::{Config, Interval, OutboxConfig, SubscriberConfig};
use crate::outbox::store::{DeadAction, DeadFilter, HeldAction};
use crate::{dead, held};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List dead letters, the longest parked first
    List {
        #[command(flatten)]
        select: Select,
        /// At most so many for each outbox and subscriber
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with headers and payload
    Show {
        /// The number, as `dead list` names it
        id: i64,
        #[command(flatten)]
        of: Of,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Publish or apply again, in order before what waits behind
    Replay {
        #[command(flatten)]
        act: Act,
        /// Of subscribers: apply also what the inbox may have forgotten that it was applied
        #[arg(long)]
        force: bool,
    },
    /// Delete for good and let go on what waits behind
    Discard {
        #[command(flatten)]
        act: Act,
    },
}

/// Whose.
#[derive(Debug, clap::Args)]
pub(super) struct Of {
    /// Of this outbox
    #[arg(long)]
    outbox: Option<String>,
    /// Of this subscriber; with neither, of all outboxes and subscribers
    #[arg(long, conflicts_with = "outbox")]
    subscriber: Option<String>,
}

impl Of {
    fn outboxes<'c>(&self, config: &'c Config) -> Result<Vec<&'c OutboxConfig>> {
        if self.subscriber.is_some() {
            return Ok(Vec::new());
        }
        dead::outboxes(config, self.outbox.as_deref())
    }

    fn subscribers<'c>(&self, config: &'c Config) -> Result<Vec<&'c SubscriberConfig>> {
        if self.outbox.is_some() {
            return Ok(Vec::new());
        }
        held::subscribers(config, self.subscriber.as_deref())
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Act {
    #[command(flatten)]
    select: Select,
    /// All that there are, when nothing else selects
    #[arg(long)]
    all: bool,
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which dead letters: all that meet every condition given.
#[derive(Debug, clap::Args)]
pub(super) struct Select {
    #[command(flatten)]
    of: Of,
    /// The number, as `dead list` names it
    #[arg(long)]
    id: Option<i64>,
    /// The aggregate type
    #[arg(long)]
    aggregate: Option<String>,
    /// The key
    #[arg(long)]
    key: Option<String>,
    /// The event, for example updated
    #[arg(long)]
    event: Option<String>,
    /// A part of the error's text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Set aside at least so long ago, for example 90s, 10m, 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    older: Option<i64>,
    /// Set aside at most so long ago
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    newer: Option<i64>,
}

impl Select {
    fn filter(&self) -> DeadFilter {
        DeadFilter {
            id: self.id,
            aggregate: self.aggregate.clone(),
            key: self.key.clone(),
            event: self.event.clone(),
            error: self.error.clone(),
            older_ms: self.older,
            newer_ms: self.newer,
        }
    }
}

fn milliseconds(text: &str) -> std::result::Result<i64, String> {
    let interval = Interval::parse(text)?;
    i64::try_from(interval.get().as_millis()).map_err(|_| "is too long".into())
}

pub(super) async fn run(config: &Config, verb: Verb) -> End {
    let done = match verb {
        Verb::List { select, limit, json } => list(config, &select, limit, json).await,
        Verb::Show { id, of, json } => show(config, id, &of, json).await,
        Verb::Replay { act, force } => {
            let held = if force { HeldAction::Force } else { HeldAction::Replay };
            act_on(config, &act, DeadAction::Replay, held).await
        }
        Verb::Discard { act } => act_on(config, &act, DeadAction::Discard, HeldAction::Discard).await,
    };
    match done {
        Ok(end) => end,
        Err(error) if error.kind() == ErrorKind::Invalid => End::Wrong(error.to_string()),
        Err(error) => End::Failed(error.to_string()),
    }
}

/// Prints entries of outboxes and of subscribers as one JSON list.
fn print_both<A: Serialize, B: Serialize>(of_outboxes: &[A], of_subscribers: &[B]) -> Result<()> {
    let both =
        of_outboxes.iter().map(serde_json::to_value).chain(of_subscribers.iter().map(serde_json::to_value));
    print_json(&both.collect::<serde_json::Result<Vec<_>>>()?);
    Ok(())
}

async fn list(config: &Config, select: &Select, limit: u32, json: bool) -> Result<End> {
    let (mut letters, mut messages) = (Vec::new(), Vec::new());
    for outbox in select.of.outboxes(config)? {
        letters.extend(dead::list(outbox, &select.filter(), limit).await?);
    }
    for subscriber in select.of.subscribers(config)? {
        messages.extend(held::list(subscriber, &select.filter(), limit).await?);
    }
    if json {
        print_both(&letters, &messages)?;
    } else {
        letters.iter().for_each(|letter| println!("{letter}"));
        messages.iter().for_each(|message| println!("{message}"));
    }
    Ok(End::Done)
}

async fn show(config: &Config, id: i64, of: &Of, json: bool) -> Result<End> {
    match (of.outboxes(config)?.as_slice(), of.subscribers(config)?.as_slice()) {
        ([outbox], []) => {
            let Some(message) = dead::show(outbox, id).await? else {
                return Ok(End::Failed(format!("outbox {} has no dead letter with row {id}", outbox.name)));
            };
            if json {
                print_json(&message);
            } else {
                print_message(&message.letter, &message.headers, &message.payload);
            }
        }
        ([], [subscriber]) => {
            let Some(message) = held::show(subscriber, id).await? else {
                let text = format!("subscriber {} has no dead letter with number {id}", subscriber.name);
                return Ok(End::Failed(text));
            };
            if json {
                print_json(&message);
            } else {
                print_message(&message.letter, &message.headers, &message.payload);
                println!("\n{}", message.letter.history());
                message.causes.iter().for_each(|cause| println!("caused by: {cause}"));
            }
        }
        _ => return Ok(End::Wrong("there are several; name one with --outbox or --subscriber".into())),
    }
    Ok(End::Done)
}

fn print_message(letter: &impl std::fmt::Display, headers: &impl Serialize, payload: &impl Serialize) {
    println!("{letter}\n\nheaders:");
    print_json(headers);
    println!("\npayload:");
    print_json(payload);
}

async fn act_on(config: &Config, act: &Act, action: DeadAction, of_held: HeldAction) -> Result<End> {
    let filter = act.select.filter();
    if filter == DeadFilter::default() && !act.all {
        let text = "this would take every dead letter: select some (see --help), or say --all";
        return Ok(End::Wrong(text.into()));
    }
    let actor = super::actor();
    let tell = |name: &str, action: &str, count: u64| {
        if !act.json {
            let would = if act.dry_run { "would " } else { "" };
            println!("{name}: {would}{action} {count}");
        }
    };
    let (mut outcomes, mut told) = (Vec::new(), Vec::new());
    for outbox in act.select.of.outboxes(config)? {
        let outcome = dead::act(outbox, &filter, action, &actor, act.dry_run).await?;
        tell(&outcome.outbox, outcome.action, outcome.count);
        outcomes.push(outcome);
    }
    for subscriber in act.select.of.subscribers(config)? {
        let outcome = held::act(subscriber, &filter, of_held, &actor, act.dry_run).await?;
        tell(&outcome.subscriber, outcome.action, outcome.count);
        told.push(outcome);
    }
    if act.json {
        print_both(&outcomes, &told)?;
    }
    let count = outcomes.iter().map(|o| o.count).chain(told.iter().map(|o| o.count)).sum::<u64>();
    if count == 0 {
        return Ok(End::Failed("no dead letter meets these conditions".into()));
    }
    Ok(End::Done)
}
