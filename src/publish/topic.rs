//! What the broker says of the topic: the size limit, what it deletes by itself, and which cluster it is.

use std::time::Duration;

use chrono::TimeDelta;
use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier},
    client::DefaultClientContext,
    config::FromClientConfig,
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use tokio_util::sync::CancellationToken;

use super::client::base_config;
use crate::{config, outbox::record::RecordLimit};

/// How often the topic's limit is read again.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// While it could not be read.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// For one answer of the brokers.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a topic deletes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Records younger than this are not deleted for their age (`retention.ms`); none: no record is.
    pub kept_for: Option<TimeDelta>,
    /// The oldest records are deleted when there are too many bytes (`retention.bytes`).
    pub by_size: bool,
    /// Of several records of a key, only the last is sure to stay (`cleanup.policy`).
    pub compacted: bool,
}

fn value<'a>(settings: &'a ConfigResource, name: &str) -> Option<&'a str> {
    settings.get(name).and_then(|entry| entry.value.as_deref())
}

/// The settings of a topic. Needs the right to describe them; none: the broker says that it is missing.
pub async fn describe(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
) -> Result<Option<ConfigResource>, KafkaError> {
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
    let answers = admin
        .describe_configs(&[ResourceSpecifier::Topic(topic)], &options)
        .await?;
    unless_denied(match answers.into_iter().next() {
        Some(answer) => answer.map_err(KafkaError::AdminOp),
        None => Err(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition)),
    })
}

/// None for an answer that asking is not allowed. Any other error, such as no answer in time, says nothing of rights.
fn unless_denied(answer: Result<ConfigResource, KafkaError>) -> Result<Option<ConfigResource>, KafkaError> {
    use RDKafkaErrorCode as E;
    match answer {
        // rdkafka 0.39 drops the error of a single resource: of a topic that exists, a refusal has no settings.
        Ok(settings) => Ok(Some(settings).filter(|settings| !settings.entries.is_empty())),
        Err(KafkaError::AdminOp(E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks the brokers about the topic. Cheap to keep.
pub struct TopicInspector {
    admin: AdminClient<DefaultClientContext>,
    topic: String,
}

impl TopicInspector {
    /// # Errors
    /// When a setting in `kafka.properties` is refused by librdkafka.
    pub fn new(kafka: &config::Kafka) -> Result<Self, KafkaError> {
        let config = base_config(kafka);
        Ok(Self {
            admin: AdminClient::from_config(&config)?,
            topic: kafka.topic.clone(),
        })
    }

    /// The largest record batch that the topic takes, in bytes. Needs the right to describe the topic's
    /// configuration; none: that is missing, or the topic.
    pub async fn record_limit(&self) -> Result<Option<usize>, KafkaError> {
        let Some(settings) = describe(&self.admin, &self.topic).await? else {
            return Ok(None);
        };
        // A batch larger than a segment is refused as well.
        let limits = ["max.message.bytes", "segment.bytes"];
        let limits = limits.map(|name| value(&settings, name).and_then(|v| v.parse::<usize>().ok()));
        Ok(limits.into_iter().flatten().min())
    }

    /// What the topic deletes by itself. Needs the same right; none: the broker says that it is missing.
    pub async fn retention(&self) -> Result<Option<Retention>, KafkaError> {
        let Some(settings) = describe(&self.admin, &self.topic).await? else {
            return Ok(None);
        };
        let number = |name: &str| value(&settings, name).and_then(|v| v.parse::<i64>().ok());
        let policy = value(&settings, "cleanup.policy").unwrap_or("delete");
        let deletes = policy.contains("delete");
        Ok(Some(Retention {
            kept_for: number("retention.ms")
                .filter(|ms| deletes && *ms >= 0)
                .and_then(TimeDelta::try_milliseconds),
            by_size: deletes && number("retention.bytes").is_some_and(|bytes| bytes >= 0),
            compacted: policy.contains("compact"),
        }))
    }

    /// The cluster's id. Blocks for up to five seconds; none when no broker answered.
    pub fn cluster_id(&self) -> Option<String> {
        self.admin.inner().fetch_cluster_id(CALL_TIMEOUT)
    }

    /// Reads the limit now and then, for as long as the program runs. While it cannot be read, the last
    /// known one stays.
    pub async fn keep_limit_fresh(self, limit: RecordLimit, cancel: CancellationToken) {
        let mut complained = false;
        loop {
            let problem = match self.record_limit().await {
                Ok(Some(bytes)) => {
                    if limit.of_topic() != Some(bytes) {
                        tracing::info!(bytes, topic = self.topic, "the topic's record limit");
                    }
                    limit.set_of_topic(bytes);
                    None
                }
                Ok(None) => Some("there is no such topic, or the right DescribeConfigs on it is missing".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let (Some(error), false) = (&problem, complained) {
                tracing::warn!(
                    error,
                    topic = self.topic,
                    bytes = limit.get(),
                    "the topic's max.message.bytes cannot be read; using the last known limit"
                );
            }
            complained = problem.is_some();
            let wait = if complained { RETRY_EVERY } else { REFRESH_EVERY };
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    use super::*;

    fn settings(names: &[&str]) -> ConfigResource {
        let entry = |name: &&str| ConfigEntry {
            name: (*name).to_owned(),
            value: None,
            source: ConfigSource::Default,
            is_read_only: false,
            is_default: true,
            is_sensitive: false,
        };
        ConfigResource {
            specifier: OwnedResourceSpecifier::Topic("t".to_owned()),
            entries: names.iter().map(entry).collect(),
        }
    }

    #[test]
    fn only_a_missing_right_is_no_answer_and_every_other_error_stays_one() {
        use RDKafkaErrorCode as E;
        let answered = |answer| unless_denied(answer).map(|settings| settings.is_some());
        assert_eq!(answered(Ok(settings(&["retention.ms"]))), Ok(true));
        assert_eq!(answered(Ok(settings(&[]))), Ok(false));
        for code in [E::TopicAuthorizationFailed, E::ClusterAuthorizationFailed] {
            assert_eq!(answered(Err(KafkaError::AdminOp(code))), Ok(false), "{code:?}");
        }
        for code in [
            E::OperationTimedOut,
            E::RequestTimedOut,
            E::AllBrokersDown,
            E::BrokerTransportFailure,
            E::NotController,
            E::UnknownTopicOrPartition,
            E::SaslAuthenticationFailed,
        ] {
            let error = KafkaError::AdminOp(code);
            assert_eq!(answered(Err(error.clone())), Err(error));
        }
        assert_eq!(answered(Err(KafkaError::Canceled)), Err(KafkaError::Canceled));
    }
}
