//! The protocol as a whole.
//!
//! What is left out, and why that hides nothing: a record that is appended and above the high watermark is one that is
//! still on the way, for nobody can see it; a process that is slow is one that is not scheduled; the leader's own
//! clock is given no credit, so a leader that slept past its lease hands over until something tells it.

mod accepting;
mod broker;
mod faults;
mod leading;
mod rules;
pub mod scenarios;
mod starting;
pub mod state;
pub mod wrong;

use std::fmt;

use self::{
    scenarios::Scope,
    state::{Fate, GHOSTS, LANES, NOBODY, PARTITIONS, Phase, RELAYS, ROWS, Record, Row, State, Wire, lane},
    wrong::Wrong,
};
use crate::{checker::Model, sets::Set};

/// The model of one scope, right or wrong in one way.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// What there is, and what may happen to it.
    pub scope: Scope,
    /// What is done wrong.
    pub wrong: Option<Wrong>,
}

/// One step. Rows, relays, partitions and lanes are numbered from zero; producers by relay and lane, then the ghosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "its text, in Display, says what each is")]
pub enum Action {
    Draw(u8),
    Commit(u8),
    RollBack(u8),
    Prepare(u8),
    Replay(u8),
    LookAhead(u8),
    TakeOver(u8),
    Fence(u8, u8, Set),
    Confirm(u8),
    EndHanging(u8, u8, u8),
    ReadTail(u8),
    Begin(u8),
    Read(u8),
    ReadHoles(u8),
    Look(u8),
    HandOver(u8),
    Report(u8, u8),
    AskCommit(u8, u8),
    HearCommit(u8, u8),
    Checkpoint(u8),
    WriteDead(u8),
    Renew(u8),
    GiveBack(u8),
    Append(u8, u8),
    Refuse(u8, u8, u8),
    EndTransaction(u8, Set),
    TimeOut(u8, Set),
    Kill(u8),
    Freeze(u8),
    Fail(u8),
    LoseAnswer(u8),
    Restart,
    Stop(u8),
    Cut(u8),
    AbortByBroker(u8, u8, Set),
    Retain(u8),
}

