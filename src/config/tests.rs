//! What a configuration is made from, and what is wrong with it, in words.

use std::{collections::BTreeMap, ffi::OsString, io::Write, path::PathBuf, time::Duration};

use secrecy::ExposeSecret;

use super::{
    AuthKeys, AuthKeysError, Config, ConfigError, Delivery, LogFormat, Origin, Problem, Sources,
    names::{self, KEYS},
    redact,
};

mod any_key;
mod contexts;

fn env(variables: &[(&str, &str)]) -> Sources {
    Sources {
        environment: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    }
}

fn file(text: &str) -> (Sources, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    };
    (sources, file)
}

fn problems(sources: &Sources) -> Vec<Problem> {
    match Config::load(sources) {
        Ok(_) => Vec::new(),
        Err(ConfigError(problems)) => problems,
    }
}

/// The one thing that is wrong, in words.
fn problem(sources: &Sources) -> String {
    let problems = problems(sources);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

fn shown(config: &Config, key: &str) -> (String, Origin) {
    let mut all = config.settings().iter();
    let (_, value, origin) = all.find(|(name, ..)| *name == key).unwrap();
    (value, origin.clone())
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = Config::load(&Sources::default()).unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.kafka.topic, "image-job-topic");
    assert_eq!(config.kafka.result_topic, "image-job-result-topic");
    assert_eq!(config.jobs.ttl, Duration::from_hours(1));
    assert_eq!(config.relay.lease, Duration::from_secs(5));
    assert_eq!(config.relay.delivery, Delivery::AtLeastOnce);
    assert_eq!(config.relay.window, 16_384);
    assert_eq!(config.idempotency.retention, Duration::from_hours(24));
    assert_eq!(config.shutdown.budget, Duration::from_secs(25));
    assert_eq!(config.http.rate_limit, None);
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(!config.replica.name.is_empty(), "the host name");
    assert_eq!(config.auth.keys().unwrap_err(), AuthKeysError::None);
    assert!(config.kafka.properties.is_empty());
}

#[test]
fn every_key_is_explained_in_the_defaults() {
    let mut explained = false;
    for line in names::DEFAULTS.lines() {
        match line.trim_start().chars().next() {
            Some('#') => explained = true,
            Some('[') | None => explained = false,
            Some(_) => {
                assert!(explained, "no comment above: {line}");
                explained = false;
            }
        }
    }
}

#[test]
fn the_default_file_is_a_template_that_changes_nothing() {
    let (sources, _file) = file(names::DEFAULTS);
    let (config, defaults) = (
        Config::load(&sources).unwrap(),
        Config::load(&Sources::default()).unwrap(),
    );
    let values = |config: &Config| -> Vec<(String, String)> {
        let rows = config.settings().iter();
        rows.map(|(key, value, _)| (key.to_owned(), value)).collect()
    };
    assert_eq!(values(&config), values(&defaults));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let (mut sources, file) = file("[relay]\nlease = \"2s\"\nwindow = 2\n[jobs]\nttl = \"2s\"\n");
    sources.environment = env(&[("DISPATCHER_RELAY__LEASE", "3s"), ("DISPATCHER_RELAY__WINDOW", "3")]).environment;
    let config = Config::load(&sources.with("relay.lease", "9s").with("relay.lease", "4s")).unwrap();
    assert_eq!(config.relay.lease, Duration::from_secs(4));
    assert_eq!(config.relay.window, 3);
    assert_eq!(config.jobs.ttl, Duration::from_secs(2));
    assert_eq!(shown(&config, "relay.lease"), ("4s".to_owned(), Origin::Flag("--set")));
    let variable = Origin::Environment("DISPATCHER_RELAY__WINDOW".to_owned());
    assert_eq!(shown(&config, "relay.window"), ("3".to_owned(), variable));
    let line = Origin::File {
        path: file.path().to_owned(),
        line: Some(5),
    };
    assert_eq!(shown(&config, "jobs.ttl"), ("2s".to_owned(), line));
    assert_eq!(
        shown(&config, "jobs.ttl").1.to_string(),
        format!("{}:5", file.path().display())
    );
    assert_eq!(shown(&config, "shutdown.budget"), ("25s".to_owned(), Origin::Default));
}

