//! What people read of a [`Report`]: `benchmarks.md`, and the pictures in it.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    cells::{Phase, Round},
    picture::{self, Line, Scale},
    report::{Figure, Growth, Report, Sample, Side, median},
    run::processors,
    settings::GOALS,
    usage::Cpu,
};

/// Of [`Report::growth`], what is drawn: latency against load.
pub const BY_LOAD: &str = "latency, by load";
/// The same: drain against backlog.
pub const BY_BACKLOG: &str = "drain, by backlog";

/// The same: what accepting costs against what waits in the outbox.
pub const ACCEPT_BY_BACKLOG: &str = "accept, by backlog";

/// The pictures that there are figures for, by file name.
pub fn pictures(report: &Report) -> Vec<(&'static str, String)> {
    let line = |growth: &Growth, name: &str, of: &dyn Fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        points: growth.points.iter().map(|point| (point.x, point.median(of))).collect(),
    };
    let mut pictures = Vec::new();
    if let Some(growth) = report.growth.get(BY_LOAD) {
        let lines = [("p50", "p50_ms"), ("p99", "p99_ms")]
            .map(|(name, key)| line(growth, name, &|sample: &Sample| sample.others[key]));
        let picture = picture::draw(
            "From due to consumed, by load",
            ("jobs a second", Scale::Linear),
            "milliseconds",
            &lines,
        );
        pictures.push(("latency.svg", picture));
    }
    if let Some(growth) = report.growth.get(BY_BACKLOG) {
        let lines = [line(growth, "this service", &|sample: &Sample| sample.rate)];
        let picture = picture::draw(
            "Steady drain, by backlog",
            ("messages in the backlog", Scale::Log),
            "messages a second",
            &lines,
        );
        pictures.push(("drain.svg", picture));
    }
    if let (Some(accept), Some(drain)) = (report.growth.get(ACCEPT_BY_BACKLOG), report.growth.get(BY_BACKLOG)) {
        let cost = |sample: &Sample| (sample.cpu.service + sample.cpu.postgres) * 1000.0;
        let lines = [line(accept, "accepting", &cost), line(drain, "relaying", &cost)];
        let picture = picture::draw(
            "Service and PostgreSQL, a job",
            ("messages in the backlog", Scale::Log),
            "microseconds of processor time",
            &lines,
        );
        pictures.push(("cost.svg", picture));
    }
    pictures
}

/// The page.
pub fn write(report: &Report) -> String {
    let runs: BTreeMap<&str, usize> = report.runs.keys().map(String::as_str).zip(1..).collect();
    let mut text = HEAD.to_owned();
    text += &summary(report);
    for (file, _) in pictures(report) {
        let _ = writeln!(text, "\n![{}]({file})", file.trim_end_matches(".svg"));
    }
    sides(report, &runs, &mut text);
    growth(report, &runs, &mut text);
    cells(report, &runs, &mut text);
    each_list(report, &mut text);
    facts(report, &runs, &mut text);
    text += "\n## Runs\n\n";
    for (key, number) in &runs {
        let run = &report.runs[*key];
        let _ = writeln!(
            text,
            "{number}. `{}`, {}, at {}. {}; load average before the start {:.2}. {}.",
            run.command, run.at, run.commit, run.machine, run.load_before, run.versions
        );
    }
    text
}

/// The side that has nothing to read and nothing to record, with the service's queue.
pub const ALONE: &str = "rdkafka alone, with the service's queue of 32,768";
/// The same with the queue that it is fastest with.
pub const CEILING: &str = "rdkafka alone, with a queue of 2,000";

/// The goals, and what bounds those that are missed.
pub fn summary(report: &Report) -> String {
    let runs: BTreeMap<&str, usize> = report.runs.keys().map(String::as_str).zip(1..).collect();
    let mut text = String::new();
    goals(report, &runs, &mut text);
    text
}

