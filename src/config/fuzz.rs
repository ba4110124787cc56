//! Configuration files and environments of anybody.

use std::{ffi::OsString, io::Write as _, os::unix::ffi::OsStringExt as _};

use super::{Config, ConfigError, Problem, Sources, names::KEYS, redact};

/// What stands in the corpus where a secret is.
const SECRET: &str = "hunter2";

/// A file: it is taken, and then says the same when its values are given one by one; or each mistake is named.
pub fn file(data: &[u8]) {
    let mut written = tempfile::NamedTempFile::new().expect("a file");
    written.write_all(data).expect("room");
    let sources = Sources {
        file: Some(written.path().to_owned()),
        ..Sources::default()
    };
    check(&sources);
}

/// Lines of `NAME=VALUE`: an environment, which is taken or refused as a file is.
pub fn environment(data: &[u8]) {
    let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let lines = data.split(|byte| *byte == b'\n');
    let variables = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        // Files of this machine are nobody's to read.
        let names_a_file = line[..at].ends_with(b"_FILE");
        (!names_a_file).then(|| (os(&line[..at]), os(&line[at + 1..])))
    });
    let sources = Sources {
        environment: variables.collect(),
        ..Sources::default()
    };
    check(&sources);
}

fn check(sources: &Sources) {
    match Config::load(sources) {
        Ok(config) => {
            let shown = |config: &Config| -> Vec<(String, String)> {
                let all = config.settings().iter();
                all.map(|(key, value, _)| (key.to_owned(), value)).collect()
            };
            let mut again = Sources::default();
            for (key, value) in config.settings().texts() {
                again = again.with(key, value);
            }
            let loaded = Config::load(&again).expect("the same values are as good");
            assert_eq!(shown(&loaded), shown(&config));
            for (key, value) in shown(&config) {
                let hidden = !redact::is_secret(&key) || key.ends_with("url") || ["", "***"].contains(&&*value);
                assert!(hidden, "{key} is shown: {value}");
            }
        }
        Err(ConfigError(problems)) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems.iter().for_each(named);
        }
    }
}

/// That a problem says what is wrong and where, and shows no secret.
fn named(problem: &Problem) {
    let text = problem.to_string();
    match problem {
        Problem::UnknownKey { written, .. } => assert!(text.contains(written.as_str()), "{text}"),
        Problem::BadValue { key, origin, .. } => {
            assert!(
                text.contains(key.as_str()) && text.contains(&origin.to_string()),
                "{text}"
            );
            assert!(KEYS.contains_key(key) || key.starts_with("kafka.properties."), "{text}");
            let shown = redact::is_secret(key) && shows_secret(key, &text);
            assert!(!shown, "a secret is shown: {text}");
        }
        Problem::Source { origin, message } => {
            assert!(!message.is_empty() && text.contains(&origin.to_string()), "{text}");
        }
    }
}

/// Whether the secret is shown, and not a key that is called so. Of an address, whether it stands where a password would: between a colon behind the scheme and an `@`.
fn shows_secret(key: &str, text: &str) -> bool {
    let value = text.strip_prefix(key).unwrap_or(text);
    if key.contains(SECRET) {
        return false;
    }
    if !key.ends_with("url") {
        return value.contains(SECRET);
    }
    let value = value.split(" (from").next().unwrap_or(value);
    value.match_indices(SECRET).any(|(at, _)| {
        let before = value[..at].split_once(':').map_or("", |(_, behind)| behind);
        before.contains(':') && value[at..].contains('@')
    })
}