impl Model for Outbox {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let mut state = State {
            db: state::Database::default(),
            topic: state::Topic::default(),
            relays: Default::default(),
            ghosts: Default::default(),
            left: self.scope.faults,
            faults: 0,
            broken: None,
        };
        state.db.holder = NOBODY;
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
        let skipped = || {
            let may_be = Set::below(PARTITIONS as u8);
            (0..=may_be.0)
                .map(Set)
                .take_while(|skipped| skipped.is_empty() || state.left.skipped_markers > 0)
        };
        for row in 0..self.scope.rows.len() as u8 {
            let possible: &[fn(u8) -> A] = match state.db.rows[row as usize] {
                Row::Undrawn => &[A::Draw, A::Replay],
                Row::Open => &[A::Commit, A::RollBack, A::Prepare],
                Row::Prepared | Row::PreparedRenamed => &[A::Commit, A::RollBack],
                Row::Committed | Row::RolledBack | Row::Dropped => &[],
            };
            for action in possible {
                attempt(action(row));
            }
        }
        for relay in 0..self.scope.relays {
            let possible: &[fn(u8) -> A] = match state.relays[relay as usize].phase {
                Phase::StandingBy => &[A::TakeOver, A::Freeze, A::LookAhead],
                Phase::TookOver | Phase::Fenced | Phase::Confirmed => &[A::ReadTail, A::Kill, A::Freeze, A::Confirm],
                Phase::ReadTail => &[A::Begin, A::Kill, A::Freeze],
                Phase::Leading | Phase::Draining => &[
                    A::Read,
                    A::HandOver,
                    A::Checkpoint,
                    A::Look,
                    A::Renew,
                    A::GiveBack,
                    A::Kill,
                    A::Freeze,
                    A::Fail,
                    A::LoseAnswer,
                    A::Stop,
                    A::ReadHoles,
                    A::WriteDead,
                ],
            };
            for action in possible {
                attempt(action(relay));
            }
            if self.scope.transactions {
                for lane in 0..LANES as u8 {
                    match state.relays[relay as usize].phase {
                        Phase::StandingBy => {}
                        Phase::TookOver | Phase::ReadTail => {
                            skipped().for_each(|skipped| attempt(A::Fence(relay, lane, skipped)));
                        }
                        Phase::Fenced | Phase::Confirmed => {
                            (0..PARTITIONS as u8).for_each(|p| attempt(A::EndHanging(relay, lane, p)));
                        }
                        Phase::Leading | Phase::Draining => {
                            attempt(A::AskCommit(relay, lane));
                            attempt(A::HearCommit(relay, lane));
                            skipped().for_each(|skipped| attempt(A::AbortByBroker(relay, lane, skipped)));
                        }
                    }
                }
            }
            for partition in 0..PARTITIONS as u8 {
                attempt(A::Report(relay, partition));
            }
        }
        for producer in 0..(RELAYS * LANES + GHOSTS) as u8 {
            if wire(state, producer).is_empty() {
                continue;
            }
            skipped().for_each(|skipped| attempt(A::EndTransaction(producer, skipped)));
            for partition in 0..PARTITIONS as u8 {
                attempt(A::Append(producer, partition));
                for records in 1..=wire(state, producer).to[partition as usize].len() {
                    attempt(A::Refuse(producer, partition, records));
                }
            }
        }
        if self.scope.transactions {
            for lane in 0..LANES as u8 {
                skipped().for_each(|skipped| attempt(A::TimeOut(lane, skipped)));
            }
        }
        attempt(A::Restart);
        for n in 0..PARTITIONS as u8 {
            attempt(A::Cut(n));
            attempt(A::Retain(n));
        }
    }

    fn is_due(&self, action: &Action) -> bool {
        use Action as A;
        match action {
            A::Append(producer, _) | A::Refuse(producer, _, _) | A::EndTransaction(producer, Set::EMPTY) => {
                (*producer as usize) < RELAYS * LANES
            }
            // New work, wrong variants, faults.
            A::Draw(_)
            | A::Prepare(_)
            | A::Replay(_)
            | A::LookAhead(_)
            | A::Kill(_)
            | A::Freeze(_)
            | A::Fail(_)
            | A::LoseAnswer(_)
            | A::Restart
            | A::Stop(_)
            | A::Cut(_)
            | A::AbortByBroker(..)
            | A::EndTransaction(..)
            | A::Retain(_) => false,
            A::Fence(_, _, skipped) | A::TimeOut(_, skipped) => skipped.is_empty(),
            _ => true,
        }
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        rules::broken(self, state)
    }

    fn broken_at_rest(&self, state: &State) -> Option<&'static str> {
        rules::broken_at_rest(self, state)
    }

    fn canonical(&self, state: &State) -> State {
        let mut state = state.clone();
        self.forget_what_nobody_reads(&mut state);
        state.ghosts.sort_unstable();
        // In a trace, names stay.
        if self.wrong.is_none() && self.scope.relays == 2 && state.relays[1] < state.relays[0] {
            state.relays.swap(0, 1);
            if state.db.holder != NOBODY {
                state.db.holder = 1 - state.db.holder;
            }
        }
        if self.scope.transactions {
            number_sessions_anew(&mut state);
        }
        state
    }
}

