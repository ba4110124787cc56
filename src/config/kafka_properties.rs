//! `kafka.properties.*`: librdkafka's own settings, but for those that the guarantee rests on.

use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaConfRes};

/// What stands before a property's name.
pub(super) const PREFIX: &str = "kafka.properties";

/// The property that a key names.
pub(super) fn name(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)?
        .strip_prefix('.')
        .filter(|name| !name.is_empty())
}

/// Why a property cannot be set, its aliases and topic-level names included.
fn why_refused(property: &str) -> Option<&'static str> {
    Some(match property {
        "acks" | "request.required.acks" => "acks=all is fixed: a record that one broker alone has can be lost with it",
        "enable.idempotence" => "true is fixed: without it a retry of the client repeats and reorders records",
        "enable.gapless.guarantee" => "false is fixed: librdkafka calls it experimental",
        "partitioner" | "partitioner_cb" => {
            "murmur2_random is fixed: Java and Rust must agree in which partition a key lives"
        }
        "message.timeout.ms" | "delivery.timeout.ms" => {
            "it is fixed: a record that is given up after a time may be in the log all the same, and order is lost"
        }
        "max.in.flight" | "max.in.flight.requests.per.connection" => {
            "5 is fixed: an idempotent producer keeps order up to that many"
        }
        "retries" | "message.send.max.retries" => "it is fixed: an outage is waited out, however long",
        "queuing.strategy" => "fifo is fixed: lifo turns the order round",
        "transactional.id" => "it is made from the topic and the installation's id",
        "delivery.report.only.error" => "false is fixed: every record's report is its receipt",
        // Two names of one setting are set in no order.
        "queue.buffering.max.ms" => "set kafka.properties.linger.ms, of which it is another name",
        "message.max.bytes" => "set kafka.max_message_bytes: accepting and publishing must use one limit",
        "bootstrap.servers" | "metadata.broker.list" => "set kafka.brokers",
        _ => return None,
    })
}

/// Asks librdkafka itself whether it knows the property and takes the value; nothing is connected.
pub(super) fn check(property: &str, value: &str) -> Result<(), PropertyError> {
    if let Some(why) = why_refused(property) {
        return Err(PropertyError::Refused(why));
    }
    let mut config = ClientConfig::new();
    config.set(property, value);
    match config.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, message, ..)) => {
            // Also said of a property that this build lacks: the message tells the two apart.
            Err(PropertyError::Unknown(message))
        }
        Err(KafkaError::ClientConfig(_, message, ..)) => Err(PropertyError::BadValue(message)),
        Err(error) => Err(PropertyError::BadValue(error.to_string())),
    }
}

/// What is wrong with a property.
pub(super) enum PropertyError {
    /// The guarantee rests on it; why.
    Refused(&'static str),
    /// librdkafka has none of this name; in its words.
    Unknown(String),
    /// In librdkafka's words, which may repeat the value.
    BadValue(String),
}
