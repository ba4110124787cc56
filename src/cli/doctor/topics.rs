//! What the two topics are, and what their settings mean for what is in them.

use rdkafka::{admin::AdminClient, config::FromClientConfig as _, error::RDKafkaErrorCode, metadata::MetadataTopic};

use super::{Finding, bytes, duration};
use crate::{
    config,
    publish::{client::base_config, topic},
};

/// A reader that is away for longer than this misses records; so does the search for what was published.
const SHORT_RETENTION_SECONDS: i64 = 3600;

/// How the checks of a topic are called.
pub(super) struct Names {
    topic: &'static str,
    replicas: &'static str,
    settings: &'static str,
    min_isr: &'static str,
    /// Where we write, and have a limit of our own.
    limit: Option<&'static str>,
    retention: &'static str,
    cleanup: &'static str,
    unclean: &'static str,
    /// What its absence means.
    without_it: &'static str,
}

/// `kafka.topic`.
pub(super) const JOBS: Names = Names {
    topic: "kafka.topic",
    replicas: "kafka.replicas",
    settings: "kafka.settings",
    min_isr: "kafka.min_insync_replicas",
    limit: Some("kafka.max_message_bytes"),
    retention: "kafka.retention",
    cleanup: "kafka.cleanup_policy",
    unclean: "kafka.unclean_election",
    without_it: "messages wait",
};
/// `kafka.result_topic`.
pub(super) const RESULTS: Names = Names {
    topic: "kafka.result_topic",
    replicas: "kafka.result_replicas",
    settings: "kafka.result_settings",
    min_isr: "kafka.result_min_insync_replicas",
    limit: None,
    retention: "kafka.result_retention",
    cleanup: "kafka.result_cleanup_policy",
    unclean: "kafka.result_unclean_election",
    without_it: "jobs get no final status",
};

/// Everything that can be asked of a topic.
pub(super) async fn check(
    names: &Names,
    topic: &Topic,
    name: &str,
    kafka: &config::Kafka,
    brokers: usize,
) -> Vec<Finding> {
    let mut findings = vec![topic.judge(names, name, brokers)];
    if topic.error.is_none() {
        findings.push(judge_replicas(names.replicas, topic, brokers));
        findings.extend(check_settings(names, name, kafka, topic).await);
    }
    findings
}

/// What the brokers said of one topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    error: Option<RDKafkaErrorCode>,
    partitions: usize,
    without_leader: usize,
    /// Of the partition that has the fewest.
    replicas: usize,
    under_replicated: usize,
}

