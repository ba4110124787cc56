//! PostgreSQL and Kafka, as far as the protocol sees them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Broken, Dice};
use crate::{
    outbox::{
        checkpoints::{Entry, Receipt},
        position::Ids,
        record::OutboxMessage,
        store::Drawers,
    },
    publish::{FailureClass, tail::Found},
};

/// Partitions, and keys.
const PARTITIONS: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    RolledBack,
}

struct Row {
    state: State,
    key: usize,
    event: i64,
    poison: bool,
    /// Of its key, answered before it was sent.
    before: Vec<i64>,
}

struct Transaction {
    ids: Vec<i64>,
    name: String,
}

/// What all checkpoints add up to.
#[derive(Default)]
pub(super) struct Log {
    pub seq: i64,
    pub fence: i64,
    /// The process, and which start of it.
    pub leader: Option<(usize, u32)>,
    pub lease_until: std::time::Duration,
    /// The term that it is of was given back.
    pub given_back: bool,
    pub passed: Ids,
    pub closed: Ids,
    pub next_offsets: Vec<i64>,
}

/// One insert into the checkpoint log.
#[derive(Clone)]
pub(super) struct Insert {
    pub after: i64,
    pub by: (usize, u32),
    pub entry: Entry,
    pub give_back: bool,
}

#[derive(Default)]
pub(super) struct Database {
    rows: Vec<Row>,
    open: Vec<Transaction>,
    named: u32,
    restarts: i64,
    pub log: Log,
    dead: BTreeSet<i64>,
}

impl Database {
    fn row(&self, id: i64) -> &Row {
        &self.rows[id as usize - 1]
    }

    /// A transaction begins, draws one id more, commits, rolls back or is prepared.
    pub fn accept(&mut self, dice: &mut Dice) -> String {
        match dice.roll(8) {
            0 | 1 => {
                self.named += 1;
                let name = format!("3/{}", self.named);
                self.open.push(Transaction { ids: vec![], name });
                self.draw(self.open.len() - 1, dice)
            }
            2 => {
                // Begun and committed by one statement.
                self.named += 1;
                let name = format!("3/{}", self.named);
                self.open.push(Transaction { ids: vec![], name });
                let last = self.open.len() - 1;
                let drew = self.draw(last, dice);
                format!("{drew}; {}", self.end(last, State::Committed))
            }
            3 => self.replay(dice),
            _ if self.open.is_empty() => "nobody is accepting".into(),
            n => {
                let which = dice.roll(self.open.len());
                match n {
                    4 if !self.open[which].name.starts_with('-') => self.draw(which, dice),
                    5 => self.end(which, State::RolledBack),
                    6 if dice.one_in(3) => {
                        self.named += 1;
                        self.open[which].name = format!("-1/{}", self.named);
                        format!("{:?} is prepared", self.open[which].ids)
                    }
                    _ => self.end(which, State::Committed),
                }
            }
        }
    }

    fn draw(&mut self, which: usize, dice: &mut Dice) -> String {
        let (key, id) = (dice.roll(PARTITIONS), self.rows.len() as i64 + 1);
        let answered = |(id, row): &(i64, &Row)| {
            row.state == State::Committed && row.key == key && !row.poison && row.event == *id
        };
        let before = (1..).zip(&self.rows).filter(answered).map(|(id, _)| id).collect();
        let (state, poison) = (State::Open, dice.one_in(12));
        self.rows.push(Row {
            state,
            key,
            event: id,
            poison,
            before,
        });
        self.open[which].ids.push(id);
        format!(
            "{} draws {id} of key {key}{}",
            self.open[which].name,
            if poison { ", poison" } else { "" }
        )
    }

    fn replay(&mut self, dice: &mut Dice) -> String {
        let settled: Vec<i64> = self.log.passed.iter().cloned().flatten().collect();
        let settled: Vec<i64> = settled
            .into_iter()
            .filter(|id| self.row(*id).state == State::Committed)
            .collect();
        if settled.is_empty() {
            return "nothing can be replayed".into();
        }
        let original = settled[dice.roll(settled.len())];
        let Row { key, event, poison, .. } = *self.row(original);
        self.rows.push(Row {
            state: State::Committed,
            key,
            event,
            poison,
            before: vec![],
        });
        format!("a replay of {original} is row {}", self.rows.len())
    }

    fn end(&mut self, which: usize, state: State) -> String {
        let Transaction { ids, .. } = self.open.remove(which);
        for id in &ids {
            self.rows[*id as usize - 1].state = state;
        }
        format!(
            "{ids:?} {}",
            if state == State::Committed {
                "committed"
            } else {
                "rolled back"
            }
        )
    }

