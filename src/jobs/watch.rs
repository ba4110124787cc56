//! Waiting for a job to change, for `Prefer: wait`.
//!
//! A client that waits costs a place in a map and no query of its own: one task reads all watched jobs
//! together, some times a second, and only while there is a watcher.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::status::{JobView, StatusError, StatusReader};

/// Between two readings of the watched jobs.
const TICK: Duration = Duration::from_millis(100);
/// Clients that wait at the same time. Further ones are answered at once, with what there is.
const PLACES: usize = 10_000;
/// Jobs read by one query.
const CHUNK: usize = 500;

/// Waits for jobs to change. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    reader: StatusReader,
    watched: Mutex<Watched>,
    /// Rung when a first watcher comes.
    watcher_came: Notify,
    places: Semaphore,
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Watched {
    /// Counts readings, from their beginning.
    reading: u64,
    jobs: HashMap<Uuid, Job>,
}

#[derive(Debug)]
struct Job {
    /// What was read last.
    news: watch::Sender<News>,
    /// A watcher came when this reading had begun, and cannot use its result: the next one tells even what
    /// has not changed.
    joined_during: Option<u64>,
}

/// What a reading found.
#[derive(Debug, Clone, Default)]
struct News {
    reading: u64,
    /// `None`: nothing was read yet.
    job: Option<Arc<JobView>>,
}

impl Watch {
    /// Starts the task that reads. On `cancel` all who wait are answered with what there is.
    pub fn spawn(reader: StatusReader, tracker: &TaskTracker, cancel: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            reader,
            watched: Mutex::default(),
            watcher_came: Notify::new(),
            places: Semaphore::new(PLACES),
            stopping: cancel,
        });
        let task = shared.clone();
        tracker.spawn(async move {
            _ = task.stopping.run_until_cancelled(task.read_watched()).await;
        });
        Self(shared)
    }

    /// The job, as [`StatusReader::read`], as soon as `is_news` says that it is worth an answer, else when its
    /// status is final, else when the time is up.
    ///
    /// `is_news` is true of a representation that the client does not have yet; always false for a client
    /// that named none.
    pub async fn wait(
        &self,
        job_id: Uuid,
        user_id: Uuid,
        time: Duration,
        is_news: impl Fn(&JobView) -> bool,
    ) -> Result<Option<JobView>, StatusError> {
        let time_is_up = Instant::now() + time;
        let Some(first) = self.0.reader.read(job_id, user_id).await? else {
            return Ok(None);
        };
        let is_enough = |job: &JobView| job.status.is_final() || is_news(job);
        if is_enough(&first) {
            return Ok(Some(first));
        }
        let Ok(_place) = self.0.places.try_acquire() else {
            return Ok(Some(first));
        };
        let mut latest = Arc::new(first);
        let (mut news, after) = self.0.join(job_id);
        let enough = async {
            while news.changed().await.is_ok() {
                let News { reading, job } = news.borrow_and_update().clone();
                // A reading that had begun before ours ended may be older than ours: status never goes back.
                if let Some(job) = job
                    && reading > after
                {
                    latest = job;
                    if is_enough(&latest) {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = enough => {}
            () = sleep_until(time_is_up) => {}
            () = self.0.stopping.cancelled() => {}
        }
        Ok(Some(Arc::unwrap_or_clone(latest)))
    }

    /// Sleeps; `None`, and earlier, when the service stops.
    pub async fn sleep(&self, time: Duration) -> Option<()> {
        self.0.stopping.run_until_cancelled(sleep(time)).await
    }
}

impl Shared {
    /// The way to be told of a job, and the number of the last reading that had begun when it was opened.
    fn join(&self, job_id: Uuid) -> (watch::Receiver<News>, u64) {
        let mut watched = self.watched.lock();
        let reading = watched.reading;
        if watched.jobs.is_empty() {
            self.watcher_came.notify_one();
        }
        let news = match watched.jobs.entry(job_id) {
            hash_map::Entry::Occupied(mut entry) => {
                entry.get_mut().joined_during = Some(reading);
                entry.get().news.subscribe()
            }
            hash_map::Entry::Vacant(entry) => {
                let (news, receiver) = watch::channel(News::default());
                entry.insert(Job {
                    news,
                    joined_during: Some(reading),
                });
                receiver
            }
        };
        (news, reading)
    }

    /// Reads the watched jobs again and again, while there are any.
    async fn read_watched(&self) {
        let mut failing = false;
        loop {
            let Some((reading, job_ids)) = self.begin_reading() else {
                self.watcher_came.notified().await;
                continue;
            };
            for chunk in job_ids.chunks(CHUNK) {
                match self.reader.read_many(chunk).await {
                    Ok(jobs) => {
                        self.tell(reading, jobs);
                        failing = false;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "cannot read the jobs that clients wait for");
                        }
                        break;
                    }
                }
            }
            sleep(TICK).await;
        }
    }

    /// Forgets the jobs that nobody watches any more; returns the others, if any, and the reading's number.
    fn begin_reading(&self) -> Option<(u64, Vec<Uuid>)> {
        let mut watched = self.watched.lock();
        watched.jobs.retain(|_, job| job.news.receiver_count() > 0);
        if watched.jobs.is_empty() {
            watched.jobs.shrink_to(CHUNK);
            return None;
        }
        watched.reading += 1;
        Some((watched.reading, watched.jobs.keys().copied().collect()))
    }

    fn tell(&self, reading: u64, jobs: Vec<(Uuid, JobView)>) {
        let mut watched = self.watched.lock();
        for (_, job) in jobs {
            let Some(entry) = watched.jobs.get_mut(&job.job_id) else {
                continue;
            };
            let tell_again = entry.joined_during.take_if(|joined| *joined < reading).is_some();
            entry.news.send_if_modified(|told| {
                let tell = tell_again || told.job.as_deref() != Some(&job);
                if tell {
                    *told = News {
                        reading,
                        job: Some(Arc::new(job)),
                    };
                }
                tell
            });
        }
    }
}
