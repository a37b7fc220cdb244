//! Who may read which buckets: the statements of the keeper of leases.

use std::sync::atomic::Ordering;
use std::time::Duration;

use outbox_core::Result;

use super::*;

impl Store {
    /// Says that this relay lives, and will for `ttl`.
    ///
    /// # Errors
    /// As every statement.
    pub async fn heartbeat(&mut self, ttl: Duration) -> Result<()> {
        let owner = self.owner.clone();
        on!(self, "writing outbox_relay", heartbeat(&owner, millis(ttl))).map(|_| ())
    }

    /// Deletes relays that were last alive long ago; each start of a relay leaves a row if it is killed.
    ///
    /// # Errors
    /// As every statement.
    pub async fn forget_dead(&mut self) -> Result<usize> {
        on!(self, "clearing outbox_relay", forget_dead())
    }

    /// Takes the relay's own row away.
    ///
    /// # Errors
    /// As every statement.
    pub async fn leave(&mut self) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "deleting from outbox_relay", leave(&owner))
    }

    /// Extends all leases that this owner still has, to `ttl` from now.
    ///
    /// # Errors
    /// As every statement.
    pub async fn renew(&mut self, ttl: Duration) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "renewing leases in outbox_lease", renew(&owner, millis(ttl)))
    }

    /// Takes up to `count` buckets that are free or whose lease is over; returns how many.
    ///
    /// # Errors
    /// As every statement.
    pub async fn acquire(&mut self, ttl: Duration, count: u16) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "taking leases in outbox_lease", acquire(&owner, millis(ttl), count))
    }

    /// Forgets how often the leases of this owner were taken over from relays that had not given them back.
    ///
    /// # Errors
    /// As every statement.
    pub async fn forgive(&mut self) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "clearing unclean takeovers in outbox_lease", forgive(&owner))
    }

    /// What this owner holds, how many relays live, and how many keys wait or are parked.
    ///
    /// # Errors
    /// As every statement.
    pub async fn leases(&mut self) -> Result<Leases> {
        let owner = self.owner.clone();
        let rows: Vec<LeaseRow> = on!(self, "reading outbox_lease", leases(&owner))?;
        Ok(Leases::from_rows(rows))
    }

    /// Frees these buckets.
    ///
    /// # Errors
    /// As every statement.
    pub async fn release(&mut self, buckets: &[u16]) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "releasing leases in outbox_lease", release(&owner, buckets))
    }
}
