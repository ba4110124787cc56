//! G1, G2 and the growth of accepting: how many jobs a second are accepted, and what each costs.
//!
//! Ours is the whole way of a request: HTTP with 64 connections kept alive, a bearer token, the draft's validation,
//! Redis, the commit, the answer. Both baselines leave all of this out: pgbench, which costs little, sends only the
//! statements, with 64 connections, prepared, on the same server with the same durability; so the ratios are what
//! gathering requests into one transaction is worth, less all that HTTP costs. In each the rows are the same: one
//! job, one message with a value of the same length, one index for each key. What HTTP alone leaves of both ratios is
//! measured as well: a server that answers at once and does nothing.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{
    Router,
    http::{StatusCode, header},
    routing::post,
    serve::ListenerExt as _,
};
use chrono::Utc;
use image_job_dispatcher::config::Delivery;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    backlog::{DRAFTS, insert_drafts, make_textbook, payload},
    http::{User, clients, closed_loop},
    report::Sample,
    settings::{Settings, root, turns},
    stack::{Database, Service, Stack, pgbench},
    usage::{Mark, peak_resident},
};

/// Connections on each side.
pub const CONNECTIONS: usize = 64;
/// Of each side, before its window.
const WARM_UP: Duration = Duration::from_secs(2);
/// pgbench goes on for so long when its window has ended: reading the edges takes moments.
const PGBENCH_LONGER: Duration = Duration::from_secs(2);

/// One sample a round of each side.
#[derive(Debug, Default)]
pub struct Accepted {
    pub ours: Vec<Sample>,
    pub textbook: Vec<Sample>,
    pub single_statement: Vec<Sample>,
    /// The ceiling: requests and answers, and nothing between them.
    pub http_alone: Vec<Sample>,
}

/// Runs all rounds. Each side has a database of its own, which grows from round to round as in life.
pub async fn measure(stack: &Stack, settings: &Settings) -> Result<Accepted> {
    let mut sides = Sides::new(stack).await?;
    let mut accepted = Accepted::default();
    for round in 1..=settings.rounds {
        for turn in turns(round, 4) {
            let (name, samples, sample) = match turn {
                0 => (
                    "ours",
                    &mut accepted.ours,
                    sides.ours.run(stack, CONNECTIONS, settings.seconds).await?,
                ),
                1 => (
                    "textbook",
                    &mut accepted.textbook,
                    sides.pgbench(stack, "textbook", settings.seconds).await?,
                ),
                2 => (
                    "single statement",
                    &mut accepted.single_statement,
                    sides.pgbench(stack, "single_statement", settings.seconds).await?,
                ),
                _ => (
                    "HTTP alone",
                    &mut accepted.http_alone,
                    http_alone(&sides.ours.users, settings.seconds).await?,
                ),
            };
            println!("accept, round {round}: {name} {:.0}/s", sample.rate);
            samples.push(sample);
        }
    }
    sides.end(stack).await?;
    Ok(accepted)
}

/// Replicas that accept, on one database.
pub struct Ours {
    pub database: Database,
    pub topic: String,
    pub replicas: Vec<Service>,
    pub users: Vec<User>,
}

impl Ours {
    /// With the role `api` they accept and do not relay: what the relay costs is measured for itself.
    pub async fn new(stack: &Stack, replicas: usize, role: &str) -> Result<Self> {
        let database = stack.database().await?;
        Self::on(stack, database, replicas, role).await
    }

    /// On a database that has no drafts yet.
    pub async fn on(stack: &Stack, database: Database, replicas: usize, role: &str) -> Result<Self> {
        let topic = stack.topic().await?;
        let users = insert_drafts(&mut database.connect().await?).await?;
        let mut started = Vec::new();
        for _ in 0..replicas {
            started.push(stack.service(&database, &topic, role, Delivery::AtLeastOnce)?);
        }
        for service in &mut started {
            service.ready().await?;
        }
        Ok(Self {
            database,
            topic,
            replicas: started,
            users,
        })
    }

    /// `connections` clients that ask again as soon as they are answered.
    pub async fn run(&mut self, stack: &Stack, connections: usize, window: Duration) -> Result<Sample> {
        let mut connection = self.database.connect().await?;
        let edge = async || Edge::now(stack, &mut connection, "outbox_messages_id_seq").await;
        let addresses: Vec<_> = self.replicas.iter().map(|service| service.listen.as_str()).collect();
        let clients = clients(&addresses, &self.users, connections).await?;
        let (closed, before, after) = closed_loop(clients, (WARM_UP, window), edge).await?;
        let mut resident = 0.0;
        for service in &mut self.replicas {
            service.check()?;
            resident += peak_resident(service.pid())? / f64::from(1 << 20);
        }
        let quantile = |q| closed.latency.value_at_quantile(q) as f64 / 1000.0;
        Ok(after
            .since(before)
            .with("p50_ms", quantile(0.5))
            .with("p99_ms", quantile(0.99))
            .with("p999_ms", quantile(0.999))
            .with("peak_rss_MiB", resident))
    }

