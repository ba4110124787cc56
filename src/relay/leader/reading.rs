//! Reading: new rows and the holes below them in one statement; and the poll, which prolongs the lease and brings
//! what there is to know beside the rows.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use crate::{
    outbox::{
        checkpoints,
        position::{Position, Read},
        store::{self, Drawers, News, PollRequest, ReadRequest, ReadResult},
    },
    relay::{
        End, WINDOW_BYTES,
        holes::{HoleWatch, Next},
        within,
    },
};

/// Rows of one read.
const READ_ROWS: usize = 2048;
/// Payload bytes of new rows in one read, and of rows under holes.
const READ_BYTES: usize = 16 << 20;
/// Holes that one read asks for. With more of them no new rows are read until they have thinned out: every
/// hole below a row must be asked for in the statement that reads the row.
const HOLES_PER_READ: usize = 16_384;
/// Closed ids that are still asked for, in case that one of them shows up.
const CLOSED_ASKED: usize = 256;
/// Between the beginnings of two reads of new rows, at least, unless the one before was full. A round costs nearly the same
/// for one message as for a hundred, here and in both servers, so a leader that reads at each wake takes the processors from
/// the requests that it waits for. A message that comes alone waits for nobody. Java's producers wait as long, for the same
/// reason (`linger.ms`, KIP-1030).
const READ_EVERY: Duration = Duration::from_millis(5);
/// The poll. For rows it is only the net below the wake.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The poll while rows come: a pause is seen sooner than a second after it was given.
const BUSY_POLL_EVERY: Duration = Duration::from_millis(500);
/// Between two polls that also look at the oldest transaction.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// While there are holes, after a read has been answered: from the first to the second, doubling with each read that brings
/// nothing. It brings new rows as well.
const HOLES_POLL: (Duration, Duration) = (READ_EVERY, Duration::from_millis(250));

/// What the reading connection was asked for.
pub(super) enum Answer {
    /// For what there is to know beside the rows.
    News { news: News, sent_at: Instant },
    /// For rows.
    Rows {
        result: ReadResult,
        /// The holes that were asked for.
        asked: BTreeSet<i64>,
    },
    /// For the transactions behind the holes.
    Drawers(Drawers),
}

/// A read on its way. It gives its connection back with its answer.
type Running = AbortOnDropHandle<(PgConnection, sqlx::Result<Answer>)>;

/// At most one read at a time.
pub(super) struct Reader {
    /// None while a read is on its way, and for good once one has failed.
    conn: Option<PgConnection>,
    pub running: Option<Running>,
    /// The poll on its way prolongs the lease: it holds the next checkpoint's number.
    pub renews: bool,
    /// There may be more rows than were read.
    pub more: bool,
    pub pace: Pace,
    /// Bytes of the largest payload of the last read: the next one asks for no more rows than fit, all of that size.
    largest: usize,
    /// The last query was a look at the transactions behind the holes: a read comes next.
    looked: bool,
    /// When the newest read began.
    began_at: Instant,
    holes: HoleWatch,
    /// When the holes are to be asked for again; none while there are none.
    holes_at: Option<Instant>,
    recently_closed: VecDeque<i64>,
    /// Reads since one brought something.
    fruitless: u32,
    poll_at: Instant,
    /// When it is due as soon as rows have been read.
    busy_poll_at: Instant,
    /// From then on a poll looks at the oldest transaction, too.
    sample_at: Instant,
}

impl Reader {
    pub fn new(conn: PgConnection) -> Self {
        Self {
            conn: Some(conn),
            ..Self::without_connection(Instant::now())
        }
    }

    fn without_connection(now: Instant) -> Self {
        Self {
            conn: None,
            running: None,
            renews: false,
            more: true,
            pace: Pace::default(),
            largest: 0,
            looked: false,
            began_at: now,
            holes: HoleWatch::default(),
            holes_at: None,
            recently_closed: VecDeque::new(),
            fruitless: 0,
            poll_at: now,
            busy_poll_at: now,
            sample_at: now,
        }
    }

    /// When something is due of itself.
    pub fn next_at(&self, paused: bool) -> Instant {
        let due = [self.holes_at, self.pace.waits_until].into_iter().flatten();
        due.filter(|_| !paused).fold(self.poll_at, Instant::min)
    }

