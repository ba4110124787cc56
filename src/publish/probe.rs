//! Whether Kafka answers, asked again and again: for the console.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext,
    admin::AdminClient,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    metadata::MetadataTopic,
};

use super::{
    advice::{Complaints, advise},
    client::base_config,
};
use crate::config;

/// For one answer of the brokers.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that only asks. Cloning is cheap.
#[derive(Clone)]
pub struct BrokerProbe {
    admin: Arc<AdminClient<Listening>>,
    complaints: Arc<Complaints>,
    topic: Arc<str>,
}

/// Keeps what the client complains of: a call itself only times out.
struct Listening(Arc<Complaints>);

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // Not logged: the relay's clients say the same, and once.
        if facility == "FAIL" || (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.0.note(line);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&format!("{error}: {reason}"));
    }
}

impl BrokerProbe {
    /// # Errors
    /// When a setting in `kafka.properties` is refused by librdkafka.
    pub fn new(kafka: &config::Kafka) -> Result<Self, KafkaError> {
        let complaints = Arc::<Complaints>::default();
        let admin = AdminClient::from_config_and_context(&base_config(kafka), Listening(Arc::clone(&complaints)))?;
        Ok(Self {
            admin: Arc::new(admin),
            complaints,
            topic: kafka.topic.as_str().into(),
        })
    }

    /// Asks once, within two seconds: a broker answers, and has the topic.
    ///
    /// # Errors
    /// What is wrong, for people, with what to do where that is known.
    pub async fn ask(&self) -> Result<(), String> {
        let probe = self.clone();
        tokio::task::spawn_blocking(move || probe.ask_blocking())
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
    }

    fn ask_blocking(&self) -> Result<(), String> {
        match self.admin.inner().fetch_metadata(Some(&self.topic), CALL_TIMEOUT) {
            Ok(metadata) => {
                self.complaints.forget();
                match metadata.topics().first().and_then(MetadataTopic::error) {
                    Some(error) => Err(format!("topic {}: {error:?}", self.topic)),
                    None => Ok(()),
                }
            }
            Err(error) => {
                let said = self.complaints.newest().unwrap_or_else(|| error.to_string());
                Err(match advise(&said) {
                    Some(advice) => format!("{said}; {advice}"),
                    None => said,
                })
            }
        }
    }
}
