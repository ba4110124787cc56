//! One job, from the request to the record, and what to try next: on standard output.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use redis::AsyncCommands;
use secrecy::ExposeSecret;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    content::ContentWorker,
    samples::{ALICE, OF_BOB, READY, WITHOUT_RECOMMENDATION},
    servers::{Broker, Servers},
};
use crate::{
    cli::{CliError, token},
    config::Config,
    http::auth::Role,
};

/// For each step of the story. A run that was killed leaves a lease that has to end first.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
const TOKEN_TTL: Duration = Duration::from_hours(24);

/// Waits until the service takes requests.
pub(super) async fn wait_until_ready(config: &Config) -> Result<()> {
    let url = format!("http://{}/readyz", config.http.listen);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = reqwest::get(&url).await;
        if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{url} does not say that the service is ready: {answer:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Sends a job, follows it and prints what it sees.
pub(super) async fn tell(
    config: &Config,
    file: &Path,
    servers: &Servers,
    content: Option<&ContentWorker>,
    conn: &mut PgConnection,
) -> Result<(), CliError> {
    let token = token::sign(&config.auth, ALICE, Role::User, TOKEN_TTL)?;
    let mut out = String::from("\nOne job, from the request to the record\n");
    let job = request(&mut out, config, &token).await?;
    redis_value(&mut out, config, job).await?;
    let (partition, offset) = outbox_row(&mut out, conn, job).await?;
    let topic = config.kafka.topic.clone();
    let brokers = config.kafka.brokers.clone();
    let record = tokio::task::spawn_blocking(move || kafka_record(&brokers, &topic, partition, offset)).await;
    out.push_str(&record.context("reading the topic")??);
    if let Broker::Mock(_) = servers.kafka {
        out.push_str("   (not from Apache Kafka: a stand-in inside this process, which forgets at its end)\n");
    }
    match content {
        Some(content) => pictures(&mut out, config, &token, job, content).await?,
        None => out.push_str("\n5. No pictures: `cargo build --bins` makes content-worker, which draws them\n"),
    }
    what_next(&mut out, config, file, servers, &token, job);
    print!("{out}");
    Ok(())
}

async fn request(out: &mut String, config: &Config, token: &str) -> Result<Uuid> {
    let url = format!("http://{}/api/events/{READY}/content-generation", config.http.listen);
    let answer = reqwest::Client::new().post(&url).bearer_auth(token).send().await?;
    let _ = writeln!(out, "\n1. The request\n   POST {url}\n   Authorization: Bearer ...");
    let status = answer.status();
    let _ = writeln!(out, "\n   {:?} {status}", answer.version());
    for name in ["location", "retry-after", "content-type"] {
        if let Some(value) = answer.headers().get(name) {
            let _ = writeln!(out, "   {name}: {}", value.to_str().unwrap_or("?"));
        }
    }
    let body = answer.text().await?;
    let _ = writeln!(out, "   {body}");
    ensure!(status == 202, "the service answered {status}: {body}");
    let body: serde_json::Value = serde_json::from_str(&body)?;
    body["jobId"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .with_context(|| format!("no jobId in {body}"))
}

async fn redis_value(out: &mut String, config: &Config, job: Uuid) -> Result<()> {
    let client = redis::Client::open(config.redis.url.expose_secret())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let key = format!("job:{job}");
    let value: Option<String> = connection.get(&key).await?;
    let seconds: i64 = connection.ttl(&key).await?;
    let value = value.unwrap_or_else(|| "(nothing)".to_owned());
    let _ = writeln!(out, "\n2. In Redis\n   {key} = {value}\n   expires in {seconds} s");
    Ok(())
}

/// Waits until the message is published; gives partition and offset.
async fn outbox_row(out: &mut String, conn: &mut PgConnection, job: Uuid) -> Result<(i32, i64)> {
    let deadline = Instant::now() + PATIENCE;
    let row = loop {
        let row = sqlx::query(
            r#"select id, event_id, state, created_at, published_at, partition, "offset", error
               from outbox_status where job_id = $1"#,
        )
        .bind(job)
        .fetch_one(&mut *conn)
        .await?;
        match row.get("state") {
            "published" => break row,
            "pending" if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            state => bail!(
                "the job's message is {state}: {:?}",
                row.get::<Option<String>, _>("error")
            ),
        }
    };
    let (created, published): (chrono::DateTime<chrono::Utc>, Option<chrono::DateTime<chrono::Utc>>) =
        (row.get("created_at"), row.get("published_at"));
    let (partition, offset): (Option<i32>, Option<i64>) = (row.get("partition"), row.get("offset"));
    let (Some(partition), Some(offset)) = (partition, offset) else {
        bail!("the job's message is published, and its receipt does not say where");
    };
    let _ = writeln!(
        out,
        "\n3. In PostgreSQL: select * from outbox_status where job_id = '{job}'"
    );
    let _ = writeln!(out, "   id           {}", row.get::<i64, _>("id"));
    let _ = writeln!(out, "   event_id     {}", row.get::<Uuid, _>("event_id"));
    let _ = writeln!(out, "   state        published");
    let _ = writeln!(out, "   created_at   {created}");
    if let Some(published) = published {
        let later = (published - created).num_milliseconds();
        let _ = writeln!(out, "   published_at {published} ({later} ms later)");
    }
    let _ = writeln!(out, "   partition    {partition}\n   offset       {offset}");
    Ok((partition, offset))
}

/// Reads the record where the receipt says that it is, as any consumer would.
fn kafka_record(brokers: &str, topic: &str, partition: i32, offset: i64) -> Result<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "start-dev")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&assignment)?;
    let record = consumer
        .poll(PATIENCE)
        .context("Kafka does not give the record back")??;
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut out = format!(
        "\n4. In Kafka: {topic}, partition {}, offset {}\n   key {}\n",
        record.partition(),
        record.offset(),
        text(record.key()),
    );
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        let _ = writeln!(out, "   {}: {}", header.key, text(header.value));
    }
    let _ = writeln!(out, "   {}", text(record.payload()));
    Ok(out)
}

