//! What is modelled: the database, the topic, two relays, and what is on the way between them.

use crate::sets::{Queue, Set};

/// Rows at most.
pub const ROWS: usize = 4;
/// Partitions of the topic; a key lives in one.
pub const PARTITIONS: usize = 2;
/// Relays.
pub const RELAYS: usize = 2;
/// Producers of a term, used in turns. Without transactions, the first alone.
pub const LANES: usize = 2;
/// Requests of dead producers that may still arrive, at most: one for each producer of each term that ended badly.
pub const GHOSTS: usize = 4;
/// Nobody of this start of a process.
pub const NOBODY: u8 = 9;

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// PostgreSQL.
    pub db: Database,
    /// Kafka.
    pub topic: Topic,
    /// The two replicas.
    pub relays: [Relay; RELAYS],
    /// Requests of producers that are no more, in the order of their sessions.
    pub ghosts: [Wire; GHOSTS],
    /// Faults that may still happen.
    pub left: Faults,
    /// Faults that may cost repeats and did happen.
    pub faults: u8,
    /// The first rule that a step broke.
    pub broken: Option<&'static str>,
}

/// A row of the outbox, known by its id: rows draw their ids in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Row {
    /// Its transaction has not begun.
    #[default]
    Undrawn,
    /// It has its id, and nobody sees it.
    Open,
    /// Prepared: it belongs to no session, and outlives a restart.
    Prepared,
    /// The same, after a restart that renamed it.
    PreparedRenamed,
    /// Visible.
    Committed,
    /// Its id belongs to nobody.
    RolledBack,
    /// Dropped with its partition.
    Dropped,
}

/// PostgreSQL: the rows, and what the checkpoints add up to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Database {
    /// By id.
    pub rows: [Row; ROWS],
    /// For each row, those of its key that were answered before it was sent.
    pub before: [Set; ROWS],
    /// Published or dead, say the checkpoints.
    pub settled: Set,
    /// Closed as holes, say the checkpoints.
    pub closed: Set,
    /// Has a receipt.
    pub receipts: Set,
    /// Has a dead letter.
    pub dead: Set,
    /// Where the next tail read begins.
    pub next: [u8; PARTITIONS],
    /// Who wrote the newest checkpoint.
    pub holder: u8,
    /// By PostgreSQL's clock, the holder's lease has not ended.
    pub lease: bool,
}

/// Kafka: what a consumer can see, and what a next leader's tail read may have to look at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Topic {
    /// Records behind the first offset that anybody may still read from.
    pub log: [Queue<8>; PARTITIONS],
    /// Visible, once or more.
    pub appeared: Set,
    /// Appearances beyond the first.
    pub repeats: u8,
    /// Was visible, and the broker has lost it.
    pub lost: Set,
    /// A batch was refused and a later one landed: the one fault that may break an order.
    pub overtaken: bool,
}

/// A record in the log: the row's id, its session, its transaction's fate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The row's id.
    pub id: u8,
    /// The session that appended it.
    pub session: u8,
    /// What a reader of committed records makes of it.
    pub fate: Fate,
}

/// Of a record's transaction. Without transactions, committed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Visible.
    Committed,
    /// Not decided.
    Open,
    /// Never visible.
    Aborted,
    /// Not decided, and the coordinator has done with it: here its marker was skipped.
    Hanging,
}

impl Fate {
    /// Readers of committed records stop in front of it.
    pub fn is_undecided(self) -> bool {
        matches!(self, Self::Open | Self::Hanging)
    }
}

impl Record {
    /// As one byte.
    pub fn pack(self) -> u8 {
        self.id | self.session << 2 | (self.fate as u8) << 6
    }
    /// From one byte.
    pub fn unpack(byte: u8) -> Self {
        Self {
            id: byte & 3,
            session: byte >> 2 & 15,
            fate: match byte >> 6 {
                0 => Fate::Committed,
                1 => Fate::Open,
                2 => Fate::Aborted,
                _ => Fate::Hanging,
            },
        }
    }
}

/// What one producer has on the way to the broker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wire {
    /// Numbers a producer with transactions; its last bit is the lane. Zero without.
    pub session: u8,
    /// Fenced: the broker takes nothing of it any more.
    pub fenced: bool,
    /// For each partition, ids in order.
    pub to: [Queue<4>; PARTITIONS],
    /// A request to commit follows.
    pub end_txn: bool,
}

