//! Kafka: where the messages go. While it is away they wait; what is wrong with the topic costs them.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext,
    admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier},
    client::DefaultClientContext,
    config::{FromClientConfig, FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::MetadataTopic,
};

use super::{CALL_TIMEOUT, Finding, bytes, duration};
use crate::{
    cli::Context,
    config,
    outbox::installation,
    publish::{
        advice::{Complaints, advise},
        client::base_config,
    },
};

/// A reader that is away for longer than this misses records; so does the search for what was published.
const SHORT_RETENTION_SECONDS: i64 = 3600;

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
    let topic = seen.topic.judge("kafka.topic", &kafka.topic, seen.brokers);
    findings.push(topic);
    if seen.topic.error.is_none() {
        findings.push(check_replicas(&seen.topic, seen.brokers));
        findings.extend(check_settings(kafka, &seen.topic).await);
    }
    findings.push(
        seen.results
            .judge("kafka.result_topic", &kafka.result_topic, seen.brokers),
    );
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

/// What the brokers said of one topic.
#[derive(Debug, Default)]
struct Topic {
    error: Option<RDKafkaErrorCode>,
    partitions: usize,
    without_leader: usize,
    /// Of the partition that has the fewest.
    replicas: usize,
    under_replicated: usize,
}

impl Topic {
    fn of(metadata: Option<&MetadataTopic>) -> Self {
        let Some(topic) = metadata else {
            return Self {
                error: Some(RDKafkaErrorCode::UnknownTopicOrPartition),
                ..Self::default()
            };
        };
        let partitions = topic.partitions();
        Self {
            error: topic.error().map(RDKafkaErrorCode::from),
            partitions: partitions.len(),
            without_leader: partitions.iter().filter(|p| p.leader() < 0).count(),
            replicas: partitions.iter().map(|p| p.replicas().len()).min().unwrap_or(0),
            under_replicated: partitions.iter().filter(|p| p.isr().len() < p.replicas().len()).count(),
        }
    }

    fn judge(&self, check: &'static str, name: &str, brokers: usize) -> Finding {
        match self.error {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Finding::fail(
                check,
                format!("the topic {name} does not exist: messages wait"),
                format!(
                    "create it; the dispatcher never does: kafka-topics.sh --create --topic {name} --partitions 12 \
                     --replication-factor {} --config min.insync.replicas={}",
                    brokers.min(3),
                    brokers.min(2)
                ),
            ),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Finding::fail(
                check,
                format!("no right to describe the topic {name}"),
                "give the user Describe, Read and Write on it (DescribeConfigs, too, for its limits)",
            ),
            Some(code) => Finding::fail(check, format!("the topic {name}: {code}"), "look at the brokers' logs"),
            None if self.without_leader > 0 => Finding::fail(
                check,
                format!(
                    "{} of {} partitions of {name} have no leader: their messages wait",
                    self.without_leader, self.partitions
                ),
                "bring back the brokers that hold them",
            ),
            None => Finding::ok(check, format!("{name}, {} partitions", self.partitions)),
        }
    }
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
            Err(error) => Topic {
                error: Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
                ..Topic::default()
            },
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

fn check_replicas(topic: &Topic, brokers: usize) -> Finding {
    const CHECK: &str = "kafka.replicas";
    let found = format!("replication factor {}", topic.replicas);
    if topic.under_replicated > 0 {
        return Finding::warn(
            CHECK,
            format!(
                "{found}; {} partitions have replicas that lag or are down",
                topic.under_replicated
            ),
            "bring back the brokers; below min.insync.replicas messages wait",
        );
    }
    if topic.replicas < 2 && brokers > 1 {
        return Finding::warn(
            CHECK,
            format!("{found}: one lost disk loses messages that Kafka acknowledged"),
            "raise it to 3, with kafka-reassign-partitions.sh",
        );
    }
    if topic.replicas < 2 {
        return Finding::warn(
            CHECK,
            format!("{found}, on the only broker: good for development"),
            "in production, three brokers and a replication factor of 3",
        );
    }
    Finding::ok(CHECK, found)
}

async fn check_settings(kafka: &config::Kafka, topic: &Topic) -> Vec<Finding> {
    match describe(kafka).await {
        Ok(settings) => judge_settings(kafka.max_message_bytes, topic.replicas, |name| {
            settings.get(name).and_then(|entry| entry.value.clone())
        }),
        Err(error) => vec![Finding::warn(
            "kafka.settings",
            format!("the topic's settings cannot be read: {error}"),
            "give the user DescribeConfigs on the topic, so that oversized messages are refused at the door",
        )],
    }
}

async fn describe(kafka: &config::Kafka) -> Result<ConfigResource, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = AdminClient::from_config(&base_config(kafka))?;
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
    let described = admin
        .describe_configs(&[ResourceSpecifier::Topic(&kafka.topic)], &options)
        .await?;
    match described.into_iter().next() {
        Some(Ok(resource)) => Ok(resource),
        Some(Err(code)) => Err(KafkaError::AdminOp(code)),
        None => Err(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition)),
    }
}

