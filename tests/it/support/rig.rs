//! The servers that all tests of this binary share.

use std::path::Path;

use image_job_dispatcher::dev_stack::{Home, KafkaBroker, KafkaLibs, Postgres, RedisServer, Security};
use tokio::sync::OnceCell;

/// The three servers.
#[derive(Debug)]
pub struct Servers {
    pub postgres: Postgres,
    pub redis: RedisServer,
    pub kafka: KafkaBroker,
}

/// Settings of PostgreSQL in tests: durable as in production, with room for prepared transactions.
const POSTGRES: &[(&str, &str)] = &[("max_prepared_transactions", "10")];

impl Servers {
    /// Starts new ones, at the same time. They go when this value does.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts new ones; the broker has listeners with TLS and with a login besides.
    pub async fn start_secured(security: &Security) -> Self {
        Self::start_with(Some(security)).await
    }

    async fn start_with(security: Option<&Security>) -> Self {
        let home = Home::temporary().expect("a home for the servers");
        let (postgres, redis, kafka) =
            tokio::join!(Postgres::start(&home, POSTGRES), RedisServer::start(&home), async {
                let libs = kafka_libs().await;
                match security {
                    Some(security) => KafkaBroker::start_secured(&home, &libs, security).await,
                    None => KafkaBroker::start(&home, &libs).await,
                }
            });
        Self {
            postgres: postgres.expect("PostgreSQL starts"),
            redis: redis.expect("Redis starts"),
            kafka: kafka.expect("Kafka starts"),
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
