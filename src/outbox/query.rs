//! What operators read: pages of messages, one message's whole life, the numbers. Each query uses an index
//! or is bounded ([`mod@scan`]), whatever the size of the log: keyset pages, no OFFSET, no count of the log.

mod scan;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

pub(super) use self::scan::{Late, bound_ids};
use self::scan::{Scanned, scan, scan_dead};
use super::record::OutboxMessage;

/// Matches are counted up to here: more is "more than a thousand" to anybody who reads the number.
const COUNTED: i64 = 1_000;

/// Ids on either side of a message among which its neighbours of the same key are looked for: there is no index by
/// key.
const NEIGHBOUR_IDS: i64 = 50_000;

/// Ids and times rise together, but not strictly: a row may be written so much later than its instant says. A job's is
/// written within `intake`'s budgets, which are seconds; where a list begins, each second more is looked at for nothing.
/// After PostgreSQL's clock was set back by more, as by a standby that was promoted, a list's page can miss a row.
const LATE: Late = Late {
    from: TimeDelta::hours(1),
    to: TimeDelta::minutes(1),
};

/// Settings of a session that reads pages: they are done before PostgreSQL would have compiled their plans, which takes a
/// tenth of a second and more.
pub fn without_compiler(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("jit", "off")])
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum MessageState {
    /// Neither published nor dead.
    Pending,
    /// In Kafka.
    Published,
    /// Refused for good, until an operator retries it.
    Dead,
}

impl MessageState {
    /// As `outbox_status` says it, and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Published => "published",
            Self::Dead => "dead",
        }
    }
}

/// One row of the view `outbox_status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct MessageStatus {
    /// The outbox id.
    pub id: i64,
    /// `ce_id`.
    pub event_id: Uuid,
    /// The job.
    pub job_id: Uuid,
    /// Null until a leader has seen the broker.
    pub topic: Option<String>,
    /// The event draft's id.
    pub key: String,
    /// Where it stands.
    pub state: MessageState,
    /// When the row was written.
    pub created_at: DateTime<Utc>,
    /// When its receipt was recorded.
    pub published_at: Option<DateTime<Utc>>,
    /// In the topic; null while not published, and when it was found published without its receipt.
    pub partition: Option<i32>,
    /// As `partition`.
    pub offset: Option<i64>,
    /// The original that this one repeats.
    pub replay_of: Option<i64>,
    /// The replay that wrote it.
    pub replay_id: Option<Uuid>,
    /// Why it is dead.
    pub error: Option<String>,
}

/// Which page of messages, newest first. Each field narrows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Only below this outbox id.
    pub after: Option<i64>,
    /// At most so many rows.
    pub limit: i64,
    /// Only in this state.
    pub state: Option<MessageState>,
    /// Only of this job.
    pub job: Option<Uuid>,
    /// Only of this event draft.
    pub draft: Option<Uuid>,
    /// Written at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Written before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only of this user's jobs.
    pub user: Option<Uuid>,
    /// Only dead letters of this class, resolved or not.
    pub error_class: Option<String>,
    /// Only written by this replay.
    pub replay: Option<Uuid>,
}

impl MessageFilter {
    /// All the dead letters and nothing else are meant.
    fn is_of_dead(&self) -> bool {
        self.error_class.is_some() || self.state == Some(MessageState::Dead)
    }

    /// Something besides the state and the class narrows.
    fn is_narrowed(&self) -> bool {
        let times = self.from.is_some() || self.to.is_some();
        times || self.draft.is_some() || self.user.is_some() || self.replay.is_some()
    }

    /// Ids that are looked for: those of the page and one more, and enough to count.
    fn wanted(&self) -> i64 {
        self.limit.max(COUNTED) + 1
    }
}

/// How many messages match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Matching {
    /// Counted up to a thousand, and among the rows that one page looks at.
    pub count: i64,
    /// False: there may be more.
    pub exact: bool,
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePage {
    /// Newest first.
    pub rows: Vec<MessageStatus>,
    /// More may follow below this id.
    pub next: Option<i64>,
    /// The page ended because it had looked at as many rows as one page may, not because there are no more.
    pub bounded: bool,
    /// How many match: the page and what is behind it.
    pub matching: Matching,
}

