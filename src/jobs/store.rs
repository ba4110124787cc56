//! SQL of accepting: one statement that reads, one that is the whole transaction.
//!
//! The statements are written so that their plans cannot go wrong: `left join lateral (... offset 0)` is
//! always a nested loop over an index, given [`with_stable_plans`]. A plan made while a table was empty
//! is then the plan for 10^8 rows too.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgConnectOptions, postgres::PgRow};
use uuid::Uuid;

use super::{
    AcceptRequest,
    accept::{NewJob, StoredKey},
};
use crate::{
    drafts::EventDraft,
    outbox::session::{with_stable_plans, with_statement_timeout},
};

/// Settings of a session that accepts. The timeouts are PostgreSQL's own, a statement's and a lock's.
pub fn accepting_session(options: PgConnectOptions, statement: Duration, lock: Duration) -> PgConnectOptions {
    with_statement_timeout(with_stable_plans(options), statement).options([
        ("default_transaction_isolation", "read committed".to_owned()),
        ("lock_timeout", lock.as_millis().to_string()),
    ])
}

/// A server, a database or a role may have `synchronous_commit` off: a 202 would then be lost in a crash. Other values
/// (`remote_apply`, ...) promise as much or more on this server and stay.
///
/// What is found is set for the session, whatever it is: a session that follows the server would follow a reload too.
pub async fn refuse_asynchronous_commit(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query(
        "select set_config('synchronous_commit', case found when 'off' then 'on' else found end, false)
         from current_setting('synchronous_commit') found",
    )
    .execute(conn)
    .await
    .map(drop)
}

/// What a batch of requests is decided on.
#[derive(Debug)]
pub struct Found {
    /// PostgreSQL's clock.
    pub at: DateTime<Utc>,
    /// For each request, in their order: its draft, and what its idempotency key was used for.
    pub rows: Vec<(Option<EventDraft>, Option<StoredKey>)>,
}

const FIND_ONE: &str = "
select clock_timestamp() as at,
       d.id, d.user_id, d.title, d.prize, d.brand_color, d.logo_url, d.store_info, d.selected_recommendation_id,
       k.draft_id as key_draft_id, k.job_id as key_job_id
from (values (1)) as request
left join event_drafts d on d.id = $1
left join idempotency_keys k on k.user_id = $2 and k.key = $3";

const FIND_MANY: &str = "
select (select clock_timestamp()) as at, r.nth,
       d.id, d.user_id, d.title, d.prize, d.brand_color, d.logo_url, d.store_info, d.selected_recommendation_id,
       k.draft_id as key_draft_id, k.job_id as key_job_id
from unnest($1::uuid[], $2::uuid[], $3::text[]) with ordinality as r (draft_id, user_id, key, nth)
left join lateral (
    select id, user_id, title, prize, brand_color, logo_url, store_info, selected_recommendation_id
    from event_drafts where id = r.draft_id offset 0
) d on true
left join lateral (
    select draft_id, job_id from idempotency_keys where user_id = r.user_id and key = r.key offset 0
) k on true";

/// Reads drafts, keys and the clock for all requests of a batch. Not empty.
pub async fn find_requested(conn: &mut PgConnection, requests: &[&AcceptRequest]) -> sqlx::Result<Found> {
    fn stored(row: &PgRow) -> sqlx::Result<Option<StoredKey>> {
        let Some(job_id) = row.try_get("key_job_id")? else {
            return Ok(None);
        };
        Ok(Some(StoredKey {
            draft_id: row.try_get("key_draft_id")?,
            job_id,
        }))
    }
    if let [one] = requests {
        let row = sqlx::query(FIND_ONE)
            .bind(one.draft_id)
            .bind(one.user_id)
            .bind(&one.idempotency_key)
            .fetch_one(conn)
            .await?;
        let found = (EventDraft::from_outer_row(&row)?, stored(&row)?);
        return Ok(Found {
            at: row.try_get("at")?,
            rows: vec![found],
        });
    }
    let rows = sqlx::query(FIND_MANY)
        .bind(requests.iter().map(|r| r.draft_id).collect::<Vec<_>>())
        .bind(requests.iter().map(|r| r.user_id).collect::<Vec<_>>())
        .bind(
            requests
                .iter()
                .map(|r| r.idempotency_key.as_deref())
                .collect::<Vec<_>>(),
        )
        .fetch_all(conn)
        .await?;
    let at = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("at")?;
    let mut found: Vec<_> = requests.iter().map(|_| (None, None)).collect();
    for row in &rows {
        let nth: i64 = row.try_get("nth")?;
        let slot = usize::try_from(nth - 1)
            .ok()
            .and_then(|nth| found.get_mut(nth))
            .ok_or(sqlx::Error::RowNotFound)?;
        *slot = (EventDraft::from_outer_row(row)?, stored(row)?);
    }
    Ok(Found { at, rows: found })
}

/// Job ids of a first attempt are new, so nothing here asks whether the job is there already: a repeat
/// goes through [`INSERT_ONE`]. Keys go first, in one order for all batches, so that two batches cannot
/// wait for each other; a request whose key is taken gets no job and no outbox id.
const INSERT_MANY: &str = "
with r as materialized (
    select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::bytea[])
        with ordinality as r (job_id, event_id, user_id, draft_id, key, traceparent, payload, nth)
), keys as (
    insert into idempotency_keys (user_id, key, draft_id, job_id, created_at)
    select user_id, key, draft_id, job_id, $8 from r where key is not null order by user_id, key, nth
    on conflict (user_id, key) do nothing
    returning job_id
), chosen as materialized (
    select won.*, nextval('outbox_messages_id_seq') as outbox_id
    from (select * from r where key is null or job_id in (select job_id from keys) order by nth) won
), new_jobs as (
    insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
    select job_id, user_id, draft_id, outbox_id, $8 from chosen
), new_messages as (
    insert into outbox_messages (id, event_id, job_id, key, event_time, created_at, traceparent, payload)
    overriding system value
    select outbox_id, event_id, job_id, draft_id, $8, $8, traceparent, payload from chosen
)
select job_id from chosen";

