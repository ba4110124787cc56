//! Reading: new rows and the holes below them in one statement, and what a read says of the log.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use crate::{
    outbox::{
        checkpoints::{self, BASE_EVERY},
        position::Read,
        store::{self, Drawers, ReadRequest, ReadResult},
    },
    relay::{
        End, WINDOW_BYTES,
        holes::{HoleWatch, Next},
        within,
    },
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
/// The poll, which is only the net below the wake, and prolongs the lease.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// While there are holes: from the first to the second, doubling with each read that brings nothing.
const HOLES_POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// What the reading connection was asked for.
pub(super) enum Answer {
    /// For rows.
    Rows {
        result: ReadResult,
        /// The holes that were asked for.
        asked: BTreeSet<i64>,
        sent_at: Instant,
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
    /// The read on its way prolongs the lease: it holds the next checkpoint's number.
    pub renews: bool,
    /// There may be more rows than were read.
    pub more: bool,
    /// The last query was a look at the transactions behind the holes: a read comes next.
    looked: bool,
    holes: HoleWatch,
    recently_closed: VecDeque<i64>,
    /// Reads since one brought something.
    fruitless: u32,
    /// The poll.
    pub next_at: Instant,
}

impl Reader {
    pub fn new(conn: PgConnection) -> Self {
        Self {
            conn: Some(conn),
            running: None,
            renews: false,
            more: true,
            looked: false,
            holes: HoleWatch::default(),
            recently_closed: VecDeque::new(),
            fruitless: 0,
            next_at: Instant::now(),
        }
    }