/// Reads one page.
pub async fn list_messages(conn: &mut PgConnection, filter: &MessageFilter) -> sqlx::Result<MessagePage> {
    list_messages_as_late(conn, filter, LATE).await
}

/// Reads one page, among rows that may be as late as `late` says.
pub(super) async fn list_messages_as_late(
    conn: &mut PgConnection,
    filter: &MessageFilter,
    late: Late,
) -> sqlx::Result<MessagePage> {
    let (from, to) = times(conn, filter).await?;
    let (lower, upper) = bound_ids(conn, from, to, late).await?;
    // What retention has dropped needs no look; a resolved dead letter stays when its message goes.
    let oldest: Option<i64> = sqlx::query_scalar("select min(id) from outbox_messages")
        .fetch_one(&mut *conn)
        .await?;
    let lower = lower.max(oldest.unwrap_or(1));
    let upper = filter.after.map_or(upper, |after| upper.min(after.saturating_sub(1)));
    let Scanned { mut ids, stopped_at } = if let Some(job) = filter.job {
        Scanned {
            ids: find_of_job(conn, job, filter, upper).await?,
            stopped_at: None,
        }
    } else if filter.is_of_dead() {
        scan_dead(conn, filter, (lower, upper)).await?
    } else {
        scan(conn, filter, (lower, upper)).await?
    };
    let found = ids.len() as i64;
    // With all that are wanted, it ended before.
    let scanned_to = stopped_at.filter(|_| found < filter.wanted());
    let matching = Matching {
        count: found.min(COUNTED),
        exact: found <= COUNTED && scanned_to.is_none(),
    };
    ids.truncate(usize::try_from(filter.limit).unwrap_or(0));
    let next = if found > filter.limit {
        ids.last().copied()
    } else {
        scanned_to
    };
    Ok(MessagePage {
        rows: read_status(conn, &ids).await?,
        next,
        bounded: scanned_to.is_some() && found <= filter.limit,
        matching,
    })
}

/// The time in which all that match were written, as far as it is known. A replay's rows are no older than it, and no
/// newer than its end.
async fn times(
    conn: &mut PgConnection,
    filter: &MessageFilter,
) -> sqlx::Result<(Option<DateTime<Utc>>, Option<DateTime<Utc>>)> {
    let Some(replay) = filter.replay else {
        return Ok((filter.from, filter.to));
    };
    let known: Option<(DateTime<Utc>, Option<DateTime<Utc>>)> = sqlx::query_as(
        "select created_at, case when state in ('done', 'cancelled') then changed_at end from outbox_replays where id = $1",
    )
    .bind(replay)
    .fetch_optional(conn)
    .await?;
    let (begun, ended) = known.unzip();
    Ok((
        filter.from.max(begun),
        [filter.to, ended.flatten()].into_iter().flatten().min(),
    ))
}

