//! The checkpoint log by itself: the compare-and-swap, late statements, base rows, partitions that are made ahead and
//! dropped, a zombie that wakes up over a dropped one.
//!
//! What is published is an item here; how it comes to be settled is the other model's affair.

mod steps;
pub mod wrong;

use std::fmt;

use self::wrong::Wrong;
use crate::{checker::Model, sets::Set};

/// Numbers of checkpoints, two in a partition.
const SEQS: usize = 8;
/// Items.
pub const ITEMS: u8 = 2;

/// Whoever took over last is the only one whose checkpoints count.
pub const FENCED: &str = "a checkpoint of a leader that was taken over counts for nothing";
/// By PostgreSQL's clock.
pub const LEASE_HELD: &str = "nobody takes over while the lease is held";
/// Along the log.
pub const FENCES_RISE: &str = "fences never go back, and each is one start's";
/// Base and rows after it.
pub const POSITION_WHOLE: &str = "a start reads all that was ever recorded";
/// While the outbox has the row.
pub const RECEIPTS_KEPT: &str = "a settled item keeps its receipt as long as its row is there";

/// One scope, right or wrong in one way.
#[derive(Debug, Clone)]
pub struct CheckpointLog {
    /// At most so many of each fault.
    pub faults: Faults,
    /// What is done wrong.
    pub wrong: Option<Wrong>,
}

/// Every scope that CI explores.
pub const SCOPES: &[(&str, Faults)] = &[
    (
        "checkpoints: freezes and dropped partitions",
        Faults {
            freezes: 2,
            kills: 0,
            lost_answers: 0,
            drops: 2,
        },
    ),
    (
        "checkpoints: a kill, a late statement, a dropped partition",
        Faults {
            freezes: 1,
            kills: 1,
            lost_answers: 1,
            drops: 1,
        },
    ),
];

/// How many faults of each kind may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Faults {
    /// The holder sleeps past its lease.
    pub freezes: u8,
    /// A process is killed and begins under another name.
    pub kills: u8,
    /// A statement is sent, the connection breaks, and the server runs it later or never.
    pub lost_answers: u8,
    /// A partition of checkpoints is dropped.
    pub drops: u8,
}

/// The log, two processes, and statements whose sender waits no more.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    rows: [Option<Checkpoint>; SEQS],
    /// Partitions that are there.
    attached: Set,
    lease: bool,
    relays: [Relay; 2],
    late: Option<(u8, Checkpoint)>,
    /// Starts so far.
    starts: u8,
    /// Items whose outbox row was dropped.
    dropped: Set,
    left: Faults,
    /// For the rules only: who took over last, and all that was ever recorded.
    newest_start: u8,
    recorded: Set,
    broken: Option<&'static str>,
}

/// A row of `outbox_checkpoints`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
struct Checkpoint {
    fence: u8,
    start: u8,
    /// Settled by this row, with receipts.
    settled: Set,
    base: Option<Set>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
enum Phase {
    #[default]
    StandingBy,
    /// In a variant: has seen that the lease has ended.
    Looked,
    TookOver,
    Leading,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
struct Relay {
    start: u8,
    phase: Phase,
    /// The number of its newest checkpoint.
    last: u8,
    fence: u8,
    position: Set,
    settling: Set,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "its text, in Display, says what each is")]
pub enum Action {
    LookAtLease(u8),
    TakeOver(u8),
    ReadPosition(u8),
    Settle(u8, u8),
    Append(u8),
    AppendBase(u8),
    AppendUnanswered(u8),
    RunLate,
    MakePartition(u8),
    Sleep,
    Kill(u8),
    DropCheckpoints,
    DropItem(u8),
}

impl Model for CheckpointLog {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let mut state = State {
            rows: [None; SEQS],
            attached: Set::below(2),
            lease: false,
            relays: [Relay::default(); 2],
            late: None,
            starts: 2,
            dropped: Set::EMPTY,
            left: self.faults,
            newest_start: 0,
            recorded: Set::EMPTY,
            broken: None,
        };
        // `migrate` writes the first: a base of nothing.
        state.rows[0] = Some(Checkpoint {
            base: Some(Set::EMPTY),
            ..Checkpoint::default()
        });
        (state.relays[0].start, state.relays[1].start) = (1, 2);
        state
    }

    fn steps(&self, state: &State, into: &mut Vec<(Action, State)>) {
        use Action as A;
        let mut attempt = |action| {
            let mut next = state.clone();
            if self.take(&mut next, action).is_some() {
                into.push((action, next));
            }
        };
        for relay in 0..2 {
            for action in [
                A::LookAtLease,
                A::TakeOver,
                A::ReadPosition,
                A::Append,
                A::AppendBase,
                A::AppendUnanswered,
                A::MakePartition,
                A::Kill,
            ] {
                attempt(action(relay));
            }
            for item in 0..ITEMS {
                attempt(A::Settle(relay, item));
            }
        }
        for item in 0..ITEMS {
            attempt(A::DropItem(item));
        }
        for action in [A::RunLate, A::Sleep, A::DropCheckpoints] {
            attempt(action);
        }
    }

    fn is_due(&self, _: &Action) -> bool {
        true
    }

    fn broken(&self, s: &State) -> Option<&'static str> {
        if s.broken.is_some() {
            return s.broken;
        }
        let rows: Vec<_> = s.rows.iter().flatten().collect();
        let rise = rows.windows(2).all(|pair| {
            pair[0].fence < pair[1].fence || pair[0].fence == pair[1].fence && pair[0].start == pair[1].start
        });
        let receipts = rows.iter().fold(Set::EMPTY, |all, row| all.and(row.settled));
        if !rise {
            Some(FENCES_RISE)
        } else if !s.recorded.without(s.dropped).without(receipts).is_empty() {
            Some(RECEIPTS_KEPT)
        } else {
            None
        }
    }

    /// The log ends where the model's numbers do.
    fn broken_at_rest(&self, _: &State) -> Option<&'static str> {
        None
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Action as A;
        let name = |relay: u8| ["A", "B"][relay as usize];
        match *self {
            A::LookAtLease(r) => write!(f, "{} sees that the lease has ended", name(r)),
            A::TakeOver(r) => write!(f, "{} takes over", name(r)),
            A::ReadPosition(r) => write!(f, "{} reads the position", name(r)),
            A::Settle(r, item) => write!(f, "{} publishes item {}", name(r), item + 1),
            A::Append(r) => write!(f, "{} writes a checkpoint", name(r)),
            A::AppendBase(r) => write!(f, "{} writes a base", name(r)),
            A::AppendUnanswered(r) => write!(f, "{} sends a checkpoint, and its connection breaks", name(r)),
            A::RunLate => write!(f, "the server runs the late statement"),
            A::MakePartition(r) => write!(f, "{} makes a partition ahead", name(r)),
            A::Sleep => write!(f, "the leader sleeps past its lease"),
            A::Kill(r) => write!(f, "{} is killed", name(r)),
            A::DropCheckpoints => write!(f, "retention drops the oldest partition of checkpoints"),
            A::DropItem(item) => write!(f, "retention drops item {}'s row", item + 1),
        }
    }
}
