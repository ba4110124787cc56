//! Publishing: what Kafka is told, and what its answers mean.

pub mod advice;
pub mod client;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod kafka;
pub mod probe;
pub mod reader;
pub mod tail;
pub mod topic;
pub mod visibility;

use rdkafka::types::RDKafkaErrorCode;

/// What a refusal means for the message and for the relay. The type says what to do; there is no flag
/// "retryable".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// This very record will never be taken, if it was refused *alone*: a broker refuses whole batches.
    Record(&'static str),
    /// Nothing is wrong with the record: broker down, no leader, ACL, missing topic. Never counted against it.
    Outage,
    /// It may or may not be in the log: purged, or the producer has died.
    Unknown,
}

/// Sorts Kafka's error codes. What is not known to be the record's own fault is an outage: an outage costs
/// time, a wrong dead letter costs a message.
pub fn classify(code: RDKafkaErrorCode) -> FailureClass {
    use RDKafkaErrorCode as E;
    match code {
        // The second is said of a batch larger than `segment.bytes`, which may be smaller than `max.message.bytes`.
        E::MessageSizeTooLarge | E::MessageBatchTooLarge => FailureClass::Record("message-too-large"),
        E::InvalidRecord => FailureClass::Record("invalid-record"),
        E::PurgeQueue | E::PurgeInflight | E::MessageTimedOut | E::Fatal | E::OutOfOrderSequenceNumber => {
            FailureClass::Unknown
        }
        _ => FailureClass::Outage,
    }
}

/// The class as metrics and logs name it.
impl FailureClass {
    /// One of a fixed, small set of words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record(class) => class,
            Self::Outage => "outage",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_records_own_fault_can_kill_it() {
        use RDKafkaErrorCode as E;
        for code in [
            E::TopicAuthorizationFailed,
            E::UnknownTopicOrPartition,
            E::UnknownTopic,
            E::NotEnoughReplicas,
            E::NotEnoughReplicasAfterAppend,
            E::BrokerTransportFailure,
            E::AllBrokersDown,
            E::Authentication,
            E::ClusterAuthorizationFailed,
            E::KafkaStorageError,
        ] {
            assert_eq!(classify(code), FailureClass::Outage, "{code:?}");
        }
        // Above the topic's max.message.bytes, and above its segment.bytes.
        for code in [E::MessageSizeTooLarge, E::MessageBatchTooLarge] {
            assert_eq!(classify(code), FailureClass::Record("message-too-large"), "{code:?}");
        }
        assert_eq!(classify(E::PurgeInflight), FailureClass::Unknown);
    }
}
