//! What the texts mean: types, ranges, forms. `config/default.toml` states the same ranges in prose.

use std::{
    collections::BTreeMap, fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr,
    time::Duration,
};

use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

use super::{
    Admin, Auth, Config, ConfigError, Database, Delivery, Http, Idempotency, Intake, Jobs, Kafka, Log, LogFormat,
    Outbox, Problem, Redis, Relay, Replica, Settings, Shutdown,
    kafka_properties::{self, PREFIX, PropertyError},
    redact,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// As humantime counts it.
const YEAR: Duration = Duration::from_hours(8766);

/// The shortest HS256 secret in bytes: RFC 7518 asks for the hash's length.
const MIN_SECRET_BYTES: usize = 32;

/// Reads every setting.
pub(super) fn read(settings: Settings) -> Result<Config, ConfigError> {
    let mut r = Reader {
        settings: &settings,
        problems: Vec::new(),
    };
    let replica = Replica {
        name: r.value("replica.name", replica_name),
    };
    let http = Http {
        listen: r.value("http.listen", address),
        max_connections: r.value("http.max_connections", number(1..=1_000_000)),
        header_timeout: r.value("http.header_timeout", duration(SECOND / 10..=10 * MINUTE)),
        body_timeout: r.value("http.body_timeout", duration(SECOND / 10..=HOUR)),
        max_header_bytes: r.value("http.max_header_bytes", number(8192..=1_048_576)),
        max_body_bytes: r.value("http.max_body_bytes", number(0..=104_857_600)),
        rate_limit: Some(r.value("http.rate_limit", number(0..=1_000_000))).filter(|&limit| limit > 0),
    };
    let admin = Admin {
        listen: r.value("admin.listen", address),
    };
    let database = Database {
        url: r.value("database.url", postgres_url),
        max_connections: r.value("database.max_connections", number(1..=1000)),
        connect_timeout: r.value("database.connect_timeout", duration(SECOND / 10..=5 * MINUTE)),
    };
    let redis = Redis {
        url: r.value("redis.url", redis_url),
        budget: r.value("redis.budget", duration(SECOND / 1000..=10 * SECOND)),
    };
    let kafka = Kafka {
        brokers: r.value("kafka.brokers", brokers),
        topic: r.value("kafka.topic", topic),
        result_topic: r.value("kafka.result_topic", topic),
        max_message_bytes: r.value("kafka.max_message_bytes", number(1000..=1_000_000_000)),
        properties: r.kafka_properties(),
    };
    let auth = Auth {
        jwt_secret: r.value("auth.jwt_secret", jwt_secret),
        jwks_file: r.value("auth.jwks_file", optional(|text| Ok(PathBuf::from(text)))),
        jwks_url: r.value("auth.jwks_url", optional(web_address)),
        jwks_refresh: r.value("auth.jwks_refresh", duration(SECOND..=DAY)),
        issuer: r.value("auth.issuer", optional(|text| Ok(text.to_owned()))),
        audience: r.value("auth.audience", optional(|text| Ok(text.to_owned()))),
    };
    let jobs = Jobs {
        ttl: r.value("jobs.ttl", duration(SECOND..=30 * DAY)),
        retention: r.value("jobs.retention", duration(MINUTE..=YEAR)),
    };
    let intake = Intake {
        queue: r.value("intake.queue", number(1..=1_000_000)),
        batch: r.value("intake.batch", number(1..=1000)),
    };
    let outbox = Outbox {
        partition_rows: r.value("outbox.partition_rows", number(1000..=1_000_000_000)),
        retention: r.value("outbox.retention", duration(MINUTE..=10 * YEAR)),
    };
    let relay = Relay {
        lease: r.value("relay.lease", duration(SECOND..=MINUTE)),
        delivery: r.value("relay.delivery", delivery),
        window: r.value("relay.window", number(1..=1_000_000)),
    };
    let idempotency = Idempotency {
        retention: r.value("idempotency.retention", duration(MINUTE..=YEAR)),
    };
    let shutdown = Shutdown {
        budget: r.value("shutdown.budget", duration(SECOND..=HOUR)),
    };
    let log = Log {
        format: r.value("log.format", log_format),
        filter: r.value("log.filter", log_filter),
    };
    if http.listen == admin.listen && http.listen.port() != 0 {
        r.refuse("admin.listen", "it must differ from http.listen".to_owned());
    }
    if kafka.topic == kafka.result_topic {
        r.refuse("kafka.result_topic", "it must differ from kafka.topic".to_owned());
    }
    if !r.problems.is_empty() {
        return Err(ConfigError(r.problems));
    }
    Ok(Config {
        replica,
        http,
        admin,
        database,
        redis,
        kafka,
        auth,
        jobs,
        intake,
        outbox,
        relay,
        idempotency,
        shutdown,
        log,
        settings,
    })
}

/// Reads on after a bad value, so that one run names all of them.
struct Reader<'a> {
    settings: &'a Settings,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The key's value; its default, after noting the problem, when `parse` refuses it with what it expects.
    fn value<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        match parse(&self.settings.get(key).value) {
            Ok(value) => value,
            Err(expected) => {
                self.refuse(key, expected);
                parse(&super::names::KEYS[key]).expect("a test reads every default")
            }
        }
    }

    fn refuse(&mut self, key: &str, expected: String) {
        let setting = self.settings.get(key);
        self.problems.push(Problem::BadValue {
            key: key.to_owned(),
            shown: redact::shown(key, &setting.value),
            origin: setting.origin.clone(),
            expected,
        });
    }

    fn kafka_properties(&mut self) -> BTreeMap<String, SecretString> {
        let mut properties = BTreeMap::new();
        for (name, setting) in self.settings.kafka_properties() {
            let key = format!("{PREFIX}.{name}");
            let expected = match kafka_properties::check(name, &setting.value) {
                Ok(()) => {
                    properties.insert(name.to_owned(), SecretString::from(setting.value.clone()));
                    continue;
                }
                Err(PropertyError::Unknown(message)) => {
                    format!("librdkafka has no such producer setting ({message})")
                }
                Err(PropertyError::Refused(why)) => why.to_owned(),
                Err(PropertyError::BadValue(_)) if redact::is_secret(&key) => {
                    "librdkafka does not take this value".to_owned()
                }
                Err(PropertyError::BadValue(message)) => message,
            };
            self.problems.push(Problem::BadValue {
                shown: redact::shown(&key, &setting.value),
                key,
                origin: setting.origin.clone(),
                expected,
            });
        }
        properties
    }
}

fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let value = text.parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| format!("give a whole number from {} to {}", range.start(), range.end()))
    }
}

fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let value = humantime::parse_duration(text)
            .ok()
            .filter(|value| range.contains(value));
        value.ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            let [from, to] = [from, to].map(|d| humantime::format_duration(*d).to_string());
            format!("give a duration with its unit, from {from} to {to}")
        })
    }
}

/// Empty text means none.
fn optional<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| {
        if text.is_empty() {
            Ok(None)
        } else {
            parse(text).map(Some)
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "give IP:PORT, such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned())
}

fn replica_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        let host = nix::unistd::gethostname().map_err(|error| format!("the host name cannot be read: {error}"))?;
        return Ok(host.to_string_lossy().into_owned());
    }
    if text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err("give at most 200 characters, none of them a control character".to_owned());
    }
    Ok(text.to_owned())
}

fn postgres_url(text: &str) -> Result<SecretString, String> {
    let form = "give postgres://USER:PASSWORD@HOST:PORT/NAME, special characters of the password as %XX";
    let known_scheme = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if !known_scheme || text.parse::<sqlx::postgres::PgConnectOptions>().is_err() {
        return Err(form.to_owned());
    }
    Ok(SecretString::from(text))
}

fn redis_url(text: &str) -> Result<SecretString, String> {
    match redis::Client::open(text) {
        Ok(_) => Ok(SecretString::from(text)),
        Err(_) => Err("give redis://USER:PASSWORD@HOST:PORT/DB, or rediss:// for TLS".to_owned()),
    }
}

fn web_address(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(text.to_owned()),
        _ => Err("give an address that begins with https:// or http://".to_owned()),
    }
}

fn brokers(text: &str) -> Result<String, String> {
    let is_broker = |broker: &str| match broker.rsplit_once(':') {
        Some((host, port)) => {
            let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
            plain && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    };
    if text.split(',').all(|broker| is_broker(broker.trim())) {
        Ok(text.to_owned())
    } else {
        Err("give HOST:PORT, several separated by commas".to_owned())
    }
}

fn topic(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=249).contains(&text.len()) && text.chars().all(legal) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        Err("a topic's name has 1 to 249 of the characters A-Z a-z 0-9 . _ -".to_owned())
    }
}

fn jwt_secret(text: &str) -> Result<Option<SecretString>, String> {
    match text.len() {
        0 => Ok(None),
        MIN_SECRET_BYTES.. => Ok(Some(SecretString::from(text))),
        bytes => Err(format!(
            "it has {bytes} bytes, and HS256 needs {MIN_SECRET_BYTES} or more: try `openssl rand -hex 32`"
        )),
    }
}

fn delivery(text: &str) -> Result<Delivery, String> {
    match text {
        "at-least-once" => Ok(Delivery::AtLeastOnce),
        "exactly-once" => Ok(Delivery::ExactlyOnce),
        _ => Err("give at-least-once or exactly-once".to_owned()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "pretty" => Ok(LogFormat::Pretty),
        _ => Err("give json or pretty".to_owned()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; give a level, or directives such as \"info,sqlx=warn\""
        )),
    }
}
