//! Rates under stress: nine cells of a public benchmark of eight PostgreSQL queues, by name CELLS, `make cells`.
//!
//! The benchmark is <https://github.com/hardbyte/postgresql-job-queue-benchmarking> at 93677ca. Its phases stand in
//! `docs/method.md`, `bench_harness/phases.py` and `hooks.py`, what was run in `scripts/run_full_sweep.sh`, the figures
//! in `results/2026-05-09-full-sweep/SUMMARY.md`. A cell is a warm-up, a clean phase, a phase of stress and a clean
//! phase again, at a fixed offered load. Its figure is the completion rate under stress ("Phase C": the first four
//! here) or in the clean phase after it ("Phase B": the other five), over that of the clean phase before.
//!
//! Here a job is complete when a consumer of the topic has its record; a phase's rate is the median of its seconds, as
//! there of its samples, each the jobs whose first record came within it. The load is [`LOAD`] of what 64 clients get
//! that ask again at once, measured before: clients ask over HTTP at that rate, whatever the service does, and repeat
//! with the same Idempotency-Key until they have a 202. At the end the jobs of all 202s and the jobs in the topic must
//! be the same, or the run fails. Nothing is clipped: above 100 % a backlog still drains, or the load is higher than in
//! the clean phase. A median does not see an outage of less than half a phase, so the means under stress stand beside it.
//!
//! What differs from there. The load stays whole while a replica is dead; there a producer dies with its replica, and
//! where more than 100 % is published after a kill, what had been held up drained that late. The replica that is killed
//! is the one that leads. Once a second every backend of the service is terminated; there, twice a second those that are
//! in the middle of a statement or a transaction. Phases last `SECONDS` instead of one to five minutes, so an idle
//! transaction or a reader keeps fewer dead rows; G8 drains under an old snapshot after 400,000 messages.

use std::{
    collections::HashSet,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    accept::{CONNECTIONS, Ours},
    backlog::Topic,
    load::{Load, Persistent},
    report::{Report, median},
    settings::Settings,
    stack::Stack,
    stress::Stress,
    watch::Watch,
};

/// The offered load, as a part of what the service can do: 1.5 times it is still well within, and what a fault has
/// held up can be caught up with.
const LOAD: f64 = 0.3;
/// The burst begins at 1.5 times the load of the others, as there (1,200 a second, and 800).
const LOAD_BEFORE_BURST: f64 = 0.45;
/// The higher load, over the load before.
const HIGHER: f64 = 1.5;
/// Before the clean phase.
const WARM_UP: Duration = Duration::from_secs(3);

/// Which phase's rate is divided by the clean one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// That of the stress itself.
    Under,
    /// The clean phase behind it.
    After,
}

struct Cell {
    name: &'static str,
    /// In words, for the table.
    done: &'static str,
    stress: Stress,
    /// Part of the full load that is offered.
    load: f64,
    replicas: usize,
    phase: Phase,
    /// The best published figure of the eight, and whose it is.
    best: &'static str,
}

/// In the order of the benchmark's two tables.
const CELLS: [Cell; 9] = [
    Cell {
        name: "idle transaction",
        done: "a transaction with an id of its own stays open",
        stress: Stress::IdleTransaction,
        load: LOAD,
        replicas: 1,
        phase: Phase::Under,
        best: "100 % (pgque)",
    },
    Cell {
        name: "active readers",
        done: "four repeatable-read transactions count the outbox, ten times a second each",
        stress: Stress::Readers,
        load: LOAD,
        replicas: 1,
        phase: Phase::Under,
        best: "101 % (pg-boss)",
    },
    Cell {
        name: "sustained load",
        done: "1.5 times the load",
        stress: Stress::HigherLoad,
        load: LOAD,
        replicas: 1,
        phase: Phase::Under,
        best: "150 % (pgmq)",
    },
    Cell {
        name: "burst",
        done: "1.5 times the load, from a load 1.5 times as high",
        stress: Stress::HigherLoad,
        load: LOAD_BEFORE_BURST,
        replicas: 1,
        phase: Phase::Under,
        best: "100 % (pgque, oban; nobody's load rose)",
    },
    Cell {
        name: "PostgreSQL restart",
        done: "PostgreSQL is stopped, and started after half the phase",
        stress: Stress::PostgresRestart,
        load: LOAD,
        replicas: 1,
        phase: Phase::After,
        best: "101 % (river)",
    },
    Cell {
        name: "backends terminated",
        done: "each second all backends of the service are terminated",
        stress: Stress::Terminate,
        load: LOAD,
        replicas: 1,
        phase: Phase::After,
        best: "101 % (river)",
    },
    Cell {
        name: "300 idle connections",
        done: "300 idle connections beside the service's, of 400 that PostgreSQL allows",
        stress: Stress::IdleConnections,
        load: LOAD,
        replicas: 1,
        phase: Phase::After,
        best: "100 % (five of eight)",
    },
    Cell {
        name: "one replica killed",
        done: "of two, the one that leads: SIGKILL, and started after half of a phase twice as long",
        stress: Stress::Kill,
        load: LOAD,
        replicas: 2,
        phase: Phase::After,
        best: "121 % (river)",
    },
    Cell {
        name: "killed every 20 s",
        done: "of two, the one that leads, three times: SIGKILL, and started a second later",
        stress: Stress::KillAgain,
        load: LOAD,
        replicas: 2,
        phase: Phase::After,
        best: "112 % (absurd)",
    },
];

