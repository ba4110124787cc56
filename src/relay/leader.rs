//! A term of leading: read, hand over, collect reports, write checkpoints.
//!
//! One task owns everything; reads and checkpoints run beside it, at most one of each, and give their
//! connection back with their answer. What decides whether a record may be handed over stands in one place,
//! [`Leader::hand_over_ready`].

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    End, Memory, Relay, WINDOW_BYTES,
    breaker::Permit,
    holes::{HoleWatch, Next},
    start::Started,
    upkeep::{self, Ready, Upkeep},
    window::Window,
    within,
};
use crate::{
    outbox::{
        checkpoints::{self, BASE_EVERY, CheckpointError, DeadLetter, Entry, Lease, Receipt},
        position::{Position, Read},
        record::{OutboxMessage, batch_size},
        store::{self, Drawers, ReadRequest, ReadResult},
    },
    publish::{
        FailureClass,
        kafka::{HandOver, Producer, Report},
    },
    telemetry::ErrorClass,
};

/// Rows of one read.
const READ_ROWS: usize = 4096;
/// Payload bytes of one read.
const READ_BYTES: usize = 16 << 20;
/// Holes that one read asks for. With more of them no new rows are read until they have thinned out: every
/// hole below a row must be asked for in the statement that reads the row.
const HOLES_PER_READ: usize = 16_384;
/// Closed ids that are still asked for, in case that one of them shows up.
const CLOSED_ASKED: usize = 256;
/// Between two checkpoints under load. They may lag behind Kafka's acknowledgements: the tail read covers it.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(20);
/// The poll, which is only the net below the wake, and prolongs the lease.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// While there are holes: from the first to the second, doubling with each read that brings nothing.
const HOLES_POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));
/// Nothing acknowledged for so long with records on their way: the outage is shown.
const SHOW_OUTAGE_AFTER: Duration = Duration::from_secs(5);
/// After a failed delivery, before the producer is given up: reports of what may have landed.
const REPORTS_WAIT: Duration = Duration::from_secs(10);
/// The lease is looked at before every so many records.
const LEASE_LOOK_EVERY: usize = 64;

type Reading = AbortOnDropHandle<(PgConnection, sqlx::Result<ReadAnswer>)>;
type Writing = AbortOnDropHandle<(PgConnection, Lease, Result<(), CheckpointError>)>;

/// What the reading connection was asked for.
enum ReadAnswer {
    Rows {
        result: ReadResult,
        asked: BTreeSet<i64>,
        sent_at: Instant,
    },
    Drawers(Drawers),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; together they are no state"
)]
struct Leader<'a> {
    relay: &'a Relay,
    memory: &'a mut Memory,
    lease: Lease,
    /// By our own clock, counted from before the renewal was sent.
    lease_ends: Instant,
    last_base: i64,
    position: Position,
    next_offsets: Vec<i64>,
    /// After a failed delivery a partition may hold a record that is not settled: the tail begins before it.
    offsets_frozen: bool,
    producer: Producer,
    window: Window,
    /// Read and not handed over yet.
    ready: VecDeque<OutboxMessage>,
    ready_bytes: usize,
    /// Acknowledged since the last checkpoint.
    receipts: Vec<Receipt>,
    dead: Vec<DeadLetter>,
    /// A dead letter waits for its checkpoint: no later record may be handed over before.
    barrier: bool,
    /// Handed over and not in a committed checkpoint: what a kill can repeat.
    unrecorded: usize,
    holes: HoleWatch,
    /// The last query was a look at the transactions behind the holes: a read comes next.
    looked: bool,
    /// The term is being wound down: nothing is read any more, so checkpoints prolong the lease.
    ending: bool,
    recently_closed: VecDeque<i64>,
    reader: Option<PgConnection>,
    reading: Option<Reading>,
    read_renews: bool,
    writer: Option<PgConnection>,
    writing: Option<Writing>,
    /// Receipts in the checkpoint that is being written.
    recording: usize,
    more: bool,
    idle_reads: u32,
    next_read: Instant,
    last_checkpoint: Instant,
    last_ack: Instant,
    paused: bool,
    max_id: i64,
    oldest: Option<DateTime<Utc>>,
    gauges_due: Instant,
}

