//! The scopes that are explored whole.

use super::state::Faults;

/// What there is, and how often what may happen to it.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// For people.
    pub name: &'static str,
    /// The rows that may be written, by id.
    pub rows: &'static [RowSpec],
    /// Records handed over and in no checkpoint, at most.
    pub window: u8,
    /// Exactly once.
    pub transactions: bool,
    /// One, or two.
    pub relays: u8,
    /// At most so many of each.
    pub faults: Faults,
}

/// A row that may be written.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each may be so or not, whatever the others are"
)]
pub struct RowSpec {
    /// Its draft's key, and so its partition.
    pub key: u8,
    /// It is committed in the step that draws its id.
    pub at_once: bool,
    /// Its transaction may roll back.
    pub may_roll_back: bool,
    /// Its transaction may be prepared.
    pub may_prepare: bool,
    /// The broker refuses it.
    pub poison: bool,
    /// It is a replay of this row.
    pub replay_of: Option<u8>,
}

/// Committed at once, of the first key.
const ROW: RowSpec = RowSpec {
    key: 0,
    at_once: true,
    may_roll_back: false,
    may_prepare: false,
    poison: false,
    replay_of: None,
};
/// Of the second key.
const OTHER: RowSpec = RowSpec { key: 1, ..ROW };
/// Its transaction takes its time.
const SLOW: RowSpec = RowSpec { at_once: false, ..ROW };
/// And may roll back.
const UNSURE: RowSpec = RowSpec {
    may_roll_back: true,
    ..SLOW
};
/// And may be prepared.
const PREPARED: RowSpec = RowSpec {
    may_prepare: true,
    ..UNSURE
};
/// Refused by the broker.
const POISON: RowSpec = RowSpec { poison: true, ..ROW };
/// Of the first row.
const REPLAY: RowSpec = RowSpec {
    replay_of: Some(0),
    ..ROW
};

const NO_FAULTS: Faults = Faults {
    kills: 0,
    freezes: 0,
    failures: 0,
    lost_answers: 0,
    restarts: 0,
    stops: 0,
    cuts: 0,
    broker_aborts: 0,
    skipped_markers: 0,
    retentions: 0,
};
const QUIET: Scope = Scope {
    name: "",
    rows: &[],
    window: 2,
    transactions: false,
    relays: 2,
    faults: NO_FAULTS,
};

/// A lane's transaction is sealed, and two records may be in the other's.
const TRANSACTIONS: Scope = Scope {
    window: 3,
    transactions: true,
    ..QUIET
};