impl Wire {
    /// No record is on the way.
    pub fn has_no_record(&self) -> bool {
        self.to.iter().all(Queue::is_empty)
    }

    /// Nothing is on the way.
    pub fn is_empty(&self) -> bool {
        self.has_no_record() && !self.end_txn
    }
}

/// The transactional id that a session is under.
pub fn lane(session: u8) -> u8 {
    session & 1
}

/// Where a relay is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Phase {
    /// Waits for the lease; knows nothing.
    #[default]
    StandingBy,
    /// Has inserted its row and read the position.
    TookOver,
    /// Has ended the transactions of whoever led before, under both ids.
    Fenced,
    /// And has prolonged its lease since, before it ends what hangs.
    Confirmed,
    /// Has read the topic's tail.
    ReadTail,
    /// Reads, hands over, settles, records.
    Leading,
    /// Stops gracefully: reads nothing any more.
    Draining,
}

/// The watch over the holes, as `src/relay/holes.rs` keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Watch {
    /// Nothing is remembered.
    #[default]
    Idle,
    /// Waits until none of the transactions is left, named by bits: rows, then prepared, then renamed ones.
    Waiting(Set, u16),
    /// The next read decides.
    Deciding(Set),
}

/// A commit that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Commit {
    /// None is.
    #[default]
    No,
    /// It has not been answered.
    Asked,
    /// The answer is on its way.
    Done,
    /// The broker had ended the transaction otherwise, and the answer is on its way.
    Failed,
}

/// One of a leader's producers, and its transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lane {
    /// What is on the way to the broker.
    pub wire: Wire,
    /// Reported, and the transaction is not known to be committed.
    pub delivered: [Queue<4>; PARTITIONS],
    /// Of the transaction: asked for, it is sealed.
    pub commit: Commit,
}

/// One replica's relay: its memory of one term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Relay {
    /// Where it is.
    pub phase: Phase,
    /// Read, settled or closed: needs no reading.
    pub seen: Set,
    /// Settled or closed.
    pub passed: Set,
    /// Settled since the last checkpoint.
    pub settling: Set,
    /// Acknowledged since the last checkpoint.
    pub receipts: Set,
    /// Closed since the last checkpoint.
    pub closing: Set,
    /// Refused for good since the last checkpoint.
    pub dying: Set,
    /// Handed over and in no checkpoint.
    pub unrecorded: Set,
    /// Above the newest id that was read.
    pub read_to: u8,
    /// Read and not handed over.
    pub ready: Queue<4>,
    /// The watch over the holes.
    pub watch: Watch,
    /// Holes of a first statement, when rows and holes are read in two.
    pub half_read: Option<Set>,
    /// Where a next tail read may begin.
    pub next: [u8; PARTITIONS],
    /// Its producers.
    pub lanes: [Lane; LANES],
    /// The lane that records enter.
    pub open: u8,
    /// Appended, and the report has not come: ids and the offsets behind.
    pub reports: [Queue<4>; PARTITIONS],
    /// Of what is on the way, handed over with nothing beside it.
    pub alone: Set,
    /// Below it, records are handed over one at a time. Outlives a term.
    pub one_at_a_time_to: u8,
}

/// An id and the offset behind its record in one byte.
pub fn placed(id: u8, behind: u8) -> u8 {
    id | behind << 3
}

/// The id and the offset behind the record of a report.
pub fn place(report: u8) -> (u8, u8) {
    (report & 7, report >> 3)
}

/// How many faults of each kind may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Faults {
    /// A process is killed.
    pub kills: u8,
    /// A leader sleeps past its lease.
    pub freezes: u8,
    /// A producer fails; a new one is built.
    pub failures: u8,
    /// A checkpoint is written and its answer lost.
    pub lost_answers: u8,
    /// PostgreSQL is restarted.
    pub restarts: u8,
    /// A graceful stop.
    pub stops: u8,
    /// The broker loses the newest record of a partition.
    pub cuts: u8,
    /// The broker ends a transaction by itself, or an answer to a commit is not to be believed.
    pub broker_aborts: u8,
    /// A transaction is committed or aborted, and the markers of partitions without a leader are skipped.
    pub skipped_markers: u8,
    /// Retention runs.
    pub retentions: u8,
}