    fn holes_poll(&self) -> Duration {
        HOLES_POLL
            .0
            .saturating_mul(1 << self.fruitless.min(16))
            .min(HOLES_POLL.1)
    }
}

/// What a read asks for.
struct Plan {
    request: ReadRequest,
    /// The holes in it.
    holes: BTreeSet<i64>,
    renew: bool,
}

impl Leader<'_> {
    /// Begins a read when one is due and there is room, or a look at the transactions behind the holes.
    pub(super) fn begin_read(&mut self) {
        let now = Instant::now();
        let due = now >= self.reader.next_at;
        let wanted = self.reader.more && !self.seen.paused && self.ready.messages.len() <= READ_ROWS;
        if self.reader.conn.is_none() || !(wanted || due) {
            return;
        }
        // In turns with reads, which prolong the lease: a hole can stay open for hours.
        let renewal_due = self.lease_ends <= now + self.lease.length / 2;
        let may_look = due && !self.seen.paused && !self.reader.looked && !renewal_due;
        if may_look && self.reader.holes.next() == Next::Look {
            self.look_at_drawers();
        } else if let Some(plan) = self.plan_read(now, due) {
            self.read(plan);
        }
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

    /// As much as there is room for; none when there is no room and nothing else to ask.
    fn plan_read(&self, now: Instant, due: bool) -> Option<Plan> {
        let room = if self.seen.paused {
            0
        } else {
            let taken = self.unrecorded + self.ready.messages.len();
            self.relay.options.window.saturating_sub(taken)
        };
        let bytes = WINDOW_BYTES
            .saturating_sub(self.window.bytes() + self.ready.bytes)
            .min(READ_BYTES);
        let mut holes: BTreeSet<i64> = self.position.holes().take(HOLES_PER_READ).collect();
        let rows = if holes.len() == HOLES_PER_READ || bytes == 0 {
            0
        } else {
            room.min(READ_ROWS)
        };
        if rows == 0 && !due {
            return None;
        }
        if room == 0 || bytes == 0 {
            holes.clear();
        }
        // An idle leader prolongs its lease with the statement that polls. While a checkpoint is on its way,
        // that one does it.
        let renew = self.recorder.running.is_none()
            && self.lease_ends <= now + self.lease.length / 2
            && self.lease.seq - self.recorder.last_base < BASE_EVERY;
        let request = ReadRequest {
            above: self.position.read_to(),
            holes: holes.iter().chain(&self.reader.recently_closed).copied().collect(),
            rows: rows as i64,
            bytes: bytes as i64,
            oldest_from: self.position.frontier() + 1,
        };
        Some(Plan { request, holes, renew })
    }

    fn read(&mut self, Plan { request, holes, renew }: Plan) {
        let (lease, next_offsets) = (self.lease.clone(), self.next_offsets.clone());
        let Some(mut conn) = self.reader.conn.take() else {
            return;
        };
        self.reader.more = false;
        self.reader.looked = false;
        self.reader.renews = renew;
        self.reader.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let sent_at = Instant::now();
            let renewal = renew.then_some((&lease, next_offsets.as_slice()));
            let read = async {
                failpoint!("relay.read.before", lost);
                let read = store::read_messages(&mut conn, &request, renewal).await?;
                failpoint!("relay.read.after", lost);
                Ok(read)
            };
            let result: sqlx::Result<_> = within(read).await;
            let answer = result.map(|result| Answer::Rows {
                result,
                asked: holes,
                sent_at,
            });
            (conn, answer)
        })));
    }

    /// Takes the answer of a read or a look.
    pub(super) fn read_answered(&mut self, (conn, answer): (PgConnection, sqlx::Result<Answer>)) -> Result<(), End> {
        self.reader.running = None;
        let renewing = std::mem::take(&mut self.reader.renews);
        let now = Instant::now();
        match answer {
            Err(error) if renewing && checkpoints::is_lost_race(&error) => return Err(End::LostLease),
            Err(error) => return Err(error.into()),
            Ok(Answer::Drawers(drawers)) => {
                let holes: BTreeSet<i64> = self.position.holes().take(HOLES_PER_READ).collect();
                let (holes_open, transactions) = (holes.len(), drawers.transactions.len());
                tracing::debug!(holes_open, transactions, "looked at who may still fill the holes");
                self.reader.holes.looked(&holes, drawers);
                self.reader.next_at = now + self.reader.holes_poll();
            }
            Ok(Answer::Rows { result, asked, sent_at }) => {
                if renewing {
                    if !result.renewed {
                        return Err(End::LostLease);
                    }
                    self.lease.seq += 1;
                    self.lease_ends = sent_at + self.lease.length;
                }
                self.take_news(&result);
                self.take_rows(result, &asked);
                let poll = POLL_EVERY.min(self.lease.length / 3);
                self.reader.next_at = now
                    + if !self.seen.paused && self.position.hole_count() > 0 {
                        self.reader.holes_poll().min(poll)
                    } else {
                        poll
                    };
            }
        }
        self.reader.conn = Some(conn);
        Ok(())
    }

    /// What a read says beside its rows.
    fn take_news(&mut self, result: &ReadResult) {
        self.seen.max_id = result.max_id;
        self.seen.oldest = result.oldest;
        self.relay.metrics.dead_rows.set(result.dead);
        if result.replaying {
            self.relay.replays.wake();
        }
        if result.paused != self.seen.paused {
            tracing::info!(paused = result.paused, "an operator has changed the pause");
            self.reader.more |= !result.paused;
        }
        self.seen.paused = result.paused;
        self.relay.metrics.paused.set(i64::from(result.paused));
    }

    /// Takes the rows of one read into the position, and hands them to [`Leader::hand_over_ready`].
    fn take_rows(&mut self, result: ReadResult, asked: &BTreeSet<i64>) {
        if self.seen.paused {
            return;
        }
        self.reader.more |= result.full;
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
        let left: BTreeSet<i64> = self.position.holes().take(HOLES_PER_READ).collect();
        for id in self.reader.holes.read(&left) {
            if asked.contains(&id) {
                self.position.close(id);
                self.reader.recently_closed.push_back(id);
                tracing::debug!(id, "closed a hole: its transaction was rolled back");
            }
        }
        let surplus = self.reader.recently_closed.len().saturating_sub(CLOSED_ASKED);
        self.reader.recently_closed.drain(..surplus);
    }
}
