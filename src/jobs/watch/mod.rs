//! Waiting for a job to change, for `Prefer: wait` and for streams of events.
//!
//! A client that waits costs a place on the [`board`] and no query of its own. One task reads, together, the watched
//! jobs of which it is known that they have changed: by the [`Notifier`] for what this process has done, through
//! [`elsewhere`] for what other replicas have. All watched jobs are read only as the net below, seldom.

mod board;
pub mod elsewhere;
mod places;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::{
    board::{Board, News},
    places::{Place, Places},
};
use super::status::{JobView, StatusError, StatusReader};
use crate::outbox::notifier::{Notice, Notifier};

/// Jobs read by one query.
const CHUNK: usize = 500;
/// Between the beginnings of two readings: what changes meanwhile is read together.
const GATHER: Duration = Duration::from_millis(10);
/// Between two readings of all watched jobs, whether anything was heard of them or not: notifications of other
/// replicas can be lost, and a retry of a dead message is announced by nobody.
pub const POLL: Duration = Duration::from_secs(5);
/// The same, while other replicas cannot be heard.
const POLL_WHILE_DEAF: Duration = Duration::from_secs(1);
/// After a reading that failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Waits for jobs to change. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    reader: StatusReader,
    board: Mutex<Board>,
    /// Rung when a watched job is marked as changed.
    changed: Notify,
    /// Other replicas are heard.
    hears: AtomicBool,
    places: Places,
    stopping: CancellationToken,
}

/// One client that waits for one job.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    job_id: Uuid,
    news: watch::Receiver<News>,
    /// Changes of the job that were known when the watcher came.
    changes: u64,
    /// Readings up to this one may be older than what the client has.
    after: u64,
    _place: Place,
}

/// What a wait has ended with.
#[derive(Debug)]
pub struct Waited {
    /// As it was read last.
    pub job: JobView,
    /// There was a place to wait, see [`Watch::join`].
    pub had_place: bool,
}

impl Watch {
    /// Starts the task that reads. It is told of changes by `notifier`; for those of other replicas, run
    /// [`elsewhere::listen`]. On `cancel` all who wait are answered with what there is.
    pub fn spawn(reader: StatusReader, notifier: &Notifier, tracker: &TaskTracker, cancel: CancellationToken) -> Self {
        let watch = Self(Arc::new(Shared {
            reader,
            board: Mutex::default(),
            changed: Notify::new(),
            hears: AtomicBool::new(false),
            places: Places::default(),
            stopping: cancel,
        }));
        let (told, told_of) = (watch.clone(), notifier.subscribe());
        tracker.spawn(async move {
            let listen = async {
                loop {
                    told.notice(&told_of.next().await);
                }
            };
            _ = told.0.stopping.run_until_cancelled(listen).await;
        });
        let task = watch.0.clone();
        tracker.spawn(async move {
            _ = task.stopping.run_until_cancelled(task.read_changed()).await;
        });
        watch
    }

    /// Begins to watch a job for a client of this user; `None` when too many clients, or too many of the user's, wait
    /// already.
    ///
    /// Read the job *after* this, then call [`Watcher::has_read`]: what changes from here on is not missed.
    pub fn join(&self, job_id: Uuid, user_id: Uuid) -> Option<Watcher> {
        let place = self.0.places.take(user_id)?;
        let mut board = self.0.board.lock();
        let (news, changes) = board.join(job_id);
        let after = board.reading();
        drop(board);
        Some(Watcher {
            shared: self.0.clone(),
            job_id,
            news,
            changes,
            after,
            _place: place,
        })
    }

    /// The job, as [`StatusReader::read`], as soon as `is_news` says that it is worth an answer, else when its
    /// status is final, else when the time is up. Answered at once when there is no place.
    ///
    /// `is_news` is true of a representation that the client does not have yet; always false for a client
    /// that named none.
    pub async fn wait(
        &self,
        job_id: Uuid,
        user_id: Uuid,
        time: Duration,
        is_news: impl Fn(&JobView) -> bool,
    ) -> Result<Option<Waited>, StatusError> {
        let time_is_up = Instant::now() + time;
        let watcher = self.join(job_id, user_id);
        let Some(first) = self.0.reader.read(job_id, user_id).await? else {
            return Ok(None);
        };
        let is_enough = |job: &JobView| job.status.is_final() || is_news(job);
        let had_place = watcher.is_some();
        let Some(mut watcher) = watcher.filter(|_| !is_enough(&first)) else {
            return Ok(Some(Waited { job: first, had_place }));
        };
        watcher.has_read();
        let mut latest = Arc::new(first);
        let enough = async {
            while let Some(job) = watcher.next().await {
                latest = job;
                if is_enough(&latest) {
                    return;
                }
            }
        };
        tokio::select! {
            () = enough => {}
            () = sleep_until(time_is_up) => {}
        }
        let job = Arc::unwrap_or_clone(latest);
        Ok(Some(Waited { job, had_place }))
    }

    /// Clients that wait now.
    pub fn waiting(&self) -> usize {
        self.0.places.taken()
    }

    /// Something has changed.
    fn notice(&self, notice: &Notice) {
        if self.0.board.lock().mark(notice) {
            self.0.changed.notify_one();
        }
    }

    /// Whether other replicas can be heard. What they said before is lost, so all watched jobs are read.
    fn hears(&self, hears: bool) {
        self.0.hears.store(hears, Ordering::Relaxed);
        if hears {
            self.notice(&Notice {
                anything: true,
                ..Notice::default()
            });
        }
    }
}

impl Watcher {
    /// The client has the job as it was read after [`Watch::join`]: only what is read from now on is newer. A
    /// change in between may be in an older reading alone, and is read again.
    pub fn has_read(&mut self) {
        let mut board = self.shared.board.lock();
        self.after = board.reading();
        if board.changed_since(self.job_id, self.changes) {
            self.shared.changed.notify_one();
        }
    }

    /// The job as it is read next; possibly as it was before. `None`: the service stops.
    pub async fn next(&mut self) -> Option<Arc<JobView>> {
        loop {
            tokio::select! {
                told = self.news.changed() => told.ok()?,
                () = self.shared.stopping.cancelled() => return None,
            }
            // A reading that had begun before ours ended may be older than ours: status never goes back.
            if let Some(job) = self.news.borrow_and_update().newer_than(self.after) {
                return Some(job);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.board.lock().leave(self.job_id);
    }
}

impl Shared {
    /// Reads watched jobs that have changed, and from time to time all of them.
    async fn read_changed(&self) {
        let mut failing = false;
        let mut poll_at = Instant::now() + POLL_WHILE_DEAF;
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(poll_at) => {
                    self.board.lock().mark_all();
                    let hears = self.hears.load(Ordering::Relaxed);
                    poll_at = Instant::now() + if hears { POLL } else { POLL_WHILE_DEAF };
                }
            }
            while let Some((reading, job_ids)) = self.begin_reading() {
                let began = Instant::now();
                match self.reader.read_many(&job_ids).await {
                    Ok(jobs) => {
                        self.board.lock().tell(reading, jobs);
                        failing = false;
                    }
                    Err(error) => {
                        self.board.lock().mark_again(&job_ids);
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "cannot read the jobs that clients wait for");
                        }
                        sleep(RETRY_AFTER).await;
                    }
                }
                sleep_until(began + GATHER).await;
            }
        }
    }

    fn begin_reading(&self) -> Option<(u64, Vec<Uuid>)> {
        self.board.lock().begin_reading(CHUNK)
    }
}