impl Outbox {
    fn take(&self, s: &mut State, action: Action) -> Option<()> {
        use Action as A;
        match action {
            A::Draw(row) => self.draw(s, row),
            A::Commit(row) => self.commit(s, row),
            A::RollBack(row) => self.roll_back(s, row),
            A::Prepare(row) => self.prepare(s, row),
            A::Replay(row) => self.replay(s, row),
            A::LookAhead(relay) => self.look_ahead(s, relay),
            A::TakeOver(relay) => self.take_over(s, relay),
            A::Fence(relay, lane, skipped) => self.fence(s, relay, lane, skipped),
            A::Confirm(relay) => self.confirm(s, relay),
            A::EndHanging(relay, lane, partition) => self.end_hanging(s, relay, lane, partition),
            A::ReadTail(relay) => self.read_tail(s, relay),
            A::Begin(relay) => self.begin(s, relay),
            A::Read(relay) => self.read(s, relay),
            A::ReadHoles(relay) => self.read_holes(s, relay),
            A::Look(relay) => self.look(s, relay),
            A::HandOver(relay) => self.hand_over(s, relay),
            A::Report(relay, partition) => self.report(s, relay, partition),
            A::AskCommit(relay, lane) => self.ask_commit(s, relay, lane),
            A::HearCommit(relay, lane) => self.hear_commit(s, relay, lane),
            A::Checkpoint(relay) => self.checkpoint(s, relay),
            A::WriteDead(relay) => self.write_dead(s, relay),
            A::Renew(relay) => self.renew(s, relay),
            A::GiveBack(relay) => self.give_back(s, relay),
            A::Append(producer, partition) => self.append(s, producer, partition),
            A::Refuse(producer, partition, records) => self.refuse(s, producer, partition, records),
            A::EndTransaction(producer, skipped) => self.end_transaction(s, producer, skipped),
            A::TimeOut(lane, skipped) => self.time_out(s, lane, skipped),
            A::Kill(relay) => self.kill(s, relay),
            A::Freeze(relay) => self.freeze(s, relay),
            A::Fail(relay) => self.fail(s, relay),
            A::LoseAnswer(relay) => self.lose_answer(s, relay),
            A::Restart => self.restart(s),
            A::Stop(relay) => self.stop(s, relay),
            A::Cut(partition) => self.cut(s, partition),
            A::AbortByBroker(relay, lane, skipped) => self.abort_by_broker(s, relay, lane, skipped),
            A::Retain(half) => self.retain(s, half),
        }
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// Offsets count from the first that anybody may still read from. Where the broker may lose records, a tail
    /// read can begin anywhere.
    fn forget_what_nobody_reads(&self, s: &mut State) {
        if self.scope.faults.cuts > 0 {
            return;
        }
        for (p, stable) in broker::stable(s).into_iter().enumerate() {
            let holder = s
                .relays
                .get(s.db.holder as usize)
                .filter(|r| r.phase != Phase::StandingBy);
            let kept = [Some(s.db.next[p]), holder.map(|r| r.next[p])];
            let unread = kept.into_iter().flatten().fold(stable, u8::min);
            if unread == 0 {
                continue;
            }
            s.topic.log[p].cut_front(unread);
            s.db.next[p] -= unread;
            for relay in &mut s.relays {
                relay.next[p] = relay.next[p].saturating_sub(unread);
                let delivered = relay.lanes.iter_mut().flat_map(|lane| lane.delivered[p].iter_mut());
                for report in relay.reports[p].iter_mut().chain(delivered) {
                    let (id, behind) = state::place(*report);
                    *report = state::placed(id, behind.saturating_sub(unread));
                }
            }
        }
    }
}

/// The wire of a relay's producer or of a ghost.
fn wire(s: &State, producer: u8) -> &Wire {
    let n = producer as usize;
    match s.relays.get(n / LANES) {
        Some(relay) => &relay.lanes[n % LANES].wire,
        None => &s.ghosts[n - RELAYS * LANES],
    }
}

fn wire_mut(s: &mut State, producer: u8) -> &mut Wire {
    let n = producer as usize;
    match s.relays.get_mut(n / LANES) {
        Some(relay) => &mut relay.lanes[n % LANES].wire,
        None => &mut s.ghosts[n - RELAYS * LANES],
    }
}

/// In the order in which they are met, each lane's for itself; a session that is decided needs no number.
fn number_sessions_anew(s: &mut State) {
    let mut met = [vec![0], vec![1]];
    let mut number = |session: &mut u8| {
        let of = lane(*session);
        let met = &mut met[of as usize];
        let n = met.iter().position(|m| m == session).unwrap_or_else(|| {
            met.push(*session);
            met.len() - 1
        }) as u8;
        *session = n << 1 | of;
    };
    for producer in s.relays.iter_mut().flat_map(|relay| &mut relay.lanes) {
        number(&mut producer.wire.session);
    }
    for ghost in &mut s.ghosts {
        number(&mut ghost.session);
    }
    for log in &mut s.topic.log {
        for byte in log.iter_mut() {
            let mut record = Record::unpack(*byte);
            match record.fate {
                Fate::Open => number(&mut record.session),
                // Its id alone counts: any session's marker decides it.
                Fate::Hanging => record.session = lane(record.session),
                Fate::Committed | Fate::Aborted => record.session = 0,
            }
            *byte = record.pack();
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Action as A;
        let name = |relay: u8| ["A", "B"][relay as usize];
        let producer = |n: u8| {
            let names = [
                "A's producer",
                "A's second producer",
                "B's producer",
                "B's second producer",
            ];
            names.get(n as usize).copied().unwrap_or("a dead producer")
        };
        let of = |relay: u8, lane: u8| producer(relay * LANES as u8 + lane);
        let own = |lane: u8| ["its producer", "its second producer"][lane as usize];
        let id = |lane: u8| ["the first id", "the second id"][lane as usize];
        let skipping = |partitions: Set| match partitions.iter().next() {
            None => String::new(),
            Some(p) if partitions.len() == 1 => format!(", and skips the marker in partition {p}"),
            Some(_) => ", and skips the markers in both partitions".to_owned(),
        };
        match *self {
            A::Draw(row) => write!(f, "a request draws id {}", row + 1),
            A::Commit(row) => write!(f, "row {} is committed", row + 1),
            A::RollBack(row) => write!(f, "row {} is rolled back", row + 1),
            A::Prepare(row) => write!(f, "row {}'s transaction is prepared", row + 1),
            A::Replay(row) => write!(f, "a replay writes row {}", row + 1),
            A::LookAhead(r) => write!(f, "{} looks before it takes over", name(r)),
            A::TakeOver(r) => write!(f, "{} takes over and reads the position", name(r)),
            A::Fence(r, l, but) => {
                write!(
                    f,
                    "{} ends what is open under {} and fences{}",
                    name(r),
                    id(l),
                    skipping(but)
                )
            }
            A::Confirm(r) => write!(f, "{} finds that something hangs and prolongs its lease", name(r)),
            A::EndHanging(r, l, p) => write!(f, "{} ends what hangs in partition {p} under {}", name(r), id(l)),
            A::ReadTail(r) => write!(f, "{} reads the tail", name(r)),
            A::Begin(r) => write!(f, "{} writes the first checkpoint of its term", name(r)),
            A::Read(r) => write!(f, "{} reads rows", name(r)),
            A::ReadHoles(r) => write!(f, "{} reads the rows under holes", name(r)),
            A::Look(r) => write!(f, "{} looks at who may fill the holes", name(r)),
            A::HandOver(r) => write!(f, "{} hands a record over", name(r)),
            A::Report(r, p) => write!(f, "{} hears of a record in partition {p}", name(r)),
            A::AskCommit(r, l) => write!(f, "{} asks {} to commit", name(r), own(l)),
            A::HearCommit(r, l) => write!(f, "{} hears of the commit of {}", name(r), own(l)),
            A::Checkpoint(r) => write!(f, "{} writes a checkpoint", name(r)),
            A::WriteDead(r) => write!(f, "{} writes the dead letter", name(r)),
            A::Renew(r) => write!(f, "{} prolongs its lease", name(r)),
            A::GiveBack(r) => write!(f, "{} gives the lease back", name(r)),
            A::Append(w, p) => write!(f, "the broker appends to partition {p} from {}", producer(w)),
            A::Refuse(w, p, n) => write!(f, "the broker refuses {n} in partition {p} of {}", producer(w)),
            A::EndTransaction(w, but) => {
                write!(
                    f,
                    "the broker hears {} ask for the commit{}",
                    producer(w),
                    skipping(but)
                )
            }
            A::TimeOut(l, but) => {
                write!(
                    f,
                    "the broker aborts what the dead have left under {}{}",
                    id(l),
                    skipping(but)
                )
            }
            A::Kill(r) => write!(f, "{} is killed", name(r)),
            A::Freeze(r) => write!(f, "{} sleeps past its lease", name(r)),
            A::Fail(r) => write!(f, "{}'s producer fails", name(r)),
            A::LoseAnswer(r) => write!(f, "{} writes a checkpoint and does not hear of it", name(r)),
            A::Restart => write!(f, "PostgreSQL restarts"),
            A::Stop(r) => write!(f, "{} is asked to stop", name(r)),
            A::Cut(p) => write!(f, "the broker loses the end of partition {p}"),
            A::AbortByBroker(r, l, but) => {
                write!(f, "the broker aborts the transaction of {}{}", of(r, l), skipping(but))
            }
            A::Retain(h) => write!(f, "retention looks at ids {} and {}", h * 2 + 1, h * 2 + 2),
        }
    }
}

/// A scope has room for so many rows.
const _: () = assert!(ROWS <= 4, "ids, names and queues are sized for four");
/// A session's last bit is its lane.
const _: () = assert!(LANES == 2, "one bit tells two lanes");
