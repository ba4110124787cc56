//! The servers that all tests of this binary share.

use std::path::Path;

use image_job_dispatcher::dev_stack::{Beside, Home, KafkaBroker, KafkaLibs, Postgres, RedisServer};
use tokio::sync::OnceCell;

/// The three servers.
#[derive(Debug)]
pub struct Servers {
    pub postgres: Postgres,
    pub redis: RedisServer,
    pub kafka: KafkaBroker,
    /// The name of a migrated database, to be copied.
    pub template: OnceCell<&'static str>,
}

/// Settings of PostgreSQL in tests: durable as in production, with room for prepared transactions.
const POSTGRES: &[(&str, &str)] = &[("max_prepared_transactions", "10")];

impl Servers {
    /// Starts new ones, at the same time. They go when this value does.
    pub async fn start() -> Self {
        Self::start_with(&Beside::default()).await
    }

    /// Starts new ones; the broker has more listeners.
    pub async fn start_with(beside: &Beside) -> Self {
        let home = Home::temporary().expect("a home for the servers");
        let (postgres, redis, kafka) =
            tokio::join!(Postgres::start(&home, POSTGRES), RedisServer::start(&home), async {
                let libs = kafka_libs().await;
                KafkaBroker::start_with(&home, &libs, beside).await
            });
        Self {
            postgres: postgres.expect("PostgreSQL starts"),
            redis: redis.expect("Redis starts"),
            kafka: kafka.expect("Kafka starts"),
            template: OnceCell::new(),
        }
    }
}

/// The shared servers, started by the test that comes first. They die with this process.
pub async fn shared() -> &'static Servers {
    static SHARED: OnceCell<Servers> = OnceCell::const_new();
    SHARED.get_or_init(Servers::start).await
}

/// Kafka's jars, in the same place as those of `start-dev`.
pub async fn kafka_libs() -> KafkaLibs {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".dev/kafka-libs");
    KafkaLibs::find(&cache).await.expect("tests need a real Kafka")
}
