//! What has changed, told to those who wait for it: outbox ids that a checkpoint settled, and jobs that have a new
//! result.
//!
//! Whoever changes something tells the [`Notifier`] after the commit. Each [`Subscription`] gathers what it was not
//! given yet into one [`Notice`], so a slow reader costs a bounded set and no queue. A notice may be lost with the
//! process: whoever waits also polls, slowly.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::position::Ids;

/// Jobs and ranges of ids that a notice names, at most. A reader that is further behind is told that anything may
/// have changed, which costs it one reading of what is watched.
const MOST_NAMED: usize = 4096;

/// What has changed since the last notice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// Outbox ids that became published or dead.
    pub messages: Ids,
    /// Jobs that have a new result.
    pub jobs: BTreeSet<Uuid>,
    /// More than can be named.
    pub anything: bool,
}

impl Notice {
    /// Nothing has changed.
    pub fn is_empty(&self) -> bool {
        !self.anything && self.jobs.is_empty() && self.messages.is_empty()
    }

    fn bound(&mut self) {
        if self.anything || self.jobs.len() + self.messages.len() > MOST_NAMED {
            *self = Self {
                anything: true,
                ..Self::default()
            };
        }
    }
}

/// Where changes are told. Cloning is cheap, and all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Arc<Mutex<Vec<Weak<Gathered>>>>);

/// Gives what was told since it was last asked.
#[derive(Debug)]
pub struct Subscription(Arc<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    notice: Mutex<Notice>,
    is_new: Notify,
}

impl Notifier {
    /// From now on.
    pub fn subscribe(&self) -> Subscription {
        let gathered = Arc::new(Gathered::default());
        let mut subscribers = self.0.lock();
        subscribers.retain(|known| known.strong_count() > 0);
        subscribers.push(Arc::downgrade(&gathered));
        Subscription(gathered)
    }

    /// A checkpoint that settles these ids was committed.
    pub fn settled(&self, ids: &Ids) {
        if !ids.is_empty() {
            self.tell(|notice| notice.messages.extend(ids.iter().cloned()));
        }
    }

    /// Results of these jobs were committed.
    pub fn answered(&self, job_ids: &[Uuid]) {
        if !job_ids.is_empty() {
            self.tell(|notice| notice.jobs.extend(job_ids));
        }
    }

    fn tell(&self, add: impl Fn(&mut Notice)) {
        for gathered in self.0.lock().iter().filter_map(Weak::upgrade) {
            let mut notice = gathered.notice.lock();
            add(&mut notice);
            notice.bound();
            gathered.is_new.notify_one();
        }
    }
}

impl Subscription {
    /// Waits until something has changed. Dropping the future loses nothing.
    pub async fn next(&self) -> Notice {
        loop {
            let notice = self.take();
            if !notice.is_empty() {
                return notice;
            }
            self.0.is_new.notified().await;
        }
    }

    /// What has changed, possibly nothing.
    pub fn take(&self) -> Notice {
        std::mem::take(&mut self.0.notice.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<i64>) -> Ids {
        std::iter::once(range).collect()
    }

    #[tokio::test]
    async fn what_is_told_between_two_readings_is_one_notice() {
        let notifier = Notifier::default();
        let (early, job_id) = (notifier.subscribe(), Uuid::now_v7());
        notifier.settled(&ids(1..4));
        notifier.answered(&[job_id]);
        notifier.settled(&ids(4..6));
        notifier.answered(&[]);
        let late = notifier.subscribe();
        let expected = Notice {
            messages: ids(1..6),
            jobs: [job_id].into(),
            anything: false,
        };
        assert_eq!(early.next().await, expected);
        assert!(early.take().is_empty() && late.take().is_empty());
    }

    #[test]
    fn who_reads_too_slowly_is_told_that_anything_may_have_changed() {
        let notifier = Notifier::default();
        let slow = notifier.subscribe();
        for id in 0..=MOST_NAMED as i64 {
            notifier.settled(&ids(2 * id..2 * id + 1));
        }
        notifier.answered(&[Uuid::now_v7()]);
        let notice = slow.take();
        assert!(notice.anything && notice.jobs.is_empty() && notice.messages.is_empty());
    }
}
