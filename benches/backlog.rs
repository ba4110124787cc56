//! The rows that are accepted and drained: drafts, messages, and what a topic has of them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use image_job_dispatcher::outbox::{partitions, record::OutboxMessage};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use serde_json::json;
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::{
    http::User,
    stack::{PARTITIONS, SECRET, Stack},
};

/// Drafts in `event_drafts`: number n has the id n.
pub const DRAFTS: i64 = 100_000;
/// Who owns them, in turns: draft n is user (n mod USERS)'s.
const USERS: i64 = 64;
/// `outbox.partition_rows`, by default.
const PARTITION_ROWS: i64 = 1_000_000;
const KAFKA_TIMEOUT: Duration = Duration::from_secs(20);

/// The value of the messages in a backlog: as long as those of the drafts here.
pub fn payload() -> String {
    let payload = json!({
        "jobId": Uuid::nil(), "eventDraftId": Uuid::nil(), "title": "Spring opening", "prize": "A cup of coffee",
        "brandColor": "#FF5733", "logoUrl": "https://example.com/logo.png",
        "storeInfo": {"name": "Corner", "phone": "02-123-4567"},
    });
    payload.to_string()
}

/// A token for a day.
pub fn token(user: Uuid) -> Result<String> {
    let claims = json!({"sub": user, "exp": Utc::now().timestamp() + 24 * 3600});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}

fn user_id(n: i64) -> Uuid {
    Uuid::from_u128((0xffff_u128 << 64) | n as u128)
}

/// Fills `event_drafts`, and gives the users that own them.
pub async fn insert_drafts(connection: &mut PgConnection) -> Result<Vec<User>> {
    sqlx::query(
        r#"insert into event_drafts
               (id, user_id, title, prize, brand_color, logo_url, store_info, selected_recommendation_id)
           select lpad(to_hex(n), 32, '0')::uuid, lpad('ffff' || lpad(to_hex(n % $2), 16, '0'), 32, '0')::uuid,
                  'Spring opening', 'A cup of coffee', '#FF5733', 'https://example.com/logo.png',
                  '{"name": "Corner", "phone": "02-123-4567"}', gen_random_uuid()
           from generate_series(1, $1) n"#,
    )
    .bind(DRAFTS)
    .bind(USERS)
    .execute(&mut *connection)
    .await?;
    connection.execute("vacuum (analyze) event_drafts").await?;
    let users = (0..USERS).map(|n| {
        Ok(User {
            token: token(user_id(n))?,
            drafts: (1..=DRAFTS)
                .filter(|draft| draft % USERS == n)
                .map(|draft| Uuid::from_u128(draft as u128))
                .collect(),
            keyed: false,
        })
    });
    users.collect()
}

/// What a row of a backlog is made of: ids as the program makes them, ascending, and keys of 100,000 drafts.
const ROWS: &str = "(lpad(to_hex(((1764000000000 + n / 100) << 16) | 28672 | (n & 4095)), 16, '0')
        || 'a' || lpad(to_hex(n), 15, '0'))::uuid,
    (lpad(to_hex(((1764000000000 + n / 100) << 16) | 28672 | (n & 4095)), 16, '0')
        || 'b' || lpad(to_hex(n), 15, '0'))::uuid,
    lpad(to_hex(1 + n * 7919 % 100000), 32, '0')::uuid, now(), now(), convert_to($3, 'UTF8')
    from generate_series($1::bigint, $2::bigint) n";

/// Whose rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `outbox_messages`, in the partitions that the service makes.
    Outbox,
    /// The same rows in the textbook's table.
    Textbook,
}

/// Commits `count` messages.
pub async fn fill(connection: &mut PgConnection, kind: Kind, count: i64) -> Result<()> {
    let table = match kind {
        Kind::Outbox => "outbox_messages",
        Kind::Textbook => {
            make_textbook(connection).await?;
            "textbook_outbox"
        }
    };
    let chunk = PARTITION_ROWS / 2;
    let mut left = count;
    while left > 0 {
        if kind == Kind::Outbox {
            partitions::ensure_outbox(connection, PARTITION_ROWS).await?;
        }
        let rows = left.min(chunk);
        insert(connection, table, (count - left, rows)).await?;
        left -= rows;
    }
    // As autovacuum leaves it; without it the first reader of each page would pay for the hint bits.
    connection
        .execute(sqlx::AssertSqlSafe(format!("vacuum (analyze) {table}")))
        .await?;
    Ok(())
}