/// Three rows of one key; a kill and a freeze.
pub const KILL_AND_FREEZE: Scope = Scope {
    name: "a kill and a freeze",
    rows: &[ROW, ROW, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Two rows; three terms end badly.
pub const THREE_TERMS: Scope = Scope {
    name: "two freezes and a kill",
    rows: &[ROW, ROW],
    faults: Faults {
        kills: 1,
        freezes: 2,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Reports of one partition come before earlier ones of the other.
pub const TWO_PARTITIONS: Scope = Scope {
    name: "two partitions",
    rows: &[ROW, OTHER, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// A window of one record.
pub const NARROW_WINDOW: Scope = Scope {
    name: "a window of one",
    rows: &[ROW, OTHER, ROW],
    window: 1,
    faults: Faults {
        kills: 1,
        freezes: 1,
        failures: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Late commits and roll-backs, and one leader that stays.
pub const HOLES: Scope = Scope {
    name: "holes",
    rows: &[UNSURE, UNSURE, UNSURE, SLOW],
    relays: 1,
    ..QUIET
};
/// Holes, and leaders that change in their midst.
pub const HOLES_AND_A_KILL: Scope = Scope {
    name: "holes, a kill",
    rows: &[UNSURE, UNSURE, ROW],
    faults: Faults { kills: 1, ..NO_FAULTS },
    ..QUIET
};
/// Holes, and a leader that sleeps while it watches them.
pub const HOLES_AND_A_FREEZE: Scope = Scope {
    name: "holes, a freeze",
    rows: &[UNSURE, UNSURE, ROW],
    faults: Faults {
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Prepared transactions, and a restart that renames them.
pub const PREPARED_OVER_A_RESTART: Scope = Scope {
    name: "prepared transactions and a restart",
    rows: &[PREPARED, PREPARED, ROW],
    relays: 1,
    faults: Faults {
        restarts: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// A stop under load, then a kill or a freeze.
pub const GRACEFUL_STOP: Scope = Scope {
    name: "graceful stops",
    rows: &[ROW, OTHER, ROW],
    faults: Faults {
        stops: 1,
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Replays, with repeats of the original on the way.
pub const REPLAYS: Scope = Scope {
    name: "a replay",
    rows: &[ROW, REPLAY, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// One record is refused for its own fault.
pub const POISONED: Scope = Scope {
    name: "a poison record",
    rows: &[ROW, POISON, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Failed producers and checkpoints whose answers are lost.
pub const FAILURES: Scope = Scope {
    name: "failed producers and lost answers",
    rows: &[ROW, ROW, OTHER],
    faults: Faults {
        failures: 1,
        lost_answers: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// The broker loses what it had acknowledged.
pub const BROKER_LOSS: Scope = Scope {
    name: "a topic that is cut",
    rows: &[ROW, REPLAY, ROW],
    faults: Faults {
        cuts: 2,
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Partitions of the outbox are dropped behind the relay.
pub const RETENTION: Scope = Scope {
    name: "retention",
    rows: &[UNSURE, ROW, ROW, POISON],
    faults: Faults {
        retentions: 2,
        kills: 1,
        ..NO_FAULTS
    },
    ..QUIET
};
/// Exactly once: a kill and a freeze.
pub const EXACTLY_ONCE: Scope = Scope {
    name: "exactly once: a kill and a freeze",
    rows: &[ROW, ROW, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: each lane may have two records of the one key.
pub const EXACTLY_ONCE_FOUR_RECORDS: Scope = Scope {
    name: "exactly once: four records and a freeze",
    rows: &[ROW, ROW, ROW, ROW],
    window: 4,
    faults: Faults {
        freezes: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: three terms end badly.
pub const EXACTLY_ONCE_THREE_TERMS: Scope = Scope {
    name: "exactly once: two freezes and a kill",
    rows: &[ROW, ROW],
    faults: Faults {
        kills: 1,
        freezes: 2,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: the broker loses what it had acknowledged.
pub const EXACTLY_ONCE_BROKER_LOSS: Scope = Scope {
    name: "exactly once: a topic that is cut",
    rows: &[ROW, ROW, ROW],
    faults: Faults {
        cuts: 1,
        kills: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: two partitions, in either lane.
pub const EXACTLY_ONCE_TWO_PARTITIONS: Scope = Scope {
    name: "exactly once: two partitions",
    rows: &[ROW, OTHER, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: one record is refused, and its transaction with it.
pub const EXACTLY_ONCE_POISONED: Scope = Scope {
    name: "exactly once: a poison record",
    rows: &[ROW, POISON, ROW],
    faults: Faults {
        kills: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: the broker ends transactions, and answers to commits are not to be believed.
pub const EXACTLY_ONCE_ABORTS: Scope = Scope {
    name: "exactly once: aborts and failures",
    rows: &[ROW, ROW, ROW],
    faults: Faults {
        broker_aborts: 1,
        failures: 1,
        kills: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: checkpoints whose answers are lost, stops.
pub const EXACTLY_ONCE_STOPS: Scope = Scope {
    name: "exactly once: a stop, a lost answer, a freeze",
    rows: &[ROW, ROW, ROW],
    faults: Faults {
        stops: 1,
        lost_answers: 1,
        freezes: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: markers are skipped, and a leader or a start sleeps.
pub const EXACTLY_ONCE_SKIPPED_MARKERS: Scope = Scope {
    name: "exactly once: two skipped markers and a freeze",
    rows: &[ROW, ROW, ROW],
    faults: Faults {
        skipped_markers: 2,
        freezes: 1,
        ..NO_FAULTS
    },
    ..TRANSACTIONS
};
/// Exactly once: a transaction is decided in one partition, in the other it hangs.
pub const EXACTLY_ONCE_SKIPPED_IN_ONE_OF_TWO: Scope = Scope {
    name: "exactly once: skipped markers, two partitions",
    rows: &[ROW, OTHER, ROW],
    ..EXACTLY_ONCE_SKIPPED_MARKERS
};
/// Exactly once: markers are skipped, and the broker ends transactions, producers fail, a leader is killed.
pub const EXACTLY_ONCE_SKIPPED_ABORTS: Scope = Scope {
    name: "exactly once: skipped markers, aborts and failures",
    rows: &[ROW, ROW, OTHER],
    faults: Faults {
        skipped_markers: 2,
        ..EXACTLY_ONCE_ABORTS.faults
    },
    ..TRANSACTIONS
};
/// Exactly once: holes.
pub const EXACTLY_ONCE_HOLES: Scope = Scope {
    name: "exactly once: holes and a kill",
    rows: &[UNSURE, UNSURE, ROW],
    faults: Faults { kills: 1, ..NO_FAULTS },
    ..TRANSACTIONS
};

/// Every scope that CI explores.
pub const ALL: &[Scope] = &[
    KILL_AND_FREEZE,
    THREE_TERMS,
    TWO_PARTITIONS,
    NARROW_WINDOW,
    HOLES,
    HOLES_AND_A_KILL,
    HOLES_AND_A_FREEZE,
    PREPARED_OVER_A_RESTART,
    GRACEFUL_STOP,
    REPLAYS,
    POISONED,
    FAILURES,
    BROKER_LOSS,
    RETENTION,
    EXACTLY_ONCE,
    EXACTLY_ONCE_FOUR_RECORDS,
    EXACTLY_ONCE_THREE_TERMS,
    EXACTLY_ONCE_BROKER_LOSS,
    EXACTLY_ONCE_TWO_PARTITIONS,
    EXACTLY_ONCE_POISONED,
    EXACTLY_ONCE_ABORTS,
    EXACTLY_ONCE_STOPS,
    EXACTLY_ONCE_SKIPPED_MARKERS,
    EXACTLY_ONCE_SKIPPED_IN_ONE_OF_TWO,
    EXACTLY_ONCE_SKIPPED_ABORTS,
    EXACTLY_ONCE_HOLES,
];
