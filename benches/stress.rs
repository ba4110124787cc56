//! What is done to the service in the cells of [`crate::cells`]: as in the public benchmark's `bench_harness/hooks.py`, but
//! for what is said there.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::{Connection, Executor};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until},
};

use crate::{
    accept::Ours,
    stack::{Service, Stack},
};

const READERS: usize = 4;
const READERS_PAUSE: Duration = Duration::from_millis(100);
const IDLE_CONNECTIONS: usize = 300;
const TERMINATE_EVERY: Duration = Duration::from_secs(1);
const KILL_EVERY: Duration = Duration::from_secs(20);
const KILLS: u32 = 3;
/// From a kill to the start of the same replica, where it is killed again and again.
const DEAD: Duration = Duration::from_secs(1);

/// What is done to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stress {
    /// A transaction with an id of its own stays open.
    IdleTransaction,
    /// Transactions that read the whole log again and again, each at one snapshot.
    Readers,
    /// Nothing: [`crate::cells`] offers more.
    HigherLoad,
    /// Stopped at the beginning, started after half of the phase.
    PostgresRestart,
    /// Every backend in the service's database, idle ones too, again and again.
    Terminate,
    /// Connections to the service's database that do nothing.
    IdleConnections,
    /// The leader is killed, and started a phase later; lasts two phases.
    Kill,
    /// Whoever leads is killed and started again, every [`KILL_EVERY`]; lasts [`KILLS`] times that, and a phase.
    KillAgain,
}

impl Stress {
    /// Does it to the service, for `phase` or as long as it takes; when this returns, nothing of it goes on.
    pub async fn exert(self, stack: &Stack, ours: &mut Ours, phase: Duration) -> Result<()> {
        let begin = Instant::now();
        let end = begin + phase;
        match self {
            Self::HigherLoad => sleep_until(end).await,
            Self::IdleTransaction => {
                let mut holder = ours.database.connect().await?;
                holder.execute("begin; select txid_current()").await?;
                sleep_until(end).await;
                holder.close().await?;
            }
            Self::Readers => {
                let mut readers = JoinSet::new();
                for _ in 0..READERS {
                    let mut reader = ours.database.connect().await?;
                    reader.execute("begin isolation level repeatable read").await?;
                    readers.spawn(async move {
                        while Instant::now() < end {
                            reader.execute("select count(*) from outbox_messages").await?;
                            sleep(READERS_PAUSE).await;
                        }
                        anyhow::Ok(reader.close().await?)
                    });
                }
                while let Some(reader) = readers.join_next().await {
                    reader??;
                }
            }
            Self::PostgresRestart => {
                stack.postgres.stop().await?;
                sleep_until(begin + phase / 2).await;
                stack.postgres.restart().await?;
                sleep_until(end).await;
            }
            Self::Terminate => {
                let mut admin = stack.admin().await?;
                let mut every = interval(TERMINATE_EVERY);
                let mut terminated = 0;
                while Instant::now() < end {
                    every.tick().await;
                    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
                    let done = sqlx::query(terminate).bind(&ours.database.name);
                    terminated += done.execute(&mut admin).await?.rows_affected();
                }
                if terminated == 0 {
                    bail!("the service had no backend that could be terminated");
                }
            }
            Self::IdleConnections => {
                let mut idle = Vec::new();
                for _ in 0..IDLE_CONNECTIONS {
                    idle.push(ours.database.connect().await?);
                }
                sleep_until(end).await;
            }
            Self::Kill => {
                let leader = leader(ours).await?;
                leader.kill();
                sleep_until(end).await;
                leader.start()?;
                leader.ready().await?;
                sleep_until(end + phase).await;
            }
            Self::KillAgain => {
                for n in 1..=KILLS {
                    sleep_until(begin + KILL_EVERY * n).await;
                    let leader = leader(ours).await?;
                    leader.kill();
                    sleep(DEAD).await;
                    leader.start()?;
                }
                sleep(phase).await;
            }
        }
        Ok(())
    }
}

/// The replica that leads.
async fn leader(ours: &mut Ours) -> Result<&mut Service> {
    let mut connection = ours.database.connect().await?;
    let name: Option<String> = sqlx::query_scalar("select leader from outbox_overview")
        .fetch_one(&mut connection)
        .await?;
    let leads = |replica: &&mut Service| Some(&replica.listen) == name.as_ref();
    ours.replicas.iter_mut().find(leads).context("no replica leads")
}