/// The same for requests without keys, none of which can fail to be written: a third cheaper.
const INSERT_MANY_WITHOUT_KEYS: &str = "
with r as materialized (
    select won.*, nextval('outbox_messages_id_seq') as outbox_id
    from (
        select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bytea[])
            with ordinality as r (job_id, event_id, user_id, draft_id, traceparent, payload, nth)
        order by nth
    ) won
), new_jobs as (
    insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
    select job_id, user_id, draft_id, outbox_id, $7 from r
)
insert into outbox_messages (id, event_id, job_id, key, event_time, created_at, traceparent, payload)
overriding system value
select outbox_id, event_id, job_id, draft_id, $7, $7, traceparent, payload from r";

/// For a lone request and for every repeat. An insert that meets a row of a transaction still running
/// waits for its end, so a repeat's answer is definite: a row, or what is stored.
const INSERT_ONE: &str = "
with keys as (
    insert into idempotency_keys (user_id, key, draft_id, job_id, created_at)
    select $3, $5, $4, $1, $8 where $5::text is not null
    on conflict (user_id, key) do nothing
    returning job_id
), new_job as (
    insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
    select $1, $3, $4, nextval('outbox_messages_id_seq'), $8 where $5::text is null or exists (select from keys)
    on conflict (id) do nothing
    returning id, outbox_id
), new_message as (
    insert into outbox_messages (id, event_id, job_id, key, event_time, created_at, traceparent, payload)
    overriding system value
    select outbox_id, $2, id, $4, $8, $8, $6, $7 from new_job
)
select id from new_job";

/// Writes keys, jobs and outbox rows: one statement, which is the whole transaction. Returns the ids of
/// the jobs written; the others' keys were taken by somebody else.
///
/// All jobs are of one instant. A first attempt only: see [`insert_job`].
pub async fn insert_jobs(conn: &mut PgConnection, jobs: &[&NewJob]) -> sqlx::Result<Vec<Uuid>> {
    match jobs {
        [] => Ok(Vec::new()),
        [one] => Ok(insert_job(conn, one).await?.then(|| one.job_id()).into_iter().collect()),
        [first, ..] => {
            let job_ids: Vec<_> = jobs.iter().map(|j| j.message.job_id).collect();
            let event_ids: Vec<_> = jobs.iter().map(|j| j.message.event_id).collect();
            let user_ids: Vec<_> = jobs.iter().map(|j| j.user_id).collect();
            let draft_ids: Vec<_> = jobs.iter().map(|j| j.draft_id()).collect();
            let keys: Vec<_> = jobs.iter().map(|j| j.idempotency_key.as_deref()).collect();
            let traceparents: Vec<_> = jobs.iter().map(|j| j.message.traceparent.as_deref()).collect();
            let payloads: Vec<_> = jobs.iter().map(|j| j.message.payload.as_slice()).collect();
            let at = first.message.created_at;
            if keys.iter().all(Option::is_none) {
                sqlx::query(INSERT_MANY_WITHOUT_KEYS)
                    .bind(&job_ids)
                    .bind(event_ids)
                    .bind(user_ids)
                    .bind(draft_ids)
                    .bind(traceparents)
                    .bind(payloads)
                    .bind(at)
                    .execute(conn)
                    .await?;
                return Ok(job_ids);
            }
            sqlx::query_scalar(INSERT_MANY)
                .bind(job_ids)
                .bind(event_ids)
                .bind(user_ids)
                .bind(draft_ids)
                .bind(keys)
                .bind(traceparents)
                .bind(payloads)
                .bind(at)
                .fetch_all(conn)
                .await
        }
    }
}

/// Writes one job, its key and its outbox row, in one statement that is the whole transaction. It may be
/// repeated when the outcome is unknown. `false`: nothing was written, and [`find_answer`] says why.
pub async fn insert_job(conn: &mut PgConnection, job: &NewJob) -> sqlx::Result<bool> {
    let written: Option<Uuid> = sqlx::query_scalar(INSERT_ONE)
        .bind(job.message.job_id)
        .bind(job.message.event_id)
        .bind(job.user_id)
        .bind(job.draft_id())
        .bind(&job.idempotency_key)
        .bind(&job.message.traceparent)
        .bind(job.message.payload.as_slice())
        .bind(job.message.created_at)
        .fetch_optional(conn)
        .await?;
    Ok(written.is_some())
}

/// What is stored in the place of a job that [`insert_job`] or [`insert_jobs`] did not write: its own id when
/// an earlier attempt committed, another's when the key was taken, `None` when whoever was in the way has gone.
pub async fn find_answer(conn: &mut PgConnection, job: &NewJob) -> sqlx::Result<Option<StoredKey>> {
    let row: Option<(Uuid, Uuid)> = sqlx::query_as(
        "select draft_id, job_id from idempotency_keys where user_id = $2 and key = $3
         union all
         select event_draft_id, id from jobs where id = $1 and $3::text is null",
    )
    .bind(job.job_id())
    .bind(job.user_id)
    .bind(&job.idempotency_key)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(draft_id, job_id)| StoredKey { draft_id, job_id }))
}
