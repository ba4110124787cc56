//! G5, G11, E2 and latency by load: how long a request takes until its record can be consumed, and what an idle replica asks.
//!
//! Ours is measured from the moment at which a request was due, by an open loop (see [`open_loop`]), to the moment at
//! which a consumer of the topic, in this process, has the record: HTTP, commit, relay, Kafka and the fetch. It is
//! compared with the two steps in it, a commit of the same rows and a record acknowledged with `linger.ms=0`, each job by
//! itself. Once at the load that the service has, by open loops beside one another, as the goal has it: what gathering jobs
//! saves shows there, and a ratio below 1 is no mistake. And once each alone on an idle machine, one after the other: no
//! outbox goes below that, and none that shares two cores with its servers and its load comes near.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use image_job_dispatcher::config::Delivery;
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::{
    accept::CONNECTIONS,
    backlog::{insert_drafts, make_textbook, message, payload},
    http::{Asking, User, clients, closed_loop, histogram},
    load::{Accepted, Load, open_loop},
    producer::{Batch, Producer},
    report::{Point, Sample, median},
    settings::Settings,
    stack::{Database, Service, Stack},
    watch::Watch,
};

/// Jobs a second that never meet: what one costs that waits for nobody.
const IDLE: f64 = 20.0;
/// Windows in which the full load is measured.
const FULL_LOADS: usize = 3;

/// The two steps by themselves: p99 of a commit and p99 of an acknowledgement, in ms.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    pub commit: f64,
    pub ack: f64,
}

impl Steps {
    /// One after the other.
    pub fn both(self) -> f64 {
        self.commit + self.ack
    }
}

/// The service under a load, and the steps by themselves at the same rate: one of each a round.
#[derive(Debug)]
pub struct AtLoad {
    /// Of the full load.
    pub part: f64,
    pub ours: Vec<Sample>,
    pub steps: Vec<Steps>,
}

/// One of each, a round.
#[derive(Debug)]
pub struct Latencies {
    /// Jobs a second.
    pub full_load: f64,
    /// Nothing else on the machine.
    pub alone: Vec<Steps>,
    pub at_load: Vec<AtLoad>,
}

/// Runs all rounds of G5.
pub async fn measure(stack: &Stack, settings: &Settings) -> Result<Latencies> {
    let mut stage = Stage::new(stack, Delivery::AtLeastOnce).await?;
    let capacity = stage.full_load(settings).await?;
    let at_load = [0.25, 0.75].map(|part| AtLoad {
        part,
        ours: Vec::new(),
        steps: Vec::new(),
    });
    let mut latencies = Latencies {
        full_load: capacity,
        alone: Vec::new(),
        at_load: at_load.into(),
    };
    // The broker's just-in-time compiler has to have seen both, or the first rounds' steps would be its start.
    for AtLoad { part, .. } in &latencies.at_load {
        stage.steps_at(stack, capacity * part, settings.seconds).await?;
        stage.at(stack, capacity * part, settings.seconds).await?;
    }
    for round in 1..=settings.rounds {
        latencies
            .alone
            .push(stage.steps_alone(stack, settings.seconds / 2).await?);
        for AtLoad { part, ours, steps } in &mut latencies.at_load {
            let rate = capacity * *part;
            let (apart, sample) = (
                stage.steps_at(stack, rate, settings.seconds).await?,
                stage.at(stack, rate, settings.seconds).await?,
            );
            println!(
                "latency, round {round}: at {:.0} %: p99 commit {:.2} ms, acknowledgement {:.2} ms; ours {:.2} ms",
                *part * 100.0,
                apart.commit,
                apart.ack,
                sample.others["p99_ms"]
            );
            ours.push(sample);
            steps.push(apart);
        }
    }
    stage.end(stack).await?;
    Ok(latencies)
}

/// At these parts of the full load, what a round measures of each.
pub async fn by_load(stack: &Stack, settings: &Settings, parts: &[f64]) -> Result<Vec<Point>> {
    let mut stage = Stage::new(stack, Delivery::AtLeastOnce).await?;
    let capacity = stage.full_load(settings).await?;
    let mut points: Vec<_> = parts.iter().map(|part| Point::new(part * capacity)).collect();
    for round in 1..=settings.rounds {
        for point in &mut points {
            let sample = stage.at(stack, point.x, settings.seconds).await?;
            println!(
                "latency by load, round {round}: at {:.0}/s p50 {:.2} ms, p99 {:.2} ms",
                point.x, sample.others["p50_ms"], sample.others["p99_ms"]
            );
            point.samples.push(sample);
        }
    }
    stage.end(stack).await?;
    Ok(points)
}

/// The same load in exactly-once mode and in the default one, in turns.
#[derive(Debug, Default)]
pub struct BothModes {
    pub once: Vec<Sample>,
    pub default: Vec<Sample>,
}

