//! `outbox-relay dead …`.

use clap::Subcommand;
use outbox_core::ErrorKind;

use super::{End, print_json};
use crate::config::{Config, Interval};
use crate::dead;
use crate::outbox::store::{DeadAction, DeadFilter};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List dead letters, the longest parked first
    List {
        #[command(flatten)]
        select: Select,
        /// At most so many for each outbox
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with headers and payload
    Show {
        /// The row, as `dead list` names it
        id: i64,
        /// The outbox; needed when there are several
        #[arg(long)]
        outbox: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Publish again, in order before what waits behind
    Replay(Act),
    /// Delete for good and let go on what waits behind
    Discard(Act),
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
    /// Of this outbox; all by default
    #[arg(long)]
    outbox: Option<String>,
    /// The row, as `dead list` names it
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
    /// Parked at least so long ago, for example 90s, 10m, 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    older: Option<i64>,
    /// Parked at most so long ago
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

fn milliseconds(text: &str) -> Result<i64, String> {
    let interval = Interval::parse(text)?;
    i64::try_from(interval.get().as_millis()).map_err(|_| "is too long".into())
}

pub(super) async fn run(config: &Config, verb: Verb) -> End {
    let done = match verb {
        Verb::List { select, limit, json } => list(config, &select, limit, json).await,
        Verb::Show { id, outbox, json } => show(config, id, outbox.as_deref(), json).await,
        Verb::Replay(act) => act_on(config, &act, DeadAction::Replay).await,
        Verb::Discard(act) => act_on(config, &act, DeadAction::Discard).await,
    };
    match done {
        Ok(end) => end,
        Err(error) if error.kind() == ErrorKind::Invalid => End::Wrong(error.to_string()),
        Err(error) => End::Failed(error.to_string()),
    }
}

async fn list(config: &Config, select: &Select, limit: u32, json: bool) -> outbox_core::Result<End> {
    let mut letters = Vec::new();
    for outbox in dead::outboxes(config, select.outbox.as_deref())? {
        letters.extend(dead::list(outbox, &select.filter(), limit).await?);
    }
    if json {
        print_json(&letters);
    } else {
        letters.iter().for_each(|letter| println!("{letter}"));
    }
    Ok(End::Done)
}

async fn show(config: &Config, id: i64, outbox: Option<&str>, json: bool) -> outbox_core::Result<End> {
    let outboxes = dead::outboxes(config, outbox)?;
    let [outbox] = outboxes.as_slice() else {
        return Ok(End::Wrong("there are several outboxes; name one with --outbox".into()));
    };
    let Some(message) = dead::show(outbox, id).await? else {
        return Ok(End::Failed(format!("outbox {} has no dead letter with row {id}", outbox.name)));
    };
    if json {
        print_json(&message);
    } else {
        println!("{}\n\nheaders:", message.letter);
        print_json(&message.headers);
        println!("\npayload:");
        print_json(&message.payload);
    }
    Ok(End::Done)
}

async fn act_on(config: &Config, act: &Act, action: DeadAction) -> outbox_core::Result<End> {
    let filter = act.select.filter();
    if filter == DeadFilter::default() && !act.all {
        let text = "this would take every dead letter: select some (see --help), or say --all";
        return Ok(End::Wrong(text.into()));
    }
    let mut outcomes = Vec::new();
    for outbox in dead::outboxes(config, act.select.outbox.as_deref())? {
        let outcome = dead::act(outbox, &filter, action, &super::actor(), act.dry_run).await?;
        if !act.json {
            let would = if act.dry_run { "would " } else { "" };
            println!("{}: {would}{} {}", outcome.outbox, outcome.action, outcome.count);
        }
        outcomes.push(outcome);
    }
    if act.json {
        print_json(&outcomes);
    }
    if outcomes.iter().all(|outcome| outcome.count == 0) {
        return Ok(End::Failed("no dead letter meets these conditions".into()));
    }
    Ok(End::Done)
}
