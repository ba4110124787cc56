//! What a leader shows.

use std::time::{Duration, Instant};

use chrono::Utc;

use super::Leader;
use crate::publish::advice::advise;

/// Between two updates of the gauges.
const EVERY: Duration = Duration::from_secs(1);
/// Nothing acknowledged for so long with records on their way: the outage is shown.
const SHOW_OUTAGE_AFTER: Duration = Duration::from_secs(5);

impl Leader<'_> {
    /// Sets the gauges, at most once a second.
    pub(super) fn show(&mut self) {
        let now = Instant::now();
        if now < self.gauges_due {
            return;
        }
        self.gauges_due = now + EVERY;
        let metrics = &self.relay.metrics;
        let passed: i64 = self.ledger.position.passed().iter().map(|r| r.end - r.start).sum();
        let pending = self.newest_id() - passed;
        metrics.pending_rows.set(pending);
        let age = self
            .seen
            .oldest
            .filter(|_| pending > 0)
            .map_or(0.0, |o| (Utc::now() - o).as_seconds_f64().max(0.0));
        metrics.oldest_pending_age_seconds.set(age);
        metrics.unacknowledged_rows.set(self.ledger.unrecorded() as i64);
        metrics.holes.set(self.ledger.position.hole_count() as i64);
        let stuck = self.is_anything_on_its_way() && now - self.last_ack > SHOW_OUTAGE_AFTER;
        if !self.is_anything_on_its_way() {
            self.last_ack = now;
        }
        // What failed last may be a dead letter by now, or published by another leader: then nothing waits for Kafka.
        let failing = self.memory.failing && pending > 0;
        let open = stuck || failing || self.memory.breaker.is_open();
        if metrics.breaker_open.set(i64::from(open)) == i64::from(open) {
            return;
        }
        let complaints = self.producer.reports().complaints();
        if open {
            let reason = complaints.newest().unwrap_or_default();
            tracing::warn!(
                reason,
                advice = advise(&reason),
                "kafka does not acknowledge; accepting goes on, publishing waits"
            );
        } else {
            complaints.forget();
        }
    }
}