/// Leads until the lease is lost, something fails, or `cancel`; then settles what can be settled.
pub(super) async fn lead(relay: &Relay, memory: &mut Memory, started: Started, cancel: &CancellationToken) -> End {
    let reader = match relay.connect().await {
        Ok(reader) => reader,
        Err(error) => return error.into(),
    };
    let _listener = upkeep::listen(relay);
    let mut upkeep = Upkeep::new(Ready {
        outbox: started.outbox_end,
        checkpoints: started.checkpoints_end,
    });
    let now = Instant::now();
    let mut leader = Leader {
        relay,
        memory,
        last_base: started.lease.seq,
        lease: started.lease,
        lease_ends: started.lease_ends,
        position: started.position,
        next_offsets: started.next_offsets,
        offsets_frozen: false,
        producer: started.producer,
        window: Window::new(relay.options.window),
        ready: VecDeque::new(),
        ready_bytes: 0,
        receipts: Vec::new(),
        dead: Vec::new(),
        barrier: false,
        unrecorded: 0,
        holes: HoleWatch::default(),
        looked: false,
        ending: false,
        recently_closed: VecDeque::new(),
        reader: Some(reader),
        reading: None,
        read_renews: false,
        writer: Some(started.db),
        writing: None,
        recording: 0,
        more: true,
        idle_reads: 0,
        next_read: now,
        last_checkpoint: now,
        last_ack: now,
        paused: false,
        max_id: 0,
        oldest: None,
        gauges_due: now,
    };
    let end = loop {
        match leader.turn(cancel).await {
            Ok(()) => upkeep.tend(relay, leader.max_id, leader.lease.seq).await,
            Err(end) => break end,
        }
    };
    leader.wind_down(end).await
}

