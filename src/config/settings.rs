//! Where values come from: the built-in defaults, a file, the environment, flags, one over the other. Values
//! stay text here, each with its origin; what they mean is decided in [`super::value`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use toml::de::{DeTable, DeValue};

use super::{
    ConfigError, Problem,
    kafka_properties::{self, PREFIX as PROPERTIES},
    redact,
};

/// `config/default.toml`: every key, its default and its explanation.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Every key but those under `kafka.properties`, with its default.
pub(super) static KEYS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let table = DeTable::parse(DEFAULTS).expect("config/default.toml is TOML: a test reads it");
    let mut keys = BTreeMap::new();
    flatten(DEFAULTS, "", table.get_ref(), &mut |entry| {
        keys.insert(entry.key, entry.value.expect("config/default.toml holds scalars only"));
    });
    keys.remove(PROPERTIES);
    keys
});

/// Names from outside this program that work too, weaker than `DISPATCHER_*`.
const CONVENTIONAL: [(&str, &str); 3] = [
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("KAFKA_BROKERS", "kafka.brokers"),
];

const ENV_PREFIX: &str = "DISPATCHER_";

/// What the configuration is made from. [`Sources::default`] is the built-in defaults alone.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// Names and values of the environment; those that are not about this program are left alone.
    pub environment: Vec<(OsString, OsString)>,
    /// Keys and values given by flags, the strongest; of two for one key the later counts.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// `--config FILE` and the flags of this process, and its environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        Self {
            file,
            environment: std::env::vars_os().collect(),
            flags,
        }
    }

    /// Sets a key as a flag does.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.flags.push((key.to_owned(), value.into()));
        self
    }
}

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`.
    Default,
    /// A line of `--config FILE`.
    File {
        /// As given.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A file that a variable names, for secrets.
    SecretFile {
        /// The variable, with `_FILE` at its end.
        variable: String,
        /// Its value.
        path: PathBuf,
    },
    /// `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::SecretFile { variable, path } => write!(f, "environment {variable}, {}", path.display()),
            Self::Flag => f.write_str("--set"),
        }
    }
}

/// One key's value and origin.
#[derive(Clone)]
pub struct Setting {
    pub(super) value: String,
    /// Where the value was found.
    pub origin: Origin,
}

/// Every key's value and origin.
#[derive(Clone)]
pub struct Settings(BTreeMap<String, Setting>);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(key, shown, origin)| (key, (shown, origin))))
            .finish()
    }
}

impl Settings {
    /// Lays the sources over each other. Wrong names are found here, wrong values in [`super::value`].
    ///
    /// # Errors
    /// All of them at once: unknown keys, files that cannot be read, names given twice.
    pub(super) fn gather(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Layers {
            settings: KEYS
                .iter()
                .map(|(key, value)| {
                    let setting = Setting {
                        value: value.clone(),
                        origin: Origin::Default,
                    };
                    (key.clone(), setting)
                })
                .collect(),
            problems: Vec::new(),
        };
        if let Some(path) = &sources.file {
            layers.add_file(path);
        }
        layers.add_environment(&sources.environment);
        for (key, value) in &sources.flags {
            layers.set(key, key, Ok(value.clone()), Origin::Flag);
        }
        if layers.problems.is_empty() {
            Ok(Self(layers.settings))
        } else {
            Err(ConfigError(layers.problems))
        }
    }

    /// Key, value fit for showing, origin; in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        self.0
            .iter()
            .map(|(key, setting)| (key.as_str(), redact::shown(key, &setting.value), &setting.origin))
    }

    /// The value of a key of `config/default.toml`.
    pub(super) fn get(&self, key: &str) -> &Setting {
        self.0
            .get(key)
            .unwrap_or_else(|| panic!("{key} is missing in config/default.toml"))
    }

    /// The librdkafka settings: name without the prefix, value.
    pub(super) fn kafka_properties(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0
            .iter()
            .filter_map(|(key, setting)| Some((kafka_properties::name(key)?, setting)))
    }
}

/// The settings while they are gathered.
struct Layers {
    settings: BTreeMap<String, Setting>,
    problems: Vec<Problem>,
}

impl Layers {
    /// `written` is the name as the operator wrote it.
    fn set(&mut self, key: &str, written: &str, value: Result<String, String>, origin: Origin) {
        if !is_known(key) {
            let suggestion = suggest(key, KEYS.keys().map(String::as_str));
            self.problems.push(Problem::UnknownKey {
                written: written.to_owned(),
                origin,
                suggestion,
            });
            return;
        }
        match value {
            Ok(value) => {
                self.settings.insert(key.to_owned(), Setting { value, origin });
            }
            Err(message) => self.problems.push(Problem::Source { origin, message }),
        }
    }

