//! Ways to get it wrong: each must be caught.

use super::{
    rules,
    scenarios::{self, Scope},
};

/// One way to get it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// An id is settled when its record is handed over.
    SettledBeforeTheReport,
    /// A checkpoint is inserted whoever wrote the newest.
    NoFence,
    /// Rows are read above the last id only.
    BareCursor,
    /// A hole is closed after a while, whoever may still fill it.
    HoleClosedByTime,
    /// The transactions are looked at before the read that finds the hole.
    LocksReadBeforeRows,
    /// A hole is closed as soon as its transactions have ended, without another read.
    HoleClosedWithoutReadingAgain,
    /// A transaction that was prepared meanwhile counts as ended.
    PreparedTransactionsForgotten,
    /// Rows under holes at one snapshot, new rows at a later one.
    HolesAndRowsInTwoReads,
    /// New rows are sent before those under holes.
    HolesSentLast,
    /// A record of the tail settles every row of its event.
    TailMatchedByEventAlone,
    /// The tail is read before the lease is taken.
    TailReadBeforeTakeOver,
    /// The position is read before the lease is taken.
    PositionReadBeforeTakeOver,
    /// A term begins with what an earlier one of this process knew.
    MemoryOutlivesATerm,
    /// The next tail read begins at the topic's end, whatever is settled.
    NextOffsetPastAnUnsettledRecord,
    /// The topic's tail is not read.
    TailNotRead,
    /// A standby takes the lease over by its own clock.
    TakeOverByTheOwnClock,
    /// Nothing bounds what is handed over.
    WindowNotHeld,
    /// A leader gives its lease back while records are on their way.
    LeaseGivenBackTooEarly,
    /// Ids of refused records first, their dead letters in a second transaction.
    DeadLetterWrittenApart,
    /// Every record of a refused batch is dead.
    RefusalOfABatchBelieved,
    /// A partition is dropped when it is old.
    RetentionByAgeAlone,
    /// Exactly once: a record is settled when it is acknowledged.
    SettledBeforeTheCommit,
    /// Exactly once: the tail is read, then transactions are ended.
    TailReadBeforeFencing,
    /// Exactly once: each start has a transactional id of its own.
    TransactionalIdOfItsOwn,
    /// Exactly once: the tail is read with what is open or aborted in it.
    TailReadsUncommitted,
    /// Exactly once: an answer to a commit is believed, whatever else was seen.
    CommitAnswerTrusted,
    /// Exactly once: a commit is asked for while the one before is not known to have succeeded.
    CommitAskedBeforeTheOneBefore,
    /// Exactly once: when a commit is in doubt, the records of its lane are sent again, and the other lane goes on.
    DoubtEndsItsLaneOnly,
    /// Exactly once: a start takes over the first transactional id only.
    OneLaneFenced,
    /// Exactly once: the lanes change while records of the one are on their way.
    LanesChangedBeforeTheReports,
    /// Exactly once: a commit settles what is acknowledged in the other lane, too.
    CommitSettlesBothLanes,
    /// Exactly once: the tail is read as far as nothing is open, and what is behind is left there.
    TailReadUpToWhatIsOpen,
    /// Exactly once: the answer to a commit settles, whether readers see it or not.
    SettledBeforeItIsSeen,
    /// Exactly once: a commit is asked for when the one before is answered, and not seen.
    CommitAskedBeforeTheOneBeforeIsSeen,
    /// Exactly once: a start ends what hangs with a commit.
    HangingEndedWithACommit,
    /// Exactly once: a start ends what hangs, though it may have lost its lease before it took the ids over.
    HangingEndedUnderALostLease,
}

