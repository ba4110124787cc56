//! Any key, any value, any text.

use proptest::prelude::*;

use super::{
    super::{Config, Origin, Problem, Sources},
    KEYS, env, file, names, problems, redact, shown,
};

/// Another value for any key.
fn key_and_value() -> impl Strategy<Value = (String, String)> {
    let keys: Vec<String> = KEYS.keys().cloned().collect();
    (proptest::sample::select(keys), 1_u32..1000, "[a-z0-9]{32,40}").prop_map(|(key, n, text)| {
        let value = match key.as_str() {
            "http.listen" | "admin.listen" => format!("10.0.0.{}:{}", n % 250, 9000 + n),
            "database.url" => format!("postgres://{text}:{n}@h{n}:{}/d", 5000 + n),
            "redis.url" => format!("redis://:{text}@h{n}:{}/0", 5000 + n),
            "kafka.brokers" => format!("h{n}:9092,{text}:9093"),
            "auth.jwks_url" => format!("https://h{n}/{text}"),
            "relay.delivery" => "exactly-once".to_owned(),
            "log.format" => "pretty".to_owned(),
            "log.filter" => "debug".to_owned(),
            "redis.budget" | "http.header_timeout" | "http.body_timeout" | "database.connect_timeout" => {
                format!("{}ms", 100 + n)
            }
            "relay.lease" => format!("{}ms", 1000 + n),
            "auth.jwks_refresh" | "jobs.ttl" | "shutdown.budget" => format!("{n}s"),
            "outbox.retention" | "jobs.retention" | "idempotency.retention" => format!("{n}m"),
            "http.max_header_bytes" | "outbox.partition_rows" | "kafka.max_message_bytes" => (10_000 + n).to_string(),
            _ if KEYS[&key].parse::<u64>().is_ok() => n.to_string(),
            _ => text,
        };
        (key, value)
    })
}

fn effective(config: &Config, key: &str) -> String {
    config.settings().get(key).value.clone()
}

proptest! {
    #[test]
    fn any_key_set_anywhere_is_what_counts((key, value) in key_and_value()) {
        let by_env = Config::load(&env(&[(&names::variable(&key), &value)])).unwrap();
        prop_assert_eq!(effective(&by_env, &key), value.clone());
        prop_assert_eq!(shown(&by_env, &key).1, Origin::Environment(names::variable(&key)));

        let (section, name) = key.split_once('.').unwrap();
        let (sources, _file) = file(&format!("[{section}]\n{name} = {}\n", toml::Value::from(value.clone())));
        let by_file = Config::load(&sources).unwrap();
        prop_assert_eq!(effective(&by_file, &key), value.clone());

        let by_flag = Config::load(&Sources::default().with(&key, value.clone())).unwrap();
        let (sources, _file) = file(&format!("[contexts.c.{section}]\n{name} = {}\n", toml::Value::from(value.clone())));
        let by_context = Config::load(&Sources { context: Some("c".to_owned()), ..sources }).unwrap();
        prop_assert_eq!(effective(&by_context, &key), value.clone());

        // All agree in what was understood, and not only in the text.
        let understood = |config: &Config| {
            let mut config = config.clone();
            config.settings = Config::load(&Sources::default()).unwrap().settings;
            format!("{config:?}")
        };
        prop_assert_eq!(understood(&by_env), understood(&by_file));
        prop_assert_eq!(understood(&by_env), understood(&by_flag));
        prop_assert_eq!(understood(&by_env), understood(&by_context));
        // Nothing else was touched.
        let touched = by_env.settings().iter().filter(|(_, _, origin)| **origin != Origin::Default).count();
        prop_assert_eq!(touched, 1);
        if redact::is_secret(&key) {
            prop_assert!(!shown(&by_env, &key).0.contains(&value));
        }
    }

    #[test]
    fn unknown_keys_are_always_fatal(key in "[a-z_]{1,12}(\\.[a-z_]{1,12}){0,3}", value in "[a-z0-9]{0,8}") {
        prop_assume!(!KEYS.contains_key(&key) && !key.starts_with("kafka.properties."));
        let by_flag = problems(&Sources::default().with(&key, value.clone()));
        prop_assert!(matches!(&by_flag[..], [Problem::UnknownKey { .. }]), "{:?}", by_flag);
        let (sources, _file) = file(&format!("{key} = \"{value}\"\n"));
        let by_file = problems(&sources);
        prop_assert!(matches!(&by_file[..], [Problem::UnknownKey { .. }]), "{:?}", by_file);
    }

    #[test]
    fn unknown_variables_are_always_fatal(name in "[A-Z_]{1,30}", value in "[a-z0-9]{0,8}") {
        let name = format!("DISPATCHER_{name}");
        let known = KEYS.keys().any(|key| {
            let variable = names::variable(key);
            name == variable || name.strip_suffix("_FILE") == Some(&variable)
        });
        prop_assume!(!known && !name.contains("_SERVICE_") && !name.contains("_PORT") && !name.contains("__PROPERTIES__"));
        let found = problems(&env(&[(&name, &value)]));
        prop_assert!(matches!(&found[..], [Problem::UnknownKey { written, .. }] if *written == name), "{:?}", found);
    }

    #[test]
    fn no_text_makes_loading_panic(key in proptest::sample::select(KEYS.keys().cloned().collect::<Vec<_>>()), text in "\\PC*") {
        let _ = Config::load(&Sources::default().with(&key, text.clone()));
        let (sources, _file) = file(&text);
        let _ = Config::load(&sources);
    }
}