#[test]
fn conventional_variables_work_and_ours_win_over_them() {
    let conventional = [
        ("DATABASE_URL", "postgres://db/a"),
        ("REDIS_URL", "redis://cache:1/0"),
        ("KAFKA_BROKERS", "k1:9092,k2:9092"),
    ];
    let config = Config::load(&env(&conventional)).unwrap();
    assert_eq!(config.database.url.expose_secret(), "postgres://db/a");
    assert_eq!(config.redis.url.expose_secret(), "redis://cache:1/0");
    assert_eq!(config.kafka.brokers, "k1:9092,k2:9092");
    for ours_first in [false, true] {
        let mut both = vec![
            ("DATABASE_URL", "postgres://db/a"),
            ("DISPATCHER_DATABASE__URL", "postgres://db/b"),
        ];
        if ours_first {
            both.reverse();
        }
        let config = Config::load(&env(&both)).unwrap();
        assert_eq!(config.database.url.expose_secret(), "postgres://db/b");
    }
}

#[test]
fn secrets_are_read_from_files_without_their_last_newline() {
    let secret = "x".repeat(32);
    for (written, read) in [
        (format!("{secret}\n"), secret.clone()),
        (format!("{secret}\r\n"), secret.clone()),
        (secret.clone(), secret.clone()),
        (format!("{secret}\n\n"), format!("{secret}\n")),
        (format!(" {secret} "), format!(" {secret} ")),
    ] {
        let (_, file) = file(&written);
        let path = file.path().to_str().unwrap();
        let config = Config::load(&env(&[("DISPATCHER_AUTH__JWT_SECRET_FILE", path)])).unwrap();
        assert_eq!(config.auth.jwt_secret.as_ref().unwrap().expose_secret(), read);
        let (value, origin) = shown(&config, "auth.jwt_secret");
        assert_eq!(value, "***");
        assert!(matches!(origin, Origin::SecretFile { .. }));
    }
    let (_, url) = file("postgres://db/from_file\n");
    let path = url.path().to_str().unwrap();
    for name in ["DATABASE_URL_FILE", "DISPATCHER_DATABASE__URL_FILE"] {
        let config = Config::load(&env(&[(name, path)])).unwrap();
        assert_eq!(config.database.url.expose_secret(), "postgres://db/from_file");
    }
    let (_, password) = file("hunter2\n");
    let path = password.path().to_str().unwrap();
    let config = Config::load(&env(&[("DISPATCHER_KAFKA__PROPERTIES__SASL_PASSWORD_FILE", path)])).unwrap();
    assert_eq!(config.kafka.properties["sasl.password"].expose_secret(), "hunter2");
}

#[test]
fn a_secret_file_that_cannot_be_read_and_a_secret_given_twice_are_fatal() {
    let missing = problem(&env(&[("DISPATCHER_AUTH__JWT_SECRET_FILE", "/nowhere/secret")]));
    assert!(
        missing.contains("DISPATCHER_AUTH__JWT_SECRET_FILE") && missing.contains("/nowhere/secret"),
        "{missing}"
    );
    let (_, secret) = file(&"x".repeat(32));
    let twice = problem(&env(&[
        ("DISPATCHER_AUTH__JWT_SECRET", &"y".repeat(32)),
        ("DISPATCHER_AUTH__JWT_SECRET_FILE", secret.path().to_str().unwrap()),
    ]));
    assert!(twice.contains("with and without _FILE"), "{twice}");
    // Only secrets: a typo must not read files.
    assert!(problem(&env(&[("DISPATCHER_RELAY__LEASE_FILE", "/etc/hostname")])).contains("DISPATCHER_RELAY__LEASE"));
}