/// Each of them, the scope in which it is caught, and the rule that it breaks.
pub const ALL: &[(Wrong, Scope, &str)] = &[
    (
        Wrong::SettledBeforeTheReport,
        scenarios::KILL_AND_FREEZE,
        rules::NOTHING_LOST,
    ),
    (Wrong::NoFence, scenarios::KILL_AND_FREEZE, rules::FENCED),
    (Wrong::BareCursor, scenarios::HOLES, rules::ORDER),
    (Wrong::HoleClosedByTime, scenarios::HOLES, rules::CLOSED_IS_NOBODYS),
    (Wrong::LocksReadBeforeRows, scenarios::HOLES, rules::CLOSED_IS_NOBODYS),
    (
        Wrong::HoleClosedWithoutReadingAgain,
        scenarios::HOLES,
        rules::CLOSED_IS_NOBODYS,
    ),
    (
        Wrong::PreparedTransactionsForgotten,
        scenarios::PREPARED_OVER_A_RESTART,
        rules::CLOSED_IS_NOBODYS,
    ),
    (Wrong::HolesAndRowsInTwoReads, scenarios::HOLES, rules::ORDER),
    (Wrong::HolesSentLast, scenarios::HOLES, rules::ORDER),
    (Wrong::TailMatchedByEventAlone, scenarios::REPLAYS, rules::NOTHING_LOST),
    (
        Wrong::TailReadBeforeTakeOver,
        scenarios::EXACTLY_ONCE,
        rules::NO_REPEATS,
    ),
    (
        Wrong::PositionReadBeforeTakeOver,
        scenarios::GRACEFUL_STOP,
        rules::REPEATS_BOUNDED,
    ),
    (Wrong::MemoryOutlivesATerm, scenarios::FAILURES, rules::DRAINED),
    (
        Wrong::NextOffsetPastAnUnsettledRecord,
        scenarios::EXACTLY_ONCE,
        rules::NO_REPEATS,
    ),
    (Wrong::TailNotRead, scenarios::EXACTLY_ONCE, rules::NO_REPEATS),
    (
        Wrong::TakeOverByTheOwnClock,
        scenarios::KILL_AND_FREEZE,
        rules::REPEATS_BOUNDED,
    ),
    (Wrong::WindowNotHeld, scenarios::NARROW_WINDOW, rules::REPEATS_BOUNDED),
    (
        Wrong::LeaseGivenBackTooEarly,
        scenarios::GRACEFUL_STOP,
        rules::REPEATS_BOUNDED,
    ),
    (Wrong::DeadLetterWrittenApart, scenarios::POISONED, rules::NOTHING_LOST),
    (
        Wrong::RefusalOfABatchBelieved,
        scenarios::POISONED,
        rules::ONLY_POISON_DIES,
    ),
    (Wrong::RetentionByAgeAlone, scenarios::RETENTION, rules::RETAINED),
    (
        Wrong::SettledBeforeTheCommit,
        scenarios::EXACTLY_ONCE,
        rules::NOTHING_LOST,
    ),
    (Wrong::TailReadBeforeFencing, scenarios::EXACTLY_ONCE, rules::NO_REPEATS),
    (
        Wrong::TransactionalIdOfItsOwn,
        scenarios::EXACTLY_ONCE,
        rules::NO_REPEATS,
    ),
    (
        Wrong::TailReadsUncommitted,
        scenarios::EXACTLY_ONCE,
        rules::NOTHING_LOST,
    ),
    (
        Wrong::CommitAnswerTrusted,
        scenarios::EXACTLY_ONCE_ABORTS,
        rules::NOTHING_LOST,
    ),
    (
        Wrong::CommitAskedBeforeTheOneBefore,
        scenarios::EXACTLY_ONCE,
        rules::ORDER,
    ),
    (
        Wrong::DoubtEndsItsLaneOnly,
        scenarios::EXACTLY_ONCE_ABORTS,
        rules::ORDER,
    ),
    (Wrong::OneLaneFenced, scenarios::EXACTLY_ONCE, rules::NO_REPEATS),
    (
        Wrong::LanesChangedBeforeTheReports,
        scenarios::EXACTLY_ONCE,
        rules::ORDER,
    ),
    (
        Wrong::CommitSettlesBothLanes,
        scenarios::EXACTLY_ONCE,
        rules::NOTHING_LOST,
    ),
    (
        Wrong::TailReadUpToWhatIsOpen,
        scenarios::EXACTLY_ONCE_SKIPPED_MARKERS,
        rules::NO_REPEATS,
    ),
    (
        Wrong::SettledBeforeItIsSeen,
        scenarios::EXACTLY_ONCE_SKIPPED_MARKERS,
        rules::NOTHING_LOST,
    ),
    (
        Wrong::CommitAskedBeforeTheOneBeforeIsSeen,
        scenarios::EXACTLY_ONCE_SKIPPED_MARKERS,
        rules::ORDER,
    ),
    (
        Wrong::HangingEndedWithACommit,
        scenarios::EXACTLY_ONCE_SKIPPED_MARKERS,
        rules::ORDER,
    ),
    (
        Wrong::HangingEndedUnderALostLease,
        scenarios::EXACTLY_ONCE_SKIPPED_MARKERS,
        rules::NOTHING_LOST,
    ),
];
