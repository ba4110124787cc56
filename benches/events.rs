//! N1 and N2: clients that each follow a job by server-sent events, while nothing happens and when every job changes.
//!
//! [`CLIENTS`] jobs are accepted and published; then as many connections follow one job each. What the service's
//! resident set has grown by, divided by the clients, is the memory of a client: what the kernel keeps for its
//! socket is not in it. Then the Content Service's final answers are sent for all jobs at once, and each client notes
//! when it has read the event with COMPLETED. While nothing happens, the transactions are counted that PostgreSQL
//! sees: waiting clients are to cost none each.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use image_job_dispatcher::{
    config::Delivery,
    messages::{Image, ImageJobResult, ImageStyle, ResultStatus},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
    types::RDKafkaErrorCode,
};
use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
};
use uuid::Uuid;

use crate::{
    backlog::insert_drafts,
    http::{Client, User, histogram},
    report::Sample,
    settings::Settings,
    stack::{Database, Service, Stack, results_of},
    usage::resident,
};

/// Clients, and jobs: each client follows one.
pub const CLIENTS: usize = 5_000;
/// For all clients to be told, and for all messages to be published.
const PATIENCE: Duration = Duration::from_mins(1);
/// Clients that connect at the same time.
const CONNECTING: usize = 64;
/// Sessions tell what they did up to ten seconds later.
const COUNTED_LATER: Duration = Duration::from_secs(12);

/// Runs all rounds.
pub async fn measure(stack: &Stack, settings: &Settings) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 1..=settings.rounds {
        let sample = once(stack, settings).await?;
        println!(
            "{CLIENTS} clients, round {round}: {:.1} KiB each; told after {:.0} ms (p50), {:.0} ms (the last); {:.2} \
             transactions/s while they wait",
            sample.others["KiB_a_client"],
            sample.others["p50_ms"],
            sample.others["last_ms"],
            sample.others["waiting_transactions_per_s"]
        );
        samples.push(sample);
    }
    Ok(samples)
}

async fn once(stack: &Stack, settings: &Settings) -> Result<Sample> {
    let (database, topic) = (stack.database().await?, stack.topic().await?);
    let users = insert_drafts(&mut database.connect().await?).await?;
    let mut service = stack.service(&database, &topic, "all", Delivery::AtLeastOnce)?;
    service.ready().await?;
    let mut connection = database.connect().await?;
    let jobs = accept(&service, &users).await?;
    published(&mut connection).await?;

    let before = resident(service.pid())?;
    let clients = follow(&service, &jobs).await?;
    // Whatever connecting has left over is freed meanwhile.
    tokio::time::sleep(settings.seconds.max(COUNTED_LATER)).await;
    let per_client = (resident(service.pid())? - before) / CLIENTS as f64 / 1024.0;

    let counted = transactions(stack, &database).await?;
    let window = settings.seconds.max(Duration::from_secs(20));
    tokio::time::sleep(window).await;
    let waiting = (transactions(stack, &database).await? - counted) / window.as_secs_f64();

    let before_answers = stack.mark().await?;
    let began = Instant::now();
    let sent = tokio::task::spawn_blocking({
        let (config, topic) = (stack.kafka_client(), results_of(&topic));
        move || answer_all(&config, &topic, jobs.iter().map(|(job, _)| *job))
    })
    .await??;
    let (latency, last) = told(clients, &sent, began).await?;
    let took = began.elapsed();
    service.check()?;
    let used = stack.mark().await?.since(before_answers);
    service.stop().await?;
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    let milliseconds = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Sample::new(CLIENTS as f64 / took.as_secs_f64(), CLIENTS as f64, used)
        .with("KiB_a_client", per_client)
        .with("waiting_transactions_per_s", waiting)
        .with("p50_ms", milliseconds(0.5))
        .with("p99_ms", milliseconds(0.99))
        .with("last_ms", last.as_secs_f64() * 1000.0))
}

