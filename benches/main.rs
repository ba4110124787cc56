//! `make bench`: the goals of docs/benchmarks.md, each as a ratio in one run.
//!
//! [`settings`] says what was asked for, [`stack`] starts the servers, [`accept`], [`drain`] and [`latency`] measure the
//! goals, [`events`] what clients that wait cost, [`lists`] (of a [`long_log`]) and [`replay`] what operators wait for,
//! [`peer`], [`watermill`], [`growth`], [`costs`] and [`footprint`] what stands beside them, [`cells`] rates under stress. [`http`]
//! and [`load`] are the clients, [`watch`] the consumer. [`report`] keeps all of it in docs/benchmarks.json; [`page`] and
//! [`picture`] make what people read. What is compared, and why it is fair, stands at the head of each measuring module;
//! [`usage`] reads CPU time from the operating system.

mod accept;
mod backlog;
mod cells;
mod costs;
mod drain;
mod events;
mod footprint;
mod growth;
mod http;
mod latency;
mod lists;
mod load;
mod long_log;
mod page;
mod peer;
mod picture;
mod producer;
mod replay;
mod report;
mod run;
mod settings;
mod stack;
mod stress;
mod usage;
mod watch;
mod watermill;

use anyhow::Result;
use image_job_dispatcher::config::Delivery;

use self::{
    accept::Accepted,
    drain::{Against, Drained},
    latency::Steps,
    page::{ALONE, CEILING},
    peer::Peer,
    report::{Report, Sample, Wanted, median},
    settings::{Settings, turns},
    stack::Stack,
};

/// Peers, as the page calls them.
const DEBEZIUM: &str = "Debezium Server";
const WATERMILL: &str = "Watermill's forwarder";
/// What bounds G1 and G2, beside the processors.
const TWO_BATCHES: &str = "The 64 clients are two batches, each of which is read, written and answered in turn: what is \
    left of the processors is time in which both wait. More batches at once are smaller ones, and cost more each.";
/// What bounds G5's second reading.
const STEPS_ALONE: &str =
    "The steps have the machine to themselves; the service shares it with its servers, its load and its consumer.";

/// The service's: ratios are quoted with the same allocator on both sides.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo gives `--bench`; what is to be measured is in the environment.
    let settings = Settings::from_environment()?;
    // Nobody else has chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!("{}: starting PostgreSQL, Redis and Kafka", settings.command());
    let stack = Stack::start().await?;
    let mut report = Report::open(&settings, &stack).await?;
    measure(&stack, &settings, &mut report).await?;
    println!("\n{}", page::summary(&report));
    println!("written: {}", settings.out.join("benchmarks.md").display());
    stack.stop().await
}

async fn measure(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    measure_both_halves(stack, settings, report).await?;
    if settings.wants(&["G5"]) {
        measure_latency(stack, settings, report).await?;
    }
    measure_backlogs(stack, settings, report).await?;
    if settings.wants(&["G11"]) {
        let rates = latency::idle(stack, settings).await?;
        let what = "statements of an idle leader, as PostgreSQL counts transactions";
        report.figure("G11", what, Wanted::PerSecond(1.0), rates, "idle");
        report.write(&settings.out)?;
    }
    measure_exactly_once(stack, settings, report).await?;
    if settings.wants(&["N1", "N2"]) {
        measure_events(stack, settings, report).await?;
    }
    if settings.wants(&["MEMORY"]) {
        footprint::memory(stack, settings, report).await?;
    }
    if settings.wants(&["START"]) {
        footprint::start(stack, settings, report).await?;
    }
    if settings.wants(&["LISTS"]) {
        lists::measure(stack, settings, report).await?;
    }
    if settings.wants(&["REPLAY"]) {
        replay::measure(stack, settings, report).await?;
    }
    if settings.wants(&["COSTS"]) {
        costs::measure(stack, settings, report).await?;
    }
    if settings.wants(&["GROWTH"]) {
        growth::measure(stack, settings, report).await?;
    }
    if settings.wants(&["PEER"]) {
        match Peer::start().await {
            Ok(peer) => measure_peer(stack, settings, report, peer).await?,
            Err(error) => report.absent(DEBEZIUM, &error),
        }
    }
    if settings.wants(&["WATERMILL"]) {
        match watermill::build() {
            Ok(()) => measure_watermill(stack, settings, report).await?,
            Err(error) => report.absent(WATERMILL, &error),
        }
    }
    if settings.wants(&["CELLS"]) {
        cells::measure(stack, settings, report).await?;
    }
    Ok(())
}

