//! Every setting: type and meaning. Defaults, units and ranges stand in `config/default.toml`, which is
//! compiled in; `settings` lays the sources over each other, `value` says what a text means.

mod document;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kafka_properties;
mod names;
mod redact;
mod settings;
#[cfg(test)]
mod tests;
mod value;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

pub use settings::{Origin, Settings, Sources};

/// The whole configuration, checked. [`Config::load`] is the only way to one.
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
    settings: Settings,
}

impl Config {
    /// Lays the sources over each other and checks every value.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first: unknown names, then values that cannot be used.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        value::read(Settings::gather(sources)?)
    }

    /// What each key's text was and where it came from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is allowed but probably not meant.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Err(error) = self.auth.keys() {
            notes.push(format!("`serve` with the API refuses to start: {error}"));
        }
        if let Some(url) = &self.auth.jwks_url
            && url.starts_with("http:")
        {
            notes.push("auth.jwks_url is not https: who can change the answer on its way can sign tokens".to_owned());
        }
        if !self.admin.listen.ip().is_loopback() {
            notes.push(format!(
                "admin.listen {} can be reached from other machines: keep it off public networks",
                self.admin.listen
            ));
        }
        notes
    }
}

/// Everything that is wrong with a configuration, one problem a line.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong with a configuration. Values of secrets are in none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No setting has this name.
    #[error("unknown key {written} (from {origin}){}", did_you_mean(.suggestion.as_deref()))]
    UnknownKey {
        /// As the operator wrote it.
        written: String,
        /// Where.
        origin: Origin,
        /// The most similar name.
        suggestion: Option<String>,
    },
    /// The value does not fit the key.
    #[error("{key} = {shown:?} (from {origin}) cannot be used: {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value; a secret hidden.
        shown: String,
        /// Where.
        origin: Origin,
        /// Which values are accepted, or why this one is not.
        expected: String,
    },
    /// A source cannot be read, or contradicts itself.
    #[error("{origin}: {message}")]
    Source {
        /// Which.
        origin: Origin,
        /// Why.
        message: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |suggestion| format!(": did you mean {suggestion}?"))
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
    /// `http.max_header_bytes`: of all headers together; the request line does not count.
    pub max_header_bytes: usize,
    /// `http.max_body_bytes`.
    pub max_body_bytes: usize,
    /// `http.rate_limit`: requests a second a user; `None`: off.
    pub rate_limit: Option<u32>,
}

/// The operators' listener: console, admin API, metrics, health, API page.
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
    /// `database.max_connections`: the pool of reads (status) and of what replays write; health, intake, relay, results
    /// and console have their own.
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

/// Where the keys are that verify tokens.
#[derive(Debug, Clone)]
pub enum AuthKeys {
    /// HS256, with this secret.
    Secret(SecretString),
    /// RS256, ES256 and EdDSA, with the key set in this file.
    File(PathBuf),
    /// The same, fetched from this address.
    Url(String),
}

/// Not exactly one source of keys is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthKeysError {
    /// None.
    #[error("no key for tokens: set one of auth.jwt_secret, auth.jwks_file and auth.jwks_url")]
    None,
    /// Two or three: which of them counts would be a guess.
    #[error("too many keys for tokens: set only one of auth.jwt_secret, auth.jwks_file and auth.jwks_url")]
    Several,
}

impl Auth {
    /// The one source of keys. Checked by those who need it: a relay alone verifies no tokens.
    pub fn keys(&self) -> Result<AuthKeys, AuthKeysError> {
        match (&self.jwt_secret, &self.jwks_file, &self.jwks_url) {
            (Some(secret), None, None) => Ok(AuthKeys::Secret(secret.clone())),
            (None, Some(path), None) => Ok(AuthKeys::File(path.clone())),
            (None, None, Some(url)) => Ok(AuthKeys::Url(url.clone())),
            (None, None, None) => Err(AuthKeysError::None),
            _ => Err(AuthKeysError::Several),
        }
    }
}

/// Jobs.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// `jobs.ttl`: of the Redis key.
    pub ttl: Duration,
    /// `jobs.retention`: how long settled jobs and their results are kept at least, and never shorter than `outbox.retention`
    /// and `idempotency.retention`.
    pub retention: Duration,
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
    /// `outbox.partition_rows`: ids in one partition of `outbox_messages` at least.
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
    /// `relay.window`: records handed over and not yet in a committed checkpoint; in exactly-once mode, of one transaction.
    pub window: usize,
}

/// `relay.delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Repeats are possible after a kill, at most `relay.window`.
    AtLeastOnce,
    /// Kafka transactions: consumers that read committed see no repeat.
    ExactlyOnce,
}

impl Delivery {
    /// As it is written in the configuration and in the checkpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
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
    /// `log.format`.
    pub format: LogFormat,
    /// `log.filter`: in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One line an event, for people.
    Pretty,
}
