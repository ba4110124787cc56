//! A log as it is after a long shift, for what operators ask of it: several partitions, ids that were rolled back, months
//! of dead letters, replays and acts, and an outage at the end.
//!
//! The rows are written by SQL and not by the relay, which would leave one drained backlog: four fifths of the receipts
//! are of calm hours, a few in each of very many checkpoints, the last fifth of a backlog, thousands in each.

use anyhow::{Result, ensure};
use image_job_dispatcher::outbox::partitions;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use crate::{backlog, stack::Database};

/// One message in so many, the newest, was sent by nobody yet.
const PENDING: i64 = 20;
/// `outbox.partition_rows`, by default.
const PARTITION_ROWS: i64 = 1_000_000;
/// One id in so many was rolled back.
const ROLLED_BACK: i64 = 5_000;
/// Seconds from the first message to the last.
const SPAN_SECONDS: f64 = 4.0 * 3600.0;
/// One message in so many is a dead letter; half of them wait for a decision.
const DEAD: i64 = 100;
/// Receipts of a checkpoint in calm hours, and while a backlog is drained.
const RECEIPTS: [i64; 2] = [20, 16_384];

/// What there is to ask for.
pub struct LongLog {
    /// The greatest outbox id.
    pub newest: i64,
    /// Of the oldest row, which is the only one of its draft and of its user.
    pub lonely: Owner,
    /// Of a row in the middle.
    pub usual: Owner,
    /// A replay of one message in a hundred, from the middle of the log.
    pub replay: Uuid,
    /// The newest audit.
    pub audit: Uuid,
}

/// What a message belongs to.
pub struct Owner {
    /// The outbox id.
    pub id: i64,
    pub job: Uuid,
    pub draft: Uuid,
    pub user: Uuid,
}

/// Fills an empty database with `count` messages and all that belongs to them.
pub async fn fill(database: &Database, count: i64) -> Result<LongLog> {
    let mut connection = database.connect().await?;
    let connection = &mut connection;
    // A message's time; what is older than all of them was done before.
    let begin: f64 =
        sqlx::query_scalar("select extract(epoch from clock_timestamp() - make_interval(secs => $1))::float8")
            .bind(SPAN_SECONDS)
            .fetch_one(&mut *connection)
            .await?;
    let replay = Uuid::now_v7();
    messages(connection, (count, begin), replay).await?;
    jobs(connection, count).await?;
    dead_letters(connection, count).await?;
    checkpoints(connection, count).await?;
    connection.execute(HISTORY).await?;
    sqlx::query(REPLAY)
        .bind(replay)
        .bind(count / 2)
        .bind(count / 2 + count / 100)
        .execute(&mut *connection)
        .await?;
    for table in [
        "outbox_messages",
        "outbox_checkpoints",
        "jobs",
        "job_results",
        "outbox_dead_letters",
        "outbox_replays",
        "operator_acts",
        "outbox_audits",
        "outbox_audit_findings",
        "result_dead_letters",
    ] {
        connection
            .execute(AssertSqlSafe(format!("vacuum (analyze) {table}")))
            .await?;
    }
    connection.execute("checkpoint").await?;
    let (pending, published, dead): (i64, i64, i64) =
        sqlx::query_as("select pending, published, dead from outbox_overview")
            .fetch_one(&mut *connection)
            .await?;
    ensure!(
        pending == count / PENDING && published > count * 9 / 10 && dead > count / DEAD / 3,
        "the log is not as it was meant to be: {pending} pending, {published} published, {dead} dead"
    );
    Ok(LongLog {
        newest: sqlx::query_scalar("select max(id) from outbox_messages")
            .fetch_one(&mut *connection)
            .await?,
        lonely: owner(connection, 1).await?,
        usual: owner(connection, count / 3).await?,
        replay,
        audit: sqlx::query_scalar("select id from outbox_audits order by id desc limit 1")
            .fetch_one(connection)
            .await?,
    })
}

async fn owner(connection: &mut PgConnection, id: i64) -> Result<Owner> {
    let (id, job, draft, user) = sqlx::query_as(
        "select m.id, m.job_id, m.key, j.user_id from outbox_messages m join jobs j on j.id = m.job_id
         where m.id >= $1 and m.replay_of is null order by m.id limit 1",
    )
    .bind(id)
    .fetch_one(connection)
    .await?;
    Ok(Owner { id, job, draft, user })
}

/// `$1` to `$2` are the ids, `$3` the payload, `$4` how many there will be, `$5` when the first was written, `$6` seconds
/// for all, `$7` the replay, `$8` one in how many ids was rolled back. The first has a key of its own, the others those of
/// 100,000 drafts in turns.
const MESSAGES: &str = "
insert into outbox_messages (id, event_id, job_id, key, event_time, created_at, replay_of, replay_id, payload)
overriding system value
select n, uuid7_of(at, 'a', n), uuid7_of(at, 'b', n),
       case when n = 1 then 'ffffffff-0000-4000-8000-000000000001'
            else lpad(to_hex(1 + n * 7919 % 100000), 32, '0')::uuid end,
       at, at, case when again then n - $4 / 4 end, case when again then $7::uuid end, convert_to($3, 'UTF8')
