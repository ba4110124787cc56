//! When refusals mean that something else is wrong than the messages. Pure.
//!
//! A lowered `max.message.bytes` or a broken serialiser would turn the whole backlog into dead letters. So
//! when most of what was decided lately was refused, the breaker opens: then one record at a time is
//! tried, with a long pause in between, until one is taken.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many decided records are remembered.
const REMEMBERED: usize = 100;
/// More refusals among them than this open the breaker.
const TOLERATED: usize = REMEMBERED / 2;
/// While it is open, one record is tried in this time: what a night of mass refusals can cost is bounded.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Counts what was taken and what was refused for good. An outage counts for neither.
#[derive(Debug, Default)]
pub struct Breaker {
    recent: VecDeque<Decided>,
    next_probe: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decided {
    Taken,
    Refused,
}

/// May a record be handed over?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Any number.
    Any,
    /// One, then ask again.
    One,
    /// None before this instant.
    NotBefore(Instant),
}

impl Breaker {
    /// Kafka acknowledged `count` records: whatever was wrong is over.
    pub fn taken(&mut self, count: usize) {
        self.next_probe = None;
        for _ in 0..count.min(REMEMBERED) {
            self.remember(Decided::Taken);
        }
    }

    /// A record was refused for good. The breaker may open, or stay open.
    pub fn refused(&mut self, now: Instant) {
        self.remember(Decided::Refused);
        if self.recent.iter().filter(|d| **d == Decided::Refused).count() > TOLERATED {
            self.next_probe = Some(now + PROBE_EVERY);
        }
    }

    /// Is it open?
    pub fn is_open(&self) -> bool {
        self.next_probe.is_some()
    }

    /// What may be handed over now.
    pub fn permit(&self, now: Instant) -> Permit {
        match self.next_probe {
            None => Permit::Any,
            Some(at) if at <= now => Permit::One,
            Some(at) => Permit::NotBefore(at),
        }
    }

    fn remember(&mut self, what: Decided) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(what);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_poison_in_a_hundred_never_opens_it() {
        let mut b = Breaker::default();
        let now = Instant::now();
        for _ in 0..1000 {
            b.taken(99);
            b.refused(now);
            assert_eq!(b.permit(now), Permit::Any);
        }
    }

    #[test]
    fn mass_refusals_open_it_and_one_record_that_is_taken_closes_it() {
        let mut b = Breaker::default();
        let start = Instant::now();
        for n in 0..=TOLERATED {
            assert!(!b.is_open(), "after {n} refusals");
            b.refused(start);
        }
        assert_eq!(b.permit(start), Permit::NotBefore(start + PROBE_EVERY));
        let later = start + PROBE_EVERY;
        assert_eq!(b.permit(later), Permit::One);
        b.refused(later);
        assert_eq!(b.permit(later), Permit::NotBefore(later + PROBE_EVERY));
        b.taken(1);
        assert_eq!(b.permit(later), Permit::Any);
    }

    proptest! {
        #[test]
        fn a_backlog_of_poison_costs_at_most_half_a_hundred_and_one_for_each_probe(seconds in 0_u64..7200) {
            let mut b = Breaker::default();
            let start = Instant::now();
            let mut dead = 0;
            for second in 0..=seconds {
                let now = start + Duration::from_secs(second);
                while match b.permit(now) { Permit::Any | Permit::One => true, Permit::NotBefore(_) => false } {
                    b.refused(now);
                    dead += 1;
                    prop_assert!(dead <= TOLERATED as u64 + 1 + second / PROBE_EVERY.as_secs());
                }
            }
        }
    }
}