/// A cell, as the report keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub done: String,
    pub phase: Phase,
    pub best: String,
    pub rounds: Vec<Round>,
    /// Key of [`Report::runs`].
    pub run: String,
}

impl Measured {
    /// The rate of the phase that counts over the clean one: the median of the rounds.
    pub fn ratio(&self) -> f64 {
        let ratio = |round: &Round| match self.phase {
            Phase::Under => round.under / round.clean,
            Phase::After => round.after / round.clean,
        };
        median(&self.rounds.iter().map(ratio).collect::<Vec<_>>())
    }
}

/// One run of a cell. Rates are jobs a second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    /// Consumed in the clean phase: the median of its seconds.
    pub clean: f64,
    /// The same under stress.
    pub under: f64,
    /// Consumed under stress: the mean.
    pub mean_under: f64,
    /// Answered 202 under stress, the mean: what of the load was truly applied.
    pub accepted_under: f64,
    /// Consumed in the phase after the stress: the median.
    pub after: f64,
    /// Jobs that were answered 202, in all phases, and are in the topic.
    pub accepted: usize,
    /// Records beyond one a job: a kill may repeat up to `relay.window`.
    pub repeats: i64,
}

/// All nine, round by round.
pub async fn measure(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut ours = Ours::new(stack, 1, "all").await?;
    let full = ours.run(stack, CONNECTIONS, settings.seconds).await?.rate;
    ours.end(stack).await?;
    println!("cells: full load is {full:.0}/s");
    for cell in CELLS {
        let mut rounds = Vec::new();
        for number in 1..=settings.rounds {
            let round = cell.run(stack, full, settings.seconds);
            let round = round.await.with_context(|| format!("cell {}", cell.name))?;
            println!(
                "{}, round {number}: clean {:.0}/s, under stress {:.0}/s (mean {:.0}/s, accepted {:.0}/s), after it {:.0}/s; {} \
                 accepted, {} repeated",
                cell.name,
                round.clean,
                round.under,
                round.mean_under,
                round.accepted_under,
                round.after,
                round.accepted,
                round.repeats
            );
            rounds.push(round);
        }
        let measured = Measured {
            name: cell.name.to_owned(),
            done: cell.done.to_owned(),
            phase: cell.phase,
            best: cell.best.to_owned(),
            rounds,
            run: String::new(),
        };
        println!(
            "{}: {:.1} %; best published {}",
            cell.name,
            measured.ratio() * 100.0,
            cell.best
        );
        report.cell(measured);
        report.write(&settings.out)?;
    }
    Ok(())
}

impl Cell {
    async fn run(&self, stack: &Stack, full: f64, phase: Duration) -> Result<Round> {
        let mut ours = Ours::new(stack, self.replicas, "all").await?;
        let watch = Watch::start(stack, &ours.topic)?;
        let addresses: Vec<_> = ours.replicas.iter().map(|replica| replica.listen.clone()).collect();
        let clients = (0..CONNECTIONS).map(|n| Persistent::new(&addresses, &ours.users, n));
        let rate = full * self.load;
        let load = Load::start(clients.collect(), rate);
        sleep(WARM_UP).await;

        let clean = during(async || {
            sleep(phase).await;
            Ok(())
        })
        .await?;
        let under = during(async || {
            if self.stress == Stress::HigherLoad {
                load.set_rate(rate * HIGHER);
            }
            self.stress.exert(stack, &mut ours, phase).await?;
            load.set_rate(rate);
            Ok(())
        })
        .await?;
        let after = during(async || {
            sleep(phase).await;
            Ok(())
        })
        .await?;

        let accepted = load.stop().await?;
        let came = watch.all_of(&accepted).await?;
        let jobs: HashSet<_> = accepted.iter().map(|request| request.job).collect();
        if jobs.len() != accepted.len() || jobs.len() != came.len() {
            bail!(
                "{} requests were answered 202 with {} jobs, and {} jobs are in the topic",
                accepted.len(),
                jobs.len(),
                came.len()
            );
        }
        watch.stop()?;
        let repeats = Topic::new(stack, &ours.topic)?.count()? - came.len() as i64;
        for replica in &mut ours.replicas {
            replica.check()?;
        }
        ours.end(stack).await?;
        let consumed = |phase| by_second(phase, came.values());
        Ok(Round {
            clean: median(&consumed(&clean)),
            under: median(&consumed(&under)),
            mean_under: mean(&consumed(&under)),
            accepted_under: mean(&by_second(&under, accepted.iter().map(|request| &request.answered))),
            after: median(&consumed(&after)),
            accepted: accepted.len(),
            repeats,
        })
    }
}

/// From when to when something was done.
async fn during(what: impl AsyncFnOnce() -> Result<()>) -> Result<Range<Instant>> {
    let begin = Instant::now();
    what().await?;
    Ok(begin..Instant::now())
}

/// How many of these instants fall into each whole second of the phase.
fn by_second<'a>(phase: &Range<Instant>, instants: impl Iterator<Item = &'a Instant>) -> Vec<f64> {
    let mut seconds = vec![0.0; (phase.end - phase.start).as_secs() as usize];
    for instant in instants {
        if let Some(since) = instant.checked_duration_since(phase.start)
            && let Some(count) = seconds.get_mut(since.as_secs() as usize)
        {
            *count += 1.0;
        }
    }
    seconds
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