fn judge_settings(ours: usize, replicas: usize, value: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let number = |name: &str| value(name).and_then(|v| v.parse::<i64>().ok());
    let mut findings = Vec::new();
    if let Some(min) = number("min.insync.replicas") {
        findings.push(judge_min_isr(min, replicas as i64));
    }
    if let Some(limit) = number("max.message.bytes") {
        let found = format!(
            "the topic takes {}, kafka.max_message_bytes is {}",
            bytes(limit),
            bytes(ours as i64)
        );
        findings.push(Finding::ok(
            "kafka.max_message_bytes",
            format!("{found}: the smaller counts"),
        ));
    }
    if let Some(ms) = number("retention.ms").filter(|ms| *ms >= 0) {
        let found = format!("records are kept for {}", duration(ms as f64 / 1000.0));
        findings.push(if ms / 1000 < SHORT_RETENTION_SECONDS {
            Finding::warn(
                "kafka.retention",
                format!("{found}: a consumer that is away for longer misses jobs"),
                "raise retention.ms of the topic",
            )
        } else {
            Finding::ok("kafka.retention", found)
        });
    }
    if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        findings.push(Finding::warn(
            "kafka.cleanup_policy",
            "the topic is compacted: of several jobs of a draft only the last one stays",
            "set cleanup.policy of the topic to delete",
        ));
    }
    if value("unclean.leader.election.enable").as_deref() == Some("true") {
        findings.push(Finding::warn(
            "kafka.unclean_election",
            "unclean leader election is on: a fail-over can lose messages that Kafka acknowledged",
            "set unclean.leader.election.enable of the topic to false",
        ));
    }
    findings
}

fn judge_min_isr(min: i64, replicas: i64) -> Finding {
    const CHECK: &str = "kafka.min_insync_replicas";
    if min > replicas {
        return Finding::fail(
            CHECK,
            format!("min.insync.replicas is {min}, and there are {replicas} replicas: nothing can be written"),
            "lower min.insync.replicas, or raise the replication factor",
        );
    }
    if min < 2 && replicas > 1 {
        return Finding::warn(
            CHECK,
            format!("min.insync.replicas is {min}: one broker alone may acknowledge a message, and then lose it"),
            "set min.insync.replicas of the topic to 2",
        );
    }
    Finding::ok(CHECK, format!("{min} of {replicas}"))
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

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn a_missing_topic_says_how_to_create_it() {
        let finding = Topic::of(None).judge("kafka.topic", "jobs", 1);
        assert_eq!(finding.status, Status::Fail);
        let advice = finding.advice.unwrap();
        assert!(
            advice.contains("--create --topic jobs") && advice.contains("--replication-factor 1"),
            "{advice}"
        );
    }

    #[test]
    fn settings_that_lose_or_block_messages_are_named() {
        let judge = |replicas, settings: &[(&str, &str)]| {
            let settings: Vec<(String, String)> = settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            judge_settings(1 << 20, replicas, |name| {
                settings.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())
            })
            .iter()
            .map(|f| (f.check, f.status))
            .collect::<Vec<_>>()
        };
        assert_eq!(
            judge(3, &[("min.insync.replicas", "2")]),
            [("kafka.min_insync_replicas", Status::Ok)]
        );
        assert_eq!(
            judge(3, &[("min.insync.replicas", "1")]),
            [("kafka.min_insync_replicas", Status::Warn)]
        );
        assert_eq!(
            judge(1, &[("min.insync.replicas", "2")]),
            [("kafka.min_insync_replicas", Status::Fail)]
        );
        assert_eq!(
            judge(3, &[("cleanup.policy", "compact,delete")]),
            [("kafka.cleanup_policy", Status::Warn)]
        );
        assert_eq!(
            judge(3, &[("retention.ms", "60000")]),
            [("kafka.retention", Status::Warn)]
        );
        assert_eq!(judge(3, &[("retention.ms", "-1")]), []);
        assert_eq!(
            judge(3, &[("unclean.leader.election.enable", "true")]),
            [("kafka.unclean_election", Status::Warn)]
        );
    }
}