/// G1 to G4, G6 and G7: accepting, draining, and what both cost together.
async fn measure_both_halves(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let both = settings.wants(&["G6", "G7"]);
    let mut accepted = None;
    if both || settings.wants(&["G1", "G2"]) {
        stack.wal_ready().await?;
        let measured = accept::measure(stack, settings).await?;
        show_accepted(report, &measured);
        report.write(&settings.out)?;
        accepted = Some(measured);
    }
    if both || settings.wants(&["G3", "G4"]) {
        let against = Against {
            ceiling: settings.wants(&["G3"]),
            textbook_1: both || settings.wants(&["G4"]),
            textbook_4: settings.wants(&["G4"]),
        };
        let drained = drain::measure(stack, settings, against).await?;
        show_drained(report, &drained, settings.backlog);
        if let (true, Some(accepted)) = (both, &accepted) {
            show_both(report, accepted, &drained);
        }
        report.write(&settings.out)?;
    }
    Ok(())
}

async fn measure_peer(stack: &Stack, settings: &Settings, report: &mut Report, peer: Peer) -> Result<()> {
    let count = settings.backlog;
    let (ours, theirs) = in_turns(
        settings,
        "peer",
        async || drain::ours(stack, count, Delivery::AtLeastOnce).await,
        async || peer.drain(stack, count).await,
    )
    .await?;
    report.note(&peer.tuned());
    peer.stop().await?;
    let (name, other) = ("drain to Kafka, beside the peer", DEBEZIUM);
    report.side(name, &ours);
    report.side(other, &theirs);
    let what = format!("steady drain of {} / {other}", settings.backlog);
    report.rates("G4", &what, Wanted::AtLeast(6.0), (name, other));
    report.write(&settings.out)
}

async fn measure_watermill(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let (ours, theirs) = in_turns(
        settings,
        "watermill",
        async || drain::ours(stack, settings.backlog, Delivery::AtLeastOnce).await,
        async || watermill::drain(stack).await,
    )
    .await?;
    let (name, other) = ("drain to Kafka, beside Watermill", WATERMILL);
    report.side(name, &ours);
    report.side(other, &theirs);
    report.note(watermill::TUNED);
    report.write(&settings.out)
}

async fn measure_latency(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    stack.wal_ready().await?;
    let measured = latency::measure(stack, settings).await?;
    for (at, wanted) in measured.at_load.iter().zip([1.5, 3.0]) {
        let load = format!("{:.0} % load", at.part * 100.0);
        let name = format!("accept and relay at {load}");
        report.side(&name, &at.ours);
        let over = |steps: &[Steps]| {
            let ratios = at.ours.iter().zip(steps);
            ratios
                .map(|(sample, steps)| sample.others["p99_ms"] / steps.both())
                .collect::<Vec<_>>()
        };
        for (which, steps) in [("at the same load", &at.steps), ("alone", &measured.alone)] {
            let what = format!("p99 from due to consumed at {load} / (p99 commit + p99 acknowledgement, {which})");
            report.figure("G5", &what, Wanted::AtMost(wanted), over(steps), &name);
            if which == "alone" {
                report.bound("G5", &what, STEPS_ALONE);
            }
        }
    }
    report.fact("full load, beside a consumer (G5)", "jobs/s", vec![measured.full_load]);
    let all_steps = measured
        .at_load
        .iter()
        .map(|at| (format!("at {:.0} % load", at.part * 100.0), &at.steps));
    for (which, steps) in all_steps.chain([("alone".to_owned(), &measured.alone)]) {
        for (of, took) in [
            ("commit", steps.iter().map(|s| s.commit).collect()),
            ("acknowledgement", steps.iter().map(|s| s.ack).collect()),
        ] {
            report.fact(&format!("p99 of one {of}, {which} (G5)"), "ms", took);
        }
    }
    report.write(&settings.out)
}