/// The jobs, each with the token of its owner.
async fn accept(service: &Service, users: &[User]) -> Result<Vec<(Uuid, String)>> {
    let mut clients = JoinSet::new();
    for n in 0..CONNECTING {
        let user = users[n % users.len()].clone();
        let mut client = Client::connect(&service.listen, &user, n * 97).await?;
        clients.spawn(async move {
            let mut jobs = Vec::new();
            for _ in 0..CLIENTS.div_ceil(CONNECTING) {
                jobs.push((client.accept().await?, user.token.clone()));
            }
            anyhow::Ok(jobs)
        });
    }
    let mut jobs = Vec::new();
    while let Some(done) = clients.join_next().await {
        jobs.append(&mut done??);
    }
    jobs.truncate(CLIENTS);
    Ok(jobs)
}

async fn published(connection: &mut PgConnection) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pending: i64 = sqlx::query_scalar("select pending from outbox_overview")
            .fetch_one(&mut *connection)
            .await?;
        match pending {
            0 => return Ok(()),
            _ if Instant::now() > deadline => bail!("{pending} messages are still pending"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One that has its first event and waits for the others.
struct Follower {
    job: Uuid,
    stream: TcpStream,
}

async fn follow(service: &Service, jobs: &[(Uuid, String)]) -> Result<Vec<Follower>> {
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut clients = JoinSet::new();
    for (job, token) in jobs {
        let (job, connecting, address) = (*job, connecting.clone(), service.listen.clone());
        let request =
            format!("GET /api/jobs/{job}/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
        clients.spawn(async move {
            let _one = connecting.acquire().await?;
            let mut stream = TcpStream::connect(&address).await?;
            stream.write_all(request.as_bytes()).await?;
            until(&mut stream, "\"status\":\"PENDING\"").await?;
            anyhow::Ok(Follower { job, stream })
        });
    }
    let mut followers = Vec::with_capacity(jobs.len());
    while let Some(done) = clients.join_next().await {
        followers.push(done??);
    }
    Ok(followers)
}

/// Reads until an event says this. An event that is cut in two by the network is seen by its second half.
async fn until(stream: &mut TcpStream, what: &str) -> Result<()> {
    let (mut text, mut chunk) = (Vec::new(), [0; 2048]);
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk))
            .await
            .with_context(|| format!("{what} did not come"))??;
        if read == 0 {
            bail!("the stream ended before {what}: {}", String::from_utf8_lossy(&text));
        }
        text.extend_from_slice(&chunk[..read]);
        if text.windows(what.len()).any(|seen| seen == what.as_bytes()) {
            return Ok(());
        }
    }
}

/// The final answer of each job; when each was given to the producer.
pub fn answer_all(
    config: &ClientConfig,
    topic: &str,
    jobs: impl Iterator<Item = Uuid>,
) -> Result<HashMap<Uuid, Instant>> {
    let producer: BaseProducer = config.clone().set("linger.ms", "5").create()?;
    let mut sent = HashMap::new();
    for job_id in jobs {
        let image = |style: ImageStyle| Image {
            style,
            url: format!("https://pictures.example.com/{job_id}/{}.png", style.slug()),
        };
        let result = ImageJobResult {
            job_id,
            status: ResultStatus::Completed,
            images: ImageStyle::ALL.map(image).into(),
            error: None,
        };
        let (key, value) = (job_id.to_string(), serde_json::to_vec(&result)?);
        sent.insert(job_id, Instant::now());
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            record = back;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(PATIENCE)?;
    Ok(sent)
}

/// From each answer to its client, and until the last client was told.
async fn told(
    clients: Vec<Follower>,
    sent: &HashMap<Uuid, Instant>,
    began: Instant,
) -> Result<(Histogram<u64>, Duration)> {
    let mut waiting = JoinSet::new();
    for Follower { job, mut stream } in clients {
        waiting.spawn(async move {
            until(&mut stream, "\"status\":\"COMPLETED\"").await?;
            anyhow::Ok((job, Instant::now()))
        });
    }
    let (mut latency, mut last) = (histogram(), began);
    while let Some(done) = waiting.join_next().await {
        let (job, at) = done??;
        latency.saturating_record(at.saturating_duration_since(sent[&job]).as_micros() as u64);
        last = last.max(at);
    }
    Ok((latency, last - began))
}

async fn transactions(stack: &Stack, database: &Database) -> Result<f64> {
    let counted: i64 =
        sqlx::query_scalar("select xact_commit + xact_rollback from pg_stat_database where datname = $1")
            .bind(&database.name)
            .fetch_one(&mut stack.admin().await?)
            .await?;
    Ok(counted as f64)
}
