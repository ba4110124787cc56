//! Audits: is everything in the topic that the receipts say, and nothing else?
//!
//! Two streams in the same order, of receipts from PostgreSQL and of records from Kafka, are compared as they pass
//! ([`comparison`]); neither is in memory. Receipts are frozen before the topic's ends are asked for: whatever was
//! acknowledged then must be below them.

pub mod comparison;

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{Stream, StreamExt as _};
use rdkafka::Message as _;
use roaring::RoaringTreemap;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use self::comparison::{Comparison, EXAMPLES, Forgiving, Seen};
use crate::{
    config,
    outbox::{
        audits::{self, Audit, Expected, Extent, Finding, Kind, NewAudit, Range, Receipts},
        position::multirange_of,
        query::read_status,
    },
    publish::{
        reader::{ReadError, Retained, Span, TopicReader, identify},
        tail::CLOCK_ALLOWANCE,
        topic::{Retention, TopicInspector},
    },
};

/// Records that go from the reading thread to the comparison at once.
const BATCH: usize = 1_000;
/// For open transactions to be ended: that of a leader that was killed stays open until the next one begins.
const DECIDED_WITHIN: Duration = Duration::from_secs(30);
/// Batches that wait for the comparison, at most.
const BATCHES: usize = 8;
/// Ids that one statement looks up.
const LOOKED_UP_AT_ONCE: usize = 10_000;

/// What is audited.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Where the topic is.
    pub kafka: &'a config::Kafka,
    /// Which messages.
    pub range: Range,
    /// Who asks.
    pub by: &'a str,
}

/// What an audit found, and how far it can be believed.
#[derive(Debug)]
pub struct Report {
    /// As it was recorded.
    pub audit: Audit,
    /// Examples, as they were recorded.
    pub findings: Vec<Finding>,
    /// What keeps it from telling loss from retention; for people.
    pub caveats: Vec<&'static str>,
}

/// Why an audit was not finished. Nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// PostgreSQL.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// Kafka.
    #[error(transparent)]
    Topic(#[from] ReadError),
}

