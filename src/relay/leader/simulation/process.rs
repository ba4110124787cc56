//! A replica's relay: the leader's glue around the program's own decisions. Longer than other files, because it is one
//! loop, and is read beside `leader/mod.rs`.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{Broken, LEASE, WINDOW, World, servers::Insert};
use crate::{
    outbox::{
        checkpoints::{DeadLetter, Entry, Receipt},
        position::{Position, Read},
        record::OutboxMessage,
        store::Drawers,
    },
    relay::{
        breaker::Breaker,
        holes::{HoleWatch, Next},
        leader::{ledger::Ledger, reading::close_holes, reports::own_fault},
        start::settle_matching,
    },
};

/// Rows of one read.
const READ_ROWS: usize = 5;

/// One replica.
pub(super) struct Process {
    /// Which start of it.
    start: u32,
    /// It does nothing until then.
    frozen_until: Duration,
    /// How far its clock is behind: clocks may stand still while a machine sleeps.
    behind: Duration,
    breaker: Breaker,
    one_at_a_time_to: i64,
    term: Option<Term>,
}

/// A statement on its way to the database, or its answer on the way back.
enum Asked {
    Read {
        above: i64,
        rows: usize,
        asked: BTreeSet<i64>,
        answer: Option<Vec<OutboxMessage>>,
    },
    Look {
        answer: Option<Drawers>,
    },
}

struct Writing {
    insert: Insert,
    receipts: usize,
    sent_at: Instant,
    answer: Option<bool>,
}

struct Term {
    seq: i64,
    lease_ends: Instant,
    ledger: Ledger,
    /// None while it starts.
    producer: Option<usize>,
    ready: VecDeque<OutboxMessage>,
    watch: HoleWatch,
    looked: bool,
    asked: Option<Asked>,
    writing: Option<Writing>,
    stopping: bool,
    /// So many events more; then what has no report is given up.
    ending: Option<usize>,
}

impl Process {
    pub fn new() -> Self {
        Self {
            start: 0,
            frozen_until: Duration::ZERO,
            behind: Duration::ZERO,
            breaker: Breaker::default(),
            one_at_a_time_to: 0,
            term: None,
        }
    }
}

impl World {
    fn instant(&self, n: usize) -> Instant {
        self.began + self.now.saturating_sub(self.processes[n].behind)
    }

    /// Kill, freeze, failed producer, restart of the database.
    pub fn fault(&mut self, n: usize) {
        match self.dice.roll(7) {
            0 | 1 => {
                self.note(|| format!("{n} is killed"));
                self.end_term(n);
                let start = self.processes[n].start + 1;
                self.processes[n] = Process {
                    start,
                    behind: self.processes[n].behind,
                    ..Process::new()
                };
            }
            2 | 3 => {
                let sleep = LEASE * 2;
                self.note(|| format!("{n} is frozen"));
                self.processes[n].frozen_until = self.now + sleep;
                if self.dice.one_in(3) {
                    self.processes[n].behind += sleep;
                }
            }
            4 | 5 => {
                let more = self.dice.roll(8);
                if let Some(term) = &mut self.processes[n].term {
                    term.ending = Some(more);
                    term.ledger.offsets_frozen = true;
                    term.ready.clear();
                    self.note(|| format!("{n}'s producer fails"));
                }
            }
            _ => {
                self.note(|| "the database restarts".into());
                self.database.restart();
                (0..self.processes.len()).for_each(|n| self.end_term(n));
            }
        }
    }

    pub fn stop(&mut self, n: usize) {
        if let Some(term) = self.processes[n].term.as_mut().filter(|t| t.producer.is_some()) {
            term.stopping = true;
            term.ready.clear();
            self.note(|| format!("{n} is asked to stop"));
        }
    }

    /// A statement on its way may still be run, and nobody waits for it; or it never arrives.
    fn end_term(&mut self, n: usize) {
        let Some(term) = self.processes[n].term.take() else {
            return;
        };
        if let Some(producer) = term.producer {
            self.topic.abandon(producer);
        }
        if let Some(Writing {
            insert, answer: None, ..
        }) = term.writing
            && self.dice.one_in(2)
        {
            let lease_until = self.now + LEASE;
            let ran = self.database.insert(insert, &self.topic, lease_until);
            self.note(|| format!("{n}'s last checkpoint arrives: {ran:?}"));
        }
    }

    /// The database runs a statement.
    pub fn database_event(&mut self, n: usize) -> Result<(), Broken> {
        let lease_until = self.now + LEASE;
        let Some(term) = &mut self.processes[n].term else {
            return Ok(());
        };
        if let Some(Writing {
            insert,
            answer: answer @ None,
            ..
        }) = &mut term.writing
        {
            let written = self.database.insert(insert.clone(), &self.topic, lease_until)?;
            *answer = Some(written);
            self.note(|| format!("{n}'s checkpoint is run: {written}"));
            return Ok(());
        }
        match &mut term.asked {
            Some(Asked::Read {
                above,
                rows,
                asked,
                answer: answer @ None,
            }) => {
                *answer = Some(self.database.read(*above, *rows, asked));
            }
            Some(Asked::Look { answer: answer @ None }) => *answer = Some(self.database.drawers()),
            _ => {}
        }
        Ok(())
    }