from generate_series($1::bigint, $2::bigint) n,
     lateral (select to_timestamp($5 + n * $6 / $4) as at, n > $4 / 2 and n <= $4 / 2 + $4 / 100 as again) m
where n % $8 <> $8 / 2";

async fn messages(connection: &mut PgConnection, (count, begin): (i64, f64), replay: Uuid) -> Result<()> {
    // As the program makes ids: of a time, and different.
    connection
        .execute(
            "create function pg_temp.uuid7_of(at timestamptz, kind text, n bigint) returns uuid language sql immutable as $$
                 select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7'
                     || lpad(to_hex(n & 4095), 3, '0') || kind || lpad(to_hex(n), 15, '0'))::uuid
             $$",
        )
        .await?;
    let insert = MESSAGES.replace("uuid7_of", "pg_temp.uuid7_of");
    let chunk = PARTITION_ROWS / 2;
    let mut to = 0;
    while to < count {
        let from = to + 1;
        to = (to + chunk).min(count);
        partitions::ensure_outbox(connection, PARTITION_ROWS).await?;
        sqlx::query(AssertSqlSafe(insert.as_str()))
            .bind(from)
            .bind(to)
            .bind(backlog::payload())
            .bind(count)
            .bind(begin)
            .bind(SPAN_SECONDS)
            .bind(replay)
            .bind(ROLLED_BACK)
            .execute(&mut *connection)
            .await?;
        sqlx::query("select setval('outbox_messages_id_seq', $1)")
            .bind(to)
            .execute(&mut *connection)
            .await?;
    }
    connection.execute("vacuum (analyze) outbox_messages").await?;
    Ok(())
}

/// A job for each original, and a final answer for all but the newest; the oldest has none either.
async fn jobs(connection: &mut PgConnection, count: i64) -> Result<()> {
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *connection).await?;
    for at in [now - chrono::TimeDelta::seconds(SPAN_SECONDS as i64), now] {
        partitions::ensure_jobs(connection, at).await?;
    }
    sqlx::query(
        "insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
         select job_id, case when id = 1 then 'ffffffff-0000-4000-8000-000000000002'
                             else lpad('ffff' || lpad(to_hex(id % 64), 16, '0'), 32, '0')::uuid end,
                key, id, created_at
         from outbox_messages where replay_of is null",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into job_results (job_id, status, recorded_at)
         select id, 'COMPLETED', created_at + interval '3 s' from jobs where outbox_id > 1 and outbox_id < $1 - $2 * 2",
    )
    .bind(count)
    .bind(count / PENDING)
    .execute(connection)
    .await?;
    Ok(())
}

/// Half of them decided about; of one class there is only the oldest.
async fn dead_letters(connection: &mut PgConnection, count: i64) -> Result<()> {
    sqlx::query(
        "insert into outbox_dead_letters
             (outbox_id, error_class, error, died_at, resolution, resolved_at, resolved_by, reason)
         select id, case when id = 1 then 'record-refused' when id % 3 = 0 then 'invalid-record'
                         else 'message-too-large' end,
                'Broker: Message size too large (' || id || ' bytes)', created_at + interval '50 ms',
                case when id > 1 and id % 2 = 0 then (array['retried', 'discarded'])[1 + id / $1 % 4 / 2] end,
                case when id > 1 and id % 2 = 0 then created_at + interval '1 min' end,
                'jane@ops', 'limit raised'
         from outbox_messages where id = 1 or id % $1 < 2 and id < (select max(id) - $2 from outbox_messages)",
    )
    .bind(DEAD)
    .bind(count / PENDING)
    .execute(connection)
    .await?;
    Ok(())
}

/// `$1` is the newest checkpoint before, `$2` the first id, `$3` the receipts of each, `$4` how many; `$5` one in how many
/// ids was rolled back. The leader changes each 10,000 checkpoints.
const CHECKPOINTS: &str = "
insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, created_at, settled, closed, next_offsets,
                                receipt_ids, receipt_partitions, receipt_offsets, base_passed, base_closed)
select seq, 1 + seq / 10000, 'replica-' || seq / 10000 % 3 || '/' || gen_random_uuid(), at + interval '15 s',
       'at-least-once', at,
       int8multirange(int8range(low, high)) - closed, closed, '{0,0,0,0,0,0}', ids, partitions, offsets,
       case when seq % 256 = 0 then int8multirange(int8range(1, high)) end,
       case when seq % 256 = 0 then (select coalesce(range_agg(int8range(c, c + 1)), '{}')
                                     from generate_series($5 / 2, high - 1, $5) c) end
