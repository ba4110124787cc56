//! Exactly once: what was handed over is settled only when the transaction that it is in is known to be committed, and
//! readers of committed records see it.
//!
//! Records enter one transaction. As soon as all that entered it is acknowledged it is sealed and committed, and records
//! enter another one meanwhile; that one is committed only when the commit before it is known to have succeeded, so
//! readers of committed records see the order in which it was handed over. So an idle relay commits one record at a time
//! and waits for nobody, under load a transaction holds what arrived during the commit of the one before, and of a backlog
//! as much as there is room for. Whatever goes wrong ends the term: the next start ends both and looks in the tail.

use std::{
    collections::BTreeMap,
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

/// Once nothing waits, records enter a transaction for so long after its first: with more of them always on their
/// way, it would never be all acknowledged, and consumers see none before the commit. Of a backlog there is always more:
/// see [`Transaction::is_done`].
const OPEN_FOR: Duration = Duration::from_millis(2);
/// Nor for longer than that after its first, once no commit is in its way. With what may be on its way it keeps a
/// transaction below the time after which the broker ends it, and it would be sent again: 8 MiB in a minute is a link of a
/// megabit a second.
const OPEN_AT_MOST: Duration = Duration::from_secs(1);
/// Of one transaction, records that are not acknowledged, and bytes of their payloads.
const MOST_ON_THEIR_WAY: (usize, usize) = (8192, 8 << 20);

/// What is not known to be committed.
pub(super) struct Transactions {
    capacity: usize,
    /// Records enter it.
    open: Transaction,
    /// No more than one, before the open one.
    sealed: Option<(Transaction, Commit)>,
}

type Commit = AbortOnDropHandle<Result<(), NotCommitted>>;

#[derive(Default)]
struct Transaction {
    /// When its first record was handed over. None: it is empty, and the broker knows nothing of it.
    began: Option<Instant>,
    handed_over: usize,
    /// It was done ([`Transaction::is_done`]) when no commit was in its way.
    closed: bool,
    /// The client's complaints when it began: a new one puts the commit in doubt.
    complaints: u64,
    /// Acknowledged.
    delivered: Vec<(Sent, Placed)>,
}

impl Transactions {
    /// At most so many records in one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            open: Transaction::default(),
            sealed: None,
        }
    }

    /// Nothing is in either.
    pub fn are_empty(&self) -> bool {
        self.open.began.is_none() && self.sealed.is_none()
    }

    /// May no record enter, while so many are on their way, with so many bytes?
    pub fn are_closed(&self, on_their_way: usize, bytes: usize) -> bool {
        let (records, most_bytes) = MOST_ON_THEIR_WAY;
        self.open.closed || self.open.handed_over >= self.capacity || on_their_way >= records || bytes >= most_bytes
    }

    /// A record enters.
    pub fn enter(&mut self, now: Instant, complaints: u64) {
        if self.open.began.is_none() {
            self.open.began = Some(now);
            self.open.complaints = complaints;
        }
        self.open.handed_over += 1;
    }

    /// A record was acknowledged. Of the sealed one all were.
    pub fn deliver(&mut self, sent: Sent, placed: Placed) {
        self.open.delivered.push((sent, placed));
    }

    /// Until the commit on its way is answered; for ever when none is.
    pub async fn answered(&mut self) -> Result<(), NotCommitted> {
        match &mut self.sealed {
            None => std::future::pending().await,
            Some((_, commit)) => super::finished(commit).await,
        }
    }
}

impl Transaction {
    /// Does no more enter it, though there is room? While there is a backlog, that nothing waits says nothing: the rows of
    /// one read have been handed over before those of the next have come, and each end costs what is on its way a pause.
    fn is_done(&self, nothing_waits: bool, backlog: bool, now: Instant) -> bool {
        let open_for = if nothing_waits && !backlog {
            OPEN_FOR
        } else {
            OPEN_AT_MOST
        };
        self.began.is_some_and(|began| now >= began + open_for)
    }

    /// The offset of each partition's last record; negative where it is not known.
    fn last_offsets(&self) -> BTreeMap<i32, i64> {
        let placed = self.delivered.iter().map(|(_, placed)| placed);
        placed.map(|placed| (placed.partition, placed.offset)).collect()
    }
}