    /// A process does one thing.
    pub fn process_event(&mut self, n: usize) -> Result<(), Broken> {
        if self.processes[n].frozen_until > self.now {
            return Ok(());
        }
        let Some(term) = &mut self.processes[n].term else {
            self.take_over(n);
            return Ok(());
        };
        if term.producer.is_none() {
            return self.begin(n);
        }
        if let Some(left) = &mut term.ending {
            if *left == 0 {
                self.note(|| format!("{n} begins again"));
                self.end_term(n);
                return Ok(());
            }
            *left -= 1;
        }
        // As `Leader::turn`, in which anything may have nothing to do yet.
        if !self.dice.one_in(3) {
            self.hear_answers(n);
        }
        if !self.dice.one_in(3) {
            self.take_reports(n);
        }
        if !self.dice.one_in(3) {
            self.begin_checkpoint(n)?;
        }
        if !self.dice.one_in(3) {
            self.begin_read(n);
        }
        if !self.dice.one_in(3) {
            self.hand_over(n)?;
        }
        Ok(())
    }

    /// `checkpoints::take_over`, whose answer may be lost.
    fn take_over(&mut self, n: usize) {
        let sent_at = self.instant(n);
        let me = (n, self.processes[n].start);
        let log = &mut self.database.log;
        if log.leader.is_some() && log.lease_until >= self.now && log.leader != Some(me) {
            return;
        }
        self.bad_ends += usize::from(log.leader.is_some() && !log.given_back);
        log.seq += 1;
        log.fence += 1;
        log.leader = Some(me);
        log.given_back = false;
        log.lease_until = self.now + LEASE;
        if self.faults && self.dice.one_in(10) {
            return;
        }
        let log = &self.database.log;
        self.processes[n].term = Some(Term {
            seq: log.seq,
            lease_ends: sent_at + LEASE,
            ledger: Ledger::new(
                Position::new(log.passed.clone(), log.closed.clone()),
                log.next_offsets.clone(),
                WINDOW,
            ),
            producer: None,
            ready: VecDeque::new(),
            watch: HoleWatch::default(),
            looked: false,
            asked: None,
            writing: None,
            stopping: false,
            ending: None,
        });
        self.note(|| format!("{n} takes over"));
    }

    /// The tail, and the first checkpoint of the term.
    fn begin(&mut self, n: usize) -> Result<(), Broken> {
        let (by, sent_at) = ((n, self.processes[n].start), self.instant(n));
        let term = self.processes[n].term.as_mut().expect("it took over");
        let (mut found, next_offsets) = self.topic.tail(&term.ledger.next_offsets);
        found.retain(|f| !term.ledger.position.has_passed(f.outbox_id));
        let receipts = settle_matching(&mut term.ledger.position, &self.database.event_ids(&found), &found);
        let entry = Entry {
            changes: term.ledger.position.take_changes(),
            receipts,
            next_offsets: next_offsets.clone(),
            ..Entry::default()
        };
        let insert = Insert {
            after: term.seq,
            by,
            entry,
            give_back: false,
        };
        let written = self.database.insert(insert, &self.topic, self.now + LEASE)?;
        if written {
            term.seq += 1;
            term.lease_ends = sent_at + LEASE;
            term.ledger.next_offsets = next_offsets;
            term.producer = Some(self.topic.new_producer());
        } else {
            self.end_term(n);
        }
        self.note(|| format!("{n} begins: {written}"));
        Ok(())
    }

    fn begin_read(&mut self, n: usize) {
        let Some(term) = &mut self.processes[n].term else {
            return;
        };
        if term.asked.is_some() || term.stopping || term.ending.is_some() {
            return;
        }
        if term.watch.next() == Next::Look && !term.looked {
            term.looked = true;
            term.asked = Some(Asked::Look { answer: None });
            return;
        }
        term.looked = false;
        let room = WINDOW.saturating_sub(term.ledger.unrecorded() + term.ready.len());
        let asked = if room == 0 {
            BTreeSet::new()
        } else {
            term.ledger.position.holes().collect()
        };
        let (above, rows) = (term.ledger.position.read_to(), room.min(READ_ROWS));
        term.asked = Some(Asked::Read {
            above,
            rows,
            asked,
            answer: None,
        });
    }