from generate_series(1, $4) k,
     lateral (select $1 + k as seq, $2 + (k - 1) * $3 as low, $2 + k * $3 as high) c,
     lateral (select array_agg(id) as ids, array_agg((id % 6)::int) as partitions, array_agg(id / 6) as offsets,
                     max(created_at) + interval '20 ms' as at
              from (select id, created_at from outbox_messages where id >= low and id < high
                    and not exists (select from outbox_dead_letters where outbox_id = id) order by id) m) r,
     lateral (select coalesce(range_agg(int8range(c, c + 1)), '{}') as closed
              from generate_series(low, high - 1) c where c % $5 = $5 / 2) h";

async fn checkpoints(connection: &mut PgConnection, count: i64) -> Result<()> {
    let pending = count / PENDING;
    let drained = (count / 5 / RECEIPTS[1]).max(1);
    let calm = (count - pending - drained * RECEIPTS[1]) / RECEIPTS[0];
    let (mut seq, mut first): (i64, i64) = (
        sqlx::query_scalar("select max(seq) from outbox_checkpoints")
            .fetch_one(&mut *connection)
            .await?,
        1,
    );
    partitions::ensure_checkpoints(connection, seq + calm + drained).await?;
    // What is left over goes into one more, so that exactly the last are pending.
    let rest = count - pending - calm * RECEIPTS[0] - drained * RECEIPTS[1];
    for (receipts, number) in [(RECEIPTS[0], calm), (RECEIPTS[1], drained), (rest, i64::from(rest > 0))] {
        sqlx::query(CHECKPOINTS)
            .bind(seq)
            .bind(first)
            .bind(receipts)
            .bind(number)
            .bind(ROLLED_BACK)
            .execute(&mut *connection)
            .await?;
        seq += number;
        first += receipts * number;
    }
    Ok(())
}

/// What operators and audits have left behind in years.
const HISTORY: &str = "
insert into outbox_replays (id, operation_id, filter, reason, requested_by, created_at, lower_bound, upper_bound, within,
                            cursor, matched, replayed, rate, state)
select uuid7_floor(now() - interval '1 year' + n * interval '1 hour'), 'dead-retry-' || n,
       '{\"by\": \"dead\", \"ids\": [], \"class\": null, \"window\": {\"from\": null, \"to\": null, \"key\": null, \"user\": null}}',
       'limit raised', 'jane@ops', now() - interval '1 year' + n * interval '1 hour', n, n + 50, '{}', n + 50, 50, 50, 500,
       'done'
from generate_series(1, 5000) n;
insert into operator_acts (at, who, role, via, act, subject, detail, reason)
select now() - interval '1 year' + n * interval '5 min', case when n = 1 then 'gone@ops' else 'jane@ops' end, 'operator',
       'api', case when n = 1 then 'accept-identity' when n % 2 = 0 then 'dead-retry' else 'dead-discard' end,
       'the dead letters 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 30 more',
       jsonb_build_object('count', 40, 'ids', (select array_agg(n + i) from generate_series(1, 40) i)), 'limit raised'
from generate_series(1, 100000) n;
insert into outbox_audits (id, requested_by, started_at, finished_at, topic, receipts, records, in_place, expired, made_good,
                           missing, repeated, foreign_records, forgotten, missing_ids)
select uuid7_floor(now() - n * interval '1 day'), 'jane@ops', now() - n * interval '1 day', now() - n * interval '1 day',
       'image-job-topic', 1000000, 1000000, 990000, 0, 0, 10000, 1000, 1000, 0,
       (select range_agg(int8range(i * 2, i * 2 + 1)) from generate_series(1, 10000) i)
from generate_series(1, 100) n;
insert into outbox_audit_findings
select a.id, row_number() over (partition by a.id), k, 0, i, i, gen_random_uuid()
from outbox_audits a, unnest(array['missing', 'repeated', 'foreign']) k, generate_series(1, 1000) i;
insert into result_dead_letters (topic, partition, \"offset\", reason, error, received_at)
select 'results', 0, n, 'malformed', 'expected value at line 1 column 1', now() - n * interval '1 min'
from generate_series(1, 5000) n";

/// Of the rows that [`MESSAGES`] gave to it: `$2` and `$3` are where they begin and end.
const REPLAY: &str = "
insert into outbox_replays (id, operation_id, filter, reason, requested_by, created_at, lower_bound, upper_bound, within,
                            cursor, matched, replayed, rate, state, changed_at)
select $1, 'spring', '{\"by\": \"window\", \"from\": null, \"to\": null, \"key\": null, \"user\": null}', 'lost by a consumer',
       'jane@ops', min(created_at), 1, $2, '{}', $2, count(*), count(*), 500, 'done', max(created_at)
from outbox_messages where id > $2 and id <= $3";
