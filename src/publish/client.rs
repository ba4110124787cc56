//! What every Kafka client of the program has in common.

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use secrecy::ExposeSecret;

use crate::config;

/// The settings that every client starts from: where the brokers are and how to speak to them
/// (`kafka.properties`, which may hold secrets).
pub fn base_config(kafka: &config::Kafka) -> ClientConfig {
    let mut c = ClientConfig::new();
    // Whatever our own filter: that a broker hangs up, and why, is said at this level only.
    c.set_log_level(RDKafkaLogLevel::Info)
        .set("client.id", "image-job-dispatcher")
        .set("enable.metrics.push", "false")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "100")
        // A broker that is back is found within two seconds.
        .set("reconnect.backoff.max.ms", "2000");
    for (key, value) in &kafka.properties {
        c.set(key, value.expose_secret());
    }
    c.set("bootstrap.servers", &kafka.brokers);
    // A topic comes into being on purpose, with the partitions that it needs. A producer would ask for it.
    c.set("allow.auto.create.topics", "false");
    c
}
