//! What was measured: `benchmarks.json` keeps everything, and what people read is made from it ([`crate::page`],
//! [`crate::picture`]). A run of some goals replaces these and leaves the others as they are, each with the run that
//! it is from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    cells::Measured,
    page,
    run::Run,
    settings::{GOALS, Settings},
    stack::Stack,
    usage::{Cpu, Used},
};

/// One run of one side.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Jobs, or messages, a second.
    pub rate: f64,
    /// CPU seconds per 1,000 jobs.
    pub cpu: Cpu,
    /// Processors that all who take part kept busy while it lasted.
    pub cores: f64,
    /// Bytes of WAL a job.
    pub wal: f64,
    /// Other figures, by name with unit: `p99_ms`.
    pub others: BTreeMap<String, f64>,
}

impl Sample {
    /// Of `jobs` jobs, at this rate.
    pub fn new(rate: f64, jobs: f64, used: Used) -> Self {
        Self {
            rate,
            cpu: used.cpu.per_thousand(jobs),
            cores: used.cpu.total() / used.seconds,
            wal: used.wal / jobs,
            others: BTreeMap::new(),
        }
    }

    /// With another figure.
    #[must_use]
    pub fn with(mut self, name: &str, figure: f64) -> Self {
        self.others.insert(name.to_owned(), figure);
        self
    }
}

/// What is compared: ours or a baseline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Side {
    /// In the order of the rounds.
    pub samples: Vec<Sample>,
    /// Key of [`Report::runs`].
    pub run: String,
}

impl Side {
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(of).collect::<Vec<_>>())
    }
}

/// How a figure is to be, and is shown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    /// At most one in so many.
    OneIn(f64),
    /// At most so many MiB.
    MiB(f64),
    /// At most so many KiB.
    KiB(f64),
    /// At most so many milliseconds.
    Milliseconds(f64),
    /// At most so many a second.
    PerSecond(f64),
}

impl Wanted {
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(wanted) => figure >= wanted,
            Self::OneIn(wanted) => figure <= 1.0 / wanted,
            Self::AtMost(wanted)
            | Self::MiB(wanted)
            | Self::KiB(wanted)
            | Self::Milliseconds(wanted)
            | Self::PerSecond(wanted) => figure <= wanted,
        }
    }

    pub fn show(self, figure: f64) -> String {
        match self {
            Self::AtLeast(_) | Self::AtMost(_) => format!("{figure:.2}"),
            Self::OneIn(_) => format!("1/{:.1}", 1.0 / figure),
            Self::MiB(_) => format!("{figure:.1} MiB"),
            Self::KiB(_) => format!("{figure:.1} KiB"),
            Self::Milliseconds(_) => format!("{figure:.0} ms"),
            Self::PerSecond(_) => format!("{figure:.2}/s"),
        }
    }

    pub fn show_wanted(self) -> String {
        match self {
            Self::AtLeast(wanted) => format!("≥ {wanted}"),
            Self::AtMost(wanted) => format!("≤ {wanted}"),
            Self::OneIn(wanted) => format!("≤ 1/{wanted}"),
            Self::MiB(wanted) => format!("≤ {wanted} MiB"),
            Self::KiB(wanted) => format!("≤ {wanted} KiB"),
            Self::Milliseconds(wanted) => format!("≤ {wanted} ms"),
            Self::PerSecond(wanted) => format!("≤ {wanted}/s"),
        }
    }

    /// By how much a figure misses, in percent of what is wanted.
    pub fn missed_by(self, figure: f64) -> f64 {
        let wanted = match self {
            Self::OneIn(wanted) => 1.0 / wanted,
            Self::AtLeast(wanted)
            | Self::AtMost(wanted)
            | Self::MiB(wanted)
            | Self::KiB(wanted)
            | Self::Milliseconds(wanted)
            | Self::PerSecond(wanted) => wanted,
        };
        (figure / wanted - 1.0).abs() * 100.0
    }
}

/// A goal, or one of its parts: a figure from both sides of each round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    pub goal: String,
    /// What is divided by what.
    pub what: String,
    pub wanted: Wanted,
    /// One from each round.
    pub rounds: Vec<f64>,
    /// Key of [`Report::sides`]: its use of the machine is what bounds the figure.
    pub ours: String,
    /// The other side, where both are rates of the same work.
    pub theirs: Option<String>,
    /// What bounds it, where the use of the machine does not say it.
    pub bound: Option<String>,
    pub run: String,
}

/// The same thing at several sizes: what it costs when something grows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Growth {
    /// What grows.
    pub x: String,
    pub points: Vec<Point>,
    pub run: String,
}

/// One size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    pub x: f64,
    /// In the order of the rounds.
    pub samples: Vec<Sample>,
}

impl Point {
    pub fn new(x: f64) -> Self {
        Self { x, samples: Vec::new() }
    }

    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(of).collect::<Vec<_>>())
    }
}

/// A number of its own, that is neither a goal nor a side of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fact {
    pub unit: String,
    pub rounds: Vec<f64>,
    pub run: String,
}

/// All that is known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub figures: Vec<Figure>,
    pub sides: BTreeMap<String, Side>,
    pub growth: BTreeMap<String, Growth>,
    pub facts: BTreeMap<String, Fact>,
    pub cells: Vec<Measured>,
    /// What could not be measured, and why.
    pub absent: BTreeMap<String, String>,
    pub runs: BTreeMap<String, Run>,
    /// The run that is going on.
    #[serde(skip)]
    run: String,
}

