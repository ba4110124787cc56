//! Exactly once: what was handed over is settled only when the transaction that it is in is known to be committed.
//!
//! One transaction is open at any time. It is committed as soon as all that entered it is acknowledged; meanwhile
//! more enters, until it is full or nothing waits. While the commit is on its way nothing is handed over. So an idle
//! relay commits one record at a time and waits for nobody, under load a transaction holds what arrived during
//! the one before, and a backlog goes out in full ones. Whatever goes wrong ends the term: the next start ends the transaction and looks in the tail.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use crate::{
    publish::kafka::{NotCommitted, Placed},
    relay::{End, window::Sent},
};

/// Records of a transaction, at most; never more than half of the window, so that reading goes on.
const RECORDS: usize = 8192;
/// Once nothing waits, records enter a transaction for so long after its first: with more of them always on their
/// way, it would never be all acknowledged, and consumers see none before the commit.
const OPEN_FOR: Duration = Duration::from_millis(2);

/// The transaction that is open.
pub(super) struct Transaction {
    capacity: usize,
    /// When its first record was handed over. None: it is empty, and the broker knows nothing of it.
    began: Option<Instant>,
    handed_over: usize,
    /// Nothing waited when it had been open for [`OPEN_FOR`].
    closed: bool,
    /// The client's complaints when it began: a new one puts the commit in doubt.
    complaints: u64,
    /// Acknowledged, and not committed.
    delivered: Vec<(Sent, Placed)>,
    committing: Option<AbortOnDropHandle<Result<(), NotCommitted>>>,
}

impl Transaction {
    pub fn new(window: usize) -> Self {
        Self {
            capacity: RECORDS.min(window / 2).max(1),
            began: None,
            handed_over: 0,
            closed: false,
            complaints: 0,
            delivered: Vec::new(),
            committing: None,
        }
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.began.is_none()
    }

    /// May no record enter?
    pub fn is_closed(&self) -> bool {
        self.closed || self.committing.is_some() || self.handed_over >= self.capacity
    }

    /// A record is in it.
    pub fn enter(&mut self, now: Instant, complaints: u64) {
        if self.began.is_none() {
            self.began = Some(now);
            self.complaints = complaints;
        }
        self.handed_over += 1;
    }

    /// A record was acknowledged.
    pub fn deliver(&mut self, sent: Sent, placed: Placed) {
        self.delivered.push((sent, placed));
    }

    /// Until the commit is answered; for ever when none is on its way.
    pub async fn committed(&mut self) -> Result<(), NotCommitted> {
        let done = super::wait(&mut self.committing).await;
        self.committing = None;
        done
    }
}

impl Leader<'_> {
    /// Begins the commit when the transaction has records and every one is acknowledged.
    pub(super) fn begin_commit(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.closed |=
            self.ready.messages.is_empty() && transaction.began.is_some_and(|began| began.elapsed() >= OPEN_FOR);
        if self.window.is_empty() && !transaction.is_empty() && transaction.committing.is_none() {
            let producer = Arc::clone(&self.producer);
            let commit = tokio::task::spawn_blocking(move || {
                failpoint!("relay.commit.before");
                let done = producer.commit();
                failpoint!("relay.commit.after");
                done
            });
            transaction.committing = Some(AbortOnDropHandle::new(commit));
        }
    }

    /// The commit was answered: all that was delivered is settled, or the term ends.
    pub(super) fn commit_answered(&mut self, done: Result<(), NotCommitted>) -> Result<(), End> {
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        done.map_err(|e| End::Restart(format!("it is not known whether a transaction was committed: {e}")))?;
        if self.producer.reports().complaints().count() != transaction.complaints {
            return Err(End::Restart(
                "the connection was in trouble during a transaction: its commit is looked up in the topic".to_owned(),
            ));
        }
        transaction.began = None;
        transaction.handed_over = 0;
        transaction.closed = false;
        let delivered = std::mem::take(&mut transaction.delivered);
        let (now, wall) = (Instant::now(), Utc::now());
        for (sent, placed) in &delivered {
            self.acknowledged(sent, *placed, now, wall);
        }
        self.taken(delivered.len(), now);
        Ok(())
    }

    /// Nothing of the open transaction counts: the next start ends it. What the client still holds is purged.
    pub(super) fn abandon_transaction(&mut self) {
        if self.transaction.take().is_some() {
            self.window.clear();
        }
    }

    /// Is a record on its way to a reader of committed records?
    pub(super) fn is_anything_on_its_way(&self) -> bool {
        !self.window.is_empty() || self.transaction.as_ref().is_some_and(|t| !t.is_empty())
    }
}