    fn holes_poll(&self) -> Duration {
        HOLES_POLL
            .0
            .saturating_mul(1 << self.fruitless.min(16))
            .min(HOLES_POLL.1)
    }
}

/// When new rows are read: see [`READ_EVERY`].
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// There is more than the last read brought.
    pub backlog: bool,
    /// None: at once.
    next: Option<Instant>,
    /// Rows are wanted, and nothing but the time is in their way.
    waits_until: Option<Instant>,
}

impl Pace {
    /// A read begins.
    fn began(&mut self, now: Instant) {
        self.next = Some(now + READ_EVERY);
        self.waits_until = None;
    }

    /// A read has brought what there is, or as much as one brings.
    fn brought(&mut self, full: bool) {
        self.backlog = full;
        if full {
            self.next = None;
            self.waits_until = None;
        }
    }

    /// Are rows to be read now that are wanted, or not?
    fn is_due(&mut self, wanted: bool, now: Instant) -> bool {
        self.waits_until = self.next.filter(|at| wanted && now < *at);
        wanted && self.waits_until.is_none()
    }
}

impl Leader<'_> {
    /// Begins what is due: the poll, a look at the transactions behind the holes, or a read where there is room.
    pub(super) fn begin_read(&mut self) {
        if self.reader.conn.is_none() {
            return;
        }
        let now = Instant::now();
        let wanted = self.reader.more && !self.seen.paused && self.ready.messages.len() <= READ_ROWS;
        let wanted = self.reader.pace.is_due(wanted, now);
        let holes_due = !self.seen.paused && self.reader.holes_at.is_some_and(|at| now >= at);
        if now >= self.reader.poll_at {
            self.poll(now);
        } else if holes_due && !self.reader.looked && self.reader.holes.next() == Next::Look {
            self.look_at_drawers();
        } else if wanted || holes_due {
            if let Some((request, holes)) = self.plan_read(holes_due) {
                self.read(request, holes);
            } else if holes_due {
                self.reader.holes_at = Some(now + self.reader.holes_poll());
            }
        }
    }

    /// An idle leader prolongs its lease with the statement that polls. While a checkpoint is on its way, that one
    /// does it.
    fn poll(&mut self, now: Instant) {
        let Some(mut conn) = self.reader.conn.take() else {
            return;
        };
        let renew =
            self.recorder.running.is_none() && self.lease_ends <= now + self.lease.length / 2 && !self.is_base_due();
        let request = PollRequest {
            oldest_from: self.ledger.position.frontier() + 1,
            sample: now >= self.reader.sample_at,
        };
        if request.sample {
            self.reader.sample_at = now + SAMPLE_EVERY;
        }
        let (lease, next_offsets) = (self.lease.clone(), self.ledger.next_offsets.clone());
        self.reader.renews = renew;
        self.reader.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let sent_at = Instant::now();
            let renewal = renew.then_some((&lease, next_offsets.as_slice()));
            let poll = async {
                failpoint!("relay.poll.before", lost);
                let news = store::poll(&mut conn, request, renewal).await?;
                failpoint!("relay.poll.after", lost);
                Ok(news)
            };
            let news: sqlx::Result<_> = within(poll).await;
            (conn, news.map(|news| Answer::News { news, sent_at }))
        })));
    }

    fn look_at_drawers(&mut self) {
        let Some(mut conn) = self.reader.conn.take() else {
            return;
        };
        self.reader.looked = true;
        self.reader.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let look = async {
                failpoint!("relay.look", lost);
                store::read_drawers(&mut conn).await
            };
            let drawers = within(look).await.map(Answer::Drawers);
            (conn, drawers)
        })));
    }

    /// As much as there is room for, and the holes in it; none when there is room for nothing.
    fn plan_read(&self, holes_due: bool) -> Option<(ReadRequest, BTreeSet<i64>)> {
        let taken = self.ledger.unrecorded() + self.ready.messages.len();
        let room = self.relay.window().saturating_sub(taken);
        let bytes = WINDOW_BYTES
            .saturating_sub(self.ledger.window.bytes() + self.ready.bytes)
            .min(READ_BYTES);
        if room == 0 || bytes == 0 {
            return None;
        }
        let holes: BTreeSet<i64> = self.ledger.position.holes().take(HOLES_PER_READ).collect();
        let rows = if holes.len() == HOLES_PER_READ {
            0
        } else {
            room.min(READ_ROWS).min(bytes / self.reader.largest.max(1)).max(1)
        };
        if rows == 0 && !holes_due {
            return None;
        }
        let request = ReadRequest {
            above: self.ledger.position.read_to(),
            holes: holes.iter().chain(&self.reader.recently_closed).copied().collect(),
            rows: rows as i64,
            bytes: bytes as i64,
        };
        Some((request, holes))
    }

    fn read(&mut self, request: ReadRequest, asked: BTreeSet<i64>) {
        let Some(mut conn) = self.reader.conn.take() else {
            return;
        };
        self.reader.more = false;
        self.reader.began_at = Instant::now();
        self.reader.pace.began(self.reader.began_at);
        self.reader.looked = false;
        self.reader.poll_at = self.reader.poll_at.min(self.reader.busy_poll_at);
        self.reader.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let read = async {
                failpoint!("relay.read.before", lost);
                let read = store::read_messages(&mut conn, &request).await?;
                failpoint!("relay.read.after", lost);
                Ok(read)
            };
            let result: sqlx::Result<_> = within(read).await;
            (conn, result.map(|result| Answer::Rows { result, asked }))
        })));
    }

    /// Takes the answer of a poll, a read or a look.
    pub(super) fn read_answered(&mut self, (conn, answer): (PgConnection, sqlx::Result<Answer>)) -> Result<(), End> {
        self.reader.running = None;
        let renewing = std::mem::take(&mut self.reader.renews);
        let now = Instant::now();
        match answer {
            Err(error) if renewing && checkpoints::is_lost_race(&error) => return Err(End::LostLease),
            Err(error) => return Err(error.into()),
            Ok(Answer::Drawers(drawers)) => {
                let holes: BTreeSet<i64> = self.ledger.position.holes().take(HOLES_PER_READ).collect();
                let (holes_open, transactions) = (holes.len(), drawers.transactions.len());
                tracing::debug!(holes_open, transactions, "looked at who may still fill the holes");
                self.reader.holes.looked(&holes, drawers);
                self.reader.holes_at = Some(now + self.reader.holes_poll());
            }
            Ok(Answer::News { news, sent_at }) => {
                if renewing {
                    if !news.renewed {
                        return Err(End::LostLease);
                    }
                    self.lease.seq += 1;
                    self.lease_ends = sent_at + self.lease.length;
                }
                self.take_news(&news);
                let poll = POLL_EVERY.min(self.lease.length / 3);
                self.reader.poll_at = now + poll;
                self.reader.busy_poll_at = now + poll.min(BUSY_POLL_EVERY);
            }
            Ok(Answer::Rows { result, asked }) => {
                self.take_rows(result, &asked);
                let next = now + self.reader.holes_poll();
                let (due, began) = (self.reader.holes_at, self.reader.began_at);
                self.reader.holes_at = (self.ledger.position.hole_count() > 0).then(|| holes_next(due, began, next));
            }
        }
        self.reader.conn = Some(conn);
        Ok(())
    }

    /// What a poll brings.
    fn take_news(&mut self, news: &News) {
        self.seen.max_id = news.max_id;
        self.seen.oldest = news.oldest;
        self.relay.metrics.dead_rows.set(news.dead);
        if let Some(sample) = news.sample {
            self.relay.show_sample(sample);
        }
        if news.replaying {
            self.relay.replays.wake();
        }
        if news.paused != self.seen.paused {
            tracing::info!(paused = news.paused, "an operator has changed the pause");
        }
        self.seen.paused = news.paused;
        self.relay.metrics.paused.set(i64::from(news.paused));
        self.reader.more |= news.max_id > self.ledger.position.read_to();
    }

    /// Takes the rows of one read into the position, and hands them to [`Leader::hand_over_ready`].
    fn take_rows(&mut self, result: ReadResult, asked: &BTreeSet<i64>) {
        self.reader.pace.brought(result.full);
        self.reader.more |= result.full;
        self.reader.largest = result.largest as usize;
        let mut news = 0;
        for message in result.messages {
            match self.ledger.position.note_read(message.id) {
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
            self.ready.push(message);
        }
        self.reader.fruitless = if news > 0 {
            0
        } else {
            self.reader.fruitless.saturating_add(1)
        };
        if result.cut_hole {
            // More rows under holes than the bytes allowed: the next read brings them.
            self.reader.more = true;
            return;
        }
        for id in close_holes(&mut self.ledger.position, &mut self.reader.holes, asked) {
            self.reader.recently_closed.push_back(id);
            tracing::debug!(id, "closed a hole: its transaction was rolled back");
        }
        let surplus = self.reader.recently_closed.len().saturating_sub(CLOSED_ASKED);
        self.reader.recently_closed.drain(..surplus);
    }
}