    /// Of a read, a look, a checkpoint.
    fn hear_answers(&mut self, n: usize) {
        let Some(term) = &mut self.processes[n].term else {
            return;
        };
        let mut heard = String::new();
        match term.asked.take() {
            Some(Asked::Read {
                asked,
                answer: Some(messages),
                ..
            }) => {
                for message in messages {
                    if term.ledger.position.note_read(message.id) != Read::Known
                        && !term.stopping
                        && term.ending.is_none()
                    {
                        term.ready.push_back(message);
                    }
                }
                let closed = close_holes(&mut term.ledger.position, &mut term.watch, &asked);
                heard = format!("read to {}, closed {closed:?}", term.ledger.position.read_to());
            }
            Some(Asked::Look { answer: Some(drawers) }) => {
                heard = format!("saw {} transactions", drawers.transactions.len());
                term.watch.looked(&term.ledger.position.holes().collect(), drawers);
            }
            unanswered => term.asked = unanswered,
        }
        let answered = term.writing.take_if(|w| w.answer.is_some());
        if let Some(Writing {
            receipts,
            sent_at,
            answer,
            ..
        }) = answered
        {
            if answer == Some(false) {
                self.note(|| format!("{n} has lost its lease"));
                self.end_term(n);
                return;
            }
            term.seq += 1;
            term.lease_ends = sent_at + LEASE;
            term.ledger.recorded(receipts);
            let drained = term.ledger.window.is_empty() && !term.ledger.has_to_record();
            if term.stopping && drained && self.database.log.given_back {
                self.note(|| format!("{n} has given the lease back"));
                self.end_term(n);
                self.processes[n].start += 1;
                return;
            }
        }
        if !heard.is_empty() {
            self.note(|| format!("{n} {heard}"));
        }
    }

    fn hand_over(&mut self, n: usize) -> Result<(), Broken> {
        let now = self.instant(n);
        let clock_is_sound = self.processes[n].behind.is_zero();
        let me = Some((n, self.processes[n].start));
        let process = &mut self.processes[n];
        let Some(term) = &mut process.term else { return Ok(()) };
        let mut handed = Vec::new();
        while let Some(message) = term.ready.front() {
            let alone = message.id <= process.one_at_a_time_to;
            let gate = term.ledger.gate(term.lease_ends, process.breaker.permit(now));
            if gate.is_closed(alone, now) {
                break;
            }
            if clock_is_sound && self.database.log.leader != me {
                return Err(format!("{n} hands over though its lease has ended"));
            }
            let Some(slot) = term.ledger.enter(message, now, alone) else {
                break;
            };
            let producer = term.producer.expect("it leads");
            self.topic.hand_over(producer, slot, message.id, &self.database);
            handed.push(message.id);
            term.ready.pop_front();
        }
        if !handed.is_empty() {
            self.note(|| format!("{n} hands over {handed:?}"));
        }
        Ok(())
    }

    fn take_reports(&mut self, n: usize) {
        let now = self.instant(n);
        let more = self.dice.roll(8);
        let process = &mut self.processes[n];
        let Some(term) = &mut process.term else { return };
        let producer = term.producer.expect("it leads");
        let mut heard = Vec::new();
        while let Some((slot, outcome)) = self.topic.take_report(producer) {
            let Some(sent) = term.ledger.window.leave(slot) else {
                continue;
            };
            heard.push((sent.id, outcome));
            match outcome {
                Ok((partition, offset)) => {
                    process.breaker.taken(1);
                    let receipt = Receipt {
                        id: sent.id,
                        partition,
                        offset,
                    };
                    term.ledger.receipts.push(receipt, now);
                }
                Err(class) if own_fault(&sent, class).is_some() => {
                    process.breaker.refused(now);
                    term.ledger.refuse(DeadLetter {
                        id: sent.id,
                        class: "simulated",
                        error: String::new(),
                    });
                }
                Err(_) => {
                    term.ledger.offsets_frozen = true;
                    process.one_at_a_time_to = process.one_at_a_time_to.max(term.ledger.position.read_to());
                    term.ending = term.ending.or(Some(more));
                    term.ready.clear();
                }
            }
        }
        if !heard.is_empty() {
            self.note(|| format!("{n} hears {heard:?}"));
        }
    }

    fn begin_checkpoint(&mut self, n: usize) -> Result<(), Broken> {
        let (now, by) = (self.instant(n), (n, self.processes[n].start));
        let Some(term) = &mut self.processes[n].term else {
            return Ok(());
        };
        let drained = term.ledger.window.is_empty() && !term.ledger.has_to_record();
        let give_back = term.stopping && drained;
        let renewal_due = term.lease_ends <= now + LEASE / 2;
        if term.writing.is_some() || !(term.ledger.has_to_record() || renewal_due || give_back) {
            return Ok(());
        }
        // The time at which all are taken may come at any time.
        let entry = term.ledger.take(!self.dice.one_in(3), now);
        let passes = |r: &&Receipt| {
            term.ledger
                .next_offsets
                .get(r.partition as usize)
                .is_some_and(|next| *next > r.offset)
        };
        if let Some(passed) = term.ledger.receipts.waiting().find(passes) {
            return Err(format!(
                "a tail from {:?} on misses {passed:?}, which is not settled",
                term.ledger.next_offsets
            ));
        }
        if entry.changes.is_empty() && !(renewal_due || give_back) {
            return Ok(());
        }
        let settled = entry.changes.settled.clone();
        let receipts = entry.receipts.len();
        term.writing = Some(Writing {
            insert: Insert {
                after: term.seq,
                by,
                entry,
                give_back,
            },
            receipts,
            sent_at: now,
            answer: None,
        });
        self.note(|| format!("{n} sends a checkpoint: settled {settled:?}"));
        Ok(())
    }
}
