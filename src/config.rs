//! Every setting: type, default, unit, range. The defaults themselves stand in `config/default.toml`,
//! which is compiled in.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each section's type says what it is")]
pub struct Config {
    pub replica: Replica,
    pub http: Http,
    pub admin: Admin,
    pub database: Database,
    pub redis: Redis,
    pub kafka: Kafka,
    pub auth: Auth,
    pub jobs: Jobs,
    pub intake: Intake,
    pub outbox: Outbox,
    pub relay: Relay,
    pub idempotency: Idempotency,
    pub shutdown: Shutdown,
    pub log: Log,
}

/// Who this process is.
#[derive(Debug, Clone)]
pub struct Replica {
    /// `replica.name`: shown as the leader's name; default the host name.
    pub name: String,
}

/// The public listener.
#[derive(Debug, Clone)]
pub struct Http {
    /// `http.listen`.
    pub listen: SocketAddr,
    /// `http.max_connections`: open connections at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// `http.header_timeout`: to receive a request's head.
    pub header_timeout: Duration,
    /// `http.body_timeout`: to receive a request's body.
    pub body_timeout: Duration,
    /// `http.max_header_bytes`.
    pub max_header_bytes: usize,
    /// `http.max_body_bytes`.
    pub max_body_bytes: usize,
    /// `http.rate_limit`: requests a second a user; `None`: off.
    pub rate_limit: Option<u32>,
}

/// The operators' listener: metrics, health, API page.
#[derive(Debug, Clone)]
pub struct Admin {
    /// `admin.listen`.
    pub listen: SocketAddr,
}

/// PostgreSQL.
#[derive(Debug, Clone)]
pub struct Database {
    /// `database.url`; a secret, for it may hold a password.
    pub url: SecretString,
    /// `database.max_connections`: the pool of reads (status, health); intake and relay have their own.
    pub max_connections: u32,
    /// `database.connect_timeout`.
    pub connect_timeout: Duration,
}

/// Redis.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `redis.url`; a secret, for it may hold a password.
    pub url: SecretString,
    /// `redis.budget`: what an accepting batch spends on Redis at most.
    pub budget: Duration,
}

/// Kafka.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// `kafka.brokers`: bootstrap servers, `host:port` separated by commas.
    pub brokers: String,
    /// `kafka.topic`.
    pub topic: String,
    /// `kafka.result_topic`.
    pub result_topic: String,
    /// `kafka.max_message_bytes`: the limit of a record while the topic's own cannot be read.
    pub max_message_bytes: usize,
    /// `kafka.properties.*`: any librdkafka setting that the guarantee does not rest on.
    pub properties: BTreeMap<String, SecretString>,
}

/// Who may call.
#[derive(Debug, Clone)]
pub struct Auth {
    /// `auth.jwt_secret`: HS256.
    pub jwt_secret: Option<SecretString>,
    /// `auth.jwks_file`: RS256, ES256, EdDSA.
    pub jwks_file: Option<PathBuf>,
    /// `auth.jwks_url`: the same, fetched.
    pub jwks_url: Option<String>,
    /// `auth.jwks_refresh`: how often file or URL is read again.
    pub jwks_refresh: Duration,
    /// `auth.issuer`: `iss` must equal it.
    pub issuer: Option<String>,
    /// `auth.audience`: `aud` must contain it.
    pub audience: Option<String>,
}

/// Jobs.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// `jobs.ttl`: of the Redis key.
    pub ttl: Duration,
}

/// The gatherer of requests.
#[derive(Debug, Clone)]
pub struct Intake {
    /// `intake.queue`: requests that may wait; more get 503.
    pub queue: usize,
    /// `intake.batch`: requests that share one transaction.
    pub batch: usize,
}

/// The log.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// `outbox.partition_rows`: ids in one partition of `outbox_messages`.
    pub partition_rows: i64,
    /// `outbox.retention`: how long settled partitions are kept at least.
    pub retention: Duration,
}

/// The relay.
#[derive(Debug, Clone)]
pub struct Relay {
    /// `relay.lease`.
    pub lease: Duration,
    /// `relay.delivery`.
    pub delivery: Delivery,
    /// `relay.window`: records handed over and not yet in a committed checkpoint.
    pub window: usize,
}

/// `relay.delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Repeats are possible after a kill, at most `relay.window`.
    AtLeastOnce,
}

impl Delivery {
    /// As it is written in the configuration and in the checkpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

/// Idempotency keys.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// `idempotency.retention`.
    pub retention: Duration,
}

/// Stopping.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// `shutdown.budget`: from SIGTERM to the end of the process.
    pub budget: Duration,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct Log {
    /// `log.format`: `json` or `pretty`.
    pub json: bool,
    /// `log.filter`: in the syntax of `RUST_LOG`.
    pub filter: String,
}
