//! A batch of deliveries into the database: one transaction for all. When it fails, it is split until the message
//! that fails stands alone; the others commit.

use std::any::Any;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::aside::{Form, Hold, identity};
use super::effect::{Effect, Run};
use super::incoming::Incoming;
use super::item::Item;
use super::worker::{Learned, Worker, of_message, stale_unknown};
use crate::connection::OutboxConnection;
use crate::copy::{Applied, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::{self, Failure, HeldState, Holds};
use crate::message::{MessageId, Recorded};

/// How often a transaction that lost against another one begins again at once.
const CONTENTIONS_MAX: u32 = 5;

/// How far a batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// A message holds the whole consumer up: the rest is to be tried again.
    Halted,
    /// Shutdown came first.
    Stopped,
}

/// What is to be done with an item.
enum Step<'w, 'd, C> {
    /// With the row, if it is a copy's.
    Apply(&'w Effect<C>, Option<&'d dyn Any>),
    Hold(HeldState, Holds, Option<Failure>),
    Duplicate,
    /// Nobody asked for it.
    Pass,
}

/// What a transaction came to.
enum Attempt<'d> {
    /// Committed so many, with what is held of them.
    Done {
        count: usize,
        applied: u64,
        duplicates: u64,
        held: Vec<Hold<'d>>,
    },
    Halted,
    /// Rolled back.
    Failed {
        error: Error,
        blame: Blame<'d>,
    },
}

/// Why a transaction was rolled back.
struct Blame<'d> {
    /// One of these.
    suspects: Range<usize>,
    /// None of them: another process has applied some.
    is_known: bool,
    /// One that was to be held, and could not be stored.
    refused: Option<Hold<'d>>,
}

impl<C: OutboxConnection> Worker<C> {
    /// Applies from the front and takes off what is done; at shutdown or a halt the rest is left.
    ///
    /// An error means that the database cannot be used now; what is left is to be tried again.
    pub(super) fn apply(
        &self,
        queue: u16,
        pending: &mut VecDeque<Item>,
        shutdown: &CancellationToken,
    ) -> Result<Progress> {
        let mut done = 0;
        let progress = self.apply_parts(queue, pending.make_contiguous(), shutdown, &mut done);
        pending.drain(..done);
        progress
    }

    fn apply_parts(
        &self,
        queue: u16,
        items: &[Item],
        shutdown: &CancellationToken,
        done: &mut usize,
    ) -> Result<Progress> {
        // The lengths of the parts that are left, the next one last.
        let mut parts = vec![items.len()];
        while let Some(length) = parts.pop() {
            let Some(part) = items.get(*done..*done + length) else { break };
            if *done > 0 && shutdown.is_cancelled() {
                return Ok(Progress::Stopped);
            }
            // One for each: a handler that was cancelled has spoiled its own.
            let attempt = self.attempt(&mut *self.connections.get()?, part);
            let bytes = || part.iter().map(|item| item.delivery.frame.size()).sum();
            let attempt = match attempt {
                Err(error) if self.are_too_long(&error, bytes()) => {
                    Attempt::Failed { error, blame: Blame::of(0..length) }
                }
                attempt => attempt?,
            };
            match attempt {
                Attempt::Done { count, applied, duplicates, held } => {
                    (0..applied).for_each(|_| self.stats.count_applied());
                    (0..duplicates).for_each(|_| self.stats.count_duplicate());
                    held.iter().for_each(|hold| self.note_held(hold));
                    let recorded = part.iter().take(count).filter_map(|item| item.recorded.as_ref().ok());
                    self.reach(queue, recorded);
                    *done += count;
                    // Nothing, unless one of them holds all.
                    parts.extend(Some(length - count).filter(|rest| *rest > 0));
                }
                Attempt::Halted => return Ok(Progress::Halted),
                Attempt::Failed { error, blame } if length == 1 => {
                    if let [item] = part {
                        self.hold_alone(blame.refused.unwrap_or_else(|| self.failed(item, &error)))?;
                    }
                    *done += 1;
                }
                Attempt::Failed { blame, .. } => split(&mut parts, length, &blame.suspects),
            }
        }
        Ok(Progress::Done)
    }

