//! Whether the source is known to have the history that the copies were made of: by the last transaction that was
//! applied, which is read again at each connection, or since all copies were verified.

/// What is to be said when it is not.
pub(crate) const UNPROVEN: &str = "it had deleted the log with the last transaction that was applied, and may have been \
                                   restored before; `outbox-relay verify` finds out";

/// What a session knows of it.
#[derive(Debug)]
pub(super) struct Lineage {
    /// What the reader said last.
    was_proven: bool,
    /// The target has to be told that it is not.
    is_due: bool,
    is_proven: bool,
}

impl Lineage {
    /// As the target has it.
    pub(super) fn new(is_proven: bool) -> Self {
        Self { was_proven: true, is_due: false, is_proven }
    }

    /// Takes in what the reader says; whether it cannot prove it any more.
    pub(super) fn read(&mut self, is_proven: bool) -> bool {
        let is_lost = std::mem::replace(&mut self.was_proven, is_proven) && !is_proven;
        if is_lost {
            (self.is_due, self.is_proven) = (true, false);
        }
        is_lost
    }

    /// Takes in what the target knows; what it has not been told yet it cannot know.
    pub(super) fn looked(&mut self, is_proven: bool) {
        self.is_proven = is_proven && !self.is_due;
    }

    /// The target is being told.
    pub(super) fn told(&mut self) {
        self.is_due = false;
    }

    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    pub(super) fn is_proven(&self) -> bool {
        self.is_proven
    }
}
