//! Finding messages where no index serves the filter: downwards by id, among a bounded number of ids. What stops there
//! says so, and the next page goes on.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::{MessageFilter, MessageState, narrowed, narrowed_query};

/// Ids among which one page looks when no index serves its filter.
const SCAN_IDS: i64 = 100_000;

/// Ids among which one page looks when each row has to be looked up elsewhere too.
const SCAN_IDS_LOOKED_UP: i64 = 10_000;

/// Dead letters among which one page looks when something of the message narrows: each is in a page of its own.
const SCAN_DEAD_LETTERS: i64 = 2_000;

/// What one scan found.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Scanned {
    /// Newest first.
    pub ids: Vec<i64>,
    /// The lowest id that was looked at, where it stopped before the last one.
    pub stopped_at: Option<i64>,
}

/// All of them, by the primary key: `$6` and `$7` are the ids. Nothing is put aside on the way, so it ends with the last
/// row that is wanted, `$9` of them.
const SCAN_ALL: &str = concat!(
    "select m.id from outbox_messages m
     where m.id >= $6 and m.id <= $7 and ",
    narrowed!(),
    " and (not $8 or (m.id <@ (select outbox_settled())
                      and not exists (select from outbox_dead_letters d where d.outbox_id = m.id)))
     order by m.id desc limit $9"
);

/// Those that are not settled, by the gaps of the settled set, a range for what is pending and one for each id that was
/// rolled back, however long the log is: `$8` ids in gaps at most, and `$9` rows. The gap in which that ends is cut.
const SCAN_PENDING: &str = concat!(
    "with gaps as materialized (
         select lower(gap) as low, upper(gap) - 1 as high,
                sum(upper(gap) - lower(gap)) over (order by gap desc) - (upper(gap) - lower(gap)) as above
         from unnest(int8multirange(int8range($6, greatest($7 + 1, $6))) - (select coalesce(outbox_settled(), '{}'))) gap
     ), looked as materialized (
         select greatest(low, high - ($8::bigint - above)::bigint + 1) as low, high from gaps where above < $8::bigint
     ), matching as (
         select p.id from looked, lateral (
             select m.id from outbox_messages m
             where m.id >= looked.low and m.id <= looked.high and ",
    narrowed!(),
    "        order by m.id desc limit $9
         ) p
         order by p.id desc limit $9
     )
     select array(select id from matching order by id desc) as ids,
            (select min(low) from looked having min(low) > (select min(low) from gaps)) as stopped_at"
);

/// By id downwards, from `upper` to `lower`.
pub(super) async fn scan(
    conn: &mut PgConnection,
    filter: &MessageFilter,
    (lower, upper): (i64, i64),
) -> sqlx::Result<Scanned> {
    let most = if filter.user.is_some() {
        SCAN_IDS_LOOKED_UP
    } else {
        SCAN_IDS
    };
    if filter.state == Some(MessageState::Pending) {
        return narrowed_query!(sqlx::query_as(SCAN_PENDING), filter)
            .bind(lower)
            .bind(upper)
            .bind(most)
            .bind(filter.wanted())
            .fetch_one(conn)
            .await;
    }
    let published = filter.state == Some(MessageState::Published);
    let upper = if published {
        // What waits on top, in an outage all that was accepted since, needs no look.
        upper.min(read_newest_settled(conn).await?)
    } else {
        upper
    };
    // Otherwise each row is wanted, however far the next one is.
    let lowest = if published || filter.is_narrowed() {
        lower.max(upper.saturating_sub(most - 1))
    } else {
        lower
    };
    let ids: Vec<i64> = narrowed_query!(sqlx::query_scalar(SCAN_ALL), filter)
        .bind(lowest)
        .bind(upper)
        .bind(published)
        .bind(filter.wanted())
        .fetch_all(conn)
        .await?;
    Ok(Scanned {
        ids,
        stopped_at: (lowest > lower).then_some(lowest),
    })
}

async fn read_newest_settled(conn: &mut PgConnection) -> sqlx::Result<i64> {
    let settled: Option<i64> = sqlx::query_scalar("select upper(outbox_settled()) - 1")
        .fetch_one(conn)
        .await?;
    Ok(settled.unwrap_or(0))
}

/// By the table of dead letters, `$8` of them at most: `$6` and `$7` are the ids.
const SCAN_DEAD: &str = concat!(
    "with looked as materialized (
         select outbox_id from outbox_dead_letters
         where outbox_id >= $6 and outbox_id <= $7 and ($10::text is null or error_class = $10)
         order by outbox_id desc limit $8
     )
     select array(select m.id from looked cross join lateral (
                      select id, key, created_at, job_id, replay_id from outbox_messages where id = looked.outbox_id offset 0
                  ) m
                  where ",
    narrowed!(),
    "             order by m.id desc limit $9) as ids,
            (select min(outbox_id) from looked having count(*) = $8) as stopped_at"
);

/// Dead letters by id downwards, from `upper` to `lower`.
pub(super) async fn scan_dead(
    conn: &mut PgConnection,
    filter: &MessageFilter,
    (lower, upper): (i64, i64),
) -> sqlx::Result<Scanned> {
    // Without anything that narrows, each is wanted.
    let most = if filter.is_narrowed() {
        SCAN_DEAD_LETTERS
    } else {
        filter.wanted()
    };
    narrowed_query!(sqlx::query_as(SCAN_DEAD), filter)
        .bind(lower)
        .bind(upper)
        .bind(most)
        .bind(filter.wanted())
        .bind(&filter.error_class)
        .fetch_one(conn)
        .await
}

/// How much later than its instant says a row is written at most.
#[derive(Debug, Clone, Copy)]
pub(in crate::outbox) struct Late {
    /// Where the time span begins.
    pub from: TimeDelta,
    /// Where it ends.
    pub to: TimeDelta,
}

impl Late {
    /// More than a row ever is, clocks that were set back included: for what is whole or a lie.
    pub(in crate::outbox) const AT_MOST: Self = Self {
        from: TimeDelta::hours(1),
        to: TimeDelta::hours(1),
    };
}

/// The ids between which all rows of a time span lie, none of which was written later than `late` says: by bisection
/// along the primary key, so that neither end costs a scan.
pub(in crate::outbox) async fn bound_ids(
    conn: &mut PgConnection,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    late: Late,
) -> sqlx::Result<(i64, i64)> {
    let top: Option<i64> = sqlx::query_scalar("select max(id) from outbox_messages")
        .fetch_one(&mut *conn)
        .await?;
    let top = top.unwrap_or(0);
    let lower = match from {
        Some(from) => first_id_since(conn, from - late.from, top).await?,
        None => 1,
    };
    let upper = match to {
        Some(to) => first_id_since(conn, to + late.to, top).await?.min(top),
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
