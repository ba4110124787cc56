//! What was measured, and how it is written down: `benchmarks.json` keeps everything, `benchmarks.md` is made from
//! it. A run of some goals replaces these and leaves the others as they are, each with the run that it is from.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    settings::{GOALS, Settings, root},
    stack::{POSTGRES, Stack},
    usage::Cpu,
};

/// One run of one side.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Jobs, or messages, a second.
    pub rate: f64,
    /// CPU seconds per 1,000 jobs.
    pub cpu: Cpu,
    /// Bytes of WAL a job.
    pub wal: f64,
    /// Other figures, by name with unit: `p99_ms`.
    pub others: BTreeMap<String, f64>,
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
    fn holds(self, figure: f64) -> bool {
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

    fn show(self, figure: f64) -> String {
        match self {
            Self::AtLeast(_) | Self::AtMost(_) => format!("{figure:.2}"),
            Self::OneIn(_) => format!("1/{:.1}", 1.0 / figure),
            Self::MiB(_) => format!("{figure:.1} MiB"),
            Self::KiB(_) => format!("{figure:.1} KiB"),
            Self::Milliseconds(_) => format!("{figure:.0} ms"),
            Self::PerSecond(_) => format!("{figure:.2}/s"),
        }
    }

    fn show_wanted(self) -> String {
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
    fn missed_by(self, figure: f64) -> f64 {
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
    /// The other side, where both are rates.
    pub theirs: Option<String>,
    pub run: String,
}

/// Where and when, and how to repeat it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub command: String,
    pub at: String,
    pub commit: String,
    pub machine: String,
    pub versions: String,
    /// What else the machine did, as the load average of five minutes says it at the start.
    pub load_before: f64,
}

/// All that is known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub figures: Vec<Figure>,
    pub sides: BTreeMap<String, Side>,
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
        self.sides.insert(name.to_owned(), side);
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

    /// Adds, or replaces, a figure, and prints it.
    pub fn figure(&mut self, goal: &str, what: &str, wanted: Wanted, rounds: Vec<f64>, ours: &str) {
        let figure = Figure {
            goal: goal.to_owned(),
            what: what.to_owned(),
            wanted,
            rounds,
            ours: ours.to_owned(),
            theirs: None,
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

    /// Writes both files. Called after each goal, so that an interrupted run leaves what it has.
    pub fn write(&mut self, out: &Path) -> Result<()> {
        let place = |goal: &str| GOALS.iter().position(|known| *known == goal);
        self.figures.sort_by_key(|figure| place(&figure.goal));
        let (figures, sides) = (&self.figures, &self.sides);
        self.runs.retain(|key, _| {
            figures.iter().any(|figure| figure.run == *key) || sides.values().any(|side| side.run == *key)
        });
        fs::create_dir_all(out)?;
        fs::write(out.join("benchmarks.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(out.join("benchmarks.md"), self.markdown())?;
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = HEAD.to_owned();
        let runs: BTreeMap<_, _> = self.runs.keys().zip(1..).collect();
        text += "## Goals\n\n| goal | what | figure | wanted | | lowest to highest | by CPU | rounds | run |\n\
                 |---|---|---|---|---|---|---|---|---|\n";
        for Figure {
            goal,
            what,
            wanted,
            rounds,
            run,
            ours,
            theirs,
        } in &self.figures
        {
            let by_cpu = theirs.as_ref().and_then(|theirs| self.by_cpu(ours, theirs));
            let (low, high) = range(rounds);
            let figure = median(rounds);
            let verdict = if wanted.holds(figure) { "holds" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| {goal} | {what} | {} | {} | {verdict} | {} to {} | {} | {} | {} |",
                wanted.show(figure),
                wanted.show_wanted(),
                wanted.show(low),
                wanted.show(high),
                by_cpu.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                rounds.len(),
                runs[run]
            );
        }
        text += "\n";
        for figure in &self.figures {
            let shown = median(&figure.rounds);
            if !figure.wanted.holds(shown) {
                let _ = writeln!(
                    text,
                    "- {} ({}) misses by {:.0} %. {}",
                    figure.goal,
                    figure.what,
                    figure.wanted.missed_by(shown),
                    self.bound(&figure.ours)
                );
            }
        }
        let missing: Vec<_> = GOALS
            .into_iter()
            .filter(|goal| !self.figures.iter().any(|figure| figure.goal == *goal))
            .collect();
        if !missing.is_empty() {
            let _ = writeln!(text, "- Not measured yet: {}.", missing.join(", "));
        }
        text += SIDES;
        for (name, side) in &self.sides {
            let rates: Vec<_> = side.samples.iter().map(|sample| sample.rate).collect();
            let (low, high) = range(&rates);
            let cpu = |of: fn(Cpu) -> f64| side.median(|sample| of(sample.cpu));
            let _ = writeln!(
                text,
                "| {name} | {} | {} to {} | {:.4} | {:.4} | {:.4} | {:.4} | {:.4} | {:.2} | {:.0} % | {:.0} | {} | {} |",
                thousands(median(&rates)),
                thousands(low),
                thousands(high),
                cpu(|cpu| cpu.service),
                cpu(|cpu| cpu.postgres),
                cpu(|cpu| cpu.redis),
                cpu(|cpu| cpu.kafka),
                cpu(|cpu| cpu.client),
                side.median(|sample| sample.cpu.total() * sample.rate / 1000.0),
                elsewhere(side),
                side.median(|sample| sample.wal),
                others(side),
                runs[&side.run]
            );
        }
        text += "\n## Runs\n\n";
        for (key, number) in runs {
            let run = &self.runs[key];
            let _ = writeln!(
                text,
                "{number}. `{}`, {}, at {}. {}; load average before the start {:.2}. {}.",
                run.command, run.at, run.commit, run.machine, run.load_before, run.versions
            );
        }
        text
    }

    /// The processor time that a job costs theirs, all processes together, over that of ours.
    fn by_cpu(&self, ours: &str, theirs: &str) -> Option<f64> {
        let cost = |side: &str| Some(self.sides.get(side)?.median(|sample| sample.cpu.total()));
        Some(cost(theirs)? / cost(ours)?)
    }

    /// Which processor time a side needs, and so what bounds it.
    fn bound(&self, side: &str) -> String {
        let Some(side) = self.sides.get(side) else {
            return String::new();
        };
        let cores = |of: fn(Cpu) -> f64| side.median(|sample| of(sample.cpu) * sample.rate / 1000.0);
        let mut busy = [
            ("the service", cores(|cpu| cpu.service)),
            ("PostgreSQL", cores(|cpu| cpu.postgres)),
            ("Redis", cores(|cpu| cpu.redis)),
            ("Kafka", cores(|cpu| cpu.kafka)),
            ("the generator", cores(|cpu| cpu.client)),
        ];
        busy.sort_by(|a, b| b.1.total_cmp(&a.1));
        let parts = busy.iter().filter(|(_, cores)| *cores >= 0.05);
        let parts: Vec<_> = parts.map(|(name, cores)| format!("{name} {cores:.2}")).collect();
        let total: f64 = busy.iter().map(|(_, cores)| cores).sum();
        format!(
            "Our side kept {total:.2} of {} cores busy: {}; {:.0} % of the machine's work was somebody else's.",
            processors(),
            parts.join(", "),
            elsewhere(side)
        )
    }
}

const HEAD: &str = "# Benchmarks

Made by `make bench`, which starts PostgreSQL, Redis and Apache Kafka itself; [benchmarks.json](benchmarks.json) has
every round. `make bench ONLY=G3` measures one goal again, `ROUNDS`, `BACKLOG` and `SECONDS` say how much, `OUT=DIR`
writes elsewhere. The sides of a ratio take turns (A B A B); a figure is the median of the rounds' ratios, and a rate
the median of its rounds. All processes, the generator too, share one machine, so a side's rate is bounded by the sum
of all their processor time, and CPU per job says more than the rate. \"By CPU\" is the ratio of the processor time that
a job costs, theirs over ours, all processes together: what the ratio of the rates would be if processor time alone
bounded both, and the steadier of the two where the machine has other work. How much of the machine's work was
somebody else's stands in the column \"elsewhere\": where it is not near zero, the rates are not what the machine can
do, and a side with many processes (pgbench has 64 in PostgreSQL) is given more of the machine than one with few.

";

const SIDES: &str = "
## Sides

CPU is in seconds per 1,000 jobs, user and system, from /proc; \"client\" is the load generator or pgbench. A
baseline relay runs in the benchmark's own process, which then counts as the service. What each side does exactly, and
why that is fair, stands at its code in `benches/`.

| side | jobs/s | lowest to highest | service | PostgreSQL | Redis | Kafka | client | cores busy | elsewhere | WAL B/job | others | run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

impl Run {
    async fn now(settings: &Settings, stack: &Stack) -> Result<Self> {
        let postgres: String = sqlx::query_scalar("show server_version")
            .fetch_one(&mut stack.admin().await?)
            .await?;
        let set: Vec<_> = POSTGRES.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let redis = printed("redis-server", &["--version"]);
        let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v="));
        let java = printed("java", &["--version"]);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Self {
            command: settings.command(),
            at: chrono::Utc::now().format("%Y-%m-%d %H:%M:%SZ").to_string(),
            commit: printed(
                "git",
                &["-C", &root().display().to_string(), "describe", "--always", "--dirty"],
            ),
            machine: machine(),
            versions: format!(
                "PostgreSQL {postgres} ({}), Redis {}, Apache Kafka {} on {}, librdkafka {}, {}",
                set.join(", "),
                redis.unwrap_or("of an unknown version"),
                kafka_version().unwrap_or_else(|| "of KAFKA_HOME".to_owned()),
                java.lines().next().unwrap_or("an unknown Java"),
                rdkafka::util::get_rdkafka_version().1,
                printed("rustc", &["--version"])
            ),
            load_before: load
                .split(' ')
                .nth(1)
                .and_then(|minutes| minutes.parse().ok())
                .unwrap_or_default(),
        })
    }
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |model| model.trim_start_matches([':', '\t', ' ']));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: f64 = memory
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} cores ({model}), {:.0} GiB, Linux {}",
        processors(),
        kib / 1024.0 / 1024.0,
        kernel.trim()
    )
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn kafka_version() -> Option<String> {
    if std::env::var_os("KAFKA_HOME").is_some() {
        return None;
    }
    let mut libs = fs::read_dir(root().join(".dev/kafka-libs")).ok()?.flatten();
    libs.find_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("kafka-")?.to_owned()))
}

/// What a program prints, trimmed; empty when it is not there.
fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The part of the machine's work that was nobody's who takes part, in percent.
fn elsewhere(side: &Side) -> f64 {
    side.median(|sample| 100.0 * sample.cpu.elsewhere / (sample.cpu.elsewhere + sample.cpu.total()))
}

fn others(side: &Side) -> String {
    let names: Vec<_> = side
        .samples
        .first()
        .map_or_else(Vec::new, |s| s.others.keys().collect());
    let shown = names.into_iter().map(|name| {
        let value = side.median(|sample| sample.others.get(name).copied().unwrap_or(f64::NAN));
        format!("{name} {value:.2}")
    });
    shown.collect::<Vec<_>>().join(", ")
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

fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// `12345.6` as `12,346`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
