//! Which jobs are watched, which of them have changed, and what was read of them. Knows nothing of the world.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    jobs::status::{Found, JobView},
    outbox::notifier::Notice,
};

/// The watched jobs.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Counts readings, from their beginning.
    reading: u64,
    jobs: HashMap<Uuid, Job>,
    /// The outbox id of the message that speaks for a job, as read last, and the job.
    messages: BTreeMap<i64, Uuid>,
    /// Jobs whose message is not known: nothing was read of them yet. Any message may be theirs.
    unread: HashSet<Uuid>,
    /// To be read.
    changed: HashSet<Uuid>,
}

#[derive(Debug)]
struct Job {
    /// What was read last.
    news: watch::Sender<News>,
    /// Those who have joined and not left. Their receivers are no measure: each lives on a little after it has left.
    watchers: usize,
    message: Option<i64>,
    /// Counts how often it was marked as changed.
    changes: u64,
}

/// What a reading found.
#[derive(Debug, Clone, Default)]
pub(super) struct News {
    reading: u64,
    /// `None`: nothing was read yet.
    job: Option<Arc<JobView>>,
}

impl News {
    /// The job, if it was read by a later reading than this one.
    pub fn newer_than(&self, reading: u64) -> Option<Arc<JobView>> {
        self.job.clone().filter(|_| self.reading > reading)
    }
}

impl Board {
    /// The number of the last reading that has begun.
    pub fn reading(&self) -> u64 {
        self.reading
    }

    /// The way to be told of a job, and how often it has changed so far. Whoever joins has to [`leave`](Self::leave).
    pub fn join(&mut self, job_id: Uuid) -> (watch::Receiver<News>, u64) {
        let unread = &mut self.unread;
        let job = self.jobs.entry(job_id).or_insert_with(|| {
            unread.insert(job_id);
            Job {
                news: watch::Sender::default(),
                watchers: 0,
                message: None,
                changes: 0,
            }
        });
        job.watchers += 1;
        (job.news.subscribe(), job.changes)
    }