impl Topic {
    /// Nothing can be said of it, and why.
    pub fn unknown(error: RDKafkaErrorCode) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    pub fn of(metadata: Option<&MetadataTopic>) -> Self {
        let Some(topic) = metadata else {
            return Self::unknown(RDKafkaErrorCode::UnknownTopicOrPartition);
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

    fn judge(&self, names: &Names, name: &str, brokers: usize) -> Finding {
        let check = names.topic;
        match self.error {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Finding::fail(
                check,
                format!("the topic {name} does not exist: {}", names.without_it),
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
                    "{} of {} partitions of {name} have no leader: {}",
                    self.without_leader, self.partitions, names.without_it
                ),
                "bring back the brokers that hold them",
            ),
            None => Finding::ok(check, format!("{name}, {} partitions", self.partitions)),
        }
    }
}

fn judge_replicas(check: &'static str, topic: &Topic, brokers: usize) -> Finding {
    let found = format!("replication factor {}", topic.replicas);
    if topic.under_replicated > 0 {
        return Finding::warn(
            check,
            format!(
                "{found}; {} partitions have replicas that lag or are down",
                topic.under_replicated
            ),
            "bring back the brokers; below min.insync.replicas messages wait",
        );
    }
    if topic.replicas < 2 && brokers > 1 {
        return Finding::warn(
            check,
            format!("{found}: one lost disk loses messages that Kafka acknowledged"),
            "raise it to 3, with kafka-reassign-partitions.sh",
        );
    }
    if topic.replicas < 2 {
        return Finding::warn(
            check,
            format!("{found}, on the only broker: good for development"),
            "in production, three brokers and a replication factor of 3",
        );
    }
    Finding::ok(check, found)
}

async fn check_settings(names: &Names, name: &str, kafka: &config::Kafka, topic: &Topic) -> Vec<Finding> {
    let described = async { topic::describe(&AdminClient::from_config(&base_config(kafka))?, name).await };
    match described.await {
        Ok(Some(settings)) => judge_settings(names, kafka.max_message_bytes, topic.replicas, |name| {
            settings.get(name).and_then(|entry| entry.value.clone())
        }),
        Ok(None) => vec![Finding::warn(
            names.settings,
            format!("no right to read the settings of {name}"),
            "give the user DescribeConfigs on the topic, so that oversized messages are refused at the door",
        )],
        Err(error) => vec![Finding::warn(
            names.settings,
            format!("the settings of {name} cannot be read: {error}"),
            "look at the brokers' logs",
        )],
    }
}

fn judge_settings(names: &Names, ours: usize, replicas: usize, value: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let number = |name: &str| value(name).and_then(|v| v.parse::<i64>().ok());
    let mut findings = Vec::new();
    if let Some(min) = number("min.insync.replicas") {
        findings.push(judge_min_isr(names.min_isr, min, replicas as i64));
    }
    if let (Some(check), Some(limit)) = (names.limit, number("max.message.bytes")) {
        // A batch larger than a segment is refused as well.
        let limit = number("segment.bytes").map_or(limit, |segment| segment.min(limit));
        findings.push(judge_limit(check, limit, ours as i64));
    }
    if let Some(ms) = number("retention.ms").filter(|ms| *ms >= 0) {
        let found = format!("records are kept for {}", duration(ms as f64 / 1000.0));
        findings.push(if ms / 1000 < SHORT_RETENTION_SECONDS {
            Finding::warn(
                names.retention,
                format!("{found}: a consumer that is away for longer misses them"),
                "raise retention.ms of the topic",
            )
        } else {
            Finding::ok(names.retention, found)
        });
    }
    if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        findings.push(Finding::warn(
            names.cleanup,
            "the topic is compacted: of several records with one key only the last one stays",
            "set cleanup.policy of the topic to delete",
        ));
    }
    if value("unclean.leader.election.enable").as_deref() == Some("true") {
        findings.push(Finding::warn(
            names.unclean,
            "unclean leader election is on: a fail-over can lose what Kafka acknowledged",
            "set unclean.leader.election.enable of the topic to false",
        ));
    }
    findings
}

/// Jobs above the smaller limit are refused at the door, whichever it is; that the topic's is smaller may not be meant.
fn judge_limit(check: &'static str, limit: i64, ours: i64) -> Finding {
    let found = format!(
        "the topic takes {}, kafka.max_message_bytes is {}",
        bytes(limit),
        bytes(ours)
    );
    if limit < ours {
        return Finding::warn(
            check,
            format!("{found}: larger jobs are refused with 413, and waiting ones die"),
            "raise max.message.bytes of the topic (and segment.bytes, if that is smaller), or lower \
             kafka.max_message_bytes to it, if that is meant",
        );
    }
    Finding::ok(check, found)
}

fn judge_min_isr(check: &'static str, min: i64, replicas: i64) -> Finding {
    if min > replicas {
        return Finding::fail(
            check,
            format!("min.insync.replicas is {min}, and there are {replicas} replicas: nothing can be written"),
            "lower min.insync.replicas, or raise the replication factor",
        );
    }
    if min < 2 && replicas > 1 {
        return Finding::warn(
            check,
            format!("min.insync.replicas is {min}: one broker alone may acknowledge a record, and then lose it"),
            "set min.insync.replicas of the topic to 2",
        );
    }
    Finding::ok(check, format!("{min} of {replicas}"))
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn a_missing_topic_says_how_to_create_it() {
        let finding = Topic::of(None).judge(&JOBS, "jobs", 1);
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
            judge_settings(&JOBS, 1 << 20, replicas, |name| {
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
            judge(3, &[("max.message.bytes", "1048575")]),
            [("kafka.max_message_bytes", Status::Warn)]
        );
        assert_eq!(
            judge(3, &[("max.message.bytes", "1048588")]),
            [("kafka.max_message_bytes", Status::Ok)]
        );
        assert_eq!(
            judge(3, &[("max.message.bytes", "1048588"), ("segment.bytes", "1048575")]),
            [("kafka.max_message_bytes", Status::Warn)]
        );
        assert_eq!(
            judge(3, &[("unclean.leader.election.enable", "true")]),
            [("kafka.unclean_election", Status::Warn)]
        );
    }
}