/// When the holes are to be asked for after a read that began at `began`. One that they were not due for puts nothing off:
/// under steady traffic there is always another one, and a hole that stays holds the frontier back.
fn holes_next(due: Option<Instant>, began: Instant, next: Instant) -> Instant {
    due.filter(|due| *due > began).map_or(next, |due| due.min(next))
}

/// A read that was asked for `asked` has been taken into the position: closes those of them that the watch lets go.
pub(super) fn close_holes(position: &mut Position, watch: &mut HoleWatch, asked: &BTreeSet<i64>) -> Vec<i64> {
    let left: BTreeSet<i64> = position.holes().take(HOLES_PER_READ).collect();
    let mut closed = watch.read(&left);
    closed.retain(|id| asked.contains(id));
    for id in &closed {
        position.close(*id);
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_comes_alone_waits_for_nobody() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(pace.is_due(true, now));
        pace.began(now);
        assert!(pace.is_due(true, now + READ_EVERY));
    }

    #[test]
    fn a_message_that_comes_soon_after_another_is_read_when_the_pause_is_over_and_not_later() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.began(now);
        assert_eq!(pace.waits_until, None, "nothing is wanted, and nothing is waited for");
        assert!(!pace.is_due(true, now + READ_EVERY / 2));
        assert_eq!(pace.waits_until, Some(now + READ_EVERY));
        assert!(!pace.is_due(false, now + READ_EVERY / 2));
        assert_eq!(pace.waits_until, None, "there is no room any more");
        assert!(!pace.is_due(true, now + READ_EVERY / 2) && pace.is_due(true, now + READ_EVERY));
        assert_eq!(
            pace.waits_until, None,
            "a time that has passed would be waited for without a pause"
        );
    }

    #[test]
    fn the_pause_between_two_reads_ends_by_itself_unless_an_operator_has_paused() {
        let now = Instant::now();
        let mut reader = Reader::without_connection(now);
        reader.poll_at = now + POLL_EVERY;
        reader.pace.began(now);
        assert_eq!(reader.next_at(false), now + POLL_EVERY, "nothing is wanted");
        assert!(!reader.pace.is_due(true, now));
        assert_eq!(reader.next_at(false), now + READ_EVERY);
        assert_eq!(reader.next_at(true), now + POLL_EVERY);
    }

    #[test]
    fn reads_that_come_in_between_put_off_no_look_at_the_holes() {
        let now = Instant::now();
        let due = holes_next(None, now, now + HOLES_POLL.0);
        let mut began = now;
        while began < due {
            // However long it takes to be answered.
            assert_eq!(holes_next(Some(due), began, began + 2 * HOLES_POLL.0), due);
            began += READ_EVERY / 4;
        }
    }

    #[test]
    fn after_the_read_that_the_holes_were_due_for_they_wait_again() {
        let due = Instant::now();
        for late in [Duration::ZERO, HOLES_POLL.0] {
            let began = due + late;
            let next = began + HOLES_POLL.0;
            assert_eq!(holes_next(Some(due), began, next), next);
        }
    }

    #[test]
    fn a_backlog_is_read_without_a_pause() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.began(now);
        pace.brought(true);
        assert!(pace.is_due(true, now));
        pace.began(now);
        assert!(pace.backlog, "until a read has brought all");
        pace.brought(false);
        assert!(!pace.backlog && !pace.is_due(true, now));
    }
}