    pub fn end_all(&mut self, dice: &mut Dice) {
        while !self.open.is_empty() {
            let state = if dice.one_in(3) {
                State::RolledBack
            } else {
                State::Committed
            };
            self.end(0, state);
        }
    }

    pub fn restart(&mut self) {
        self.restarts += 1;
        for which in (0..self.open.len()).rev() {
            if self.open[which].name.starts_with('-') {
                self.named += 1;
                self.open[which].name = format!("-1/{}", self.named);
            } else {
                self.end(which, State::RolledBack);
            }
        }
    }

    pub fn newest_visible(&self) -> i64 {
        (1..)
            .zip(&self.rows)
            .filter(|(_, row)| row.state == State::Committed)
            .map(|(id, _)| id)
            .last()
            .unwrap_or(0)
    }

    /// `store::read_messages`: rows above, and under holes, at one snapshot.
    pub fn read(&self, above: i64, rows: usize, holes: &BTreeSet<i64>) -> Vec<OutboxMessage> {
        let visible = |id: &i64| self.row(*id).state == State::Committed;
        let wanted = holes.iter().copied().filter(visible);
        wanted
            .chain((above + 1..=self.rows.len() as i64).filter(visible).take(rows))
            .map(|id| self.message(id))
            .collect()
    }

    fn message(&self, id: i64) -> OutboxMessage {
        OutboxMessage {
            id,
            event_id: Uuid::from_u128(self.row(id).event as u128),
            job_id: Uuid::nil(),
            key: Uuid::nil(),
            event_time: DateTime::UNIX_EPOCH,
            created_at: DateTime::UNIX_EPOCH,
            replay_id: None,
            traceparent: None,
            payload: Vec::new(),
        }
    }

    /// `store::read_event_ids`.
    pub fn event_ids(&self, found: &[Found]) -> HashMap<i64, Uuid> {
        let known = 1..=self.rows.len() as i64;
        let ids = found.iter().map(|f| f.outbox_id).filter(|id| known.contains(id));
        let ids = ids.filter(|id| self.row(*id).state == State::Committed);
        ids.map(|id| (id, Uuid::from_u128(self.row(id).event as u128)))
            .collect()
    }

    /// `store::read_drawers`.
    pub fn drawers(&self) -> Drawers {
        let transactions: HashSet<String> = self.open.iter().map(|t| t.name.clone()).collect();
        let server_started: DateTime<Utc> = DateTime::UNIX_EPOCH + TimeDelta::seconds(self.restarts);
        Drawers {
            server_started,
            transactions,
        }
    }

    /// `checkpoints::append`: only where its predecessor is the newest. And what must hold of every row of the log.
    pub fn insert(&mut self, insert: Insert, topic: &Topic, lease_until: std::time::Duration) -> Result<bool, Broken> {
        if self.log.seq != insert.after {
            return Ok(false);
        }
        if self.log.leader != Some(insert.by) {
            return Err(format!("{:?} was taken over, and writes a checkpoint", insert.by));
        }
        self.dead.extend(insert.entry.dead.iter().map(|letter| letter.id));
        for id in insert.entry.changes.settled.iter().cloned().flatten() {
            if !topic.has(id) && !self.dead.contains(&id) {
                return Err(format!("{id} is settled, and neither in the topic nor dead"));
            }
        }
        for id in insert.entry.changes.closed.iter().cloned().flatten() {
            if self.row(id).state != State::RolledBack {
                return Err(format!("{id} is closed, and its transaction did not roll back"));
            }
        }
        if let Some(wrong) = insert.entry.receipts.iter().find(|r| !topic.is_at(r)) {
            return Err(format!("{wrong:?} is a receipt of something else"));
        }
        if let Some(letter) = insert.entry.dead.iter().find(|letter| !self.row(letter.id).poison) {
            return Err(format!("{} is dead, and nothing is wrong with it", letter.id));
        }
        let log = &mut self.log;
        log.seq += 1;
        log.given_back = insert.give_back;
        log.lease_until = if insert.give_back {
            std::time::Duration::ZERO
        } else {
            lease_until
        };
        log.passed.extend(insert.entry.changes.settled);
        for closed in insert.entry.changes.closed {
            log.passed.insert(closed.clone());
            log.closed.insert(closed);
        }
        log.next_offsets = insert.entry.next_offsets;
        Ok(true)
    }
}

/// A slot, and partition and offset or why not.
type Report = (usize, Result<(i32, i64), FailureClass>);

/// What a producer has on the way.
#[derive(Default)]
struct Wire {
    to: [VecDeque<(usize, i64)>; PARTITIONS],
    reports: VecDeque<Report>,
    /// Its process waits for reports.
    alive: bool,
}

