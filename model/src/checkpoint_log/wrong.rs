//! Ways to get the checkpoint log wrong: each must be caught.

use super::{FENCED, FENCES_RISE, LEASE_HELD, POSITION_WHOLE, RECEIPTS_KEPT};

/// One way to get it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The position is written whatever its number: a row that is updated in place.
    UpdatedInPlace,
    /// The primary key alone decides, and an insert that finds no partition makes it.
    ZombieMakesADroppedPartition,
    /// Whoever finds its number taken reads the newest one and goes on.
    LoserAdoptsTheNewestNumber,
    /// Taking over leaves the fence as it is.
    FenceNotRaised,
    /// That the lease has ended is seen in a statement before the one that takes it.
    LeaseLookedAtBefore,
    /// A start reads the newest base, and not the rows after it.
    BaseReadAlone,
    /// A base leaves out what its own row settles.
    BaseWithoutItsOwnRow,
    /// A partition of checkpoints is dropped though no newer base exists.
    DroppedWithoutANewerBase,
    /// A partition of checkpoints is dropped though its receipts are needed.
    DroppedWithItsReceipts,
}

/// Each of them, and the rule that it breaks.
pub const ALL: &[(Wrong, &str)] = &[
    (Wrong::UpdatedInPlace, FENCED),
    (Wrong::ZombieMakesADroppedPartition, FENCED),
    (Wrong::LoserAdoptsTheNewestNumber, FENCED),
    (Wrong::FenceNotRaised, FENCES_RISE),
    (Wrong::LeaseLookedAtBefore, LEASE_HELD),
    (Wrong::BaseReadAlone, POSITION_WHOLE),
    (Wrong::BaseWithoutItsOwnRow, POSITION_WHOLE),
    (Wrong::DroppedWithoutANewerBase, POSITION_WHOLE),
    (Wrong::DroppedWithItsReceipts, RECEIPTS_KEPT),
];