#[test]
fn a_secret_that_looks_like_a_number_stays_as_it_was_written() {
    let digits = "00012345678901234567890123456789";
    for written in [
        digits,
        "1e5_not_a_number_but_32_bytes_long",
        "+12345678901234567890123456789012",
    ] {
        let config = Config::load(&env(&[("DISPATCHER_AUTH__JWT_SECRET", written)])).unwrap();
        assert_eq!(config.auth.jwt_secret.unwrap().expose_secret(), written);
    }
    for (written, read) in [
        (format!("\"{digits}\""), digits),
        (
            "1234567890_1234567890_1234567890_99".to_owned(),
            "1234567890_1234567890_1234567890_99",
        ),
        (
            "1234567890123456789012345678901.50".to_owned(),
            "1234567890123456789012345678901.50",
        ),
    ] {
        let (sources, _file) = file(&format!("[auth]\njwt_secret = {written}\n"));
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.auth.jwt_secret.unwrap().expose_secret(), read);
    }
}

#[test]
fn librdkafka_properties_are_taken_from_everywhere() {
    let (mut sources, _file) = file(
        "[kafka.properties]\n\"security.protocol\" = \"ssl\"\nssl.ca.location = \"/ca\"\nlinger.ms = 5\nsocket.keepalive.enable = true\n",
    );
    sources.environment = env(&[
        ("DISPATCHER_KAFKA__PROPERTIES__SSL_CA_LOCATION", "/other"),
        ("DISPATCHER_KAFKA__PROPERTIES__SASL_PASSWORD", "007"),
    ])
    .environment;
    let config = Config::load(&sources.with("kafka.properties.client.id", "me")).unwrap();
    let found: BTreeMap<&str, &str> = config
        .kafka
        .properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect();
    let expected = [
        ("client.id", "me"),
        ("linger.ms", "5"),
        ("sasl.password", "007"),
        ("security.protocol", "ssl"),
        ("socket.keepalive.enable", "true"),
        ("ssl.ca.location", "/other"),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    assert_eq!(shown(&config, "kafka.properties.sasl.password").0, "***");
}

#[test]
fn properties_that_the_guarantee_rests_on_and_second_names_of_ours_are_refused_with_the_reason() {
    for name in [
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "partitioner",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "transactional.id",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "retries",
        "message.send.max.retries",
        "queuing.strategy",
        "delivery.report.only.error",
        "bootstrap.servers",
        "metadata.broker.list",
        "message.max.bytes",
        "enable.gapless.guarantee",
        "queue.buffering.max.ms",
    ] {
        let key = format!("kafka.properties.{name}");
        let said = problem(&env(&[(&names::variable(&key), "1")]));
        assert!(
            said.contains(&key) && said.contains("environment DISPATCHER_KAFKA__"),
            "{said}"
        );
        assert!(
            said.contains("fixed") || said.contains("set kafka.") || said.contains("made from"),
            "{said}"
        );
    }
}

#[test]
fn librdkafka_is_asked_about_names_and_values() {
    let unknown = problem(&Sources::default().with("kafka.properties.ssl.ca.locatoin", "/ca"));
    assert!(unknown.contains("no such"), "{unknown}");
    let bad = problem(&Sources::default().with("kafka.properties.linger.ms", "soon"));
    assert!(bad.contains("linger.ms") && bad.contains("soon"), "{bad}");
    let secret = problem(&Sources::default().with("kafka.properties.ssl.key.pem", "hunter2\0"));
    assert!(!secret.contains("hunter2"), "{secret}");
}

#[test]
fn an_unknown_key_is_fatal_and_names_its_source_and_the_nearest_one() {
    let (sources, file) = file("[jobs]\nttl = \"1h\"\n[relay]\nleese = \"5s\"\n");
    let said = problem(&sources);
    assert!(
        said.contains("relay.leese") && said.contains("did you mean relay.lease?"),
        "{said}"
    );
    assert!(said.contains(&format!("{}:4", file.path().display())), "{said}");
    for (name, meant) in [
        ("DISPATCHER_RELAY_LEASE", "DISPATCHER_RELAY__LEASE"),
        ("DISPATCHER_RELAY__LEESE", "DISPATCHER_RELAY__LEASE"),
        ("DISPATCHER_relay__lease", "DISPATCHER_RELAY__LEASE"),
        ("DISPATCHER_DATABSE__URL", "DISPATCHER_DATABASE__URL"),
    ] {
        let said = problem(&env(&[(name, "5s")]));
        assert!(said.contains(name), "{said}");
        assert!(
            name.contains("relay") || said.contains(&format!("did you mean {meant}?")),
            "{said}"
        );
    }
    assert!(problem(&Sources::default().with("relay.leas", "5s")).contains("did you mean relay.lease?"));
    assert!(!problem(&Sources::default().with("zzz", "5s")).contains("did you mean"));
}

#[test]
fn sections_that_do_not_exist_and_values_that_are_none_are_fatal() {
    for text in [
        "[rely]\n",
        "rely = 5\n",
        "relay = 5\n",
        "[relay.lease]\nseconds = 5\n",
        "[kafka.propertys]\n",
    ] {
        let (sources, _file) = file(text);
        assert!(problem(&sources).contains("unknown key"), "{text}");
    }
    for text in ["[kafka]\nbrokers = [\"a:1\"]\n", "[auth]\nissuer = {}\n"] {
        let (sources, _file) = file(text);
        assert!(problem(&sources).contains("must be one value"), "{text}");
    }
    let (sources, _file) = file("[relay]\n[kafka.properties]\n[kafka]\n");
    Config::load(&sources).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_fatal_and_its_secrets_are_not_quoted() {
    let missing = Sources {
        file: Some(PathBuf::from("/nowhere/at.toml")),
        ..Sources::default()
    };
    assert!(
        problem(&missing).starts_with("/nowhere/at.toml: the file cannot be read"),
        "{}",
        problem(&missing)
    );
    let (sources, file) = file("[auth]\n\njwt_secret = hunter2 is my password\n");
    let said = problem(&sources);
    assert!(
        said.starts_with(&format!("{}:3: the file is not TOML", file.path().display())),
        "{said}"
    );
    assert!(!said.contains("hunter2") && !said.contains("password"), "{said}");
}

#[test]
fn variables_that_kubernetes_makes_for_services_are_left_alone() {
    let config = Config::load(&env(&[
        ("DISPATCHER_SERVICE_HOST", "10.0.0.1"),
        ("DISPATCHER_SERVICE_PORT", "80"),
        ("DISPATCHER_SERVICE_PORT_HTTP", "80"),
        ("DISPATCHER_PORT", "tcp://10.0.0.1:80"),
        ("DISPATCHER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("DISPATCHER_PORT_80_TCP_PROTO", "tcp"),
        ("DISPATCHER_PORT_80_TCP_PORT", "80"),
        ("DISPATCHER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("DISPATCHER_API_SERVICE_HOST", "10.0.0.2"),
        ("DISPATCHER_API_PORT", "tcp://10.0.0.2:80"),
        ("DISPATCHER_API_PORT_80_TCP", "tcp://10.0.0.2:80"),
        ("PATH", "/bin"),
        ("DISPATCH", "x"),
    ]));
    config.unwrap();
    assert!(problem(&env(&[("DISPATCHER_PORT", "8080")])).contains("unknown key"));
}

#[test]
fn wrong_values_name_key_source_and_what_is_accepted() {
    for (key, bad, accepted) in [
        ("relay.lease", "999ms", "from 1s to 1m"),
        ("relay.lease", "61s", "from 1s to 1m"),
        ("relay.lease", "5", "with its unit"),
        ("relay.lease", "", "with its unit"),
        ("jobs.ttl", "999ms", "from 1s"),
        ("shutdown.budget", "0s", "from 1s"),
        ("relay.window", "0", "from 1 to 1000000"),
        ("relay.window", "-1", "whole number"),
        ("relay.window", "1.5", "whole number"),
        ("http.rate_limit", "many", "whole number"),
        ("http.listen", "8080", "IP:PORT"),
        ("http.listen", "localhost:8080", "IP:PORT"),
        ("admin.listen", "127.0.0.1:8080", "differ from http.listen"),
        ("relay.delivery", "at-most-once", "give at-least-once or exactly-once"),
        ("log.format", "xml", "json or pretty"),
        ("log.filter", "image_job_dispatcher=loud", "directives"),
        ("kafka.brokers", "", "HOST:PORT"),
        ("kafka.brokers", "a:1,,b:2", "HOST:PORT"),
        ("kafka.brokers", "a", "HOST:PORT"),
        ("kafka.topic", "a b", "1 to 249"),
        ("kafka.topic", "..", "1 to 249"),
        ("kafka.result_topic", "image-job-topic", "differ from kafka.topic"),
        ("auth.jwks_url", "ftp://x/y", "https://"),
        ("replica.name", "a\nb", "control"),
    ] {
        let said = problem(&Sources::default().with(key, bad));
        assert!(said.starts_with(&format!("{key} = {bad:?} (from --set)")), "{said}");
        assert!(said.contains(accepted), "{said}");
    }
}

#[test]
fn wrong_secrets_are_named_but_not_shown() {
    for (key, bad) in [
        ("auth.jwt_secret", "hunter2"),
        ("database.url", "mysql://u:hunter2@db/x"),
        ("database.url", "host=db password=hunter2"),
        ("database.url", "postgres://u:hunter2@db:port/x"),
        ("redis.url", "http://:hunter2@cache"),
    ] {
        let said = problem(&Sources::default().with(key, bad));
        assert!(said.starts_with(key), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn secrets_are_not_in_the_debug_text() {
    let secret = "hunter2-hunter2-hunter2-hunter2-";
    let config = Config::load(
        &Sources::default()
            .with("auth.jwt_secret", secret)
            .with("database.url", "postgres://u:hunter2@db/x")
            .with("redis.url", "redis://:hunter2@cache")
            .with("kafka.properties.sasl.password", "hunter2"),
    )
    .unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn all_mistakes_are_named_at_once() {
    let all = problems(
        &Sources::default()
            .with("relay.lease", "x")
            .with("jobs.ttl", "x")
            .with("kafka.topic", ""),
    );
    assert_eq!(all.len(), 3, "{all:?}");
    let text = ConfigError(all).to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn the_shortest_secret_has_32_bytes() {
    let load = |bytes: usize| Config::load(&Sources::default().with("auth.jwt_secret", "x".repeat(bytes)));
    assert!(load(31).unwrap_err().to_string().contains("31 bytes"));
    assert!(matches!(load(32).unwrap().auth.keys(), Ok(AuthKeys::Secret(_))));
}

#[test]
fn two_sources_of_keys_are_one_too_many() {
    let sources = Sources::default()
        .with("auth.jwks_file", "/keys")
        .with("auth.jwks_url", "https://keys");
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.auth.keys().unwrap_err(), AuthKeysError::Several);
    assert!(
        config.notes().iter().any(|note| note.contains("only one of")),
        "{:?}",
        config.notes()
    );
}

#[cfg(unix)]
#[test]
fn names_and_values_that_are_not_utf8_are_fatal_when_they_are_ours() {
    use std::os::unix::ffi::OsStringExt;
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let with = |name: OsString, value: OsString| Sources {
        environment: vec![(name, value)],
        ..Sources::default()
    };
    assert!(problem(&with("DISPATCHER_RELAY__LEASE".into(), raw(b"5s\xff"))).contains("not UTF-8"));
    assert!(problem(&with(raw(b"DISPATCHER_RELAY__LEASE\xff"), "5s".into())).contains("unknown key"));
    assert!(problems(&with(raw(b"OTHER\xff"), raw(b"\xff"))).is_empty());
}