fn goals(report: &Report, runs: &BTreeMap<&str, usize>, text: &mut String) {
    *text += "## Goals\n\n| goal | what | figure | wanted | | lowest to highest | rounds that hold | by CPU | run |\n\
              |---|---|---|---|---|---|---|---|---|\n";
    for figure in report.figures.iter().filter(|figure| figure.goal != LISTS) {
        row(report, runs, figure, &figure.what, text);
    }
    // The goal is for each of many: the others stand in a table of their own.
    if let Some(slowest) = lists(report).max_by(|a, b| median(&a.rounds).total_cmp(&median(&b.rounds))) {
        let what = format!("the slowest of {} lists: {}", lists(report).count(), slowest.what);
        row(report, runs, slowest, &what, text);
    }
    *text += "\n";
    for figure in &report.figures {
        let Figure { goal, what, ours, .. } = figure;
        let shown = median(&figure.rounds);
        if !figure.wanted.holds(shown) {
            let by = figure.wanted.missed_by(shown);
            let mut reasons = vec![busy(report, figure, ours)];
            reasons.extend(figure.bound.clone());
            reasons.extend(ceiling(report, figure));
            let _ = writeln!(text, "- {goal} ({what}) misses by {by:.0} %. {}", reasons.join(" "));
        }
    }
    let missing: Vec<_> = GOALS
        .into_iter()
        .filter(|goal| !report.figures.iter().any(|figure| figure.goal == *goal))
        .collect();
    if !missing.is_empty() {
        let _ = writeln!(text, "- Not measured yet: {}.", missing.join(", "));
    }
    for (what, why) in &report.absent {
        let _ = writeln!(text, "- Not measured: {what}: {why}.");
    }
}

fn row(report: &Report, runs: &BTreeMap<&str, usize>, figure: &Figure, what: &str, text: &mut String) {
    let by_cpu = figure.theirs.as_ref().and_then(|theirs| by_cpu(report, figure, theirs));
    let held = figure
        .rounds
        .iter()
        .filter(|round| figure.wanted.holds(**round))
        .count();
    let (low, high) = range(&figure.rounds);
    let shown = median(&figure.rounds);
    let wanted = figure.wanted;
    let verdict = if wanted.holds(shown) { "holds" } else { "**missed**" };
    let _ = writeln!(
        text,
        "| {} | {what} | {} | {} | {verdict} | {} to {} | {held} of {} | {} | {} |",
        figure.goal,
        wanted.show(shown),
        wanted.show_wanted(),
        wanted.show(low),
        wanted.show(high),
        figure.rounds.len(),
        by_cpu.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        runs[figure.run.as_str()]
    );
}

fn lists(report: &Report) -> impl Iterator<Item = &Figure> {
    report.figures.iter().filter(|figure| figure.goal == LISTS)
}

fn each_list(report: &Report, text: &mut String) {
    if lists(report).next().is_none() {
        return;
    }
    *text += EACH_LIST;
    for list in lists(report) {
        let (low, high) = range(&list.rounds);
        let wanted = list.wanted;
        let _ = writeln!(
            text,
            "| {} | {} | {} to {} |",
            list.what,
            wanted.show(median(&list.rounds)),
            wanted.show(low),
            wanted.show(high)
        );
    }
}

fn sides(report: &Report, runs: &BTreeMap<&str, usize>, text: &mut String) {
    *text += SIDES;
    for (name, side) in &report.sides {
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
            side.median(|sample| sample.cores),
            elsewhere(&side.samples),
            side.median(|sample| sample.wal),
            others(&side.samples),
            runs[side.run.as_str()]
        );
    }
}

fn growth(report: &Report, runs: &BTreeMap<&str, usize>, text: &mut String) {
    if report.growth.is_empty() {
        return;
    }
    *text += GROWTH;
    for (name, growth) in &report.growth {
        let _ = writeln!(
            text,
            "\n### {name}\n\n\
             | {} | jobs/s | service | PostgreSQL | Redis | Kafka | client | cores busy | elsewhere | WAL B/job | others \
             | rounds | run |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            growth.x
        );
        for point in &growth.points {
            let cpu = |of: fn(Cpu) -> f64| point.median(|sample| of(sample.cpu));
            let _ = writeln!(
                text,
                "| {} | {} | {:.4} | {:.4} | {:.4} | {:.4} | {:.4} | {:.2} | {:.0} % | {:.0} | {} | {} | {} |",
                thousands(point.x),
                thousands(point.median(|sample| sample.rate)),
                cpu(|cpu| cpu.service),
                cpu(|cpu| cpu.postgres),
                cpu(|cpu| cpu.redis),
                cpu(|cpu| cpu.kafka),
                cpu(|cpu| cpu.client),
                point.median(|sample| sample.cores),
                elsewhere(&point.samples),
                point.median(|sample| sample.wal),
                others(&point.samples),
                point.samples.len(),
                runs[growth.run.as_str()]
            );
        }
    }
}