impl Leader<'_> {
    /// Does what can be done now, then waits for the next event.
    async fn turn(&mut self, cancel: &CancellationToken) -> Result<(), End> {
        self.begin_checkpoint(CHECKPOINT_EVERY, false);
        // The next rows are read while these are handed over.
        self.begin_read();
        self.hand_over_ready()?;
        self.show();
        let reports = std::sync::Arc::clone(self.producer.reports());
        let timer = tokio::time::sleep_until(self.next_timer().into());
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(End::Stopped),
            written = wait(&mut self.writing) => self.checkpoint_written(written)?,
            () = reports.arrived() => self.take_reports()?,
            answer = wait(&mut self.reading) => self.read_answered(answer)?,
            () = self.relay.wake.woken() => self.more = true,
            () = timer => {}
        }
        Ok(())
    }

    fn next_timer(&self) -> Instant {
        let mut at = self.gauges_due;
        if self.reading.is_none() {
            at = at.min(self.next_read);
        }
        if self.position.has_changes() && self.writing.is_none() && !self.read_renews {
            at = at.min(self.last_checkpoint + CHECKPOINT_EVERY);
        }
        if let (false, Permit::NotBefore(probe)) = (self.ready.is_empty(), self.memory.breaker.permit(Instant::now())) {
            at = at.min(probe);
        }
        at
    }

    // --- reading -------------------------------------------------------------------------------------

    /// Begins a read when one is due and there is room, or a look at the transactions behind the holes.
    fn begin_read(&mut self) {
        let now = Instant::now();
        let due = now >= self.next_read;
        let wanted = self.more && !self.paused && self.ready.len() <= READ_ROWS;
        if self.reader.is_none() || !(wanted || due) {
            return;
        }
        // In turns with reads, which prolong the lease: a hole can stay open for hours.
        let renewal_due = self.lease_ends <= now + self.lease.length / 2;
        if due && !self.paused && !self.looked && !renewal_due && self.holes.next() == Next::Look {
            let Some(mut conn) = self.reader.take() else { return };
            self.looked = true;
            self.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let drawers = within(store::read_drawers(&mut conn)).await.map(ReadAnswer::Drawers);
                (conn, drawers)
            })));
            return;
        }

        let holes: BTreeSet<i64> = self.position.holes().take(HOLES_PER_READ).collect();
        let room = if self.paused {
            0
        } else {
            self.relay
                .options
                .window
                .saturating_sub(self.unrecorded + self.ready.len())
        };
        let room_bytes = WINDOW_BYTES
            .saturating_sub(self.window.bytes() + self.ready_bytes)
            .min(READ_BYTES);
        let rows = if holes.len() == HOLES_PER_READ || room_bytes == 0 {
            0
        } else {
            room.min(READ_ROWS)
        };
        if rows == 0 && !due {
            return;
        }
        // An idle leader prolongs its lease with the statement that polls. While a checkpoint is on its way,
        // that one does it.
        let half = self.lease.length / 2;
        let renew =
            self.writing.is_none() && self.lease_ends <= now + half && self.lease.seq - self.last_base < BASE_EVERY;
        let mut asked: Vec<i64> = if room == 0 || room_bytes == 0 {
            Vec::new()
        } else {
            holes.iter().copied().collect()
        };
        asked.extend(&self.recently_closed);
        let request = ReadRequest {
            above: self.position.read_to(),
            holes: asked,
            rows: rows as i64,
            bytes: room_bytes as i64,
            oldest_from: self.position.frontier() + 1,
        };
        let (lease, next_offsets) = (self.lease.clone(), self.next_offsets.clone());
        let asked = if room == 0 || room_bytes == 0 {
            BTreeSet::new()
        } else {
            holes
        };
        let Some(mut conn) = self.reader.take() else { return };
        self.more = false;
        self.looked = false;
        self.read_renews = renew;
        self.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let sent_at = Instant::now();
            let renewal = renew.then_some((&lease, next_offsets.as_slice()));
            let result = within(store::read_messages(&mut conn, &request, renewal)).await;
            (conn, result.map(|result| ReadAnswer::Rows { result, asked, sent_at }))
        })));
    }

    fn read_answered(&mut self, (conn, answer): (PgConnection, sqlx::Result<ReadAnswer>)) -> Result<(), End> {
        self.reading = None;
        let renewing = std::mem::take(&mut self.read_renews);
        let now = Instant::now();
        match answer {
            Err(error) if renewing && checkpoints::is_lost_race(&error) => return Err(End::LostLease),
            Err(error) => return Err(error.into()),
            Ok(ReadAnswer::Drawers(drawers)) => {
                let holes = self.position.holes().take(HOLES_PER_READ).collect();
                self.holes.looked(&holes, drawers);
                self.next_read = now + self.holes_poll();
            }
            Ok(ReadAnswer::Rows { result, asked, sent_at }) => {
                if renewing {
                    if !result.renewed {
                        return Err(End::LostLease);
                    }
                    self.lease.seq += 1;
                    self.lease_ends = sent_at + self.lease.length;
                }
                self.max_id = result.max_id;
                self.oldest = result.oldest;
                self.relay.metrics.dead_rows.set(result.dead);
                self.set_paused(result.paused);
                if result.replaying {
                    self.relay.replays.wake();
                }
                self.take_rows(result, &asked);
                let poll = POLL_EVERY.min(self.lease.length / 3);
                self.next_read = now
                    + if !self.paused && self.position.hole_count() > 0 {
                        self.holes_poll().min(poll)
                    } else {
                        poll
                    };
            }
        }
        self.reader = Some(conn);
        Ok(())
    }

    fn holes_poll(&self) -> Duration {
        HOLES_POLL
            .0
            .saturating_mul(1 << self.idle_reads.min(16))
            .min(HOLES_POLL.1)
    }

    /// Takes the rows of one read into the position, and hands them to [`Leader::hand_over_ready`].
    fn take_rows(&mut self, result: ReadResult, asked: &BTreeSet<i64>) {
        if self.paused {
            return;
        }
        self.more |= result.full;
        let mut news = 0;
        for message in result.messages {
            match self.position.note_read(message.id) {
                Read::Known => continue,
                Read::New => {}
                Read::WronglyClosed => {
                    self.relay.metrics.wrongly_closed_holes_total.inc();
                    tracing::error!(
                        id = message.id,
                        "a row has shown up under an id that was closed as a hole; it is sent now"
                    );
                }
            }
            news += 1;
            self.ready_bytes += message.payload.len();
            self.ready.push_back(message);
        }
        self.idle_reads = if news > 0 { 0 } else { self.idle_reads.saturating_add(1) };
        if result.cut_hole {
            // More rows under holes than the bytes allowed: the next read brings them.
            self.more = true;
            return;
        }
        let left: BTreeSet<i64> = self.position.holes().take(HOLES_PER_READ).collect();
        for id in self.holes.read(&left) {
            if asked.contains(&id) {
                self.position.close(id);
                self.recently_closed.push_back(id);
                tracing::debug!(id, "closed a hole: its transaction was rolled back");
            }
        }
        let surplus = self.recently_closed.len().saturating_sub(CLOSED_ASKED);
        self.recently_closed.drain(..surplus);
    }

    fn set_paused(&mut self, paused: bool) {
        if paused != self.paused {
            tracing::info!(paused, "an operator has changed the pause");
            self.more |= !paused;
        }
        self.paused = paused;
        self.relay.metrics.paused.set(i64::from(paused));
    }

    // --- handing over --------------------------------------------------------------------------------

    /// Hands over what may be handed over now, in the order in which it was read.
    fn hand_over_ready(&mut self) -> Result<(), End> {
        let mut now = Instant::now();
        let mut count = 0_usize;
        while let Some(message) = self.ready.front() {
            if count.is_multiple_of(LEASE_LOOK_EVERY) {
                now = Instant::now();
            }
            count += 1;
            let one_at_a_time = message.id <= self.memory.one_at_a_time_to;
            let permit = self.memory.breaker.permit(now);
            let waits = self.paused
                || now >= self.lease_ends
                || self.barrier
                || self.unrecorded >= self.relay.options.window
                || self.window.is_taken_by_one()
                || one_at_a_time && !self.window.is_empty()
                || match permit {
                    Permit::Any => false,
                    Permit::One => !self.window.is_empty(),
                    Permit::NotBefore(_) => true,
                };
            if waits {
                return Ok(());
            }
            let (size, limit) = (batch_size(message), self.relay.limit.get());
            if size > limit {
                let id = message.id;
                self.pop_ready();
                self.bury(
                    id,
                    "message-too-large",
                    format!("the record has {size} bytes, and the topic takes {limit}"),
                    now,
                );
                continue;
            }
            let Some(slot) = self.window.enter(message, now, one_at_a_time) else {
                return Ok(());
            };
            match self.producer.hand_over(message, slot) {
                Ok(()) => {
                    self.unrecorded += 1;
                    self.pop_ready();
                }
                Err(refused) => {
                    let id = message.id;
                    self.window.leave(slot);
                    match refused {
                        HandOver::Full => return Ok(()),
                        HandOver::Dead(reason) => return Err(End::Restart(format!("producer: {reason}"))),
                        HandOver::Refused(class, error) => {
                            self.pop_ready();
                            self.bury(id, class.as_str(), error, now);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn pop_ready(&mut self) {
        if let Some(message) = self.ready.pop_front() {
            self.ready_bytes -= message.payload.len();
        }
    }

    /// The message is refused for good. Its row and its id are recorded together, before a later record is
    /// handed over.
    fn bury(&mut self, id: i64, class: &'static str, error: String, now: Instant) {
        tracing::error!(id, class, error, "a message is refused for good: it is a dead letter");
        self.relay
            .metrics
            .publish_failures_total
            .get_or_create(&ErrorClass { error_class: class })
            .inc();
        self.memory.breaker.refused(now);
        self.position.settle(id);
        self.dead.push(DeadLetter { id, class, error });
        self.barrier = true;
    }

    // --- reports -------------------------------------------------------------------------------------

    fn take_reports(&mut self) -> Result<(), End> {
        let reports = self.producer.reports().take();
        let mut taken = 0;
        let mut failure = None;
        let now = Instant::now();
        let wall = Utc::now();
        for Report { slot, outcome } in reports {
            let Some(sent) = self.window.leave(slot) else { continue };
            match outcome {
                Ok(placed) => {
                    taken += 1;
                    self.position.settle(sent.id);
                    self.receipts.push(Receipt {
                        id: sent.id,
                        partition: placed.partition,
                        offset: placed.offset,
                    });
                    let metrics = &self.relay.metrics;
                    metrics.publish_duration_seconds.observe((now - sent.at).as_secs_f64());
                    metrics
                        .end_to_end_latency_seconds
                        .observe((wall - sent.created_at).as_seconds_f64().max(0.0));
                }
                Err(refused) => match refused.class {
                    // Refused alone, for its own fault. In a batch it says nothing of the single record.
                    FailureClass::Record(class) if sent.alone => {
                        self.unrecorded -= 1;
                        self.bury(sent.id, class, refused.error, now);
                    }
                    class => {
                        let label = ErrorClass {
                            error_class: class.as_str(),
                        };
                        self.relay.metrics.publish_failures_total.get_or_create(&label).inc();
                        self.offsets_frozen = true;
                        self.memory.failing = true;
                        if matches!(class, FailureClass::Record(_)) {
                            self.memory.one_at_a_time_to = self.memory.one_at_a_time_to.max(self.position.read_to());
                        }
                        failure.get_or_insert(refused.error);
                    }
                },
            }
        }
        if taken > 0 {
            self.last_ack = now;
            self.memory.failing = false;
            self.memory.breaker.taken(taken);
            self.relay.metrics.published_total.inc_by(taken as u64);
        }
        match failure {
            Some(reason) => Err(End::Restart(format!("a delivery failed: {reason}"))),
            None if self.producer.reports().producer_is_dead() => {
                Err(End::Restart("the producer has met a fatal error".to_owned()))
            }
            None => Ok(()),
        }
    }

    // --- checkpoints ---------------------------------------------------------------------------------

    /// Begins a checkpoint when there is something to record and the last one is `pause` ago, or the lease
    /// has to be prolonged and no read will do it.
    fn begin_checkpoint(&mut self, pause: Duration, give_back: bool) {
        let now = Instant::now();
        // A renewing read holds the next number.
        if self.writing.is_some() || self.read_renews {
            return;
        }
        let crowded = self.unrecorded * 2 > self.relay.options.window && !self.receipts.is_empty();
        let due = self.position.has_changes() && (now >= self.last_checkpoint + pause || self.barrier || crowded);
        let base_due = self.lease.seq + 1 - self.last_base >= BASE_EVERY;
        let renewal_due = (base_due || self.ending) && self.lease_ends <= now + self.lease.length / 2;
        if !(due || renewal_due || give_back) {
            return;
        }
        let Some(mut conn) = self.writer.take() else { return };
        let receipts = std::mem::take(&mut self.receipts);
        if !self.offsets_frozen {
            for r in &receipts {
                let partition = r.partition as usize;
                if self.next_offsets.len() <= partition {
                    // The topic has grown: nothing is known of the partitions in between.
                    self.next_offsets.resize(partition + 1, -1);
                }
                self.next_offsets[partition] = self.next_offsets[partition].max(r.offset + 1);
            }
        }
        self.recording = receipts.len();
        let entry = Entry {
            changes: self.position.take_changes(),
            receipts,
            dead: std::mem::take(&mut self.dead),
            next_offsets: self.next_offsets.clone(),
            base: base_due.then(|| (self.position.passed().clone(), self.position.closed().clone())),
        };
        let mut lease = self.lease.clone();
        self.last_checkpoint = now;
        self.writing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let done = within(checkpoints::append(&mut conn, &mut lease, &entry, give_back)).await;
            (conn, lease, done)
        })));
    }

    fn checkpoint_written(
        &mut self,
        (conn, lease, done): (PgConnection, Lease, Result<(), CheckpointError>),
    ) -> Result<(), End> {
        self.writing = None;
        done?;
        self.writer = Some(conn);
        if lease.seq - self.last_base >= BASE_EVERY {
            self.last_base = lease.seq;
        }
        self.lease = lease;
        self.lease_ends = self.last_checkpoint + self.lease.length;
        self.unrecorded -= std::mem::take(&mut self.recording);
        self.barrier = !self.dead.is_empty();
        Ok(())
    }

    // --- showing, ending -----------------------------------------------------------------------------

    /// Sets the gauges, at most once a second.
    fn show(&mut self) {
        let now = Instant::now();
        if now < self.gauges_due {
            return;
        }
        self.gauges_due = now + Duration::from_secs(1);
        let metrics = &self.relay.metrics;
        let passed: i64 = self.position.passed().iter().map(|r| r.end - r.start).sum();
        let pending = self.max_id.max(self.position.read_to()) - passed;
        metrics.pending_rows.set(pending);
        let age = self
            .oldest
            .filter(|_| pending > 0)
            .map_or(0.0, |o| (Utc::now() - o).as_seconds_f64().max(0.0));
        metrics.oldest_pending_age_seconds.set(age);
        metrics.unacknowledged_rows.set(self.unrecorded as i64);
        metrics.holes.set(self.position.hole_count() as i64);
        let stuck = !self.window.is_empty() && now - self.last_ack > SHOW_OUTAGE_AFTER;
        if self.window.is_empty() {
            self.last_ack = now;
        }
        let open = stuck || self.memory.failing || self.memory.breaker.is_open();
        if metrics.breaker_open.set(i64::from(open)) != i64::from(open) && open {
            let reason = self.producer.reports().last_error().unwrap_or_default();
            tracing::warn!(
                reason,
                "kafka does not acknowledge; accepting goes on, publishing waits"
            );
        }
    }

    /// Ends the term: waits a bounded time for what was handed over, and records what came of it.
    async fn wind_down(mut self, end: End) -> End {
        self.ready.clear();
        self.ending = true;
        let wait = match &end {
            End::Stopped => self.relay.drain,
            End::Restart(_) => REPORTS_WAIT,
            // Nothing can be recorded any more; what still waits here is better purged at once.
            End::LostLease => Duration::ZERO,
        };
        let settled = tokio::time::timeout(wait, self.settle_what_was_sent()).await;
        let drained = matches!(settled, Ok(Ok(())));
        if matches!(end, End::Stopped) {
            if drained {
                let given_back = tokio::time::timeout(super::DATABASE_TIMEOUT, self.give_back()).await;
                tracing::info!(
                    given_back = matches!(given_back, Ok(Ok(()))),
                    "drained: nothing will be repeated"
                );
            } else {
                tracing::warn!(
                    unacknowledged = self.unrecorded,
                    "stopped before all was acknowledged: these may be repeated"
                );
            }
        }
        let producer = self.producer;
        let _ = tokio::task::spawn_blocking(move || producer.end()).await;
        end
    }

    /// Until every record has its report and every report is recorded. When PostgreSQL is lost, only the
    /// former: the next start finds in the topic's tail what could not be recorded.
    async fn settle_what_was_sent(&mut self) -> Result<(), End> {
        if self.read_renews {
            let answer = wait(&mut self.reading).await;
            self.read_answered(answer)?;
            self.ready.clear();
        }
        self.reading = None;
        loop {
            self.take_reports_of_the_last()?;
            self.begin_checkpoint(Duration::ZERO, false);
            let database_is_lost = self.writer.is_none() && self.writing.is_none();
            if self.window.is_empty() && self.writing.is_none() && (database_is_lost || !self.position.has_changes()) {
                return if database_is_lost {
                    Err(End::Restart("the database was lost".to_owned()))
                } else {
                    Ok(())
                };
            }
            let reports = std::sync::Arc::clone(self.producer.reports());
            tokio::select! {
                written = wait(&mut self.writing) => match self.checkpoint_written(written) {
                    Ok(()) | Err(End::Restart(_)) => {}
                    Err(end) => return Err(end),
                },
                () = reports.arrived() => {}
                () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
            }
        }
    }

    /// Failures among the last reports change nothing any more: their records stay unsettled. After a fatal
    /// error some reports never come; the wait is bounded.
    fn take_reports_of_the_last(&mut self) -> Result<(), End> {
        match self.take_reports() {
            Err(End::Restart(_)) => Ok(()),
            other => other,
        }
    }

    async fn give_back(&mut self) -> Result<(), End> {
        self.begin_checkpoint(Duration::ZERO, true);
        let written = wait(&mut self.writing).await;
        self.checkpoint_written(written)
    }
}

/// Waits for the task; for ever when there is none. A task of ours that panicked takes the program with it.
async fn wait<T: Send + 'static>(task: &mut Option<AbortOnDropHandle<T>>) -> T {
    match task {
        None => std::future::pending().await,
        Some(handle) => handle.await.unwrap_or_else(|e| match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => panic!("a task of the relay was cancelled: {e}"),
        }),
    }
}
