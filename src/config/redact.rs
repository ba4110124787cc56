//! What of a value may be shown.

use super::kafka_properties;

/// What stands for a secret where values are shown.
const HIDDEN: &str = "***";

/// Whether the value may hold a secret: it is hidden, may be read from a file, and stays as it was written.
pub(super) fn is_secret(key: &str) -> bool {
    match kafka_properties::name(key) {
        Some(property) => ["password", "passphrase", "secret", "pem", "oauthbearer.config", "proxy"]
            .iter()
            .any(|word| property.contains(word)),
        None => matches!(key, "database.url" | "redis.url" | "auth.jwt_secret"),
    }
}

/// The value as `config show` prints it. Of an address only the credentials are hidden.
pub(super) fn shown(key: &str, value: &str) -> String {
    if key.ends_with("url") && !value.is_empty() {
        without_credentials(value)
    } else if is_secret(key) && !value.is_empty() {
        HIDDEN.to_owned()
    } else {
        value.to_owned()
    }
}

/// An address with password and query values hidden; all of it when it cannot be understood.
fn without_credentials(address: &str) -> String {
    let Ok(mut url) = url::Url::parse(address) else {
        return HIDDEN.to_owned();
    };
    // What looks like `user:password@` can stand in the path: of an address without `//` or without a host, or behind a
    // password that has a `/`.
    let astray = url.cannot_be_a_base() || url.host_str().is_none_or(str::is_empty) || url.path().contains('@');
    if astray || (url.password().is_some() && url.set_password(Some(HIDDEN)).is_err()) {
        return HIDDEN.to_owned();
    }
    if url.query().is_some() {
        let names: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
        url.query_pairs_mut()
            .clear()
            .extend_pairs(names.iter().map(|name| (name, HIDDEN)));
    }
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_addresses_are_hidden() {
        for (written, expected) in [
            ("postgres://u:hunter2@db:5432/x", "postgres://u:***@db:5432/x"),
            (
                "postgres://db/x?password=hunter2&sslmode=require",
                "postgres://db/x?password=***&sslmode=***",
            ),
            ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
            ("postgres://db/x#hunter2", "postgres://db/x"),
            ("postgres:u:hunter2@db", "***"),
            ("redis:/:hunter2@cache/0", "***"),
            ("redis:///:hunter2@cache/0", "***"),
            ("postgres://u:5/hunter2@db/x", "***"),
            ("host=db password=hunter2", "***"),
            ("", ""),
        ] {
            assert_eq!(shown("database.url", written), expected);
        }
    }

    #[test]
    fn secrets_are_hidden_and_plain_values_are_not() {
        assert_eq!(shown("auth.jwt_secret", "hunter2"), "***");
        assert_eq!(shown("kafka.properties.sasl.password", "hunter2"), "***");
        assert_eq!(shown("kafka.properties.ssl.key.pem", "hunter2"), "***");
        assert_eq!(shown("kafka.properties.ssl.ca.location", "/ca.pem"), "/ca.pem");
        assert_eq!(shown("relay.lease", "5s"), "5s");
    }
}