impl Leader<'_> {
    /// Seals the open transaction and begins its commit, when it has records, every one is acknowledged, and the commit
    /// before it is known to have succeeded. Tells whether it has: then records may enter another one.
    pub(super) fn begin_commit(&mut self) -> bool {
        let Some(transactions) = &mut self.transactions else {
            return false;
        };
        if transactions.sealed.is_some() || transactions.open.began.is_none() {
            return false;
        }
        let nothing_waits = self.ready.messages.is_empty();
        transactions.open.closed |= transactions
            .open
            .is_done(nothing_waits, self.reader.pace.backlog, Instant::now());
        let seals = self.ledger.window.is_empty();
        if seals {
            let transaction = std::mem::take(&mut transactions.open);
            let (last, producer) = (transaction.last_offsets(), Arc::clone(&self.producer));
            let sealed = producer.seal();
            let commit = tokio::task::spawn_blocking(move || {
                failpoint!("relay.commit.before");
                let done = producer.commit(sealed, &last);
                failpoint!("relay.commit.after");
                done
            });
            transactions.sealed = Some((transaction, AbortOnDropHandle::new(commit)));
        }
        seals
    }

    /// The commit was answered: all that was delivered is settled, or the term ends.
    pub(super) fn commit_answered(&mut self, done: Result<(), NotCommitted>) -> Result<(), End> {
        let sealed = self.transactions.as_mut().and_then(|t| t.sealed.take());
        let Some((transaction, _)) = sealed else {
            return Ok(());
        };
        done.map_err(|e| End::Restart(format!("it is not known whether a transaction was committed: {e}")))?;
        if self.producer.reports().complaints().count() != transaction.complaints {
            return Err(End::Restart(
                "the connection was in trouble during a transaction: its commit is looked up in the topic".to_owned(),
            ));
        }
        let (now, wall) = (Instant::now(), Utc::now());
        for (sent, placed) in &transaction.delivered {
            self.acknowledged(sent, *placed, now, wall);
        }
        self.taken(transaction.delivered.len(), now);
        Ok(())
    }

    /// Nothing of the transactions counts: the next start ends them. What the client still holds is purged.
    pub(super) fn abandon_transactions(&mut self) {
        if self.transactions.take().is_some() {
            self.ledger.window.clear();
        }
    }

    /// Is a record on its way to a reader of committed records?
    pub(super) fn is_anything_on_its_way(&self) -> bool {
        !self.ledger.window.is_empty() || self.transactions.as_ref().is_some_and(|t| !t.are_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(places: &[(i32, i64)]) -> Transaction {
        let sent = Sent {
            id: 1,
            job_id: uuid::Uuid::nil(),
            created_at: Utc::now(),
            at: Instant::now(),
            bytes: 0,
            alone: false,
        };
        let at = |&(partition, offset): &(i32, i64)| (sent, Placed { partition, offset });
        Transaction {
            delivered: places.iter().map(at).collect(),
            ..Transaction::default()
        }
    }

    #[test]
    fn readers_are_asked_for_the_last_record_of_each_partition() {
        let last = delivered(&[(0, 5), (1, 9), (0, 6), (0, 7)]).last_offsets();
        assert_eq!(last, BTreeMap::from([(0, 7), (1, 9)]));
    }

    #[test]
    fn a_last_record_without_a_place_is_not_hidden_behind_one_that_has_one() {
        assert_eq!(delivered(&[(0, 5), (0, -1001)]).last_offsets()[&0], -1001);
    }

    #[tokio::test]
    async fn what_is_sealed_is_on_its_way_until_its_commit_is_answered() {
        let mut transactions = Transactions::new(2);
        assert!(transactions.are_empty());
        let commit = AbortOnDropHandle::new(tokio::spawn(async { Ok(()) }));
        transactions.sealed = Some((Transaction::default(), commit));
        assert!(!transactions.are_empty());
        assert!(!transactions.are_closed(0, 0), "the next one takes records meanwhile");
        assert!(transactions.answered().await.is_ok());
    }

    #[test]
    fn a_transaction_ends_when_nothing_waits_but_in_a_backlog_only_when_it_is_full_or_old() {
        let mut transactions = Transactions::new(2);
        let began = Instant::now();
        let later = began + OPEN_FOR;
        assert!(!transactions.open.is_done(true, false, later), "it has not begun");
        transactions.enter(began, 0);
        assert!(!transactions.open.is_done(true, false, began));
        assert!(transactions.open.is_done(true, false, later));
        for (nothing_waits, backlog) in [(false, false), (true, true)] {
            assert!(!transactions.open.is_done(nothing_waits, backlog, later));
            assert!(transactions.open.is_done(nothing_waits, backlog, began + OPEN_AT_MOST));
        }
    }

    #[test]
    fn a_full_transaction_takes_no_more() {
        let mut transactions = Transactions::new(2);
        for closed in [false, true] {
            transactions.enter(Instant::now(), 0);
            assert_eq!(transactions.are_closed(0, 0), closed);
        }
    }

    #[test]
    fn what_is_not_acknowledged_yet_is_bounded() {
        let transactions = Transactions::new(usize::MAX);
        let (records, bytes) = MOST_ON_THEIR_WAY;
        assert!(!transactions.are_closed(records - 1, bytes - 1));
        assert!(transactions.are_closed(records, 0));
        assert!(transactions.are_closed(1, bytes));
    }
}
