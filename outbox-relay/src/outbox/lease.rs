//! Which buckets this relay may publish, and until when.
//!
//! A bucket is owned by one relay at a time. The row `outbox_lease(bucket, owner, epoch, expires_at)` says by
//! whom, on the database's clock; `outbox_relay` says who is alive. One task, the [`Keeper`], with a
//! connection of its own, talks to both; the pipe only reads what the keeper left in [`Leases`].
//!
//! ```text
//!                 acquire (epoch + 1): free, or expired
//!        free ───────────────────────────────────────────► held
//!         ▲                                                │  │ ▲
//!         │ release: nothing of it is in flight            │  │ └─ renew, every third of a lease
//!         └──────────────────────────── releasing ◄────────┘  │
//!                                  more than the fair share   │
//!                                                             ▼
//!                              lost: not renewed in time, another relay has taken it
//! ```
//!
//! *Held* buckets are read and published. A *releasing* bucket is not read any more; what is in flight of it
//! is finished and settled, then the row is freed. A *lost* bucket is noticed at the next renewal; until then
//! the trust window below keeps the relay from publishing it, and the epoch keeps it from settling it.
//!
//! **The trust window.** A renewal sets `expires_at = the database's now + lease`. The relay takes its own
//! monotonic clock *before* it sends the statement, so in real time
//!
//! ```text
//!    before  ≤  the database's now        ⇒        before + lease  ≤  expires_at
//! ```
//!
//! and until `before + lease` nobody else can take the bucket, whatever the two clocks show, if they run
//! equally fast. The pipe trusts it only until `before + lease − headroom` with a headroom of a fifth of the
//! lease: that pays for clocks that differ in speed, and for the time in which a message that was handed to
//! the socket is still under way. Nothing is published that is not answered by then. What a stopped process
//! or a blocked broker lets through later is a repetition, and its settling DELETE finds another epoch.
//!
//! **Clocks set back.** A dead owner's lease would end hours later if the database's clock was set back; so an
//! expiry that lies further ahead than twice the lease counts as expired. Twice, because a statement that
//! waited for a lock compares with the time of its start, and clocks are set back by a little all the time. A
//! clock that is set back by more than a lease makes two owners until the next renewal: messages repeat, and
//! the epoch keeps the settling apart.
//!
//! **Caution.** A relay that ends without giving its buckets back may have been ended by one of their messages. Each
//! takeover of such a bucket is counted in its lease, and halves how many rows are read at once, down to one: then
//! the start of each try is written down before it, as an attempt, so that the message that ends its relay is parked
//! in the end. A batch that got its answer doubles the rows again; once they are as many as ever, or nothing is left to
//! publish, the count is cleared.
//! A bucket that is given back keeps its count, or relays that come and go would never get to the bottom of it.
//!
//! **Fair share.** With n relays alive each may hold ⌊64 ∕ n⌋ buckets, and the first (64 mod n) of them, by
//! name, one more. A relay that holds more releases the rest; one that holds less takes what is free. Nobody
//! takes from the living.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outbox_core::{BUCKETS, Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::store::{self, Store};
use crate::bell::Bell;
use crate::status::Status;

/// How long a round that is under way may go on at the end. Cut off, its statements might still take leases
/// behind those that are given back.
const LAST_ROUND: Duration = Duration::from_secs(2);
/// How long a statement may take, however short the lease: a relay that gave up sooner on a slow machine would never
/// get to the end of a round, and each statement that it left behind would go on in the server.
const STATEMENT_MIN: Duration = Duration::from_secs(1);
/// How long giving the leases back may take at the end.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// What is held now; the keeper writes it, the pipe reads it.
#[derive(Debug)]
pub(crate) struct Leases {
    lease: Duration,
    wake: Notify,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    held: BTreeMap<u16, i64>,
    releasing: BTreeSet<u16>,
    in_flight: BTreeSet<u16>,
    valid_until: Option<Instant>,
    trouble: Option<String>,
    /// How often what is read at once is halved.
    caution: u32,
    /// Who has paused the outbox.
    pause: Option<String>,
}

