//! The one way to begin: after a crash, a hand-over, a lost connection, a fatal producer error or a lost
//! lease. Of the log nothing in memory is kept; what is kept, `Memory`, concerns Kafka and what is due.
//!
//! Take over, read base and rows, make a new producer and warm it up, read each partition's tail, settle
//! what is found. What the tail read cannot see is still on the wire: hence the window in the promise.

mod hanging;
mod holding;
mod opening;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use self::{
    hanging::Ended,
    holding::Holding,
    opening::{NotOpened, ToOpen, open_kafka},
};
use super::{
    End, Relay,
    upkeep::{Ready, Upkeep},
    within,
};
use crate::{
    outbox::{
        checkpoints::{self, Entry, Lease, Receipt},
        installation, partitions,
        position::{Ids, Position},
        store,
    },
    publish::{advice::advise, kafka::Producer, tail::Found},
};

/// Ids that one statement compares with the rows.
const COMPARED_AT_ONCE: usize = 10_000;
/// Closed ids that are looked at again at a start: a row under one of them is an alarm, and is sent.
const CLOSED_CHECKED: usize = 100_000;
/// Between two tries while Kafka cannot be used.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// All that a leader needs.
pub(super) struct Started {
    pub db: PgConnection,
    pub lease: Lease,
    pub lease_ends: Instant,
    pub position: Position,
    pub next_offsets: Vec<i64>,
    pub producer: Arc<Producer>,
    pub outbox_end: i64,
    pub checkpoints_end: i64,
}

/// Begins with a lease that was just taken. Keeps it alive all the while; an outage of Kafka is waited out.
pub(super) async fn start(
    relay: &Relay,
    mut db: PgConnection,
    lease: Lease,
    cancel: &CancellationToken,
) -> Result<Started, End> {
    relay.metrics.producer_starts_total.inc();
    failpoint!("relay.start.partitions", lost);
    let timeline = within(store::read_timeline(&mut db)).await?;
    notice_promotion(
        within(installation::replace_timeline(&mut db, timeline)).await?,
        timeline,
    );
    let ready = Ready {
        checkpoints: within(partitions::ensure_checkpoints(&mut db, lease.seq)).await?,
        outbox: within(partitions::ensure_outbox(&mut db, relay.partition_rows)).await?,
    };
    match within(partitions::ensure_jobs(&mut db, chrono::Utc::now())).await {
        // Whoever accepts makes the one that it needs; what is in the way of it is in nobody's way here.
        Err(error @ sqlx::Error::Database(_)) => {
            tracing::warn!(%error, "making partitions ahead failed; it is tried again");
        }
        other => other?,
    }

    failpoint!("relay.start.position", lost);
    let beginning = within(checkpoints::read_position(&mut db, &lease)).await?;
    let mut position = beginning.position;
    reopen_wrongly_closed(relay, &mut db, &mut position).await?;
    let oldest_unsettled = within(store::read_oldest_unsettled(&mut db)).await?;
    let mut holding = Holding {
        relay,
        db,
        lease,
        next_offsets: beginning.next_offsets,
        position,
        base: beginning.base,
        upkeep: Upkeep::without_retention(ready),
        cancel,
    };

    let mut complained: Option<String> = None;
    let mut ended = Ended::default();
    let (producer, tail, found) = loop {
        // Each time anew: an operator may have accepted another identity meanwhile.
        failpoint!("relay.start.identity", lost);
        let known = within(installation::read(&mut holding.db)).await?;
        let what = ToOpen {
            left_by: holding.lease.delivery.clone(),
            known,
            next_offsets: holding.next_offsets.clone(),
            oldest_unsettled,
            passed: holding.position.passed().clone(),
            ended: ended.clone(),
        };
        match holding.keep_alive(open_kafka(relay, what)).await? {
            Ok(opened) => break opened,
            Err(not_opened) => {
                let reason = match not_opened {
                    NotOpened::Halt { reason, log_lost } => {
                        within(installation::halt(&mut holding.db, &reason, log_lost)).await?;
                        reason
                    }
                    NotOpened::Hanging(hanging) => {
                        // The lease first: who leads by now may just have committed what hangs there. Whoever takes over
                        // after this row fences this very producer before it leads.
                        if let Err(end) = holding.prolong().await {
                            hanging.leave().await;
                            return Err(end);
                        }
                        holding.keep_alive(hanging.end(&mut ended)).await?
                    }
                    NotOpened::Outage(reason) => reason,
                };
                show_outage(relay, &mut holding.db).await?;
                if complained.as_ref() != Some(&reason) {
                    tracing::warn!(
                        reason,
                        advice = advise(&reason),
                        "kafka cannot be used; accepting goes on, publishing waits"
                    );
                    complained = Some(reason);
                }
                holding.keep_alive(tokio::time::sleep(RETRY_AFTER)).await?;
            }
        }
    };
    failpoint!("relay.start.tail.after", lost);
    let ready = holding.upkeep.ready();
    let Holding {
        mut db,
        mut lease,
        mut position,
        ..
    } = holding;
    let mut entry = Entry {
        next_offsets: tail.tail.next_offsets.clone(),
        ..Entry::default()
    };
    failpoint!("relay.start.settle", lost);
    settle_found(&mut db, &mut position, found, &mut entry).await?;
    entry.changes = position.take_changes();
    // What the former leader left open has been ended; what is begun from now on is ours.
    relay.options.delivery.as_str().clone_into(&mut lease.delivery);
    entry.base = Some((position.passed().clone(), position.closed().clone()));
    let sent_at = Instant::now();
    failpoint!("relay.start.base.before", lost);
    within(checkpoints::append(&mut db, &mut lease, &entry, false)).await?;
    failpoint!("relay.start.base.after", lost);
    let lease_ends = sent_at + lease.length;
    relay.notifier.settled(&entry.changes.settled);
    // Not before: once an identity is recorded, the log has to reach up to the recorded next offsets.
    within(installation::record(
        &mut db,
        &relay.kafka.topic,
        tail.cluster_id.as_deref(),
        relay.limit.of_topic(),
    ))
    .await?;
    tracing::info!(
        fence = lease.fence,
        tail_records = tail.tail.read,
        found_unrecorded = entry.receipts.len(),
        frontier = position.frontier(),
        "leading"
    );
    Ok(Started {
        db,
        lease,
        lease_ends,
        position,
        next_offsets: entry.next_offsets,
        producer,
        outbox_end: ready.outbox,
        checkpoints_end: ready.checkpoints,
    })
}