    pub async fn end(self, stack: &Stack) -> Result<()> {
        for service in self.replicas {
            service.stop().await?;
        }
        stack.drop_database(&self.database.name).await?;
        stack.delete_topic(&self.topic).await
    }
}

/// An edge of a window in which jobs are accepted. Jobs are counted by the sequence of their messages, on each side: nothing
/// that began before the window, or ends after it, is counted to its cost and not to its work.
#[derive(Clone, Copy)]
struct Edge {
    messages: i64,
    at: Instant,
    mark: Mark,
}

impl Edge {
    async fn now(stack: &Stack, connection: &mut PgConnection, sequence: &str) -> Result<Self> {
        let messages = sqlx::query_scalar(AssertSqlSafe(format!("select last_value from {sequence}")))
            .fetch_one(connection)
            .await?;
        Ok(Self {
            messages,
            at: Instant::now(),
            mark: stack.mark().await?,
        })
    }

    fn since(self, before: Self) -> Sample {
        let jobs = (self.messages - before.messages) as f64;
        let rate = jobs / (self.at - before.at).as_secs_f64();
        Sample::new(rate, jobs, self.mark.since(before.mark))
    }
}

/// One route of axum in this process, which takes the same requests and answers 202 with a job's id at once: no token is
/// looked at, nothing is read or written.
async fn http_alone(users: &[User], window: Duration) -> Result<Sample> {
    let answer = || async {
        let body = format!(r#"{{"jobId":"{}","status":"PENDING"}}"#, Uuid::now_v7());
        (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], body)
    };
    let router = Router::new().route("/api/events/{id}/content-generation", post(answer));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?.to_string();
    // A client that cannot be told of its no-delay is gone, as its next request will show.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let edge = async || Mark::now(0.0);
    let (closed, before, after) =
        closed_loop(clients(&[&address], users, CONNECTIONS).await?, (WARM_UP, window), edge).await?;
    server.abort();
    let jobs = closed.answered as f64;
    Ok(Sample::new(jobs / window.as_secs_f64(), jobs, after.since(before)))
}

struct Sides {
    ours: Ours,
    baselines: Vec<(&'static str, Database)>,
}

impl Sides {
    async fn new(stack: &Stack) -> Result<Self> {
        let mut baselines = Vec::new();
        for name in ["textbook", "single_statement"] {
            let database = stack.database().await?;
            let mut connection = database.connect().await?;
            insert_drafts(&mut connection).await?;
            make_textbook(&mut connection).await?;
            baselines.push((name, database));
        }
        Ok(Self {
            ours: Ours::new(stack, 1, "api").await?,
            baselines,
        })
    }

    async fn pgbench(&self, stack: &Stack, script: &str, window: Duration) -> Result<Sample> {
        let database = self.baselines.iter().find(|(name, _)| *name == script);
        let (_, database) = database.context("each script has its database")?;
        let clients = CONNECTIONS.to_string();
        let mut command = tokio::process::Command::new(pgbench());
        command
            .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients])
            .args(["-T", &(WARM_UP + window + PGBENCH_LONGER).as_secs().to_string()])
            .arg("-f")
            .arg(root().join(format!("benches/pgbench/{script}.sql")))
            .args(["-D", &format!("drafts={DRAFTS}"), "-D", "tick=0"])
            .args(["-D", &format!("ms={}", Utc::now().timestamp_millis())])
            .args(["-D", &format!("payload={}", payload())])
            .arg(&database.url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut connection = database.connect().await?;
        let running = command.spawn().context("pgbench comes with PostgreSQL")?;
        tokio::time::sleep(WARM_UP).await;
        let before = Edge::now(stack, &mut connection, "textbook_outbox_id_seq").await?;
        tokio::time::sleep(window).await;
        let after = Edge::now(stack, &mut connection, "textbook_outbox_id_seq").await?;
        let output = running.wait_with_output().await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let number = |line: &str| -> Option<f64> {
            let rest = printed.lines().find_map(|printed| printed.strip_prefix(line))?;
            rest.split([' ', '/']).next()?.parse().ok()
        };
        let failed = || format!("pgbench: {printed}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(number("number of failed transactions: ") == Some(0.0), failed());
        let mean = number("latency average = ").with_context(failed)?;
        Ok(after.since(before).with("mean_ms", mean))
    }

    async fn end(self, stack: &Stack) -> Result<()> {
        for (_, database) in &self.baselines {
            stack.drop_database(&database.name).await?;
        }
        self.ours.end(stack).await
    }
}
