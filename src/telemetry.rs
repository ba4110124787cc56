//! Logs and metrics. Handed in, never reached for.

mod logs;

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

pub use logs::init_logs;

/// The label `error_class` of failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorClass {
    /// A fixed, small set of words.
    pub error_class: &'static str,
}

/// The label `outcome` of requests to accept a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// A fixed, small set of words.
    pub outcome: &'static str,
}

/// The labels of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The route's pattern, never the path.
    pub route: &'static str,
    /// The status code.
    pub status: u16,
}

/// What becomes of a request to accept a job.
const ACCEPT_OUTCOMES: [&str; 11] = [
    "accepted",
    "replayed",
    "not_found",
    "no_recommendation",
    "draft_incomplete",
    "too_large",
    "key_reused",
    "key_in_progress",
    "overloaded",
    "unavailable",
    "outcome_unknown",
];
/// What a delivery fails for.
const ERROR_CLASSES: [&str; 4] = ["message-too-large", "invalid-record", "outage", "unknown"];
/// What becomes of an answer of the Content Service.
const RESULT_OUTCOMES: [&str; 4] = ["recorded", "repeated", "malformed", "unknown-job"];

/// All metrics of the process. Gauges are set by the tasks that know, on a timer, never at scrape time.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help texts below say what each is")]
pub struct Metrics {
    registry: Registry,
    pub pending_rows: Gauge,
    pub oldest_pending_age_seconds: Gauge<f64, AtomicU64>,
    pub unacknowledged_rows: Gauge,
    pub holes: Gauge,
    pub oldest_transaction_age_seconds: Gauge<f64, AtomicU64>,
    pub dead_rows: Gauge,
    pub missing_rows: Gauge,
    pub paused: Gauge,
    pub leading: Gauge,
    pub breaker_open: Gauge,
    pub published_total: Counter,
    pub publish_failures_total: Family<ErrorClass, Counter>,
    pub producer_starts_total: Counter,
    pub producer_rebuilds_total: Counter,
    pub wrongly_closed_holes_total: Counter,
    pub end_to_end_latency_seconds: Histogram,
    pub publish_duration_seconds: Histogram,
    pub accepts_total: Family<Outcome, Counter>,
    pub intake_batch_size: Histogram,
    pub cache_failures_total: Counter,
    pub results_total: Family<Outcome, Counter>,
    pub job_failures_total: Counter,
    pub http_request_duration_seconds: Family<Request, Histogram>,
}

fn latency_buckets() -> impl Iterator<Item = f64> {
    [
        0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0,
        3600.0,
    ]
    .into_iter()
}

/// Registers a metric, and gives a handle to it. `register` adds `_total` to counters by itself.
fn add<M: Metric + Clone + Default>(r: &mut Registry, name: &str, help: &str) -> M {
    add_made(r, name, help, M::default())
}

/// The same of one that has to be told how it is made.
fn add_made<M: Metric + Clone>(r: &mut Registry, name: &str, help: &str, metric: M) -> M {
    r.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Registers all metrics in a registry of their own.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        let r = &mut registry;
        let m = Self {
            pending_rows: add(
                r,
                "outbox_pending_rows",
                "Messages that are not settled yet (leader only)",
            ),
            oldest_pending_age_seconds: add(
                r,
                "outbox_oldest_pending_age_seconds",
                "Age of the oldest unsettled message (leader only)",
            ),
            unacknowledged_rows: add(
                r,
                "outbox_unacknowledged_rows",
                "Records handed over and not yet in a committed checkpoint",
            ),
            holes: add(r, "outbox_holes", "Ids below the newest read that were not seen yet"),
            oldest_transaction_age_seconds: add(
                r,
                "outbox_oldest_transaction_age_seconds",
                "Age of the oldest transaction of the database, prepared ones included (leader only)",
            ),
            dead_rows: add(
                r,
                "outbox_dead_rows",
                "Dead letters that were neither retried nor discarded",
            ),
            missing_rows: add(
                r,
                "outbox_missing_rows",
                "Messages whose records the audits found missing from the topic (leader only)",
            ),
            paused: add(r, "outbox_paused", "1 while an operator has paused the relay"),
            leading: add(r, "outbox_leading", "1 while this replica leads"),
            breaker_open: add(
                r,
                "outbox_breaker_open",
                "1 while publishing waits for the broker or for an operator",
            ),
            published_total: add(r, "outbox_published", "Messages that Kafka acknowledged"),
            publish_failures_total: add(r, "outbox_publish_failures", "Delivery reports with an error, by class"),
            producer_starts_total: add(
                r,
                "outbox_producer_starts",
                "Starts of the relay: take-overs and rebuilt producers",
            ),
            producer_rebuilds_total: add(
                r,
                "outbox_producer_rebuilds",
                "Terms that ended with an error: the producer was thrown away, the relay began again",
            ),
            wrongly_closed_holes_total: add(
                r,
                "outbox_wrongly_closed_holes",
                "Rows that showed up under an id that was closed as a hole; sent all the same",
            ),
            end_to_end_latency_seconds: add_made(
                r,
                "outbox_end_to_end_latency_seconds",
                "From the acceptance of a job to Kafka's acknowledgement",
                Histogram::new(latency_buckets()),
            ),
            publish_duration_seconds: add_made(
                r,
                "outbox_publish_duration_seconds",
                "From handing a record over to Kafka's acknowledgement",
                Histogram::new(latency_buckets()),
            ),
            accepts_total: add(r, "job_accepts", "Requests to accept a job, by outcome"),
            intake_batch_size: add_made(
                r,
                "intake_batch_size",
                "Requests that shared one transaction",
                Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]),
            ),
            cache_failures_total: add(
                r,
                "redis_failures",
                "Redis calls that failed or ran out of their budget",
            ),
            results_total: add(
                r,
                "job_results",
                "Answers of the Content Service: recorded, repeated, malformed, unknown-job",
            ),
            job_failures_total: add(r, "job_failures", "Jobs that the Content Service answered with FAILED"),
            http_request_duration_seconds: add_made(
                r,
                "http_request_duration_seconds",
                "From the request's head to the response's head",
                Family::new_with_constructor(|| Histogram::new(latency_buckets())),
            ),
            registry,
        };
        m.begin_at_zero();
        Arc::new(m)
    }

    /// A series that is there from the start: of one that appears with its first event, `increase()` does not
    /// see that event.
    fn begin_at_zero(&self) {
        for outcome in ACCEPT_OUTCOMES {
            drop(self.accepts_total.get_or_create(&Outcome { outcome }));
        }
        for error_class in ERROR_CLASSES {
            drop(self.publish_failures_total.get_or_create(&ErrorClass { error_class }));
        }
        for outcome in RESULT_OUTCOMES {
            drop(self.results_total.get_or_create(&Outcome { outcome }));
        }
    }

    /// What a leader shows and nobody else knows.
    pub fn show_not_leading(&self) {
        for gauge in [
            &self.leading,
            &self.pending_rows,
            &self.unacknowledged_rows,
            &self.holes,
            &self.dead_rows,
            &self.missing_rows,
            &self.paused,
            &self.breaker_open,
        ] {
            gauge.set(0);
        }
        self.oldest_pending_age_seconds.set(0.0);
        self.oldest_transaction_age_seconds.set(0.0);
    }

    /// The text that `/metrics` answers (OpenMetrics).
    pub fn encode(&self) -> String {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry).expect("writing to a String cannot fail");
        out
    }
}
