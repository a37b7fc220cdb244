//! Who may hold how much of `memory_bytes`: the parts add up to it.

/// The parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Transactions that were read and wait to be taken in.
    pub(super) ahead: u64,
    /// One transaction that is being put together, and as much again for one that the group has no room for; what is
    /// larger is on disk.
    pub(super) transaction: u64,
    /// The group that is gathered, and as much again for the one that is being committed.
    pub(super) group: u64,
    /// Rows of tables, from their reading to their commit.
    pub(super) pieces: u64,
    /// Keys that were touched while windows are open.
    pub(super) touched: u64,
}

impl Shares {
    /// Of so many bytes.
    pub(super) fn of(memory_bytes: u64) -> Self {
        let part = memory_bytes / 16;
        Self { ahead: 2 * part, transaction: 2 * part, group: 3 * part, pieces: 3 * part, touched: part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_whole() {
        let Shares { ahead, transaction, group, pieces, touched } = Shares::of(64 << 20);
        assert_eq!(ahead + 2 * transaction + 2 * group + pieces + touched, 64 << 20);
    }
}