/// Commits `rows` messages, after the first `before`, to a table that is there.
pub async fn insert(connection: &mut PgConnection, table: &str, (before, rows): (i64, i64)) -> Result<()> {
    let insert = format!("insert into {table} (event_id, job_id, key, event_time, created_at, payload) select {ROWS}");
    sqlx::query(sqlx::AssertSqlSafe(insert))
        .bind(before + 1)
        .bind(before + rows)
        .bind(payload())
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Gives each message of a backlog its job, whose ids are returned.
pub async fn jobs_of(connection: &mut PgConnection) -> Result<Vec<Uuid>> {
    let of: Uuid = sqlx::query_scalar("select min(job_id::text)::uuid from outbox_messages")
        .fetch_one(&mut *connection)
        .await?;
    let (seconds, nanos) = of.get_timestamp().context("a UUIDv7")?.to_unix();
    let day = DateTime::from_timestamp(seconds.cast_signed(), nanos).context("the time of a UUIDv7")?;
    partitions::ensure_jobs(connection, day).await?;
    let jobs = sqlx::query_scalar(
        "insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
         select job_id, key, key, id, event_time from outbox_messages order by id returning id",
    )
    .fetch_all(&mut *connection)
    .await?;
    connection.execute("vacuum (analyze) jobs").await?;
    Ok(jobs)
}

/// The textbook's tables, empty.
pub async fn make_textbook(connection: &mut PgConnection) -> Result<()> {
    connection
        .execute(include_str!("pgbench/schema.sql"))
        .await
        .context("the textbook's tables")?;
    Ok(())
}

/// The same message as in a backlog, made without a database.
pub fn message(n: i64) -> OutboxMessage {
    let high = u128::from((1_764_000_000_000_u64 + n as u64 / 100) << 16 | 0x7000 | n as u64 & 0xfff) << 64;
    let now = Utc::now();
    OutboxMessage {
        // As long as the ids of a backlog mostly are.
        id: 500_000 + n,
        event_id: Uuid::from_u128(high | 0xa << 60 | n as u128),
        job_id: Uuid::from_u128(high | 0xb << 60 | n as u128),
        key: Uuid::from_u128(1 + (n * 7919 % DRAFTS) as u128),
        event_time: now,
        created_at: now,
        replay_id: None,
        traceparent: None,
        payload: payload().into_bytes(),
    }
}

/// A look at a topic from outside.
pub struct Topic {
    consumer: BaseConsumer,
    name: String,
}

/// How fast records came into a topic, by the broker's clock.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Records a second from the tenth of all to the last.
    pub steady: f64,
    /// Seconds from the first record to the last.
    pub seconds: f64,
}

impl Topic {
    pub fn new(stack: &Stack, name: &str) -> Result<Self> {
        Ok(Self {
            consumer: stack.kafka_client().set("group.id", "bench").create()?,
            name: name.to_owned(),
        })
    }

    /// Records in it.
    pub fn count(&self) -> Result<i64> {
        let mut count = 0;
        for partition in 0..PARTITIONS {
            count += self.consumer.fetch_watermarks(&self.name, partition, KAFKA_TIMEOUT)?.1;
        }
        Ok(count)
    }

    /// The pace at which all `count` records after the first `before` came.
    ///
    /// With `markers`, some of what is in the topic ends transactions: less than one in a hundred, and not counted.
    pub fn pace(&self, before: i64, count: i64, markers: bool) -> Result<Pace> {
        let mut ends = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let (_, end) = self.consumer.fetch_watermarks(&self.name, partition, KAFKA_TIMEOUT)?;
            ends.insert(partition, end);
        }
        let total: i64 = ends.values().sum();
        if total < before + count || !markers && total > before + count {
            bail!("{total} records in the topic where {} were sent", before + count);
        }
        let sent = count;
        let count = total - before;
        let now = Utc::now().timestamp_millis();
        let first = self.reached(&ends, before + 1, now)?;
        let begin = self.reached(&ends, before + count / 10, now)?;
        let end = self.reached(&ends, before + count, now)?;
        let counted = self.appended_by(&ends, end)? - self.appended_by(&ends, begin)?;
        Ok(Pace {
            steady: counted as f64 * (sent as f64 / count as f64) * 1000.0 / (end - begin).max(1) as f64,
            seconds: (end - first) as f64 / 1000.0,
        })
    }

    /// One of its records: the value, and the names of the headers.
    pub fn one(&self) -> Result<(Vec<u8>, Vec<String>)> {
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(&self.name, partition, Offset::Beginning)?;
        }
        self.consumer.assign(&assignment)?;
        let record = self.consumer.poll(KAFKA_TIMEOUT).context("no record in the topic")??;
        let names = record.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| header.key.to_owned()).collect()
        });
        Ok((record.payload().unwrap_or_default().to_owned(), names))
    }

    /// The first millisecond by whose end `count` records had been appended.
    fn reached(&self, ends: &BTreeMap<i32, i64>, count: i64, now: i64) -> Result<i64> {
        // No drain takes longer than an hour.
        let (mut low, mut high) = (now - 3_600_000, now);
        while low < high {
            let middle = low.midpoint(high);
            if self.appended_by(ends, middle)? >= count {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// How many records had been appended by the end of that millisecond.
    fn appended_by(&self, ends: &BTreeMap<i32, i64>, millisecond: i64) -> Result<i64> {
        let mut asked = TopicPartitionList::new();
        for partition in ends.keys() {
            asked.add_partition_offset(&self.name, *partition, Offset::Offset(millisecond + 1))?;
        }
        let found = self.consumer.offsets_for_times(asked, KAFKA_TIMEOUT)?;
        let mut count = 0;
        for element in found.elements() {
            element.error()?;
            count += match element.offset() {
                Offset::Offset(offset) => offset,
                _ => ends[&element.partition()],
            };
        }
        Ok(count)
    }
}