    /// How the message that fails alone is set aside: for its next attempt, or for good.
    fn failed<'d>(&self, item: &'d Item, error: &Error) -> Hold<'d> {
        let recorded = match &item.recorded {
            Ok(recorded) => recorded,
            Err(failure) => return undecoded(item, failure),
        };
        let holds = self
            .effect(&item.delivery.frame.kind)
            .ok()
            .flatten()
            .map_or(Holds::Nothing, |effect| effect.policy.holds());
        // What can never work is not tried again.
        let next_in = if error.kind() == ErrorKind::Invalid { None } else { self.retries.wait_after(1) };
        Hold {
            frame: &item.delivery.frame,
            recorded: Some(recorded),
            state: if next_in.is_some() { HeldState::Retry } else { HeldState::Dead },
            holds,
            attempts: 1,
            failure: Some(Failure::of(error)),
            next_in,
            form: Form::Whole,
        }
    }

    /// All in one transaction, or nothing; begun again when it lost against another one.
    fn attempt<'d>(&self, connection: &mut C, part: &'d [Item]) -> Result<Attempt<'d>> {
        let mut waits = self.retries.policy.waits();
        let mut careful = false;
        let mut contentions = 0;
        loop {
            let (mut blame, mut learned) = (Blame::of(0..part.len()), Learned::default());
            let result = connection.write_transaction(|connection| {
                self.transact(connection, part, careful, &mut blame, &mut learned)
            });
            match result {
                Ok(attempt) => {
                    self.keep(learned);
                    return Ok(attempt);
                }
                // Somebody has applied one of them: now look which, before anything else.
                Err(_) if blame.is_known && contentions < CONTENTIONS_MAX => careful = true,
                Err(error) if error.is_contention() && contentions < CONTENTIONS_MAX => {
                    tracing::debug!(subscriber = self.name, %error, "the transaction is begun again");
                    std::thread::sleep(waits.next_wait());
                }
                Err(error) if error.is_outage() || error.is_denied() || blame.is_known => {
                    return Err(error);
                }
                Err(error) => return Ok(Attempt::Failed { error, blame }),
            }
            contentions += 1;
        }
    }

    /// Inside the transaction. An error rolls it back; `blame` says for whom.
    fn transact<'d>(
        &self,
        connection: &mut C,
        part: &'d [Item],
        careful: bool,
        blame: &mut Blame<'d>,
        learned: &mut Learned,
    ) -> Result<Attempt<'d>> {
        let most = connection.held_most(&self.name)?;
        if most.as_deref() == Some(Holds::All.name()) {
            return Ok(Attempt::Halted);
        }
        let ask_inbox = careful || most.is_some() || part.iter().any(|item| item.suspicion().is_some());
        let known = self.known(connection, part, most.is_some(), ask_inbox)?;
        let steps = self.plan(connection, part, known, learned)?;

        let mut ids: Vec<_> = part
            .iter()
            .zip(&steps)
            .filter(|(_, step)| matches!(step, Step::Apply(..)))
            .filter_map(|(item, _)| item.recorded.as_ref().ok())
            .map(|recorded| recorded.message.id())
            .collect();
        // In one order for all, against deadlocks.
        ids.sort_unstable_by_key(|id| *id.as_bytes());
        if connection.record_all_applied(&self.name, &ids)? < ids.len() {
            blame.is_known = true;
            return Err(Error::new(ErrorKind::Outage, "another process applies the same messages"));
        }
        let duplicates = steps.iter().filter(|step| matches!(step, Step::Duplicate)).count() as u64;
        let count = steps.len();
        let held = self.effect_all(connection, part, steps, blame)?;
        Ok(Attempt::Done { count, applied: ids.len() as u64, duplicates, held })
    }

    /// What the database knows of these messages and their keys.
    fn known(
        &self,
        connection: &mut C,
        part: &[Item],
        some_are_held: bool,
        ask_inbox: bool,
    ) -> Result<Known> {
        let recorded = || part.iter().filter_map(|item| item.recorded.as_ref().ok());
        let mut known = Known::default();
        if ask_inbox {
            let ids: Vec<_> = recorded().map(|recorded| recorded.message.id()).collect();
            let applied = connection.applied_among(&self.name, &ids)?;
            known.applied = applied.iter().filter_map(|id| MessageId::from_slice(id).ok()).collect();
        }
        if some_are_held {
            let ids: Vec<_> = part.iter().map(|item| identity(&item.delivery.frame)).collect();
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            known.held = connection.held_among(&self.name, &ids)?.into_iter().collect();
            let keys: Vec<_> = recorded().map(|recorded| inbox::key(recorded.message.key())).collect();
            let keys: Vec<_> = keys.iter().map(|key| &**key).collect();
            known.waited_for = connection.waited_for(&self.name, &keys)?.into_iter().collect();
        }
        Ok(known)
    }

    /// What is to be done with each, in their order.
    fn plan<'d>(
        &self,
        connection: &mut C,
        part: &'d [Item],
        mut known: Known,
        learned: &mut Learned,
    ) -> Result<Vec<Step<'_, 'd, C>>> {
        let mut steps = Vec::with_capacity(part.len());
        for item in part {
            if !known.held.is_empty() && known.held.contains(&identity(&item.delivery.frame)) {
                steps.push(Step::Duplicate);
                continue;
            }
            let step = match &item.recorded {
                Ok(recorded) => self.plan_one(connection, item, recorded, &mut known, learned)?,
                Err(failure) => Step::Hold(HeldState::Dead, Holds::Nothing, Some(failure.clone())),
            };
            if matches!(step, Step::Hold(_, Holds::Key, _))
                && let Ok(recorded) = &item.recorded
            {
                known.waited_for.insert(key_of(recorded));
            }
            let stops = matches!(step, Step::Hold(_, Holds::All, _));
            steps.push(step);
            if stops {
                // What comes after it is left for when it is gone.
                break;
            }
        }
        Ok(steps)
    }

    fn plan_one<'d>(
        &self,
        connection: &mut C,
        item: &'d Item,
        recorded: &Recorded,
        known: &mut Known,
        learned: &mut Learned,
    ) -> Result<Step<'_, 'd, C>> {
        let dead = |holds, error: Error| {
            let failure = Failure::of(&of_message(error, recorded));
            Ok(Step::Hold(HeldState::Dead, holds, Some(failure)))
        };
        if known.applied.contains(&recorded.message.id()) {
            return Ok(Step::Duplicate);
        }
        let effect = match self.effect(&item.delivery.frame.kind) {
            Ok(Some(effect)) => effect,
            Ok(None) => return Ok(Step::Pass),
            Err(error) => return Ok(Step::Hold(HeldState::Dead, Holds::Nothing, Some(Failure::of(&error)))),
        };
        match self.check_source(connection, effect, recorded, learned) {
            Err(error) if error.kind() == ErrorKind::Invalid => return dead(Holds::Nothing, error),
            checked => checked?,
        }
        let holds = effect.policy.holds();
        match self.check_horizon(connection, recorded, learned) {
            Err(error) if error.kind() == ErrorKind::Invalid => return dead(holds, error),
            checked => checked?,
        }
        let is_waited_for = !known.waited_for.is_empty() && known.waited_for.contains(&key_of(recorded));
        if holds == Holds::Key && is_waited_for {
            return Ok(Step::Hold(HeldState::Waiting, holds, None));
        }
        if let Some(suspicion) = item.suspicion() {
            return Ok(Step::Hold(HeldState::Retry, holds, Some(suspicion)));
        }
        let row = match item.row().transpose() {
            Ok(row) => row,
            Err(failure) => return Ok(Step::Hold(HeldState::Dead, holds, Some(failure.clone()))),
        };
        known.applied.insert(recorded.message.id());
        Ok(Step::Apply(effect, row))
    }

    /// The effects, in the order of the messages; those of copies between two handlers together.
    fn effect_all<'d>(
        &self,
        connection: &mut C,
        part: &'d [Item],
        steps: Vec<Step<'_, 'd, C>>,
        blame: &mut Blame<'d>,
    ) -> Result<Vec<Hold<'d>>> {
        let mut held = Vec::new();
        let mut copied: Copied<'_, '_, C> = BTreeMap::new();
        for (place, (item, step)) in part.iter().zip(steps).enumerate() {
            match (step, &item.recorded) {
                (Step::Apply(effect, row), Ok(recorded)) => match (&effect.run, row) {
                    (Run::Copy(copy), Some(row)) => {
                        copied.entry(copy.name()).or_default().push((place, effect, recorded, row));
                    }
                    (Run::Handler(run), _) => {
                        Self::copy_all(connection, &mut copied, &mut blame.suspects)?;
                        blame.suspects = place..place + 1;
                        let incoming = Incoming {
                            recorded,
                            consumer: &self.name,
                            attempt: 1,
                            redelivered: item.delivery.redelivered,
                            limit: self.handler_limit,
                        };
                        self.handle(connection, &**run, &incoming)?;
                    }
                    (Run::Copy(_), None) => {}
                },
                (Step::Hold(state, holds, failure), recorded) => {
                    let mut hold = Hold {
                        frame: &item.delivery.frame,
                        recorded: recorded.as_ref().ok(),
                        state,
                        holds,
                        attempts: u32::from(failure.is_some()),
                        failure,
                        next_in: (state == HeldState::Retry).then_some(Duration::ZERO),
                        form: Form::Whole,
                    };
                    if let Err(error) = self.hold(connection, &mut hold) {
                        (blame.suspects, blame.refused) = (place..place + 1, Some(hold));
                        return Err(error);
                    }
                    held.push(hold);
                }
                (Step::Duplicate | Step::Pass | Step::Apply(..), _) => {}
            }
        }
        Self::copy_all(connection, &mut copied, &mut blame.suspects)?;
        blame.suspects = 0..part.len();
        Ok(held)
    }

    fn copy_all(
        connection: &mut C,
        copied: &mut Copied<'_, '_, C>,
        suspects: &mut Range<usize>,
    ) -> Result<()> {
        for (name, changes) in std::mem::take(copied) {
            let Some((first, effect, ..)) = changes.first() else { continue };
            let places: Vec<_> = changes.iter().map(|(place, ..)| *place).collect();
            *suspects = *first..places.last().map_or(*first, |last| *last) + 1;
            let Run::Copy(copy) = &effect.run else { continue };
            let one = if let [(_, _, recorded, _)] = changes.as_slice() { Some(*recorded) } else { None };
            let rows = changes.into_iter().map(|(_, _, recorded, row)| (recorded, row)).collect();
            let applied = copy.apply(connection, rows, Origin::Queue).map_err(|e| match one {
                Some(recorded) => of_message(e, recorded),
                None => e,
            })?;
            if let Applied::Stale(which) = applied {
                if let Some(&place) = which.and_then(|which| places.get(which)) {
                    *suspects = place..place + 1;
                }
                return Err(match one {
                    Some(recorded) => of_message(stale_unknown(name, recorded), recorded),
                    None => Error::invalid(format!("copy {name} has something newer")),
                });
            }
        }
        Ok(())
    }
}