fn cells(report: &Report, runs: &BTreeMap<&str, usize>, text: &mut String) {
    if report.cells.is_empty() {
        return;
    }
    *text += CELLS;
    for cell in &report.cells {
        let rate = |of: fn(&Round) -> f64| thousands(median(&cell.rounds.iter().map(of).collect::<Vec<_>>()));
        let accepted: usize = cell.rounds.iter().map(|round| round.accepted).sum();
        let repeats: i64 = cell.rounds.iter().map(|round| round.repeats).sum();
        let phase = match cell.phase {
            Phase::Under => "under",
            Phase::After => "after",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {:.1} % ({phase}) | {} | {} | {} | {} | {} |",
            cell.name,
            cell.done,
            rate(|round| round.clean),
            rate(|round| round.under),
            rate(|round| round.mean_under),
            rate(|round| round.accepted_under),
            rate(|round| round.after),
            cell.ratio() * 100.0,
            cell.best,
            thousands(accepted as f64),
            thousands(repeats as f64),
            cell.rounds.len(),
            runs[cell.run.as_str()]
        );
    }
}

fn facts(report: &Report, runs: &BTreeMap<&str, usize>, text: &mut String) {
    if report.facts.is_empty() {
        return;
    }
    *text += "\n## Other figures\n\n| what | median | lowest to highest | rounds | run |\n|---|---|---|---|---|\n";
    for (name, fact) in &report.facts {
        let (low, high) = range(&fact.rounds);
        let _ = writeln!(
            text,
            "| {name} | {:.1} {} | {low:.1} to {high:.1} | {} | {} |",
            median(&fact.rounds),
            fact.unit,
            fact.rounds.len(),
            runs[fact.run.as_str()]
        );
    }
}

/// A side of the figure's own run: a later run of another goal may have replaced it.
fn side_of<'a>(report: &'a Report, figure: &Figure, side: &str) -> Option<&'a Side> {
    report.sides.get(side).filter(|side| side.run == figure.run)
}

/// The processor time that a job costs theirs, all processes together, over that of ours.
fn by_cpu(report: &Report, figure: &Figure, theirs: &str) -> Option<f64> {
    let cost = |side: &str| Some(side_of(report, figure, side)?.median(|sample| sample.cpu.total()));
    Some(cost(theirs)? / cost(&figure.ours)?)
}

/// How much of the processors a side keeps busy, and with what.
fn busy(report: &Report, figure: &Figure, side: &str) -> String {
    let Some(side) = side_of(report, figure, side) else {
        return "Its side was measured again since, by another run.".to_owned();
    };
    let cores = |of: fn(Cpu) -> f64| side.median(|sample| of(sample.cpu) / sample.cpu.total() * sample.cores);
    let mut parts = [
        ("the service", cores(|cpu| cpu.service)),
        ("PostgreSQL", cores(|cpu| cpu.postgres)),
        ("Redis", cores(|cpu| cpu.redis)),
        ("Kafka", cores(|cpu| cpu.kafka)),
        ("the generator", cores(|cpu| cpu.client)),
    ];
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = parts.iter().map(|(_, cores)| cores).sum();
    let parts = parts.iter().filter(|(_, cores)| *cores >= 0.05);
    let parts: Vec<_> = parts.map(|(name, cores)| format!("{name} {cores:.2}")).collect();
    format!(
        "Our side kept {total:.2} of {} cores busy: {}; {:.0} % of the machine's work was somebody else's.",
        processors(),
        parts.join(", "),
        elsewhere(&side.samples)
    )
}

/// Of a drain that is compared with another relay's: what would be left of the ratio if reading and recording cost nothing.
fn ceiling(report: &Report, figure: &Figure) -> Option<String> {
    if figure.goal != "G4" {
        return None;
    }
    let theirs = side_of(report, figure, figure.theirs.as_deref()?)?;
    let rounds = side_of(report, figure, CEILING)?.samples.iter().zip(&theirs.samples);
    let ratios: Vec<_> = rounds.map(|(alone, theirs)| alone.rate / theirs.rate).collect();
    Some(format!("{CEILING} comes to {:.2}.", median(&ratios)))
}

/// The part of the machine's work that was nobody's who takes part, in percent.
fn elsewhere(samples: &[Sample]) -> f64 {
    let parts = samples
        .iter()
        .map(|sample| 100.0 * sample.cpu.elsewhere / (sample.cpu.elsewhere + sample.cpu.total()));
    median(&parts.collect::<Vec<_>>()).max(0.0)
}

