//! G1 and G2: how many jobs a second are accepted, and what each costs.
//!
//! Ours is the whole way of a request: HTTP with 64 connections kept alive, a bearer token, the draft's validation,
//! Redis, the commit, the answer. Both baselines leave all of this out: pgbench, which costs little, sends only the
//! statements, with 64 connections, prepared, on the same server with the same durability; so the ratios are what
//! gathering requests into one transaction is worth, less all that HTTP costs. In each the rows are the same: one
//! job, one message with a value of the same length, one index for each key.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::Utc;
use image_job_dispatcher::config::Delivery;

use crate::{
    backlog::{DRAFTS, insert_drafts, payload},
    http::{User, closed_loop},
    report::Sample,
    settings::{Settings, root},
    stack::{Database, Service, Stack, pgbench},
    usage::Cpu,
};

/// Connections on each side.
pub const CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(2);

/// One sample a round of each side.
#[derive(Debug, Default)]
pub struct Accepted {
    pub ours: Vec<Sample>,
    pub textbook: Vec<Sample>,
    pub single_statement: Vec<Sample>,
}

/// Runs all rounds. Each side has a database of its own, which grows from round to round as in life.
pub async fn measure(stack: &Stack, settings: &Settings) -> Result<Accepted> {
    let mut sides = Sides::new(stack).await?;
    let mut accepted = Accepted::default();
    for round in 1..=settings.rounds {
        let ours = sides.ours(stack, settings.seconds).await?;
        println!("accept, round {round}: ours {:.0}/s", ours.rate);
        let textbook = sides.pgbench(stack, "textbook", settings.seconds).await?;
        println!("accept, round {round}: textbook {:.0}/s", textbook.rate);
        let single = sides.pgbench(stack, "single_statement", settings.seconds).await?;
        println!("accept, round {round}: single statement {:.0}/s", single.rate);
        accepted.ours.push(ours);
        accepted.textbook.push(textbook);
        accepted.single_statement.push(single);
    }
    sides.end(stack).await?;
    Ok(accepted)
}

struct Sides {
    database: Database,
    topic: String,
    service: Service,
    users: Vec<User>,
    baselines: Vec<(&'static str, Database)>,
}

impl Sides {
    async fn new(stack: &Stack) -> Result<Self> {
        let (database, topic) = (stack.database().await?, stack.topic().await?);
        let users = insert_drafts(&mut database.connect().await?).await?;
        let mut baselines = Vec::new();
        for name in ["textbook", "single_statement"] {
            let database = stack.database().await?;
            let mut connection = database.connect().await?;
            insert_drafts(&mut connection).await?;
            sqlx::raw_sql(include_str!("pgbench/schema.sql"))
                .execute(&mut connection)
                .await?;
            baselines.push((name, database));
        }
        // It accepts and does not relay: what the relay costs is measured for itself.
        let mut service = stack.service(&database, &topic, "api", Delivery::AtLeastOnce)?;
        service.ready().await?;
        Ok(Self {
            database,
            topic,
            service,
            users,
            baselines,
        })
    }

    async fn ours(&mut self, stack: &Stack, window: Duration) -> Result<Sample> {
        let edge = async || Ok((Cpu::now()?, stack.wal().await?));
        let times = (WARM_UP, window);
        let (closed, before, after) = closed_loop(&self.service.listen, &self.users, CONNECTIONS, times, edge).await?;
        self.service.check()?;
        let jobs = closed.answered as f64;
        let quantile = |q| closed.latency.value_at_quantile(q) as f64 / 1000.0;
        Ok(Sample {
            rate: jobs / window.as_secs_f64(),
            cpu: (after.0 - before.0).per_thousand(jobs),
            wal: (after.1 - before.1) / jobs,
            others: [("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)]
                .map(|(name, q)| (name.to_owned(), quantile(q)))
                .into(),
        })
    }

    async fn pgbench(&self, stack: &Stack, script: &str, window: Duration) -> Result<Sample> {
        let database = self.baselines.iter().find(|(name, _)| *name == script);
        let (_, database) = database.context("each script has its database")?;
        let clients = CONNECTIONS.to_string();
        let mut command = tokio::process::Command::new(pgbench());
        command
            .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients])
            .args(["-T", &(WARM_UP + window).as_secs().to_string()])
            .arg("-f")
            .arg(root().join(format!("benches/pgbench/{script}.sql")))
            .args(["-D", &format!("drafts={DRAFTS}"), "-D", "tick=0"])
            .args(["-D", &format!("ms={}", Utc::now().timestamp_millis())])
            .args(["-D", &format!("payload={}", payload())])
            .arg(&database.url);
        let (cpu, wal) = (Cpu::now()?, stack.wal().await?);
        let output = command.output().await.context("pgbench comes with PostgreSQL")?;
        let (cpu, wal) = (Cpu::now()? - cpu, stack.wal().await? - wal);
        let printed = String::from_utf8_lossy(&output.stdout);
        let number = |line: &str| -> Option<f64> {
            let rest = printed.lines().find_map(|printed| printed.strip_prefix(line))?;
            rest.split([' ', '/']).next()?.parse().ok()
        };
        let failed = || format!("pgbench: {printed}{}", String::from_utf8_lossy(&output.stderr));
        let jobs = number("number of transactions actually processed: ").with_context(failed)?;
        Ok(Sample {
            // Connecting is not counted to its disadvantage.
            rate: number("tps = ").with_context(failed)?,
            cpu: cpu.per_thousand(jobs),
            wal: wal / jobs,
            others: [("mean_ms".to_owned(), number("latency average = ").with_context(failed)?)].into(),
        })
    }

    async fn end(self, stack: &Stack) -> Result<()> {
        self.service.stop().await?;
        for (_, database) in &self.baselines {
            stack.drop_database(&database.name).await?;
        }
        stack.drop_database(&self.database.name).await?;
        stack.delete_topic(&self.topic).await
    }
}