/// Another timeline than before: the server was promoted, or restored. What it had not got from the former one is lost.
fn notice_promotion(before: Option<i32>, timeline: i32) {
    if let Some(before) = before
        && before != timeline
    {
        tracing::error!(
            before,
            timeline,
            "PostgreSQL has another timeline: a standby was promoted, or a backup restored. If it was not synchronous, \
             the last accepted jobs may be missing; see docs/operate.md"
        );
    }
}

/// Sets the gauges while nothing can be published: nobody else does, and alerts rest on them.
async fn show_outage(relay: &Relay, db: &mut PgConnection) -> Result<(), End> {
    let (pending, age, dead, paused): (i64, f64, i64, bool) = within(
        sqlx::query_as("select pending, oldest_pending_age_seconds, dead, paused from outbox_overview")
            .fetch_one(&mut *db),
    )
    .await?;
    let sample = within(store::read_sample(db)).await?;
    let metrics = &relay.metrics;
    metrics.breaker_open.set(1);
    metrics.pending_rows.set(pending);
    metrics.oldest_pending_age_seconds.set(age);
    relay.show_sample(sample);
    metrics.dead_rows.set(dead);
    metrics.paused.set(i64::from(paused));
    Ok(())
}

/// A row under a closed id: the closing was wrong. It reads as pending, raises an alarm and is sent.
async fn reopen_wrongly_closed(relay: &Relay, db: &mut PgConnection, position: &mut Position) -> Result<(), End> {
    let newest = newest_of(position.closed(), CLOSED_CHECKED);
    for ids in newest.chunks(COMPARED_AT_ONCE) {
        for (id, _) in within(store::read_event_ids(db, ids)).await? {
            position.reopen(id);
            relay.metrics.wrongly_closed_holes_total.inc();
            tracing::error!(
                id,
                "a row has shown up under an id that was closed as a hole; it is sent now"
            );
        }
    }
    Ok(())
}

/// The greatest ids of a set, at most so many, ascending; of what lies below nothing is touched.
fn newest_of(ids: &Ids, most: usize) -> Vec<i64> {
    let mut newest: Vec<i64> = ids.iter().rev().cloned().flat_map(Iterator::rev).take(most).collect();
    newest.reverse();
    newest
}

/// What of the tail belongs to an unsettled row: only where both ids agree.
async fn settle_found(
    db: &mut PgConnection,
    position: &mut Position,
    found: Vec<Found>,
    entry: &mut Entry,
) -> Result<(), End> {
    for chunk in found.chunks(COMPARED_AT_ONCE) {
        let ids: Vec<i64> = chunk.iter().map(|f| f.outbox_id).collect();
        let rows: HashMap<i64, uuid::Uuid> = within(store::read_event_ids(db, &ids)).await?.into_iter().collect();
        entry.receipts.extend(settle_matching(position, &rows, chunk));
    }
    Ok(())
}

/// Settles what was found of unsettled rows: where the row's id and its event's agree with the record's. Returns the
/// receipts. The event's alone would settle a replay that was never sent.
pub(super) fn settle_matching(
    position: &mut Position,
    rows: &HashMap<i64, uuid::Uuid>,
    found: &[Found],
) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for f in found {
        if rows.get(&f.outbox_id) == Some(&f.event_id) && !position.has_passed(f.outbox_id) {
            position.settle([f.outbox_id]);
            receipts.push(Receipt {
                id: f.outbox_id,
                partition: f.partition,
                offset: f.offset,
            });
        }
    }
    receipts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_set_are_taken_from_its_end() {
        let ids: Ids = [1..4, 7..8, 10..13].into_iter().collect();
        assert_eq!(newest_of(&ids, 5), [3, 7, 10, 11, 12]);
        assert_eq!(newest_of(&ids, 100), [1, 2, 3, 7, 10, 11, 12]);
        // A walk from the beginning would not end.
        let mut all = Ids::new();
        all.insert(1..i64::MAX);
        assert_eq!(newest_of(&all, 2), [i64::MAX - 2, i64::MAX - 1]);
        assert_eq!(newest_of(&Ids::new(), 2), [0; 0]);
    }
}
