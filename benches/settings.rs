//! What a run was asked for, from the environment: `make bench ONLY=G3 ROUNDS=10` sets it.

use std::{collections::BTreeSet, env, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};

/// The goals that are measured, in the order in which they are shown.
pub const GOALS: [&str; 17] = [
    "G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9", "G10", "G11", "E1", "E2", "N1", "N2", "LISTS", "REPLAY",
];
/// What is measured beside them: peers (for G4), growth, what else a job costs, memory, and the time to start.
pub const BESIDE: [&str; 6] = ["PEER", "WATERMILL", "GROWTH", "COSTS", "MEMORY", "START"];
/// Measured only when it is named: the cells of a public benchmark, which have a command of their own, `make cells`.
pub const APART: [&str; 1] = ["CELLS"];

/// How much is measured, and where the result goes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `ONLY=G3` or `ONLY=G1,G2`: these; all of [`GOALS`] and [`BESIDE`], and nothing of [`APART`], when it is not set.
    pub only: BTreeSet<&'static str>,
    /// `ROUNDS`: how often each side is run, in turns.
    pub rounds: usize,
    /// `BACKLOG`: messages in the backlog that is drained.
    pub backlog: i64,
    /// `SECONDS`: how long one side of a measurement by time lasts.
    pub seconds: Duration,
    /// `OUT`: the directory of `benchmarks.md` and `benchmarks.json`.
    pub out: PathBuf,
}

impl Settings {
    pub fn from_environment() -> Result<Self> {
        let only = match env::var("ONLY") {
            Ok(list) if !list.trim().is_empty() => list.split(',').map(goal).collect::<Result<_>>()?,
            _ => usual().collect(),
        };
        let settings = Self {
            only,
            rounds: number("ROUNDS", 10)?,
            backlog: number("BACKLOG", 1_000_000)?,
            seconds: Duration::from_secs(number("SECONDS", 10)?),
            out: env::var_os("OUT").map_or_else(|| root().join("docs"), PathBuf::from),
        };
        if settings.rounds == 0 || settings.backlog < 10_000 || settings.seconds.is_zero() {
            bail!("ROUNDS is 1 or more, BACKLOG 10000 or more, SECONDS 1 or more");
        }
        Ok(settings)
    }

    /// Is any of these goals wanted?
    pub fn wants(&self, goals: &[&str]) -> bool {
        goals.iter().any(|goal| self.only.contains(goal))
    }

    /// The command that repeats this run.
    pub fn command(&self) -> String {
        let only: Vec<_> = known().filter(|goal| self.only.contains(goal)).collect();
        let only = if only == usual().collect::<Vec<_>>() {
            String::new()
        } else {
            format!(" ONLY={}", only.join(","))
        };
        format!(
            "make bench{only} ROUNDS={} BACKLOG={} SECONDS={}",
            self.rounds,
            self.backlog,
            self.seconds.as_secs()
        )
    }
}

/// In which order a round's sides have their turn: each round begins with another one, for whoever goes after a certain
/// side may have it harder.
pub fn turns(round: usize, sides: usize) -> impl Iterator<Item = usize> {
    (0..sides).map(move |n| (n + round - 1) % sides)
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What is measured when nothing is named.
fn usual() -> impl Iterator<Item = &'static str> {
    GOALS.into_iter().chain(BESIDE)
}

/// What can be named.
fn known() -> impl Iterator<Item = &'static str> {
    usual().chain(APART)
}

fn goal(name: &str) -> Result<&'static str> {
    let name = name.trim().to_uppercase();
    let known: Vec<_> = known().collect();
    match known.iter().find(|goal| **goal == name) {
        Some(goal) => Ok(goal),
        None => bail!("ONLY={name}: there is no such goal; there are {}", known.join(", ")),
    }
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str, default: T) -> Result<T> {
    match env::var(name) {
        Ok(text) if !text.trim().is_empty() => text.trim().parse().with_context(|| format!("{name}={text}")),
        _ => Ok(default),
    }
}