/// E2: a quarter of the default mode's full load; and [`IDLE`] a second, where each record is alone in its transaction.
pub async fn of_both_modes(stack: &Stack, settings: &Settings) -> Result<(BothModes, BothModes)> {
    let mut default = Stage::new(stack, Delivery::AtLeastOnce).await?;
    let quarter = default.full_load(settings).await? * 0.25;
    let mut once = Stage::new(stack, Delivery::ExactlyOnce).await?;
    let (mut loaded, mut idle) = (BothModes::default(), BothModes::default());
    for round in 1..=settings.rounds {
        for (rate, modes) in [(quarter, &mut loaded), (IDLE, &mut idle)] {
            let (once, default) = (
                once.at(stack, rate, settings.seconds).await?,
                default.at(stack, rate, settings.seconds).await?,
            );
            println!(
                "latency, round {round}: at {rate:.0}/s p99 {:.2} ms exactly once, {:.2} ms at least once",
                once.others["p99_ms"], default.others["p99_ms"]
            );
            modes.once.push(once);
            modes.default.push(default);
        }
    }
    once.end(stack).await?;
    default.end(stack).await?;
    Ok((loaded, idle))
}

/// G11: transactions a second that PostgreSQL counts in the database of an idle service, which leads. It counts those of its own
/// workers as well, which look into each database once a minute: they are off meanwhile.
pub async fn idle(stack: &Stack, settings: &Settings) -> Result<Vec<f64>> {
    let stage = Stage::new(stack, Delivery::AtLeastOnce).await?;
    let mut admin = stack.admin().await?;
    let mut counted = async || -> Result<i64> {
        Ok(
            sqlx::query_scalar("select xact_commit + xact_rollback from pg_stat_database where datname = $1")
                .bind(&stage.database.name)
                .fetch_one(&mut admin)
                .await?,
        )
    };
    let mut server = stack.admin().await?;
    server.execute("alter system set autovacuum = off").await?;
    server.execute("select pg_reload_conf()").await?;
    // Sessions report what they did up to ten seconds later.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut rates = Vec::new();
    for round in 1..=settings.rounds {
        let window = settings.seconds.max(Duration::from_secs(20));
        let before = counted().await?;
        tokio::time::sleep(window).await;
        rates.push((counted().await? - before) as f64 / window.as_secs_f64());
        println!("idle, round {round}: {:.2} transactions/s", rates[rates.len() - 1]);
    }
    server.execute("alter system reset autovacuum").await?;
    server.execute("select pg_reload_conf()").await?;
    stage.end(stack).await?;
    Ok(rates)
}

struct Stage {
    database: Database,
    steps: Database,
    topic: String,
    steps_topic: String,
    service: Service,
    users: Vec<User>,
    watch: Watch,
}

impl Stage {
    async fn new(stack: &Stack, delivery: Delivery) -> Result<Self> {
        let (database, topic) = (stack.database().await?, stack.topic().await?);
        let (steps, steps_topic) = (stack.database().await?, stack.topic().await?);
        let users = insert_drafts(&mut database.connect().await?).await?;
        make_textbook(&mut steps.connect().await?).await?;
        let mut service = stack.service(&database, &topic, "all", delivery)?;
        service.ready().await?;
        Ok(Self {
            watch: Watch::start(stack, &topic)?,
            database,
            steps,
            topic,
            steps_topic,
            service,
            users,
        })
    }

    /// What 64 clients get that ask again at once, a second, with the relay and a consumer beside them: the median of
    /// [`FULL_LOADS`] windows, after one that the broker's compiler is warmed up by.
    async fn full_load(&mut self, settings: &Settings) -> Result<f64> {
        let times = (Duration::from_secs(1), settings.seconds);
        let mut rates = Vec::new();
        for _ in 0..=FULL_LOADS {
            let address = [self.service.listen.as_str()];
            let (full, ..) = closed_loop(clients(&address, &self.users, CONNECTIONS).await?, times, async || {
                Ok(())
            })
            .await?;
            rates.push(full.answered as f64 / settings.seconds.as_secs_f64());
        }
        let capacity = median(&rates[1..]);
        println!("latency: full load is {capacity:.0}/s");
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.watch.taken();
        Ok(capacity)
    }

    /// One commit after the other, then one record after the other.
    async fn steps_alone(&self, stack: &Stack, each: Duration) -> Result<Steps> {
        let mut committing = Committing(self.steps.connect().await?);
        let commits = in_turn(&mut committing, each).await?;
        let mut sending = Sending::new(Producer::new(stack, &self.steps_topic)?).await?;
        let acknowledgements = in_turn(&mut sending, each).await?;
        Ok(Steps {
            commit: milliseconds(&commits, 0.99),
            ack: milliseconds(&acknowledgements, 0.99),
        })
    }

