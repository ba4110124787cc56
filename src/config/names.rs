//! What settings are called: in files, in the environment, and by mistake.

use std::{collections::BTreeMap, sync::LazyLock};

use toml::de::DeTable;

use super::{
    document,
    kafka_properties::{self, PREFIX as PROPERTIES},
    redact,
};

/// `config/default.toml`: every key, its default and its explanation.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Every key but those under `kafka.properties`, with its default.
pub(super) static KEYS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let table = DeTable::parse(DEFAULTS).expect("config/default.toml is TOML: a test reads it");
    let mut keys = BTreeMap::new();
    document::for_each_leaf(DEFAULTS, &table, &mut |leaf| {
        keys.insert(leaf.key, leaf.value.expect("config/default.toml holds scalars only"));
    });
    keys
});

/// Names from outside this program that work too, weaker than `DISPATCHER_*`.
const CONVENTIONAL: [(&str, &str); 3] = [
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("KAFKA_BROKERS", "kafka.brokers"),
];

/// What our variables begin with.
pub(super) const ENV_PREFIX: &str = "DISPATCHER_";

/// The context's name and the setting's of `contexts.NAME.KEY`; of any other key, the key.
pub(super) fn split_context(key: &str) -> (Option<&str>, &str) {
    match key.strip_prefix("contexts.").and_then(|rest| rest.split_once('.')) {
        Some((context, key)) => (Some(context), key),
        None => (None, key),
    }
}

/// Whether a setting has this name.
pub(super) fn is_known(key: &str) -> bool {
    KEYS.contains_key(key) || kafka_properties::name(key).is_some()
}

/// A variable's key, and whether its value names a file. `None`: not one of ours, or unknown.
pub(super) fn key_of_variable(name: &str) -> Option<(String, bool)> {
    if let Some(key) = plain_key_of_variable(name) {
        // `..._LOCATION_FILE` of librdkafka's own names stays what it is; `..._PASSWORD_FILE` is a file.
        match name.strip_suffix("_FILE").and_then(plain_key_of_variable) {
            Some(stem) if redact::is_secret(&stem) => return Some((stem, true)),
            _ => return Some((key, false)),
        }
    }
    let stem = plain_key_of_variable(name.strip_suffix("_FILE")?)?;
    redact::is_secret(&stem).then_some((stem, true))
}

fn plain_key_of_variable(name: &str) -> Option<String> {
    if let Some((_, key)) = CONVENTIONAL.iter().find(|(conventional, _)| *conventional == name) {
        return Some((*key).to_owned());
    }
    let rest = name.strip_prefix(ENV_PREFIX)?;
    let key = match rest.strip_prefix("KAFKA__PROPERTIES__") {
        Some(property) => format!("{PROPERTIES}.{}", property.to_ascii_lowercase().replace('_', ".")),
        None => rest.to_ascii_lowercase().replace("__", "."),
    };
    // Only the one way of writing it: DISPATCHER_relay__LEASE is a typo.
    (is_known(&key) && rest.bytes().all(|b| !b.is_ascii_lowercase())).then_some(key)
}

/// The variable of a key.
pub(super) fn variable(key: &str) -> String {
    let name = match kafka_properties::name(key) {
        Some(property) => format!("kafka__properties__{}", property.replace('.', "_")),
        None => key.replace('.', "__"),
    };
    format!("{ENV_PREFIX}{}", name.to_ascii_uppercase())
}

/// Kubernetes puts variables about every service into each pod: for one named `dispatcher` or
/// `dispatcher-api` they look like ours. None of our keys has their form, for ours have a `__`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    if !name.starts_with(ENV_PREFIX) || name.contains("__") {
        return false;
    }
    let is_of_port = || {
        name.rsplit_once("_PORT_")
            .or_else(|| name.strip_suffix("_PORT")?.rsplit_once("_PORT_"))
            .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    // DISPATCHER_PORT=8080 is an operator's mistake; an address is Kubernetes'.
    let is_address = || {
        ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || is_of_port()
        || (name.ends_with("_PORT") && is_address())
}

/// The most similar of the candidates, if it is similar enough to be meant.
pub(super) fn suggest<S: AsRef<str>>(written: &str, candidates: impl Iterator<Item = S>) -> Option<String> {
    const SIMILAR: f64 = 0.7;
    candidates
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(written, candidate.as_ref()),
                candidate,
            )
        })
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.as_ref().to_owned())
}