/// Waits for the Content Service's answer, as a client does.
async fn pictures(out: &mut String, config: &Config, token: &str, job: Uuid, content: &ContentWorker) -> Result<()> {
    let url = format!("http://{}/api/jobs/{job}", config.http.listen);
    let deadline = Instant::now() + PATIENCE;
    let body: serde_json::Value = loop {
        let wait = reqwest::Client::new()
            .get(&url)
            .bearer_auth(token)
            .header("prefer", "wait=10");
        let body: serde_json::Value = wait.send().await?.json().await?;
        match body["status"].as_str() {
            Some("COMPLETED" | "FAILED") => break body,
            _ => ensure!(Instant::now() < deadline, "the content service does not answer: {body}"),
        }
    };
    let _ = writeln!(
        out,
        "\n5. The pictures: GET {url} with Prefer: wait=10\n   status {}",
        body["status"]
    );
    for image in body["images"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "   {} {}",
            image["style"].as_str().unwrap_or("?"),
            image["url"].as_str().unwrap_or("?")
        );
    }
    let _ = writeln!(out, "   on disk   {}/{job}/", content.pictures.display());
    let _ = writeln!(out, "   side by side: {}/{job}", content.url);
    Ok(())
}

fn what_next(out: &mut String, config: &Config, file: &Path, servers: &Servers, token: &str, job: Uuid) {
    let (http, admin) = (config.http.listen, config.admin.listen);
    let file = file.display();
    let post = |draft| {
        format!(
            "curl -i -X POST -H \"Authorization: Bearer $TOKEN\" http://{http}/api/events/{draft}/content-generation"
        )
    };
    let dispatcher = program("dispatcher");
    let _ = write!(
        out,
        "
Try next, in another terminal. Alice's token is good for a day:
   TOKEN={token}

   # a job: 202
   {}
   # what became of the one above
   curl -s -H \"Authorization: Bearer $TOKEN\" http://{http}/api/jobs/{job}
   # the same as it happens
   curl -N -H \"Authorization: Bearer $TOKEN\" http://{http}/api/jobs/{job}/events
   # a draft of somebody else: 404, as if there were none
   {}
   # a draft without a selected recommendation: 409
   {}

Look inside:
   {dispatcher} --config {file} outbox list
   {dispatcher} --config {file} doctor
   psql {database}
   redis-cli -p {redis}
   http://{admin}/metrics

Ctrl-C stops everything; the data stays, and the next start takes seconds.
",
        post(READY),
        post(OF_BOB),
        post(WITHOUT_RECOMMENDATION),
        database = config.database.url.expose_secret(),
        redis = servers.redis.port(),
    );
}

/// A program that lies beside this one, as one types it here.
fn program(name: &str) -> String {
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().unwrap_or_default().with_file_name(name);
    let shown = here.and_then(|here| program.strip_prefix(here).ok().map(Path::to_owned));
    shown.unwrap_or(program).display().to_string()
}
