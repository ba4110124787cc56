//! What operators read: pages of messages, one message's whole life, the numbers. Each query uses an index
//! or is bounded, whatever the size of the log: keyset pages, no OFFSET, no count of the log.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::record::OutboxMessage;

/// Rows that one page looks at when no index serves its filter.
const SCAN_ROWS: i64 = 200_000;

/// Rows that one page looks at when each of them has to be looked up elsewhere too.
const SCAN_ROWS_LOOKED_UP: i64 = 20_000;

/// Matches are counted up to here: more is "more than a thousand" to anybody who reads the number.
const COUNTED: i64 = 1_000;

/// Ids on either side of a message among which its neighbours of the same key are looked for: there is no index by
/// key.
const NEIGHBOUR_IDS: i64 = 200_000;

/// Ids and times rise together, but not strictly: a row may be written so much later than its instant says.
const SLACK: TimeDelta = TimeDelta::hours(1);

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = OutboxState)]
pub enum MessageState {
    /// Neither published nor dead.
    Pending,
    /// In Kafka.
    Published,
    /// Refused for good.
    Dead,
}

impl MessageState {
    /// As `outbox_status` says it.
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
    /// `pending`, `published` or `dead`.
    pub state: String,
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
    let (lower, upper) = bound_ids(conn, filter.from, filter.to).await?;
    let upper = filter.after.map_or(upper, |after| upper.min(after.saturating_sub(1)));
    let (mut ids, scanned_to) = if let Some(job) = filter.job {
        (find_of_job(conn, job, filter, upper).await?, None)
    } else if filter.is_of_dead() {
        (find_dead(conn, filter, upper).await?, None)
    } else {
        scan(conn, filter, lower, upper).await?
    };
    let found = ids.len() as i64;
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

/// Reads the state of messages, newest first.
pub async fn read_status(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<MessageStatus>> {
    sqlx::query_as(
        r#"select id, event_id, job_id, topic, key, state, created_at, published_at, partition, "offset", replay_of,
                  replay_id, error
           from outbox_status where id = any($1) order by id desc"#,
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

/// By the table of dead letters.
async fn find_dead(conn: &mut PgConnection, filter: &MessageFilter, upper: i64) -> sqlx::Result<Vec<i64>> {
    let query = sqlx::query_scalar(concat!(
        "select d.outbox_id from outbox_dead_letters d join outbox_messages m on m.id = d.outbox_id
         where ",
        narrowed!(),
        " and d.outbox_id <= $6
          and ($7::text is null or d.error_class = $7)
         order by d.outbox_id desc limit $8"
    ));
    narrowed_query!(query, filter)
        .bind(upper)
        .bind(&filter.error_class)
        .bind(filter.wanted())
        .fetch_all(conn)
        .await
}

#[derive(sqlx::FromRow)]
struct Scanned {
    ids: Vec<i64>,
    looked_at: i64,
    lowest: Option<i64>,
}

/// The rows that [`scan`] looks at, `$8` of them at most: with ids from `$6` to `$7`, newest first.
macro_rules! scan {
    ($rows:literal) => {
        concat!(
            "with scanned as materialized (",
            $rows,
            "), matching as (
                 select m.id from scanned m where ",
            narrowed!(),
            "      and (not $9 or (m.id <@ (select outbox_settled())
                                   and not exists (select from outbox_dead_letters d where d.outbox_id = m.id)))
                 order by m.id desc limit $10
             )
             select array(select id from matching order by id desc) as ids,
                    (select count(*) from scanned) as looked_at,
                    (select min(id) from scanned) as lowest"
        )
    };
}

/// All of them, by the primary key.
const SCAN_ALL: &str = scan!(
    "select id, key, job_id, replay_id, created_at from outbox_messages
     where id >= $6 and id <= $7 order by id desc limit $8"
);

/// Those that are not settled, by the gaps of the settled set: few ranges, however long the log is.
const SCAN_PENDING: &str = scan!(
    "select p.*
     from unnest(int8multirange(int8range($6, greatest($7 + 1, $6))) - (select coalesce(outbox_settled(), '{}'))) gap,
          lateral (
              select m.id, m.key, m.job_id, m.replay_id, m.created_at from outbox_messages m
              where m.id >= lower(gap) and m.id < upper(gap) order by m.id desc limit $8
          ) p
     order by p.id desc limit $8"
);

/// By id downwards, a bounded number of rows. Returns the lowest id looked at when it stopped there.
async fn scan(
    conn: &mut PgConnection,
    filter: &MessageFilter,
    lower: i64,
    upper: i64,
) -> sqlx::Result<(Vec<i64>, Option<i64>)> {
    let (pending, published) = (
        filter.state == Some(MessageState::Pending),
        filter.state == Some(MessageState::Published),
    );
    let narrow =
        filter.draft.is_some() || filter.from.is_some() || filter.to.is_some() || published || filter.replay.is_some();
    let rows = if filter.user.is_some() {
        SCAN_ROWS_LOOKED_UP
    } else if narrow {
        SCAN_ROWS
    } else {
        // Each row matches: no more need to be read than are counted.
        filter.wanted()
    };
    let query = sqlx::query_as(if pending { SCAN_PENDING } else { SCAN_ALL });
    let found: Scanned = narrowed_query!(query, filter)
        .bind(lower)
        .bind(upper)
        .bind(rows)
        .bind(published)
        .bind(filter.wanted())
        .fetch_one(conn)
        .await?;
    let stopped = found.looked_at == rows;
    Ok((found.ids, found.lowest.filter(|_| stopped)))
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

/// The ids between which all rows of a time span lie: by bisection along the primary key, so that neither
/// end costs a scan.
pub(super) async fn bound_ids(
    conn: &mut PgConnection,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> sqlx::Result<(i64, i64)> {
    let top: Option<i64> = sqlx::query_scalar("select max(id) from outbox_messages")
        .fetch_one(&mut *conn)
        .await?;
    let top = top.unwrap_or(0);
    let lower = match from {
        Some(from) => first_id_since(conn, from - SLACK, top).await?,
        None => 1,
    };
    let upper = match to {
        Some(to) => first_id_since(conn, to + SLACK, top).await?.min(top),
        None => top,
    };
    Ok((lower, upper))
}

/// The lowest id, holes included, from which on all rows up to `top` were written at `at` or later, as far
/// as ids and times rise together.
async fn first_id_since(conn: &mut PgConnection, at: DateTime<Utc>, top: i64) -> sqlx::Result<i64> {
    let (mut low, mut high) = (1, top + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let first: Option<(i64, DateTime<Utc>)> = sqlx::query_as(
            "select id, created_at from outbox_messages where id >= $1 and id <= $2 order by id limit 1",
        )
        .bind(middle)
        .bind(top)
        .fetch_optional(&mut *conn)
        .await?;
        match first {
            Some((id, created_at)) if created_at < at => low = id + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Reads one message whole; `None`: it never existed, or was dropped by retention.
pub async fn read_message(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<OutboxMessage>> {
    let row: Option<MessageRow> = sqlx::query_as(
        "select id, event_id, job_id, key, event_time, created_at, replay_id, traceparent, payload
         from outbox_messages where id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|r| OutboxMessage {
        id: r.id,
        event_id: r.event_id,
        job_id: r.job_id,
        key: r.key,
        event_time: r.event_time,
        created_at: r.created_at,
        replay_id: r.replay_id,
        traceparent: r.traceparent,
        payload: r.payload,
    }))
}

#[derive(sqlx::FromRow)]
struct MessageRow {
    id: i64,
    event_id: Uuid,
    job_id: Uuid,
    key: Uuid,
    event_time: DateTime<Utc>,
    created_at: DateTime<Utc>,
    replay_id: Option<Uuid>,
    traceparent: Option<String>,
    payload: Vec<u8>,
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