    /// Commits and records at this rate, beside one another.
    async fn steps_at(&self, stack: &Stack, rate: f64, window: Duration) -> Result<Steps> {
        let producer = Producer::new(stack, &self.steps_topic)?;
        let (mut committing, mut sending) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let mut connection = Committing(self.steps.connect().await?);
            connection.ask().await?;
            committing.push(connection);
            sending.push(Sending::new(producer.clone()).await?);
        }
        let (commits, acknowledgements) = (Load::start(committing, rate), Load::start(sending, rate));
        tokio::time::sleep(window).await;
        let p99 = |accepted: &[Accepted]| {
            let mut histogram = histogram();
            for request in accepted {
                record(&mut histogram, request.answered - request.due);
            }
            milliseconds(&histogram, 0.99)
        };
        Ok(Steps {
            commit: p99(&commits.stop().await?),
            ack: p99(&acknowledgements.stop().await?),
        })
    }

    async fn at(&mut self, stack: &Stack, rate: f64, window: Duration) -> Result<Sample> {
        let before = stack.mark().await?;
        let accepted = open_loop(&self.service.listen, &self.users, CONNECTIONS, (rate, window)).await?;
        let seen = self.watch.all_of(&accepted).await?;
        self.service.check()?;
        let used = stack.mark().await?.since(before);
        let jobs = accepted.len() as f64;
        let of = |took: &dyn Fn(&Accepted) -> Duration| {
            let mut histogram = histogram();
            for request in &accepted {
                record(&mut histogram, took(request));
            }
            histogram
        };
        let whole = of(&|request| seen[&request.job].saturating_duration_since(request.due));
        // Where the time goes: until the answer, and from it to the consumer.
        let accepting = of(&|request| request.answered - request.due);
        let relaying = of(&|request| seen[&request.job].saturating_duration_since(request.answered));
        let mut sample = Sample::new(jobs / window.as_secs_f64(), jobs, used);
        for (name, histogram, quantile) in [
            ("p50_ms", &whole, 0.5),
            ("p99_ms", &whole, 0.99),
            ("p999_ms", &whole, 0.999),
            ("answered_p50_ms", &accepting, 0.5),
            ("answered_p99_ms", &accepting, 0.99),
            ("after_answer_p50_ms", &relaying, 0.5),
            ("after_answer_p99_ms", &relaying, 0.99),
        ] {
            sample = sample.with(name, milliseconds(histogram, quantile));
        }
        Ok(sample)
    }

    async fn end(self, stack: &Stack) -> Result<()> {
        self.watch.stop()?;
        self.service.stop().await?;
        for database in [&self.database, &self.steps] {
            stack.drop_database(&database.name).await?;
        }
        stack.delete_topic(&self.topic).await?;
        stack.delete_topic(&self.steps_topic).await
    }
}

/// A commit of one job and its message, as the textbook writes them, in one statement.
struct Committing(PgConnection);

impl Asking for Committing {
    async fn ask(&mut self) -> Result<Uuid> {
        let job = Uuid::now_v7();
        sqlx::query(
            "with new_job as (
                 insert into textbook_jobs (id, user_id, event_draft_id, created_at) values ($1, $2, $3, now())
                 returning id, event_draft_id
             )
             insert into textbook_outbox (event_id, job_id, key, event_time, created_at, payload)
             select $4, id, event_draft_id, now(), now(), $5 from new_job",
        )
        .bind(job)
        .bind(Uuid::from_u128(1))
        .bind(Uuid::from_u128(2))
        .bind(Uuid::now_v7())
        .bind(payload().into_bytes())
        .execute(&mut self.0)
        .await?;
        Ok(job)
    }
}

/// A record, until it is acknowledged.
struct Sending {
    producer: Producer,
    sent: i64,
}

impl Sending {
    /// The first record of a producer waits for the producer's id, and is sent here.
    async fn new(producer: Producer) -> Result<Self> {
        let mut sending = Self { producer, sent: 0 };
        sending.ask().await?;
        Ok(sending)
    }
}

impl Asking for Sending {
    async fn ask(&mut self) -> Result<Uuid> {
        let (message, batch) = (message(self.sent), Batch::of(1));
        self.sent += 1;
        self.producer.send(&message, &batch)?;
        batch.done().await?;
        Ok(message.job_id)
    }
}

/// One after the other.
async fn in_turn(asking: &mut impl Asking, window: Duration) -> Result<Histogram<u64>> {
    let mut histogram = histogram();
    let begin = Instant::now();
    while begin.elapsed() < window {
        let sent = Instant::now();
        asking.ask().await?;
        record(&mut histogram, sent.elapsed());
    }
    Ok(histogram)
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(took.as_micros() as u64);
}

fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}