    fn add_file(&mut self, path: &Path) {
        let origin = |line| Origin::File {
            path: path.to_owned(),
            line,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("the file cannot be read: {error}");
                return self.problems.push(Problem::Source {
                    origin: origin(1),
                    message,
                });
            }
        };
        match DeTable::parse(&text) {
            Ok(table) => flatten(&text, "", table.get_ref(), &mut |entry| {
                self.set(&entry.key, &entry.key, entry.value, origin(entry.line));
            }),
            Err(error) => {
                let line = line_of(&text, error.span().map_or(0, |span| span.start));
                // Not the error's own Display: it quotes the line, and a secret may stand there.
                let message = format!("the file is not TOML: {}", error.message());
                self.problems.push(Problem::Source {
                    origin: origin(line),
                    message,
                });
            }
        }
    }

    fn add_environment(&mut self, environment: &[(OsString, OsString)]) {
        let mut ours: Vec<(&str, &OsStr)> = environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.as_os_str())))
            .filter(|(name, _)| !is_service_link(name))
            .collect();
        // Conventional names first, so that DISPATCHER_* overwrites them; and a stable order of errors.
        ours.sort_by_key(|(name, _)| (name.starts_with(ENV_PREFIX), *name));
        let mut seen = BTreeSet::new();
        for (name, value) in ours {
            let Some((key, from_file)) = key_of_variable(name) else {
                if name.starts_with(ENV_PREFIX) {
                    self.problems.push(Problem::UnknownKey {
                        written: name.to_owned(),
                        origin: Origin::Environment(name.to_owned()),
                        suggestion: suggest(name, KEYS.keys().map(|key| variable(key))),
                    });
                }
                continue;
            };
            let namespaced = name.starts_with(ENV_PREFIX);
            if !seen.insert((key.clone(), namespaced)) {
                let message = "the variable is set with and without _FILE: keep one of the two".to_owned();
                let origin = Origin::Environment(name.to_owned());
                self.problems.push(Problem::Source { origin, message });
                continue;
            }
            if from_file {
                let path = PathBuf::from(value);
                let secret = read_secret(&path);
                let variable = name.to_owned();
                self.set(&key, name, secret, Origin::SecretFile { variable, path });
            } else {
                let text = value
                    .to_str()
                    .map(str::to_owned)
                    .ok_or("the value is not UTF-8".to_owned());
                self.set(&key, name, text, Origin::Environment(name.to_owned()));
            }
        }
    }
}

fn is_known(key: &str) -> bool {
    KEYS.contains_key(key) || kafka_properties::name(key).is_some()
}

/// A variable's key, and whether its value names a file. `None`: not one of ours, or unknown.
fn key_of_variable(name: &str) -> Option<(String, bool)> {
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
pub fn variable(key: &str) -> String {
    let name = match kafka_properties::name(key) {
        Some(property) => format!("kafka__properties__{}", property.replace('.', "_")),
        None => key.replace('.', "__"),
    };
    format!("{ENV_PREFIX}{}", name.to_ascii_uppercase())
}

/// Kubernetes puts variables about every service into each pod: for one named `dispatcher` or
/// `dispatcher-api` they look like ours. None of our keys has their form, for ours have a `__`.
fn is_service_link(name: &str) -> bool {
    if !name.starts_with(ENV_PREFIX) || name.contains("__") {
        return false;
    }
    let port_of = |name: &str| {
        name.rsplit_once("_PORT_")
            .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name == "DISPATCHER_PORT"
        || port_of(name.strip_suffix("_PORT").unwrap_or(name))
}

/// The most similar of the candidates, if it is similar enough to be meant.
fn suggest<S: AsRef<str>>(written: &str, candidates: impl Iterator<Item = S>) -> Option<String> {
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

/// Without the newline that editors and `echo` put at a file's end.
fn read_secret(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// A leaf of a TOML document.
struct Entry {
    key: String,
    value: Result<String, String>,
    line: usize,
}

/// Calls `each` for every leaf; an empty table is not one.
fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, each: &mut impl FnMut(Entry)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        let value_text = match value.get_ref() {
            // An unknown, empty section is a mistake too.
            DeValue::Table(inner) if !inner.is_empty() || is_section(&key) => {
                flatten(text, &key, inner, each);
                continue;
            }
            DeValue::Table(_) | DeValue::Array(_) => Err(format!(
                "{key} must be one value, not {}",
                article(value.get_ref().type_str())
            )),
            DeValue::String(string) => Ok(string.to_string()),
            // A secret that looks like a number stays as it was written.
            _ if redact::is_secret(&key) => Ok(text[value.span()].to_owned()),
            DeValue::Integer(integer) => Ok(integer.to_string()),
            DeValue::Float(float) => Ok(float.to_string()),
            DeValue::Boolean(boolean) => Ok(boolean.to_string()),
            DeValue::Datetime(datetime) => Ok(datetime.to_string()),
        };
        each(Entry {
            key,
            value: value_text,
            line: line_of(text, name.span().start),
        });
    }
}

/// Sections are known from their names alone, for [`KEYS`] is made by [`flatten`] itself.
fn is_section(key: &str) -> bool {
    DEFAULTS.lines().any(|line| {
        line.strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|section| {
                section == key || section.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
            })
    })
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}