/// Reads the state of messages, newest first: what `outbox_status` says of them. The view looks for the receipt of each
/// message alone, in arrays of thousands; here those of a page, which share few checkpoints, are taken apart once.
pub async fn read_status(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<MessageStatus>> {
    sqlx::query_as(
        r#"with settling as materialized (
               select id, (select max(seq) from (select seq from outbox_checkpoints
                                                 where settled @> id and not isempty(settled) offset 0) c) as seq
               from unnest($1) id
               where not exists (select from outbox_dead_letters d where d.outbox_id = id)
           ), receipts as materialized (
               select c.seq, r.*
               from outbox_checkpoints c
               cross join lateral unnest(c.receipt_ids, c.receipt_partitions, c.receipt_offsets) r (id, partition, "offset")
               where c.seq in (select seq from settling) and r.id = any($1)
           ), published as materialized (
               select s.id, c.created_at as published_at, r.partition, r."offset"
               from settling s
               join outbox_checkpoints c on c.seq = s.seq
               left join receipts r on r.seq = s.seq and r.id = s.id
           )
           select m.id, m.event_id, m.job_id, i.topic, m.key::text as key,
                  case when d.outbox_id is not null then 'dead'
                       when m.id <@ (select outbox_settled()) then 'published'
                       else 'pending' end as state,
                  m.created_at, p.published_at, p.partition, p."offset", m.replay_of, m.replay_id, d.error
           from outbox_messages m
           cross join installation i
           left join outbox_dead_letters d on d.outbox_id = m.id
           left join published p on p.id = m.id
           where m.id = any($1) order by m.id desc"#,
    )
    .persistent(false)
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// A condition on `m` that all ways to find messages share: `$1` draft, `$2` and `$3` the time, `$4` user, `$5` replay.
macro_rules! narrowed {
    () => {
        "($1::uuid is null or m.key = $1)
         and ($2::timestamptz is null or m.created_at >= $2)
         and ($3::timestamptz is null or m.created_at < $3)
         and ($4::uuid is null or exists (select from jobs j where j.id = m.job_id and j.user_id = $4))
         and ($5::uuid is null or m.replay_id = $5)"
    };
}

use narrowed;

/// Binds what [`narrowed!`] asks for.
macro_rules! narrowed_query {
    ($query:expr, $filter:expr) => {
        $query
            .persistent(false)
            .bind($filter.draft)
            .bind($filter.from)
            .bind($filter.to)
            .bind($filter.user)
            .bind($filter.replay)
    };
}

use narrowed_query;

/// By the job's first message and its replays; both are indexed.
async fn find_of_job(conn: &mut PgConnection, job: Uuid, filter: &MessageFilter, upper: i64) -> sqlx::Result<Vec<i64>> {
    let query = sqlx::query_scalar(concat!(
        "with mine as (
             select outbox_id as id from jobs where id = $6
             union all
             select r.id from jobs j join outbox_messages r on r.replay_of = j.outbox_id where j.id = $6
         )
         select m.id from outbox_messages m join mine on mine.id = m.id
         left join outbox_dead_letters d on d.outbox_id = m.id
         where ",
        narrowed!(),
        " and m.id <= $7
          and ($8::text is null or $8 = case when d.outbox_id is not null then 'dead'
                                             when m.id <@ (select outbox_settled()) then 'published'
                                             else 'pending' end)
          and ($9::text is null or d.error_class = $9)
         order by m.id desc limit $10"
    ));
    narrowed_query!(query, filter)
        .bind(job)
        .bind(upper)
        .bind(filter.state.map(MessageState::as_str))
        .bind(&filter.error_class)
        .bind(filter.wanted())
        .fetch_all(conn)
        .await
}

/// The messages before and after one, of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct SameKey {
    /// The nearest lower outbox id; null: none among those looked at.
    pub previous: Option<i64>,
    /// The nearest greater one; null as above.
    pub next: Option<i64>,
    /// So many ids were looked at on either side.
    pub looked_at: i64,
}

/// Finds them.
pub async fn find_same_key(conn: &mut PgConnection, id: i64, key: Uuid) -> sqlx::Result<SameKey> {
    sqlx::query_as(
        "select (select m.id from outbox_messages m where m.key = $2 and m.id < $1 and m.id >= $1 - $3
                 order by m.id desc limit 1) as previous,
                (select m.id from outbox_messages m where m.key = $2 and m.id > $1 and m.id <= $1 + $3
                 order by m.id limit 1) as next,
                $3 as looked_at",
    )
    .persistent(false)
    .bind(id)
    .bind(key)
    .bind(NEIGHBOUR_IDS)
    .fetch_one(conn)
    .await
}

/// Reads one message whole; `None`: it never existed, or was dropped by retention.
pub async fn read_message(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<OutboxMessage>> {
    sqlx::query_as(
        "select id, event_id, job_id, key, event_time, created_at, replay_id, traceparent, payload
         from outbox_messages where id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The replays of a message, newest first, at most `limit`.
pub async fn list_replays_of(conn: &mut PgConnection, id: i64, limit: i64) -> sqlx::Result<Vec<MessageStatus>> {
    let ids: Vec<i64> =
        sqlx::query_scalar("select id from outbox_messages where replay_of = $1 order by id desc limit $2")
            .bind(id)
            .bind(limit)
            .fetch_all(&mut *conn)
            .await?;
    read_status(conn, &ids).await
}

/// The outbox id of a job's first message; `None`: no such job.
pub async fn find_first_message(conn: &mut PgConnection, job: Uuid) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("select outbox_id from jobs where id = $1")
        .bind(job)
        .fetch_optional(conn)
        .await
}
