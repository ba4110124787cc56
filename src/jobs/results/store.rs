//! SQL of results.

use rdkafka::Message as _;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::reading::Aside;
use crate::messages::{ImageJobResult, ResultStatus};

/// What was new among results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inserted {
    /// Rows.
    pub rows: u64,
    /// Of these, jobs that failed.
    pub failed: u64,
}

/// Adds a row for each job and status that has none yet, but no second final one; results of unknown jobs
/// are left out. Says which rows are new.
///
/// `offset 0`: an index lookup in the one partition that can hold the job. Rows go in by job, so that two
/// replicas that apply the same results wait for each other and never in a circle; for one job in the order
/// of the topic, so that the first final one wins.
pub async fn insert_results(conn: &mut PgConnection, results: &[&ImageJobResult]) -> sqlx::Result<Inserted> {
    const INSERT: &str = "
        insert into job_results (job_id, status, images, error)
        select r.job_id, r.status, r.images, r.error
        from unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[]) with ordinality
            as r (job_id, status, images, error, nth)
        cross join lateral (select from jobs where id = r.job_id offset 0) j
        order by r.job_id, r.nth
        on conflict do nothing
        returning status = 'FAILED'";
    if results.is_empty() {
        return Ok(Inserted::default());
    }
    let job_ids: Vec<Uuid> = results.iter().map(|r| r.job_id).collect();
    let statuses: Vec<&str> = results.iter().map(|r| r.status.as_str()).collect();
    let images: Vec<Option<Json<_>>> = results
        .iter()
        .map(|r| (r.status == ResultStatus::Completed).then_some(Json(&r.images)))
        .collect();
    let errors: Vec<Option<&str>> = results
        .iter()
        .map(|r| r.error.as_deref().filter(|_| r.status == ResultStatus::Failed))
        .collect();
    let query = sqlx::query_scalar(INSERT)
        .bind(job_ids)
        .bind(statuses)
        .bind(images)
        .bind(errors);
    let new: Vec<bool> = query.fetch_all(conn).await?;
    Ok(Inserted {
        rows: new.len() as u64,
        failed: new.into_iter().filter(|failed| *failed).count() as u64,
    })
}

/// Keeps records out of the way; those that are there already stay as they are. Returns partition and offset
/// of the others. Forgets some of what has lain there for a month.
pub async fn put_aside(conn: &mut PgConnection, records: &[Aside<'_>]) -> sqlx::Result<Vec<(i32, i64)>> {
    const FORGET: &str = "
        delete from result_dead_letters where (topic, partition, \"offset\") in (
            select topic, partition, \"offset\" from result_dead_letters
            where received_at < clock_timestamp() - interval '30 days' limit 1000)";
    const INSERT: &str = "
        insert into result_dead_letters (topic, partition, \"offset\", reason, error, key, value)
        select * from unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
        order by 1, 2, 3
        on conflict on constraint result_dead_letters_pkey do nothing
        returning partition, \"offset\"";
    if records.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query(FORGET).execute(&mut *conn).await?;
    let topics: Vec<&str> = records.iter().map(|a| a.record.topic()).collect();
    let partitions: Vec<i32> = records.iter().map(|a| a.record.partition()).collect();
    let offsets: Vec<i64> = records.iter().map(|a| a.record.offset()).collect();
    let reasons: Vec<&str> = records.iter().map(|a| a.reason.as_str()).collect();
    let errors: Vec<&str> = records.iter().map(|a| a.error.as_str()).collect();
    let keys: Vec<Option<&[u8]>> = records.iter().map(|a| a.record.key()).collect();
    let values: Vec<Option<&[u8]>> = records.iter().map(|a| a.record.payload()).collect();
    sqlx::query_as(INSERT)
        .bind(topics)
        .bind(partitions)
        .bind(offsets)
        .bind(reasons)
        .bind(errors)
        .bind(keys)
        .bind(values)
        .fetch_all(conn)
        .await
}
