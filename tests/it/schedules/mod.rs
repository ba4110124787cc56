//! Random schedules of load and faults, drawn from a seed, run against the real program and checked by
//! [`crate::support::history`].
//!
//! ```text
//! cargo test --test it schedules:: -- --nocapture       # forty, from a fresh seed that is printed
//! SEED=1234 cargo test --test it schedules::random      # that one again
//! SCHEDULES=250 LANES=3 REPORT=docs/reliability.md ...  # what `make faults` and `make faults-long` set
//! ```
//!
//! The same seed draws the same plan; what the machine makes of it is not the same twice. A plan that fails is run
//! again with its faults left out, one after the other, and the smallest that still fails is printed. The logs of a
//! failure are in `target/tmp`.

mod lane;
mod plan;
mod report;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use parking_lot::Mutex;

use self::{
    lane::{Lane, Ran},
    plan::Plan,
    report::Tally,
};

/// Schedules of a lane before it gets fresh servers: databases and topics that were used stay on them.
const LANE_SCHEDULES: usize = 40;
/// Runs that shrinking a plan may cost.
const SHRINK_RUNS: usize = 16;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_schedules_of_faults_break_no_promise() {
    let one: Option<u64> = from_environment("SEED");
    let schedules: usize = if one.is_some() {
        1
    } else {
        from_environment("SCHEDULES").unwrap_or(40)
    };
    let lanes: usize = from_environment("LANES").unwrap_or(2).min(schedules);
    let first = one.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("{schedules} schedules from seed {first}; one again: SEED={first} cargo test --test it schedules::random");

    let began = Instant::now();
    let left: Arc<Mutex<VecDeque<u64>>> = Arc::new(Mutex::new((first..first + schedules as u64).collect()));
    let tally = Arc::new(Mutex::new(Tally::new(first)));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..lanes {
        let (left, tally, runtime) = (Arc::clone(&left), Arc::clone(&tally), tokio::runtime::Handle::current());
        running.spawn_blocking(move || runtime.block_on(drive(left, tally, schedules, began)));
    }
    let mut failures = Vec::new();
    while let Some(failed) = running.join_next().await {
        failures.extend(failed.expect("a lane"));
    }
    let tally = tally.lock();
    println!("{tally} in {:.0} s", began.elapsed().as_secs_f64());
    if let Ok(file) = std::env::var("REPORT") {
        report::write(file.as_ref(), &tally, began.elapsed());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs schedules until none is left, or one has failed.
async fn drive(left: Arc<Mutex<VecDeque<u64>>>, tally: Arc<Mutex<Tally>>, of: usize, began: Instant) -> Option<String> {
    let mut lane = Lane::start().await;
    let mut on_lane = 0;
    loop {
        let seed = left.lock().pop_front()?;
        if on_lane == LANE_SCHEDULES {
            lane = Lane::start().await;
            on_lane = 0;
        }
        on_lane += 1;
        let plan = Plan::draw(seed);
        let since = Instant::now();
        let ran = lane.run(&plan).await;
        let done = {
            let mut tally = tally.lock();
            tally.add(&ran);
            tally.schedules
        };
        let each = began.elapsed().as_secs_f64() / done as f64;
        println!(
            "{done}/{of} seed {seed}: {} {}; {:.1} s, {:.0} s to go",
            plan.title(),
            ran.title(),
            since.elapsed().as_secs_f64(),
            each * (of - done) as f64
        );
        if let Ok(file) = std::env::var("REPORT")
            && done.is_multiple_of(50)
        {
            report::write(file.as_ref(), &tally.lock(), began.elapsed());
        }
        if ran.failed() {
            // Nobody begins another one.
            left.lock().clear();
            return Some(explain(lane, plan, &ran).await);
        }
    }
}

/// Shrinks the plan, and says what is left of it.
async fn explain(mut lane: Lane, plan: Plan, ran: &Ran) -> String {
    let first = format!("seed {}: {plan}\n{}", plan.seed, ran.report());
    println!("FAILED {first}\nshrinking it");
    if !lane.is_sound().await {
        lane = Lane::start().await;
    }
    let mut runs = 0;
    let mut smallest = plan;
    let mut event = smallest.events.len();
    while event > 0 && runs < SHRINK_RUNS {
        event -= 1;
        let mut smaller = smallest.clone();
        smaller.events.remove(event);
        runs += 1;
        let again = lane.run(&smaller).await;
        println!("without event {event}: {}", again.title());
        if again.failed() {
            smallest = smaller;
            if !lane.is_sound().await {
                lane = Lane::start().await;
            }
        }
    }
    format!("{first}\nthe smallest that still failed, of {runs} tries: {smallest}")
}