/// G8, G9 and G10: what a drain does not depend on.
async fn measure_backlogs(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    if settings.wants(&["G8"]) {
        let count = settings.backlog * 2 / 5;
        let (held, clean) = in_turns(
            settings,
            "old snapshot",
            async || drain::under_old_snapshot(stack, count, true).await,
            async || drain::under_old_snapshot(stack, count, false).await,
        )
        .await?;
        let name = "drain under an old snapshot";
        let without = "drain, the same without it";
        report.side(name, &held);
        report.side(without, &clean);
        let what = format!("drain with an old snapshot held and {count} drained / without");
        report.rates("G8", &what, Wanted::AtLeast(0.95), (name, without));
        report.write(&settings.out)?;
    }
    if settings.wants(&["G9"]) {
        let (large, small) = (settings.backlog * 5, settings.backlog / 20);
        let (of_large, of_small) = of_two_sizes(stack, settings, large, small).await?;
        let (name, other) = (format!("drain of {large}"), format!("drain of {small}"));
        report.side(&name, &of_large);
        report.side(&other, &of_small);
        let ratios = pairs(&of_large, &of_small, |large, small| large.rate / small.rate);
        let what = format!("drain of a backlog of {large} / of {small}");
        report.figure("G9", &what, Wanted::AtLeast(0.95), ratios, &name);
        report.write(&settings.out)?;
    }
    if settings.wants(&["G10"]) {
        let (large, small) = (settings.backlog, settings.backlog / 100);
        let (of_large, of_small) = of_two_sizes(stack, settings, large, small).await?;
        let name = format!("drain of {large}, for memory");
        report.side(&name, &of_large);
        report.side(&format!("drain of {small}, for memory"), &of_small);
        let resident = |sample: &Sample| sample.others["peak_rss_MiB"];
        let more = pairs(&of_large, &of_small, |large, small| resident(large) - resident(small));
        let what = format!("peak resident set with a backlog of {large} less that with {small}");
        report.figure("G10", &what, Wanted::MiB(32.0), more, &name);
        report.write(&settings.out)?;
    }
    Ok(())
}

async fn of_two_sizes(
    stack: &Stack,
    settings: &Settings,
    large: i64,
    small: i64,
) -> Result<(Vec<Sample>, Vec<Sample>)> {
    in_turns(
        settings,
        &format!("backlogs of {large} and {small}"),
        async || drain::ours(stack, large, Delivery::AtLeastOnce).await,
        async || drain::ours(stack, small, Delivery::AtLeastOnce).await,
    )
    .await
}

/// All rounds of two sides, each first in every second one; before them one of ours that does not count: the broker's
/// just-in-time compiler has to have seen the load.
async fn in_turns(
    settings: &Settings,
    what: &str,
    mut ours: impl AsyncFnMut() -> Result<Sample>,
    mut theirs: impl AsyncFnMut() -> Result<Sample>,
) -> Result<(Vec<Sample>, Vec<Sample>)> {
    ours().await?;
    let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
    for round in 1..=settings.rounds {
        for turn in turns(round, 2) {
            match turn {
                0 => of_ours.push(ours().await?),
                _ => of_theirs.push(theirs().await?),
            }
        }
        if let (Some(ours), Some(theirs)) = (of_ours.last(), of_theirs.last()) {
            println!("{what}, round {round}: {:.0}/s against {:.0}/s", ours.rate, theirs.rate);
        }
    }
    Ok((of_ours, of_theirs))
}

async fn measure_events(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let clients = events::measure(stack, settings).await?;
    let name = format!("{} clients told by server-sent events", events::CLIENTS);
    report.side(&name, &clients);
    let of = |figure: &str| clients.iter().map(|sample| sample.others[figure]).collect();
    let what = format!("memory of one of {} clients that follow a job", events::CLIENTS);
    report.figure("N1", &what, Wanted::KiB(32.0), of("KiB_a_client"), &name);
    let what = format!(
        "from {} final answers in the topic until the last client is told",
        events::CLIENTS
    );
    report.figure("N2", &what, Wanted::Milliseconds(2000.0), of("last_ms"), &name);
    report.write(&settings.out)
}