/// Compares the topic with the receipts and records what it finds. `receipts` and `rows` are two connections:
/// one streams while the other is asked. `progress` is told how many offsets of how many have been passed.
pub async fn run(
    request: &Request<'_>,
    receipts: &mut PgConnection,
    rows: &mut PgConnection,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, AuditError> {
    let range = request.range;
    let mut frozen = Receipts::freeze(receipts, range).await?;
    let started_at = frozen.at;
    // Without a range, the whole topic is read.
    let extents = match range {
        Range { from: None, to: None } => None,
        _ => Some(frozen.read_extents().await?),
    };
    let mut reading = Reading::begin(request.kafka, range, extents);
    let Some(News::Plan(plan)) = reading.news.recv().await else {
        return Err(reading.failure().await);
    };
    let (forgiving, caveats) = forgive(plan.retention, started_at, &plan.parts);
    let mut comparison = Comparison::new(range, forgiving);
    {
        let mut expected = Expectations::of(frozen.stream()).await?;
        let mut unexplained = Vec::new();
        while let Some(News::Records(batch)) = reading.news.recv().await {
            for seen in &batch {
                let here = expected
                    .take_up_to((seen.partition, seen.offset), &mut comparison)
                    .await?;
                unexplained.extend(comparison.meet(*seen, &here));
            }
            if unexplained.len() >= LOOKED_UP_AT_ONCE {
                explain(rows, &mut comparison, &mut unexplained).await?;
            }
            if let Some(last) = batch.last() {
                progress(plan.passed(last), plan.total());
            }
        }
        reading.finish().await?;
        expected.take_up_to((i32::MAX, i64::MAX), &mut comparison).await?;
        explain(rows, &mut comparison, &mut unexplained).await?;
    }
    drop(frozen);
    conclude(request, comparison, plan.cluster_id.as_deref(), started_at, rows)
        .await
        .map(|(audit, findings)| Report {
            audit,
            findings,
            caveats,
        })
        .map_err(AuditError::from)
}

/// What is missing is known at the end: what was replayed since is not.
async fn conclude(
    request: &Request<'_>,
    comparison: Comparison,
    cluster_id: Option<&str>,
    started_at: DateTime<Utc>,
    conn: &mut PgConnection,
) -> sqlx::Result<(Audit, Vec<Finding>)> {
    let lost = comparison.missing();
    let made_good = find_made_good(conn, &lost).await?;
    let missing = &lost - &made_good;
    let Comparison {
        mut counts,
        findings: mut others,
        ..
    } = comparison;
    counts.made_good = made_good.len() as i64;
    counts.missing = missing.len() as i64;
    let mut findings = describe(conn, &missing).await?;
    // Repeated before foreign, each by place.
    others.sort_by_key(|f| (f.kind == Kind::Foreign, f.partition, f.offset));
    findings.append(&mut others);
    let mut tx = conn.begin().await?;
    let audit = audits::record_audit(
        &mut tx,
        &NewAudit {
            by: request.by,
            started_at,
            range: request.range,
            topic: &request.kafka.topic,
            cluster_id,
            counts: &counts,
            missing_ids: &multirange_of(missing.iter().map(|id| id as i64)),
            findings: &findings,
        },
    )
    .await?;
    tx.commit().await?;
    Ok((audit, findings))
}

/// Of the lost ones, those of which a later replay is there, or on its way.
async fn find_made_good(conn: &mut PgConnection, lost: &RoaringTreemap) -> sqlx::Result<RoaringTreemap> {
    let mut made_good = RoaringTreemap::new();
    let mut ids = lost.iter().map(|id| id as i64);
    loop {
        let chunk: Vec<i64> = ids.by_ref().take(LOOKED_UP_AT_ONCE).collect();
        if chunk.is_empty() {
            return Ok(made_good);
        }
        made_good.extend(audits::find_unsent(conn, &chunk).await?.iter().map(|id| *id as u64));
        for (id, later) in audits::find_later(conn, &chunk).await? {
            // A replay can be lost as well.
            if !lost.contains(later as u64) {
                made_good.insert(id as u64);
            }
        }
    }
}

/// The first of the missing ones, and where their receipts say they are.
async fn describe(conn: &mut PgConnection, missing: &RoaringTreemap) -> sqlx::Result<Vec<Finding>> {
    let ids: Vec<i64> = missing.iter().take(EXAMPLES).map(|id| id as i64).collect();
    let mut findings: Vec<Finding> = read_status(conn, &ids)
        .await?
        .into_iter()
        .map(|row| Finding {
            kind: Kind::Missing,
            partition: row.partition.unwrap_or(-1),
            offset: row.offset.unwrap_or(-1),
            outbox_id: Some(row.id),
            event_id: Some(row.event_id),
        })
        .collect();
    findings.sort_by_key(|f| f.outbox_id);
    Ok(findings)
}

/// Looks the records up that no receipt is for: not recorded yet, repeated, foreign.
async fn explain(
    conn: &mut PgConnection,
    comparison: &mut Comparison,
    unexplained: &mut Vec<Seen>,
) -> sqlx::Result<()> {
    if unexplained.is_empty() {
        return Ok(());
    }
    for chunk in unexplained.chunks(LOOKED_UP_AT_ONCE) {
        let ids: Vec<i64> = chunk.iter().filter_map(|seen| seen.outbox_id).collect();
        let rows: HashMap<i64, audits::Row> = audits::read_rows(conn, &ids)
            .await?
            .into_iter()
            .map(|row| (row.id, row))
            .collect();
        let lowest = audits::read_lowest(conn).await?;
        for seen in chunk {
            let row = seen.outbox_id.and_then(|id| rows.get(&id)).copied();
            comparison.explain(*seen, row, lowest);
        }
    }
    unexplained.clear();
    Ok(())
}

/// What the topic's own settings may have deleted, and what they keep from being told.
fn forgive(retention: Option<Retention>, at: DateTime<Utc>, parts: &[Part]) -> (Forgiving, Vec<&'static str>) {
    let low = parts.iter().map(|part| part.retained.low).collect();
    let Some(retention) = retention else {
        let forgiving = Forgiving {
            by_size: true,
            low,
            ..Forgiving::default()
        };
        let caveat = "the topic's settings may not be read: whatever lies below the beginning of a partition counts as \
                      expired; give the user DescribeConfigs on the topic";
        return (forgiving, vec![caveat]);
    };
    let mut caveats = Vec::new();
    if retention.by_size {
        caveats.push(
            "the topic has retention.bytes: whatever lies below the beginning of a partition counts as expired, also \
             when it was deleted otherwise",
        );
    }
    if retention.compacted {
        caveats.push("the topic is compacted: a record that is gone counts as expired, also when it was lost");
    }
    let forgiving = Forgiving {
        oldest_kept: retention.kept_for.and_then(|kept| at.checked_sub_signed(kept)),
        by_size: retention.by_size,
        compacted: retention.compacted,
        low,
    };
    (forgiving, caveats)
}

/// The receipts as they come, one ahead.
struct Expectations<S> {
    stream: S,
    next: Option<Expected>,
}

impl<S: Stream<Item = sqlx::Result<Expected>> + Unpin> Expectations<S> {
    async fn of(mut stream: S) -> sqlx::Result<Self> {
        let next = stream.next().await.transpose()?;
        Ok(Self { stream, next })
    }

    /// Passes what is before a place, and answers with the receipts that name it.
    async fn take_up_to(&mut self, place: (i32, i64), comparison: &mut Comparison) -> sqlx::Result<Vec<Expected>> {
        let mut here = Vec::new();
        while let Some(r) = self.next.filter(|r| (r.partition, r.offset) <= place) {
            if (r.partition, r.offset) == place {
                here.push(r);
            } else {
                comparison.pass(&r);
            }
            self.next = self.stream.next().await.transpose()?;
        }
        Ok(here)
    }
}

/// One partition: what it has, and what of it is read.
#[derive(Debug, Clone, Copy)]
struct Part {
    retained: Retained,
    span: Span,
}

/// What is read.
struct Plan {
    parts: Vec<Part>,
    /// None: we may not ask for it.
    retention: Option<Retention>,
    cluster_id: Option<String>,
}

impl Plan {
    /// Offsets that are read, those of transaction markers included.
    fn total(&self) -> u64 {
        self.parts.iter().map(Part::offsets).sum()
    }

    /// Of them, up to this record.
    fn passed(&self, last: &Seen) -> u64 {
        let (before, rest) = self.parts.split_at((last.partition as usize).min(self.parts.len()));
        let within = rest.first().map_or(0, |part| last.offset + 1 - part.span.begin);
        before.iter().map(Part::offsets).sum::<u64>() + within.max(0) as u64
    }
}

impl Part {
    fn offsets(&self) -> u64 {
        (self.span.end - self.span.begin).max(0) as u64
    }
}

enum News {
    Plan(Plan),
    Records(Vec<Seen>),
}

/// The topic, read by a thread. Dropping it ends the thread.
struct Reading {
    news: mpsc::Receiver<News>,
    thread: Option<tokio::task::JoinHandle<Result<(), ReadError>>>,
    cancel: Arc<AtomicBool>,
}

impl Reading {
    fn begin(kafka: &config::Kafka, range: Range, extents: Option<Vec<Extent>>) -> Self {
        let (send, news) = mpsc::channel(BATCHES);
        let cancel = Arc::new(AtomicBool::new(false));
        let (kafka, cancelled) = (kafka.clone(), Arc::clone(&cancel));
        let runtime = tokio::runtime::Handle::current();
        let thread = tokio::task::spawn_blocking(move || {
            let reader = TopicReader::new(&kafka, &cancelled)?;
            let inspector = TopicInspector::new(&kafka)?;
            let parts = plan(&reader, range, extents.as_deref())?;
            let plan = Plan {
                parts: parts.clone(),
                retention: runtime.block_on(inspector.retention())?,
                cluster_id: inspector.cluster_id(),
            };
            if send.blocking_send(News::Plan(plan)).is_ok() {
                read(&reader, &parts, &send)?;
            }
            Ok(())
        });
        Self {
            news,
            thread: Some(thread),
            cancel,
        }
    }

    /// How the thread ended.
    async fn finish(&mut self) -> Result<(), ReadError> {
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => thread.await.unwrap_or(Err(ReadError::Cancelled)),
        }
    }

    /// It ended before it began.
    async fn failure(mut self) -> AuditError {
        self.finish().await.err().unwrap_or(ReadError::Cancelled).into()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// Which part of each partition is read: all of it, or from where the range's receipts and times begin to where
/// they end. Clocks differ, so an hour more on both sides; a repeat that came later than that is not seen.
fn plan(reader: &TopicReader<'_>, range: Range, extents: Option<&[Extent]>) -> Result<Vec<Part>, ReadError> {
    let mut parts = Vec::new();
    for (partition, retained) in (0..).zip(reader.retained(DECIDED_WITHIN)?) {
        let (mut begin, mut end) = (retained.low, retained.high);
        if let Some(extents) = extents {
            let extent = extents.iter().find(|e| e.partition == partition);
            let at = |time: DateTime<Utc>, by: TimeDelta| {
                let found = reader.offset_at(partition, time + by)?;
                Ok::<_, ReadError>(found.unwrap_or(retained.high))
            };
            if let Some(from) = range.from {
                begin = at(from, -CLOCK_ALLOWANCE)?.min(extent.map_or(i64::MAX, |e| e.first));
            }
            if let Some(to) = range.to {
                end = at(to, CLOCK_ALLOWANCE)?.max(extent.map_or(i64::MIN, |e| e.last.saturating_add(1)));
            }
        }
        let end = end.clamp(retained.low, retained.high);
        let span = Span {
            partition,
            begin: begin.clamp(retained.low, retained.high),
            end,
            reaches: end,
        };
        parts.push(Part { retained, span });
    }
    Ok(parts)
}

/// Partition after partition: the order in which the receipts come.
fn read(reader: &TopicReader<'_>, parts: &[Part], send: &mpsc::Sender<News>) -> Result<(), ReadError> {
    for part in parts.iter().filter(|part| part.offsets() > 0) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut wanted = true;
        reader.read(&[part.span], |message| {
            let (outbox_id, event_id) = identify(message);
            batch.push(Seen {
                partition: message.partition(),
                offset: message.offset(),
                at: message
                    .timestamp()
                    .to_millis()
                    .and_then(DateTime::from_timestamp_millis),
                outbox_id,
                event_id,
            });
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                wanted = send.blocking_send(News::Records(full)).is_ok();
            }
            if wanted {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        if !wanted || send.blocking_send(News::Records(batch)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