fn others(samples: &[Sample]) -> String {
    let names: Vec<_> = samples.first().map_or_else(Vec::new, |s| s.others.keys().collect());
    let shown = names.into_iter().map(|name| {
        let values = samples
            .iter()
            .map(|sample| sample.others.get(name).copied().unwrap_or(f64::NAN));
        format!("{name} {:.2}", median(&values.collect::<Vec<_>>()))
    });
    shown.collect::<Vec<_>>().join(", ")
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

const HEAD: &str = "# Benchmarks

Made by `make bench`, which starts PostgreSQL, Redis and Apache Kafka itself; [benchmarks.json](benchmarks.json) has
every round. `make bench ONLY=G3` measures one goal again, `ROUNDS`, `BACKLOG` and `SECONDS` say how much, `OUT=DIR`
writes elsewhere. [scaling.md](scaling.md) says what follows from the figures.

The sides of a ratio take turns, and each round begins with another one. A figure is the median of the rounds' ratios, and
a rate the median of its rounds; where not all rounds hold, the median is what counts, and the column says how many do. All
processes, the generator too, share one machine, so a side's rate is bounded by the sum of all their processor time, and
CPU per job says more than the rate. \"By CPU\" is the ratio of the processor time that a job costs, theirs over ours, all
processes together: what the ratio of the rates would be if processor time alone bounded both. How much of the machine's
work was somebody else's stands in the column \"elsewhere\": where it is not near zero, the rates are not what the machine
can do, and a side with many processes (pgbench has 64 in PostgreSQL) is given more of the machine than one with few.

G3 has two denominators: rdkafka with the service's settings and every record ready costs more a record than the whole
relay, because it always has as many queued as it may, out of reach of the processors' caches; with 2,000 it costs half of
that, and is the most that can be had here. G1 and G2 are accepting; G3, G4, G8, G9 and G10 draining a backlog; G5 is
latency, G6 and G7 what a job costs PostgreSQL; E1 and E2 are exactly-once delivery, N1 and N2 clients that wait for a job,
LISTS and REPLAY what operators wait for.

G11 is what an idle leader asks, as PostgreSQL counts transactions. That leaves out the two `select 1` every ten seconds by
which listening connections see that they live, and has the console's look (six statements a minute) in one round of three.
PostgreSQL's log of statements shows 1.3 a second.

G5 has two denominators, because its goal can be read in two ways: the steps beside
one another at the service's own load, one job a commit and one record a request, which two cores cannot do at 75 % of
what the service does with batches, so that its ratio says what gathering is worth; and the steps alone on an idle machine.

";

const SIDES: &str = "
## Sides

CPU is in seconds per 1,000 jobs, user and system, from /proc; \"client\" is the load generator or pgbench. A
baseline relay runs in the benchmark's own process, which then counts as the service. A drain of less than half a second
has less time than what goes before its first record and after its last, and so more cores than there are. What each side
does exactly, and why that is fair, stands at its code in `benches/`.

| side | jobs/s | lowest to highest | service | PostgreSQL | Redis | Kafka | client | cores busy | elsewhere | WAL B/job | others | run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

const GROWTH: &str = "
## Growth

What a job costs when something grows: columns as above.
";

/// Whose goal is for each of many lists.
const LISTS: &str = "LISTS";
const EACH_LIST: &str = "
## Each list of a long log

How long an operator waits: over HTTP, for a page of the console, for a command with its start, for a question in psql. Each is
asked for eleven times, one after the other, of a database that does nothing else. A list that looked at as many rows as one
page may, and says so, is named as bounded.

| list | takes | lowest to highest |
|---|---|---|
";

const CELLS: &str = "
## Under stress

Made by `make cells`: nine cells of a
[public benchmark](https://github.com/hardbyte/postgresql-job-queue-benchmarking) of eight PostgreSQL queues, with its
phases, shortened, and its ratio, beside the best of its figures of 2026-05-09. The load is fixed and offered over HTTP,
30 % of what the service can do, 45 % before the burst; a request is repeated with its Idempotency-Key until it is
accepted. Rates are jobs a second that a consumer of the topic has for the first time, the median of a phase's seconds;
for the stress, which a median sees only where it lasts, the means of what was consumed and of what was accepted stand
beside it. The ratio is the rate under stress, or in the phase after it, over the clean one before; it is not clipped. A
service that keeps up with the load has 100 %, and with a higher load as much more. Above that a backlog drains late.
Every accepted job is looked for in the topic, and one that is not there fails the run; records beyond one a job, which a kill
may cause, are counted apart.

| cell | what is done | clean | under stress | its mean | accepted then, mean | after it | ratio | best published | accepted | repeated | rounds | run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";