/// What came of taking over what the database says.
#[derive(Debug)]
struct Taken {
    lost: BTreeSet<u16>,
    /// Unclean takeovers are noted and can be forgotten.
    is_over: bool,
}

impl Now {
    fn is_valid(&self, now: Instant) -> bool {
        self.valid_until.is_some_and(|until| now < until)
    }

    /// Buckets that can be given back at once.
    fn idle_releasing(&self) -> Vec<u16> {
        self.releasing.iter().copied().filter(|bucket| !self.in_flight.contains(bucket)).collect()
    }
}

impl Leases {
    pub(crate) fn new(lease: Duration) -> Arc<Self> {
        Arc::new(Self { lease, wake: Notify::new(), now: Mutex::default() })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing panics while it holds this.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The buckets that may be read, with their epochs. None once the window is over.
    ///
    /// # Errors
    /// Why there are none, when the keeper cannot renew.
    pub(crate) fn readable(&self) -> Result<BTreeMap<u16, i64>> {
        let now = self.now();
        if let Some(pause) = &now.pause {
            return Err(Error::new(ErrorKind::Outage, pause.clone()));
        }
        if !now.is_valid(Instant::now()) {
            return match &now.trouble {
                Some(trouble) => Err(Error::new(ErrorKind::Outage, format!("leases: {trouble}"))),
                None => Ok(BTreeMap::new()),
            };
        }
        let is_readable = |bucket: &u16| !now.releasing.contains(bucket);
        Ok(now.held.iter().filter(|(bucket, _)| is_readable(bucket)).map(|(b, e)| (*b, *e)).collect())
    }

    /// Of these leases those that are still held and may be published. They count as in flight from here on:
    /// looked at and marked in one go, or the keeper could give a bucket away in between.
    pub(crate) fn claim(&self, wanted: impl Iterator<Item = (u16, i64)>) -> BTreeMap<u16, i64> {
        let mut now = self.now();
        if !now.is_valid(Instant::now()) {
            return BTreeMap::new();
        }
        let claimed: BTreeMap<u16, i64> = wanted
            .filter(|(bucket, epoch)| now.held.get(bucket) == Some(epoch) && !now.releasing.contains(bucket))
            .collect();
        now.in_flight.extend(claimed.keys());
        claimed
    }

    /// Until when these buckets may be published; now, if one of them was lost.
    pub(crate) fn deadline(&self, buckets: &BTreeMap<u16, i64>) -> Instant {
        let now = self.now();
        let are_held = buckets.iter().all(|(bucket, epoch)| now.held.get(bucket) == Some(epoch));
        now.valid_until.filter(|_| are_held).unwrap_or_else(Instant::now)
    }

    /// Says which buckets have messages that are read and not settled: those are not released.
    pub(crate) fn set_in_flight(&self, buckets: BTreeSet<u16>) {
        let mut now = self.now();
        now.in_flight = buckets;
        let is_idle = !now.idle_releasing().is_empty();
        drop(now);
        if is_idle {
            self.wake.notify_one();
        }
    }

    /// Asks the keeper to look at once: a settling statement found a lease gone.
    pub(crate) fn look_again(&self) {
        self.wake.notify_one();
    }

    /// How often what is read at once has to be halved.
    pub(crate) fn caution(&self) -> u32 {
        self.now().caution
    }

    /// A batch got its answer, and this relay lives.
    pub(crate) fn survived(&self) {
        let mut now = self.now();
        if now.caution > 0 {
            now.caution -= 1;
            let is_over = now.caution == 0;
            drop(now);
            if is_over {
                self.wake.notify_one();
            }
        }
    }

    /// A read of these buckets, the only ones that are held, found nothing: whatever might have ended a relay has got
    /// its answer.
    pub(crate) fn found_nothing(&self, read: &BTreeMap<u16, i64>) {
        let mut now = self.now();
        if now.caution > 0 && now.held == *read {
            now.caution = 0;
            drop(now);
            self.wake.notify_one();
        }
    }

    /// Takes over what the database says.
    fn set_held(&self, found: store::Leases, before: Instant) -> Taken {
        let mut now = self.now();
        let store::Leases { held, unclean, .. } = found;
        let is_new = |bucket: &u16| now.held.get(bucket) != held.get(bucket);
        let new = unclean.iter().filter(|(bucket, _)| is_new(bucket)).map(|(_, count)| *count).max();
        // Halved more often it would not be less.
        now.caution = now.caution.max(new.unwrap_or_default()).min(u32::BITS - 1);
        let lost = now.held.iter().filter(|(b, e)| held.get(b) != Some(e)).map(|(b, _)| *b).collect();
        now.releasing.retain(|bucket| held.contains_key(bucket));
        now.held = held;
        now.valid_until = Some(before + self.lease - self.lease / 5);
        now.trouble = None;
        Taken { lost, is_over: now.caution == 0 && !unclean.is_empty() }
    }

    /// Says whether the outbox is paused; whether that is news.
    fn set_pause(&self, pause: Option<String>) -> bool {
        let mut now = self.now();
        let is_news = now.pause.is_some() != pause.is_some();
        // The age in the text would be news each time.
        if is_news {
            now.pause = pause;
        }
        is_news
    }

    /// Marks what is above the share as releasing, idle buckets first, and no more than that.
    fn set_share(&self, share: u16) {
        let mut now = self.now();
        let surplus = now.held.len().saturating_sub(usize::from(share));
        let (busy, idle): (Vec<u16>, Vec<u16>) =
            now.held.keys().rev().copied().partition(|bucket| now.in_flight.contains(bucket));
        let already = now.releasing.clone();
        let order = already.iter().copied().chain(idle).chain(busy);
        let mut releasing = BTreeSet::new();
        for bucket in order {
            if releasing.len() == surplus {
                break;
            }
            releasing.insert(bucket);
        }
        now.releasing = releasing;
    }

    /// Takes the buckets that can be released out of what is held, before the database is told.
    fn take_releasable(&self) -> Vec<u16> {
        let mut now = self.now();
        let free = now.idle_releasing();
        for bucket in &free {
            now.held.remove(bucket);
            now.releasing.remove(bucket);
        }
        free
    }

    fn set_trouble(&self, trouble: String) {
        self.now().trouble = Some(trouble);
    }

    fn held(&self) -> BTreeSet<u16> {
        self.now().held.keys().copied().collect()
    }

    fn clear(&self) {
        *self.now() = Now::default();
    }
}

/// The buckets that one of `live` relays may hold, the `rank`-th of them by name.
pub(crate) fn share(live: u64, rank: u64) -> u16 {
    let live = live.max(1);
    let buckets = u64::from(BUCKETS);
    let share = buckets / live + u64::from(rank < buckets % live);
    u16::try_from(share).unwrap_or(BUCKETS)
}

/// The task that keeps leases.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Store,
    leases: Arc<Leases>,
    status: Status,
    bell: Bell,
    rounds: u32,
    /// Whether it could not look for a pause when it last tried, which is told once.
    is_blind: bool,
}

