//! The three servers of `start-dev`.

use std::path::Path;

use anyhow::{Context, Result};
use sqlx::{Connection, Executor, PgConnection};

use super::progress::Progress;
use crate::{
    config::Kafka,
    dev_stack::{Home, KafkaBroker, KafkaLibs, MockBroker, Postgres, RedisServer, create_topic},
};

const PARTITIONS: i32 = 6;
const DATABASE: &str = "image_job_dispatcher";
/// Beside a broker that forgets: a log that remembers would send what comes to the wrong place.
const DATABASE_OF_MOCK: &str = "image_job_dispatcher_without_kafka";

/// What `doctor` advises.
const POSTGRES: &[(&str, &str)] = &[("min_wal_size", "1GB"), ("max_wal_size", "4GB")];

/// Running.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) postgres: Postgres,
    pub(super) redis: RedisServer,
    pub(super) kafka: Broker,
}

/// A broker, or what stands in for it where there is no Java.
#[derive(Debug)]
pub(super) enum Broker {
    Real(KafkaBroker),
    Mock(MockBroker),
}

impl Servers {
    /// Starts all three at the same time.
    pub(super) async fn start(home: &Home, dir: &Path, progress: &Progress) -> Result<Self> {
        let postgres = async {
            let step = progress.step("PostgreSQL");
            let postgres = Postgres::start(home, POSTGRES).await?;
            step.done(&format!("PostgreSQL on 127.0.0.1:{}", postgres.port()));
            anyhow::Ok(postgres)
        };
        let redis = async {
            let step = progress.step("Redis");
            let redis = RedisServer::start(home).await?;
            step.done(&format!("Redis on 127.0.0.1:{}", redis.port()));
            anyhow::Ok(redis)
        };
        let (postgres, redis, kafka) = tokio::try_join!(postgres, redis, Broker::start(home, dir, progress))?;
        Ok(Self { postgres, redis, kafka })
    }

    /// The URL of the product's database, made when it is missing.
    pub(super) async fn database(&self) -> Result<String> {
        let mut conn = PgConnection::connect(&self.postgres.url("postgres")).await?;
        let name = match self.kafka {
            Broker::Real(_) => DATABASE,
            Broker::Mock(_) => {
                conn.execute(sqlx::AssertSqlSafe(format!(
                    "drop database if exists {DATABASE_OF_MOCK}"
                )))
                .await?;
                DATABASE_OF_MOCK
            }
        };
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(&mut conn)
            .await?;
        if !exists {
            conn.execute(sqlx::AssertSqlSafe(format!("create database {name}")))
                .await?;
        }
        Ok(self.postgres.url(name))
    }

    /// Makes the product's two topics, and the one where `content-worker` puts what it cannot read, when they
    /// are missing.
    pub(super) async fn create_topics(&self, kafka: &Kafka) -> Result<()> {
        if let Broker::Real(broker) = &self.kafka {
            for topic in [&kafka.topic, &kafka.result_topic, &format!("{}.dlq", kafka.topic)] {
                create_topic(&broker.bootstrap(), topic, PARTITIONS, &[]).await?;
            }
        }
        Ok(())
    }

    /// Stops them, in the order in which the data flows backwards.
    pub(super) async fn stop(&self, progress: &Progress) -> Result<()> {
        let step = progress.step("stopping Kafka, Redis and PostgreSQL");
        if let Broker::Real(broker) = &self.kafka {
            broker.stop().await?;
        }
        self.redis.stop().await?;
        self.postgres.stop().await?;
        step.done("Kafka, Redis and PostgreSQL have stopped");
        Ok(())
    }
}

impl Broker {
    async fn start(home: &Home, dir: &Path, progress: &Progress) -> Result<Self> {
        let step = progress.step("Apache Kafka");
        if !KafkaLibs::java_is_here().await {
            let config = crate::config::Config::load(&crate::config::Sources::default())?;
            let dead_letters = format!("{}.dlq", config.kafka.topic);
            let topics = vec![config.kafka.topic, config.kafka.result_topic, dead_letters];
            let mock = MockBroker::start(topics, PARTITIONS).await?;
            step.done("A STAND-IN FOR KAFKA inside this process: no Java 17 here (on Debian, `apt-get install default-jre-headless maven`)");
            return Ok(Self::Mock(mock));
        }
        let cache = dir.join("kafka-libs");
        if !KafkaLibs::are_here(&cache) {
            step.now("Apache Kafka: Maven fetches its jars, 43 MB, this once");
        }
        let libs = KafkaLibs::find(&cache).await?;
        step.now("Apache Kafka");
        let broker = KafkaBroker::start(home, &libs).await.context("Apache Kafka")?;
        step.done(&format!("Apache Kafka on {}", broker.bootstrap()));
        Ok(Self::Real(broker))
    }

    /// For clients.
    pub(super) fn bootstrap(&self) -> String {
        match self {
            Self::Real(broker) => broker.bootstrap(),
            Self::Mock(mock) => mock.bootstrap().to_owned(),
        }
    }
}
