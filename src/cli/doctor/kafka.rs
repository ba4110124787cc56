//! Kafka: where the messages go. While it is away they wait; what is wrong with the topic costs them.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use secrecy::ExposeSecret;

use super::{
    CALL_TIMEOUT, Finding, is_local,
    topics::{self, Topic},
};
use crate::{
    cli::Context,
    config,
    outbox::installation,
    publish::{
        advice::{Complaints, advise},
        client::base_config,
    },
};

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let kafka = context.config.kafka.clone();
    let seen = tokio::task::spawn_blocking(move || look(&kafka)).await;
    let seen = match seen {
        Ok(Ok(seen)) => seen,
        Ok(Err(finding)) => return vec![finding],
        Err(error) => {
            return vec![Finding::fail(
                "kafka.reachable",
                format!("the check failed: {error}"),
                "report it",
            )];
        }
    };
    let kafka = &context.config.kafka;
    let mut findings = vec![Finding::ok(
        "kafka.reachable",
        format!(
            "{} brokers, cluster {}",
            seen.brokers,
            seen.cluster_id.as_deref().unwrap_or("unknown")
        ),
    )];
    findings.push(check_tls(kafka));
    for (names, topic, name) in [
        (&topics::JOBS, &seen.topic, &kafka.topic),
        (&topics::RESULTS, &seen.results, &kafka.result_topic),
    ] {
        findings.extend(topics::check(names, topic, name, kafka, seen.brokers).await);
    }
    findings.extend(check_identity(context, seen.cluster_id.as_deref()).await);
    findings
}

/// What the brokers said.
struct Seen {
    brokers: usize,
    cluster_id: Option<String>,
    topic: Topic,
    results: Topic,
}

struct Listener(Arc<Complaints>);

impl ClientContext for Listener {
    fn error(&self, _: KafkaError, reason: &str) {
        self.0.note(reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.note_log(level, facility, line);
    }
}

impl ConsumerContext for Listener {}

/// Asks the brokers. Blocks for a few times [`CALL_TIMEOUT`] at most.
fn look(kafka: &config::Kafka) -> Result<Seen, Finding> {
    let complaints = Arc::new(Complaints::default());
    let mut c = base_config(kafka);
    c.set("group.id", "image-job-dispatcher-doctor"); // librdkafka asks for one; it is never joined
    let consumer = BaseConsumer::from_config_and_context(&c, Listener(Arc::clone(&complaints))).map_err(|error| {
        Finding::fail(
            "kafka.reachable",
            format!("a client cannot be made: {error}"),
            "check kafka.properties: librdkafka's CONFIGURATION.md names the settings and their values",
        )
    })?;
    let metadata = |topic: &str| consumer.fetch_metadata(Some(topic), CALL_TIMEOUT);
    let topic = metadata(&kafka.topic).map_err(|error| {
        // The complaints wait in the client's queue until it is polled.
        for _ in 0..20 {
            consumer.poll(Duration::from_millis(5));
        }
        explain(&kafka.brokers, &error, complaints.newest())
    })?;
    let results = metadata(&kafka.result_topic);
    let of = |metadata: &rdkafka::metadata::Metadata, name: &str| {
        Topic::of(metadata.topics().iter().find(|topic| topic.name() == name))
    };
    Ok(Seen {
        brokers: topic.brokers().len(),
        cluster_id: consumer.client().fetch_cluster_id(CALL_TIMEOUT),
        results: match results {
            Ok(metadata) => of(&metadata, &kafka.result_topic),
            Err(error) => Topic::unknown(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        },
        topic: of(&topic, &kafka.topic),
    })
}

fn explain(brokers: &str, error: &KafkaError, complaint: Option<String>) -> Finding {
    let said = complaint.unwrap_or_else(|| error.to_string());
    let advice =
        advise(&said).unwrap_or("start the brokers, or check kafka.brokers; meanwhile jobs are accepted and wait");
    Finding::unreachable(
        "kafka.reachable",
        format!("Kafka at {brokers} cannot be used: {said}"),
        advice,
    )
}

/// Without TLS, what is said to brokers on other machines can be read on the way.
fn check_tls(kafka: &config::Kafka) -> Finding {
    const CHECK: &str = "kafka.tls";
    let protocol = kafka
        .properties
        .get("security.protocol")
        .map(|value| value.expose_secret().to_lowercase());
    let encrypted = protocol.is_some_and(|protocol| protocol.ends_with("ssl"));
    let host = |broker: &str| broker.trim().rsplit_once(':').map_or("", |(host, _)| host).to_owned();
    let far: Vec<_> = kafka
        .brokers
        .split(',')
        .map(host)
        .filter(|host| !is_local(host))
        .collect();
    match far.first() {
        _ if encrypted => Finding::ok(CHECK, "encrypted"),
        None => Finding::ok(CHECK, "not encrypted, on this machine"),
        Some(host) => Finding::warn(
            CHECK,
            format!("the connection to {host} is not encrypted: jobs and passwords can be read on the way"),
            "set security.protocol to SSL or SASL_SSL in kafka.properties, and kafka.brokers to listeners that speak it",
        ),
    }
}

/// Another cluster behind the same address would not have what was published.
async fn check_identity(context: &Context, cluster_id: Option<&str>) -> Option<Finding> {
    const CHECK: &str = "kafka.identity";
    let mut conn = context.database().await.ok()?;
    // While PostgreSQL or the schema is not there, its own lines say so.
    let known = installation::read(&mut conn).await.ok()?;
    if let (true, Some(halt)) = (known.log_lost, known.halt()) {
        return Some(Finding::fail(
            CHECK,
            format!("publishing halts since {}: {}", halt.since, halt.reason),
            "run `dispatcher audit`, then `dispatcher resume --accept-identity`, then `dispatcher replay create --missing`",
        ));
    }
    Some(match known.check(&context.config.kafka.topic, cluster_id) {
        Ok(()) => Finding::ok(
            CHECK,
            "the cluster and topic that the outbox knows, or the first that it sees",
        ),
        Err(other) => Finding::fail(
            CHECK,
            other.to_string(),
            "correct kafka.brokers or kafka.topic, unless it is meant",
        ),
    })
}