impl Keeper {
    pub(crate) fn new(store: Store, leases: Arc<Leases>, status: Status, bell: Bell) -> Self {
        // A statement that takes longer than this cannot renew in time; a fresh connection may.
        let store = store.with_timeout((leases.lease / 3).max(STATEMENT_MIN));
        Self { store, leases, status, bell, rounds: 0, is_blind: false }
    }

    /// Keeps leases until `stop`, then gives them back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let lease = self.leases.lease;
        let mut is_introduced = false;
        while !stop.is_cancelled() {
            let is_over = async {
                stop.cancelled().await;
                tokio::time::sleep(LAST_ROUND).await;
            };
            let round = tokio::select! {
                round = self.round(&mut is_introduced) => round,
                () = is_over => break,
            };
            let wait = match round {
                Ok(true) => lease / 3,
                // Less than the fair share: somebody is about to release some.
                Ok(false) => lease / 10,
                Err(error) => {
                    // The pipe pauses and says why once it has no lease left; this is for the curious.
                    debug!(outbox = self.status.name(), "leases: {error}; trying again");
                    self.leases.set_trouble(error.to_string());
                    lease / 10
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.leases.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        if is_introduced {
            self.give_back().await;
        }
    }

    /// One round; whether this relay has its share.
    async fn round(&mut self, is_introduced: &mut bool) -> Result<bool> {
        let lease = self.leases.lease;
        self.look_for_pause().await?;
        let readable = self.leases.readable().unwrap_or_default();
        let before = Instant::now();
        self.store.heartbeat(lease).await?;
        if !*is_introduced {
            self.store.forget_dead().await?;
            // Both may have started at once, when neither could see the other yet.
            if let Some(text) = super::fit::other_name(&mut self.store, self.status.name()).await? {
                warn!(outbox = self.status.name(), "{text}");
                self.status.set_error(text);
            }
            *is_introduced = true;
        }
        self.store.renew(lease).await?;
        let mut found = self.store.leases().await?;
        let share = share(found.live, found.rank);
        let missing = usize::from(share).saturating_sub(found.held.len());
        if missing > 0 {
            let count = u16::try_from(missing).unwrap_or(BUCKETS);
            if self.store.acquire(lease, count).await? > 0 {
                found = self.store.leases().await?;
            }
        }
        self.status.set_keys(found.waiting, found.parked);
        let count = found.held.len();
        let Taken { lost, is_over } = self.leases.set_held(found, before);
        if is_over {
            self.store.forgive().await?;
        }
        if !lost.is_empty() {
            warn!(outbox = self.status.name(), buckets = ?lost, "leases were lost to another relay");
        }
        self.leases.set_share(share);
        let is_more = |now: BTreeMap<u16, i64>| now.keys().any(|bucket| !readable.contains_key(bucket));
        if self.leases.readable().is_ok_and(is_more) {
            // Their rows may have been committed before this relay was told of commits in them.
            self.bell.ring();
        }
        let released = self.leases.take_releasable();
        if !released.is_empty() {
            self.store.release(&released).await?;
            debug!(outbox = self.status.name(), buckets = ?released, "released");
        }
        self.tell();
        Ok(count >= usize::from(share))
    }

    /// Every other round: a statement less, and still within the length of a lease.
    async fn look_for_pause(&mut self) -> Result<()> {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(2) {
            return Ok(());
        }
        let pause = match self.store.pause().await {
            Ok(pause) => pause,
            // A right that is missing, mostly. What was seen last holds on.
            Err(error) if error.kind() == ErrorKind::Database => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    let text =
                        format!("whether the outbox is paused cannot be seen: {error}; `outbox-relay check`");
                    warn!(outbox = self.status.name(), "{text}");
                    self.status.set_error(text);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.is_blind = false;
        if self.leases.set_pause(pause.map(|pause| pause.to_string())) {
            self.bell.ring();
        }
        Ok(())
    }

    fn tell(&self) {
        let held = self.leases.held();
        if held != self.status.snapshot().held {
            info!(outbox = self.status.name(), count = held.len(), "holding buckets");
            self.status.set_held(held);
        }
    }

    /// Frees all buckets and takes the heartbeat away, so that others need not wait for the lease to end.
    async fn give_back(&mut self) {
        let held: Vec<u16> = self.leases.held().into_iter().collect();
        self.leases.clear();
        let given = async {
            if !held.is_empty() {
                self.store.release(&held).await?;
            }
            self.store.leave().await
        };
        let text = match tokio::time::timeout(GIVE_BACK, given).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the database does not answer".into()),
        };
        if let Some(error) = text {
            warn!(outbox = self.status.name(), "leases were not given back, they end by themselves: {error}");
        }
        self.status.set_held(BTreeSet::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(buckets: std::ops::Range<u16>) -> BTreeMap<u16, i64> {
        buckets.map(|bucket| (bucket, 1)).collect()
    }

    fn found(held: BTreeMap<u16, i64>) -> store::Leases {
        store::Leases { held, ..Default::default() }
    }

    #[test]
    fn shares_add_up_to_all_buckets_and_differ_by_one_at_most() {
        for live in 1..=100 {
            let shares: Vec<u16> = (0..live).map(|rank| share(live, rank)).collect();
            assert_eq!(shares.iter().sum::<u16>(), BUCKETS, "{live} relays");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{live} relays");
        }
        assert_eq!(share(0, 0), BUCKETS);
    }

    #[tokio::test]
    async fn surplus_is_released_when_nothing_of_it_is_in_flight() {
        let leases = Leases::new(Duration::from_secs(10));
        leases.set_held(found(held(0..4)), Instant::now());
        leases.set_in_flight([2, 3].into());
        leases.set_share(1);
        assert_eq!(leases.readable().unwrap().keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(leases.take_releasable(), [0, 1]);
        assert!(leases.claim([(3, 1)].into_iter()).is_empty(), "releasing");
        assert!(leases.deadline(&[(3, 1)].into()) > Instant::now(), "but what is in flight may end");
        leases.set_in_flight(BTreeSet::new());
        assert_eq!(leases.take_releasable(), [3]);
        assert_eq!(leases.held(), [2].into());
    }

    #[tokio::test]
    async fn takeovers_make_careful_until_batches_get_their_answers() {
        let leases = Leases::new(Duration::from_secs(10));
        let found = |epoch, unclean| {
            let held = [(0, epoch), (1, 1)].into();
            store::Leases { held, unclean, ..Default::default() }
        };
        let look = |found: store::Leases| {
            let Taken { is_over, .. } = leases.set_held(found, Instant::now());
            (leases.caution(), is_over)
        };
        assert_eq!(look(found(1, [(0, 2)].into())), (2, false));
        leases.survived();
        assert_eq!(look(found(1, [(0, 2)].into())), (1, false), "counted once");
        leases.survived();
        assert_eq!(look(found(1, [(0, 2)].into())), (0, true));
        assert_eq!(look(found(1, [].into())), (0, false));
        assert_eq!(look(found(2, [(0, 700)].into())), (31, false), "taken over again");
        leases.found_nothing(&[(0, 1), (1, 1)].into());
        assert_eq!(leases.caution(), 31, "that was read before the takeover");
        leases.found_nothing(&[(0, 2), (1, 1)].into());
        assert_eq!(look(found(2, [(0, 700)].into())), (0, true));
    }

    #[tokio::test]
    async fn what_was_claimed_is_not_given_away() {
        let leases = Leases::new(Duration::from_secs(10));
        leases.set_held(found(held(0..2)), Instant::now());
        assert_eq!(leases.claim(held(0..3).into_iter()), held(0..2), "not what was never held");
        leases.set_share(0);
        assert!(leases.take_releasable().is_empty());
        leases.set_in_flight(BTreeSet::new());
        assert_eq!(leases.take_releasable(), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_published_past_the_trust_window() {
        let leases = Leases::new(Duration::from_secs(10));
        leases.set_held(found(held(0..1)), Instant::now());
        let claim = |epoch| leases.claim([(0, epoch)].into_iter()).len();
        assert_eq!(claim(1), 1);
        assert_eq!(claim(2), 0, "another epoch");
        tokio::time::advance(Duration::from_secs(8)).await;
        assert_eq!(claim(1), 0);
        assert!(leases.readable().unwrap().is_empty());
        assert!(leases.deadline(&held(0..1)) <= Instant::now());
        leases.set_trouble("gone".into());
        assert!(leases.readable().unwrap_err().is_outage());
    }
}