/// What exactly once costs, as ratios to the default mode.
async fn measure_exactly_once(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    if settings.wants(&["E1"]) {
        let (once, default) = in_turns(
            settings,
            "exactly once",
            async || drain::ours(stack, settings.backlog, Delivery::ExactlyOnce).await,
            async || drain::ours(stack, settings.backlog, Delivery::AtLeastOnce).await,
        )
        .await?;
        let (name, other) = ("drain, exactly once", "drain, at least once");
        report.side(name, &once);
        report.side(other, &default);
        let what = format!("steady drain of {}, exactly once / at least once", settings.backlog);
        report.rates("E1", &what, Wanted::AtLeast(0.8), (name, other));
        report.write(&settings.out)?;
    }
    if settings.wants(&["E2"]) {
        stack.wal_ready().await?;
        let (quarter, idle) = latency::of_both_modes(stack, settings).await?;
        let (name, other) = (
            "a quarter of the load, exactly once",
            "a quarter of the load, at least once",
        );
        let ratios = pairs(&quarter.once, &quarter.default, |a, b| {
            a.others["p99_ms"] / b.others["p99_ms"]
        });
        report.side(name, &quarter.once);
        report.side(other, &quarter.default);
        report.side("one job after the other, exactly once", &idle.once);
        report.side("one job after the other, at least once", &idle.default);
        let what = "p99 from due to consumed at 25 % load, exactly once / at least once";
        report.figure("E2", what, Wanted::AtMost(2.0), ratios, name);
        report.write(&settings.out)?;
    }
    Ok(())
}

fn show_accepted(report: &mut Report, accepted: &Accepted) {
    let Accepted {
        ours,
        textbook,
        single_statement,
        http_alone,
    } = accepted;
    let name = "accept over HTTP";
    report.side(name, ours);
    let (transaction, single) = ("textbook transaction by pgbench", "single statement by pgbench");
    report.side(transaction, textbook);
    report.side(single, single_statement);
    report.side("HTTP alone", http_alone);
    for (goal, of, baseline) in [("G1", transaction, textbook), ("G2", single, single_statement)] {
        let most = pairs(http_alone, baseline, |http, other| http.rate / other.rate);
        report.fact(
            &format!("HTTP alone / {of}: the most that {goal} could be here"),
            "",
            most,
        );
    }
    let what = "accepted over HTTP, 64 connections / textbook transaction by pgbench, 64 connections";
    report.rates("G1", what, Wanted::AtLeast(6.0), (name, transaction));
    report.bound("G1", what, TWO_BATCHES);
    let what = "accepted over HTTP, 64 connections / single statement by pgbench, 64 connections";
    report.rates("G2", what, Wanted::AtLeast(3.0), (name, single));
    report.bound("G2", what, TWO_BATCHES);
}

fn show_drained(report: &mut Report, drained: &Drained, backlog: i64) {
    let name = "drain to Kafka";
    report.side(name, &drained.ours);
    for (side, samples, goal, wanted) in [
        (ALONE, &drained.alone, "G3", 0.8),
        (CEILING, &drained.ceiling, "G3", 0.8),
        ("textbook relay, one worker", &drained.textbook_1, "G4", 5.0),
        ("textbook relay, four workers", &drained.textbook_4, "G4", 3.0),
    ] {
        if samples.is_empty() {
            continue;
        }
        report.side(side, samples);
        let what = format!("steady drain of {backlog} / {side}");
        report.rates(goal, &what, Wanted::AtLeast(wanted), (name, side));
    }
}

/// What a job costs from request to topic: both halves, of the same run.
fn show_both(report: &mut Report, accepted: &Accepted, drained: &Drained) {
    let halves = |of: fn(&Sample) -> f64| {
        let ours = pairs(&accepted.ours, &drained.ours, |a, b| of(a) + of(b));
        let theirs = pairs(&accepted.textbook, &drained.textbook_1, |a, b| of(a) + of(b));
        ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
    };
    let (postgres, wal) = (halves(|sample| sample.cpu.postgres), halves(|sample| sample.wal));
    let (name, textbook) = ("accept over HTTP", "textbook transaction + textbook relay");
    let what = format!("PostgreSQL CPU a job, accept + relay / {textbook}");
    report.figure("G6", &what, Wanted::OneIn(14.0), postgres, name);
    let us = |samples: &[Sample]| {
        let all: Vec<_> = samples.iter().map(|sample| sample.cpu.postgres * 1000.0).collect();
        median(&all)
    };
    let bound = format!(
        "PostgreSQL takes {:.1} us for a job that is accepted and {:.1} for one that is relayed, of the textbook's {:.1} and {:.1}.",
        us(&accepted.ours),
        us(&drained.ours),
        us(&accepted.textbook),
        us(&drained.textbook_1)
    );
    report.bound("G6", &what, &bound);
    let what = format!("WAL a job, accept + relay / {textbook}");
    report.figure("G7", &what, Wanted::AtMost(0.5), wal, name);
}

fn pairs(ours: &[Sample], theirs: &[Sample], of: impl Fn(&Sample, &Sample) -> f64) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| of(ours, theirs)).collect()
}