#[derive(Default)]
pub(super) struct Topic {
    log: [Vec<(i64, i64)>; PARTITIONS],
    appeared: BTreeSet<i64>,
    pub repeats: usize,
    /// Of batches that were refused: later ones may overtake these.
    refused: BTreeSet<i64>,
    wires: Vec<Wire>,
}

impl Topic {
    pub fn records(&self) -> u64 {
        self.log.iter().map(|log| log.len() as u64).sum()
    }

    fn has(&self, id: i64) -> bool {
        self.appeared.contains(&id)
    }

    fn is_at(&self, receipt: &Receipt) -> bool {
        let log = &self.log[receipt.partition as usize];
        log.get(receipt.offset as usize)
            .is_some_and(|(id, _)| *id == receipt.id)
    }

    /// Somebody else's record: it carries an id that we have too, and another event.
    pub fn append_foreign(&mut self, dice: &mut Dice, newest: i64) -> String {
        let (id, p) = (newest + 1 - dice.roll(3) as i64, dice.roll(PARTITIONS));
        self.log[p].push((id, -1));
        format!("somebody appends a record with the id {id} to {p}")
    }

    pub fn new_producer(&mut self) -> usize {
        self.wires.push(Wire {
            alive: true,
            ..Wire::default()
        });
        self.wires.len() - 1
    }

    pub fn abandon(&mut self, producer: usize) {
        self.wires[producer].alive = false;
    }

    pub fn hand_over(&mut self, producer: usize, slot: usize, id: i64, database: &Database) {
        self.wires[producer].to[database.row(id).key].push_back((slot, id));
    }

    pub fn take_report(&mut self, producer: usize) -> Option<Report> {
        self.wires[producer].reports.pop_front()
    }

    /// A batch arrives, late perhaps; or is refused whole; or, its producer dead, is lost.
    pub fn event(&mut self, dice: &mut Dice, database: &Database) -> Result<String, Broken> {
        let busy: Vec<(usize, usize)> = (0..self.wires.len())
            .flat_map(|w| (0..PARTITIONS).map(move |p| (w, p)))
            .filter(|(w, p)| !self.wires[*w].to[*p].is_empty())
            .collect();
        if busy.is_empty() {
            return Ok("the broker has nothing to do".into());
        }
        let (w, p) = busy[dice.roll(busy.len())];
        let wire = &mut self.wires[w];
        if !wire.alive && dice.one_in(4) {
            wire.to[p].clear();
            return Ok(format!("what producer {w} had on the way to {p} is lost"));
        }
        let n = 1 + dice.roll(wire.to[p].len().min(3));
        let batch: Vec<_> = wire.to[p].drain(..n).collect();
        if batch.iter().any(|(_, id)| database.row(*id).poison) {
            for (slot, id) in &batch {
                self.refused.insert(*id);
                wire.reports
                    .push_back((*slot, Err(FailureClass::Record("invalid-record"))));
            }
            return Ok(format!("producer {w}'s {:?} are refused", ids(&batch)));
        }
        for (slot, id) in &batch {
            let offset = self.log[p].len() as i64;
            self.log[p].push((*id, database.row(*id).event));
            self.wires[w].reports.push_back((*slot, Ok((p as i32, offset))));
            if !self.appeared.insert(*id) {
                self.repeats += 1;
            } else if let Some(missing) = database
                .row(*id)
                .before
                .iter()
                .find(|b| !self.appeared.contains(b) && !self.refused.contains(b))
            {
                return Err(format!(
                    "{id} appears before {missing}, which was answered before it was sent"
                ));
            }
        }
        Ok(format!("producer {w}'s {:?} are appended to {p}", ids(&batch)))
    }

    /// `tail::read_tail`.
    pub fn tail(&self, next_offsets: &[i64]) -> (Vec<Found>, Vec<i64>) {
        let mut found = Vec::new();
        for (p, log) in self.log.iter().enumerate() {
            let begin = next_offsets.get(p).map_or(0, |o| (*o).max(0) as usize);
            for (offset, (id, event)) in log.iter().enumerate().skip(begin) {
                let event_id = Uuid::from_u128(*event as u128);
                found.push(Found {
                    outbox_id: *id,
                    event_id,
                    partition: p as i32,
                    offset: offset as i64,
                });
            }
        }
        (found, self.log.iter().map(|log| log.len() as i64).collect())
    }
}

fn ids(batch: &[(usize, i64)]) -> Vec<i64> {
    batch.iter().map(|(_, id)| *id).collect()
}