impl Report {
    /// What earlier runs left in `settings.out`, and a new run.
    pub async fn open(settings: &Settings, stack: &Stack) -> Result<Self> {
        let mut report: Self = match fs::read_to_string(settings.out.join("benchmarks.json")) {
            Ok(text) => serde_json::from_str(&text).context("benchmarks.json is of another version: remove it")?,
            Err(_) => Self::default(),
        };
        let run = Run::now(settings, stack).await?;
        report.run.clone_from(&run.at);
        report.runs.insert(run.at.clone(), run);
        Ok(report)
    }

    /// Adds, or replaces, a side.
    pub fn side(&mut self, name: &str, samples: &[Sample]) {
        let side = Side {
            samples: samples.to_vec(),
            run: self.run.clone(),
        };
        self.absent.remove(name);
        self.sides.insert(name.to_owned(), side);
    }

    /// Adds, or replaces, what was measured while `x` grew.
    pub fn growth(&mut self, name: &str, x: &str, points: Vec<Point>) {
        let growth = Growth {
            x: x.to_owned(),
            points,
            run: self.run.clone(),
        };
        self.growth.insert(name.to_owned(), growth);
    }

    /// How a baseline of this run was set, for whoever repeats it.
    pub fn note(&mut self, text: &str) {
        if let Some(run) = self.runs.get_mut(&self.run) {
            run.versions = format!("{}; {text}", run.versions);
        }
    }

    /// Adds, or replaces, a number of its own, and prints it.
    pub fn fact(&mut self, name: &str, unit: &str, rounds: Vec<f64>) {
        println!("{name}: {:.1} {unit}", median(&rounds));
        let fact = Fact {
            unit: unit.to_owned(),
            rounds,
            run: self.run.clone(),
        };
        self.facts.insert(name.to_owned(), fact);
    }

    /// Adds, or replaces, what was measured of a cell.
    pub fn cell(&mut self, measured: Measured) {
        self.cells.retain(|other| other.name != measured.name);
        self.cells.push(Measured {
            run: self.run.clone(),
            ..measured
        });
    }

    /// Adds, or replaces, the ratio of two sides' rates.
    pub fn rates(&mut self, goal: &str, what: &str, wanted: Wanted, (ours, theirs): (&str, &str)) {
        let rounds = match (self.sides.get(ours), self.sides.get(theirs)) {
            (Some(ours), Some(theirs)) => ours
                .samples
                .iter()
                .zip(&theirs.samples)
                .map(|(ours, theirs)| ours.rate / theirs.rate)
                .collect(),
            _ => Vec::new(),
        };
        self.figure(goal, what, wanted, rounds, ours);
        for figure in &mut self.figures {
            if figure.goal == goal && figure.what == what {
                figure.theirs = Some(theirs.to_owned());
            }
        }
    }

    /// Says what bounds a figure of this run.
    pub fn bound(&mut self, goal: &str, what: &str, bound: &str) {
        for figure in &mut self.figures {
            if figure.goal == goal && figure.what == what {
                figure.bound = Some(bound.to_owned());
            }
        }
    }

    /// Says that something could not be measured here, and goes on.
    pub fn absent(&mut self, what: &str, why: &anyhow::Error) {
        println!("{what} is not measured: {why:#}");
        if !self.sides.contains_key(what) {
            self.absent.insert(what.to_owned(), format!("{why:#}"));
        }
    }

    /// Adds, or replaces, a figure, and prints it.
    pub fn figure(&mut self, goal: &str, what: &str, wanted: Wanted, rounds: Vec<f64>, ours: &str) {
        let figure = Figure {
            goal: goal.to_owned(),
            what: what.to_owned(),
            wanted,
            rounds,
            ours: ours.to_owned(),
            theirs: None,
            bound: None,
            run: self.run.clone(),
        };
        let shown = median(&figure.rounds);
        let verdict = if wanted.holds(shown) { "holds" } else { "missed" };
        println!(
            "{goal} {what}: {} ({}): {verdict}",
            wanted.show(shown),
            wanted.show_wanted()
        );
        self.figures
            .retain(|other| (&other.goal, &other.what) != (&figure.goal, &figure.what));
        self.figures.push(figure);
    }

    /// Writes all files. Called after each goal, so that an interrupted run leaves what it has.
    pub fn write(&mut self, out: &Path) -> Result<()> {
        let place = |goal: &str| GOALS.iter().position(|known| *known == goal);
        self.figures.sort_by_key(|figure| place(&figure.goal));
        let of_figures = self.figures.iter().map(|figure| figure.run.clone());
        let of_sides = self.sides.values().map(|side| side.run.clone());
        let of_growth = self.growth.values().map(|growth| growth.run.clone());
        let of_facts = self.facts.values().map(|fact| fact.run.clone());
        let of_cells = self.cells.iter().map(|cell| cell.run.clone());
        let of_others = of_growth.chain(of_facts).chain(of_cells);
        let used: BTreeSet<_> = of_figures.chain(of_sides).chain(of_others).collect();
        self.runs.retain(|key, _| used.contains(key));
        fs::create_dir_all(out)?;
        fs::write(out.join("benchmarks.json"), serde_json::to_string_pretty(self)? + "\n")?;
        for (name, picture) in page::pictures(self) {
            fs::write(out.join(name), picture)?;
        }
        fs::write(out.join("benchmarks.md"), page::write(self))?;
        Ok(())
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