impl Blame<'_> {
    fn of(suspects: Range<usize>) -> Self {
        Self { suspects, is_known: false, refused: None }
    }
}

/// How a message that did not decode is set aside.
fn undecoded<'d>(item: &'d Item, failure: &Failure) -> Hold<'d> {
    Hold {
        frame: &item.delivery.frame,
        recorded: None,
        state: HeldState::Dead,
        holds: Holds::Nothing,
        attempts: 1,
        failure: Some(failure.clone()),
        next_in: None,
        form: Form::Whole,
    }
}

/// Rows of copies that are still to be written, with the place of each in the batch.
type Copied<'w, 'd, C> = BTreeMap<&'static str, Vec<(usize, &'w Effect<C>, &'d Recorded, &'d dyn Any)>>;

#[derive(Default)]
struct Known {
    applied: HashSet<MessageId>,
    held: HashSet<String>,
    /// Keys whose later messages have to wait.
    waited_for: HashSet<(String, String)>,
}

fn key_of(recorded: &Recorded) -> (String, String) {
    (recorded.message.aggregate().to_owned(), inbox::key(recorded.message.key()).into_owned())
}

/// Splits a part so that who is to blame comes alone: at once where that is one, by halves where it is not.
fn split(parts: &mut Vec<usize>, length: usize, suspects: &Range<usize>) {
    let after = if suspects.len() == 1 {
        [length.saturating_sub(suspects.end), 1, suspects.start]
    } else {
        let before = (suspects.start + suspects.len() / 2).clamp(1, length.saturating_sub(1).max(1));
        [length - before, before, 0]
    };
    parts.extend(after.into_iter().filter(|length| *length > 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(length: usize, suspects: Range<usize>) -> Vec<usize> {
        let mut parts = vec![7];
        split(&mut parts, length, &suspects);
        parts.reverse();
        parts
    }

    #[test]
    fn a_part_is_split_around_who_is_to_blame() {
        assert_eq!(parts(10, 3..4), [3, 1, 6, 7]);
        assert_eq!(parts(10, 0..1), [1, 9, 7]);
        assert_eq!(parts(10, 9..10), [9, 1, 7]);
        assert_eq!(parts(10, 0..10), [5, 5, 7]);
        assert_eq!(parts(10, 4..6), [5, 5, 7]);
        assert_eq!(parts(2, 0..2), [1, 1, 7]);
    }
}
