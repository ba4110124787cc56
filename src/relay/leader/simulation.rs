//! A deterministic simulation over the decisions that the program runs: [`Position`], [`HoleWatch`], [`Window`], [`Receipts`],
//! [`Breaker`], [`Gate`], [`close_holes`], [`own_fault`], [`settle_matching`], [`worth_waiting_for`] and [`advance`] are the product's own.
//! What they are glued to, PostgreSQL, Kafka and the order of events, is drawn from a seed.
//!
//! `cargo test --lib simulation` runs fresh seeds and names the first; `SEED=7` runs one and prints what happened in it;
//! `SEEDS=1000000` (`make simulate`) runs that many.
//!
//! [`Position`]: crate::outbox::position::Position
//! [`HoleWatch`]: crate::relay::holes::HoleWatch
//! [`Window`]: crate::relay::window::Window
//! [`Receipts`]: crate::relay::receipts::Receipts
//! [`Breaker`]: crate::relay::breaker::Breaker
//! [`Gate`]: super::handing_over::Gate
//! [`close_holes`]: super::reading::close_holes
//! [`own_fault`]: super::reports::own_fault
//! [`settle_matching`]: crate::relay::start::settle_matching
//! [`worth_waiting_for`]: super::recording::worth_waiting_for
//! [`advance`]: super::recording::advance

mod process;
mod servers;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use self::{
    process::Process,
    servers::{Database, Topic},
};

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 10_000;
/// Events before everything heals.
const EVENTS: u32 = 300;
/// Events within which all has to be drained after that.
const HEALING: u32 = 4_000;
/// Handed over and in no checkpoint, at most.
const WINDOW: usize = 4;
/// Of a lease.
const LEASE: Duration = Duration::from_millis(40);

#[test]
fn whatever_happens_in_whatever_order_the_promise_holds() {
    if let Some(seed) = number("SEED") {
        let mut world = World::new(seed, true);
        let outcome = world.run();
        println!("{}", world.trace.join("\n"));
        outcome.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        return;
    }
    let (first, seeds) = (rand::random_range(0..1 << 40), number("SEEDS").unwrap_or(SEEDS));
    println!("seeds {first} to {}", first + seeds - 1);
    let next = AtomicU64::new(first);
    let (records, repeats, terms) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let mut world = World::new(seed, false);
                    if let Err(broken) = world.run() {
                        next.store(first + seeds, Ordering::Relaxed);
                        panic!("SEED={seed} cargo test --lib simulation -- --nocapture: {broken}");
                    }
                    records.fetch_add(world.topic.records(), Ordering::Relaxed);
                    repeats.fetch_add(world.topic.repeats as u64, Ordering::Relaxed);
                    terms.fetch_add(world.database.log.fence as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let [records, repeats, terms] = [records, repeats, terms].map(AtomicU64::into_inner);
    println!("{seeds} seeds: {records} records, {repeats} of them repeats, {terms} terms");
    assert!(
        repeats > 0 && terms > seeds,
        "nothing went wrong: the schedule is too tame"
    );
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let story = |seed| {
        let mut world = World::new(seed, true);
        world.run().expect("sound");
        world.trace
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// SplitMix64: the same numbers for a seed in every version of every library.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// Why a seed failed.
type Broken = String;

/// Everything.
struct World {
    dice: Dice,
    began: Instant,
    /// Since then, by PostgreSQL's clock.
    now: Duration,
    database: Database,
    topic: Topic,
    processes: Vec<Process>,
    /// Terms that did not end gracefully.
    bad_ends: usize,
    faults: bool,
    trace: Vec<String>,
    tracing: bool,
}

impl World {
    fn new(seed: u64, tracing: bool) -> Self {
        Self {
            dice: Dice(seed),
            began: Instant::now(),
            now: Duration::ZERO,
            database: Database::default(),
            topic: Topic::default(),
            processes: vec![Process::new(), Process::new()],
            bad_ends: 0,
            faults: true,
            trace: Vec::new(),
            tracing,
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            self.trace.push(format!("{:>5} ms  {}", self.now.as_millis(), what()));
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        for _ in 0..EVENTS {
            self.event()?;
            self.check()?;
        }
        self.faults = false;
        self.note(|| "everything heals".into());
        self.database.end_all(&mut self.dice);
        for _ in 0..HEALING {
            self.event()?;
            self.check()?;
            if self.is_drained() {
                return Ok(());
            }
        }
        Err(format!(
            "not drained {HEALING} events after everything healed: passed {:?}",
            self.database.log.passed
        ))
    }

    /// One event, drawn.
    fn event(&mut self) -> Result<(), Broken> {
        // Once all has healed, a lease is long enough for what has to be done in it.
        if self.dice.one_in(if self.faults { 3 } else { 20 }) {
            self.now += Duration::from_millis(self.dice.roll(4) as u64);
        }
        let n = self.dice.roll(self.processes.len());
        match self.dice.roll(100) {
            0..18 if self.faults => self.accept(),
            18..20 if self.faults => self.fault(n),
            20 if self.faults => self.stop(n),
            21..36 => self.topic_event()?,
            36..64 => self.database_event(n)?,
            _ => self.process_event(n)?,
        }
        Ok(())
    }

    fn accept(&mut self) {
        let did = if self.dice.one_in(20) {
            self.topic
                .append_foreign(&mut self.dice, self.database.newest_visible())
        } else {
            self.database.accept(&mut self.dice)
        };
        self.note(|| did);
    }

    fn topic_event(&mut self) -> Result<(), Broken> {
        let did = self.topic.event(&mut self.dice, &self.database)?;
        self.note(|| did);
        Ok(())
    }

    /// What is broken in every state.
    fn check(&self) -> Result<(), Broken> {
        let allowed = WINDOW * self.bad_ends;
        if self.topic.repeats > allowed {
            return Err(format!("{} repeats, and only {allowed} allowed", self.topic.repeats));
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        let log = &self.database.log;
        let newest = self.database.newest_visible();
        (1..=newest).all(|id| log.passed.contains(&id))
    }
}
