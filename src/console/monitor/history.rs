//! The last hour and the last day, in rings of [`POINTS`] points: what does not fit on a screen is not kept.

use std::collections::VecDeque;

use serde::Serialize;

/// In each ring. More lines than a chart has pixels show nothing more.
pub const POINTS: usize = 360;

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// 360 points of ten seconds.
    Hour,
    /// 360 points of four minutes.
    Day,
}

impl Span {
    /// Of one point, in seconds.
    pub fn step(self) -> i64 {
        match self {
            Self::Hour => 10,
            Self::Day => 240,
        }
    }
}

/// What was seen in one step: rates and the median as means, everything that hurts as its maximum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// The step's beginning, in seconds since 1970.
    pub at: i64,
    /// Messages a second into the outbox; the mean.
    pub incoming: Option<f64>,
    /// Messages a second into Kafka; the mean.
    pub outgoing: Option<f64>,
    /// Messages that wait; the maximum.
    pub pending: Option<f64>,
    /// Age of the oldest; the maximum.
    pub oldest_seconds: Option<f64>,
    /// Until what waits is gone, as it was forecast; the maximum. Nothing where it does not become less.
    pub gone_seconds: Option<f64>,
    /// From acceptance to receipt, the median; the mean of those of the looks.
    pub p50_seconds: Option<f64>,
    /// Likewise the 99th percentile; the maximum.
    pub p99_seconds: Option<f64>,
}

/// Both rings.
#[derive(Debug)]
pub struct History {
    hour: Ring,
    day: Ring,
}

impl Default for History {
    fn default() -> Self {
        Self {
            hour: Ring::new(Span::Hour),
            day: Ring::new(Span::Day),
        }
    }
}

impl History {
    /// Adds what one look saw.
    pub fn add(&mut self, seen: Point) {
        self.hour.add(seen);
        self.day.add(seen);
    }

    /// Ascending; the last one is still being filled.
    pub fn points(&self, span: Span) -> Vec<Point> {
        let ring = match span {
            Span::Hour => &self.hour,
            Span::Day => &self.day,
        };
        ring.points.iter().copied().collect()
    }
}

#[derive(Debug)]
struct Ring {
    span: Span,
    points: VecDeque<Point>,
    /// Looks in the last point, by field: for the means.
    counts: [u32; 3],
}

impl Ring {
    fn new(span: Span) -> Self {
        Self {
            span,
            points: VecDeque::with_capacity(POINTS),
            counts: [0; 3],
        }
    }

    fn add(&mut self, seen: Point) {
        let at = seen.at - seen.at.rem_euclid(self.span.step());
        match self.points.back_mut() {
            // A clock that was set back adds to the last point, so that the ring stays ascending.
            Some(last) if last.at >= at => {
                mean(&mut last.incoming, seen.incoming, &mut self.counts[0]);
                mean(&mut last.outgoing, seen.outgoing, &mut self.counts[1]);
                mean(&mut last.p50_seconds, seen.p50_seconds, &mut self.counts[2]);
                max(&mut last.pending, seen.pending);
                max(&mut last.oldest_seconds, seen.oldest_seconds);
                max(&mut last.gone_seconds, seen.gone_seconds);
                max(&mut last.p99_seconds, seen.p99_seconds);
            }
            _ => {
                if self.points.len() == POINTS {
                    self.points.pop_front();
                }
                self.points.push_back(Point { at, ..seen });
                self.counts = [seen.incoming, seen.outgoing, seen.p50_seconds].map(|value| u32::from(value.is_some()));
            }
        }
    }
}

fn mean(kept: &mut Option<f64>, seen: Option<f64>, count: &mut u32) {
    let Some(seen) = seen else { return };
    *count += 1;
    let before = kept.unwrap_or(seen);
    *kept = Some(before + (seen - before) / f64::from(*count));
}

fn max(kept: &mut Option<f64>, seen: Option<f64>) {
    *kept = match (*kept, seen) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: i64, value: Option<f64>) -> Point {
        Point {
            at,
            incoming: value,
            outgoing: value,
            pending: value,
            oldest_seconds: value,
            gone_seconds: value,
            p50_seconds: value,
            p99_seconds: value,
        }
    }

    #[test]
    fn a_step_keeps_the_mean_of_rates_and_the_worst_of_the_rest() {
        let mut history = History::default();
        for (at, value) in [(1000, Some(1.0)), (1004, None), (1008, Some(3.0)), (1010, Some(9.0))] {
            history.add(seen(at, value));
        }
        let hour = history.points(Span::Hour);
        assert_eq!(hour.len(), 2);
        assert_eq!(
            (hour[0].at, hour[0].incoming, hour[0].p50_seconds),
            (1000, Some(2.0), Some(2.0))
        );
        assert_eq!((hour[0].pending, hour[0].p99_seconds), (Some(3.0), Some(3.0)));
        assert_eq!(hour[1].incoming, Some(9.0));
        let day = history.points(Span::Day);
        assert_eq!((day.len(), day[0].at, day[0].oldest_seconds), (1, 960, Some(9.0)));
    }

    #[test]
    fn the_rings_are_bounded_and_ascending_whatever_the_clock_does() {
        let mut history = History::default();
        for at in (0..100_000).step_by(2) {
            history.add(seen(at, Some(1.0)));
        }
        history.add(seen(5, Some(7.0)));
        for span in [Span::Hour, Span::Day] {
            let points = history.points(span);
            assert_eq!(points.len(), POINTS);
            assert!(points.is_sorted_by(|a, b| a.at < b.at));
            assert_eq!(points.last().expect("a point").pending, Some(7.0));
        }
    }
}