    /// One watcher of a job goes; with the last one the job is forgotten.
    pub fn leave(&mut self, job_id: Uuid) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.watchers -= 1;
        if job.watchers > 0 {
            return;
        }
        if let Some(message) = job.message {
            self.messages.remove(&message);
        }
        self.unread.remove(&job_id);
        self.changed.remove(&job_id);
        self.jobs.remove(&job_id);
    }

    /// Marks the watched jobs among what has changed; whether there are any.
    pub fn mark(&mut self, notice: &Notice) -> bool {
        if notice.anything {
            return self.mark_all();
        }
        let mut marked: Vec<Uuid> = notice.jobs.iter().copied().collect();
        for ids in notice.messages.iter() {
            marked.extend(self.messages.range(ids.clone()).map(|(_, job_id)| *job_id));
        }
        if !notice.messages.is_empty() {
            marked.extend(&self.unread);
        }
        let before = self.changed.len();
        for job_id in marked {
            if let Some(job) = self.jobs.get_mut(&job_id) {
                job.changes += 1;
                self.changed.insert(job_id);
            }
        }
        self.changed.len() > before
    }

    /// Marks all watched jobs; whether there are any.
    pub fn mark_all(&mut self) -> bool {
        for (job_id, job) in &mut self.jobs {
            job.changes += 1;
            self.changed.insert(*job_id);
        }
        !self.changed.is_empty()
    }

    /// Marks a job if it has changed since so many changes; whether it has.
    pub fn changed_since(&mut self, job_id: Uuid, changes: u64) -> bool {
        let has_changed = self.jobs.get(&job_id).is_some_and(|job| job.changes > changes);
        if has_changed {
            self.changed.insert(job_id);
        }
        has_changed
    }

    /// Marks what a reading could not read.
    pub fn mark_again(&mut self, job_ids: &[Uuid]) {
        self.changed
            .extend(job_ids.iter().filter(|job_id| self.jobs.contains_key(job_id)));
    }

    /// At most so many jobs that have changed, and the number of their reading; `None` when there are none.
    pub fn begin_reading(&mut self, most: usize) -> Option<(u64, Vec<Uuid>)> {
        let job_ids: Vec<Uuid> = self.changed.iter().copied().take(most).collect();
        if job_ids.is_empty() {
            self.changed.shrink_to(most);
            return None;
        }
        for job_id in &job_ids {
            self.changed.remove(job_id);
        }
        self.reading += 1;
        Some((self.reading, job_ids))
    }

    /// Tells all who watch what a reading found.
    pub fn tell(&mut self, reading: u64, found: Vec<Found>) {
        for Found { job, message_id, .. } in found {
            let job_id = job.job_id;
            let Some(watched) = self.jobs.get_mut(&job_id) else {
                continue;
            };
            if watched.message != Some(message_id) {
                if let Some(former) = watched.message.replace(message_id) {
                    self.messages.remove(&former);
                }
                self.messages.insert(message_id, job_id);
                self.unread.remove(&job_id);
            }
            watched.news.send_modify(|told| {
                told.reading = reading;
                if told.job.as_deref() != Some(&job) {
                    told.job = Some(Arc::new(job));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        jobs::{
            JobStatus,
            status::{MessageState, MessageView},
        },
        outbox::position::Ids,
    };

    use super::*;

    fn found(job_id: Uuid, message_id: i64, status: JobStatus) -> Found {
        Found {
            owner: Uuid::nil(),
            message_id,
            job: JobView {
                job_id,
                status,
                created_at: chrono::DateTime::UNIX_EPOCH,
                event_draft_id: Uuid::nil(),
                message: MessageView {
                    state: MessageState::Pending,
                    topic: "jobs".into(),
                    partition: None,
                    offset: None,
                    published_at: None,
                },
                images: Vec::new(),
                error: None,
            },
        }
    }

    fn settled(ids: std::ops::Range<i64>) -> Notice {
        Notice {
            messages: Ids::from_iter([ids]),
            ..Notice::default()
        }
    }

    fn answered(job_id: Uuid) -> Notice {
        Notice {
            jobs: [job_id].into(),
            ..Notice::default()
        }
    }

    #[test]
    fn only_watched_jobs_that_have_changed_are_read() {
        let mut board = Board::default();
        let [a, b, other] = [1, 2, 3].map(Uuid::from_u128);
        let (_of_a, _) = board.join(a);
        let (_of_b, _) = board.join(b);
        assert!(!board.mark(&answered(other)) && board.begin_reading(9).is_none());
        assert!(board.mark(&answered(a)));
        assert_eq!(board.begin_reading(9), Some((1, vec![a])));
        board.tell(1, vec![found(a, 10, JobStatus::Processing)]);

        // Of `b` nothing was read: the message could be its own.
        assert!(board.mark(&settled(5..9)));
        assert_eq!(board.begin_reading(9), Some((2, vec![b])));
        board.tell(2, vec![found(b, 11, JobStatus::Pending)]);
        assert!(!board.mark(&settled(5..9)));
        assert!(board.mark(&settled(11..20)));
        assert_eq!(board.begin_reading(9), Some((3, vec![b])));
        // Retried: another message speaks for it.
        board.tell(3, vec![found(b, 30, JobStatus::Pending)]);
        assert!(!board.mark(&settled(11..20)) && board.mark(&settled(30..31)));
        board.begin_reading(9);

        board.mark_all();
        let (_, first) = board.begin_reading(1).unwrap();
        assert_eq!(first.len(), 1);
        board.mark_again(&first);
        assert_eq!(board.begin_reading(9).unwrap().1.len(), 2, "what failed is read again");
    }

    #[test]
    fn a_reading_that_began_before_is_not_news_and_what_it_swallowed_is_read_again() {
        let mut board = Board::default();
        let id = Uuid::from_u128(1);
        let (early, _) = board.join(id);
        let (late, changes) = board.join(id);
        assert!(board.mark(&answered(id)));
        let (reading, _) = board.begin_reading(9).unwrap();
        // Now the late one has read the job by itself, possibly before the change and after the reading began.
        let after = board.reading();
        assert!(board.changed_since(id, changes));
        board.tell(reading, vec![found(id, 1, JobStatus::Processing)]);
        assert!(early.borrow().newer_than(0).is_some());
        assert!(late.borrow().newer_than(after).is_none());
        let (reading, _) = board.begin_reading(9).unwrap();
        board.tell(reading, vec![found(id, 1, JobStatus::Processing)]);
        assert!(late.borrow().newer_than(after).is_some());
    }

    #[test]
    fn when_the_last_watcher_goes_nothing_is_left() {
        let mut board = Board::default();
        let id = Uuid::from_u128(1);
        let (first, _) = board.join(id);
        let (second, _) = board.join(id);
        board.mark_all();
        let (reading, _) = board.begin_reading(9).unwrap();
        board.tell(reading, vec![found(id, 1, JobStatus::Pending)]);
        board.mark_all();
        board.leave(id);
        drop(first);
        assert!(board.jobs.contains_key(&id), "one still watches");
        board.leave(id);
        drop(second);
        assert!(board.jobs.is_empty() && board.messages.is_empty() && board.changed.is_empty());
        board.tell(reading, vec![found(id, 1, JobStatus::Pending)]);
        assert!(board.messages.is_empty());
    }

    #[test]
    fn of_watchers_that_go_together_nothing_is_left() {
        let mut board = Board::default();
        let id = Uuid::from_u128(1);
        let watchers = [board.join(id), board.join(id)];
        // Both have left before the receiver of either is gone.
        board.leave(id);
        board.leave(id);
        drop(watchers);
        assert!(board.jobs.is_empty() && board.unread.is_empty());
    }
}
