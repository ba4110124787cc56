//! Where values come from: the built-in defaults, a file, the environment, flags, one over the other. Values
//! stay text here, each with its origin; what they mean is decided in [`super::value`].

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    ConfigError, Problem, document, kafka_properties,
    names::{self, ENV_PREFIX, KEYS},
    redact,
};

/// What the configuration is made from. [`Sources::default`] is the built-in defaults alone.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// `--context NAME`: the table `[contexts.NAME]` of the file, which is given by a flag and so is stronger than the
    /// environment.
    pub context: Option<String>,
    /// Names and values of the environment; those that are not about this program are left alone.
    pub environment: Vec<(OsString, OsString)>,
    /// Keys and values given by flags, the strongest; of two for one key the later counts.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// `--config FILE`, `--context NAME` and the flags of this process, and its environment.
    pub fn of_process(file: Option<PathBuf>, context: Option<String>, flags: Vec<(String, String)>) -> Self {
        Self {
            file,
            context,
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
        /// From 1; none is the file as a whole.
        line: Option<usize>,
    },
    /// A line of a context of `--config FILE`.
    Context {
        /// Its name.
        name: String,
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
    /// A flag: `--set`, or `--context`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Context { name, path, line } => write!(f, "{}:{line}, context {name}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::SecretFile { variable, path } => write!(f, "environment {variable}, {}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
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
            contexts: BTreeMap::new(),
            problems: Vec::new(),
        };
        if let Some(path) = &sources.file {
            layers.add_file(path);
        }
        layers.add_environment(&sources.environment);
        if let Some(name) = &sources.context {
            layers.add_context(name, sources.file.as_deref());
        }
        for (key, value) in &sources.flags {
            layers.set(key, key, Ok(value.clone()), Origin::Flag("--set"));
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

    /// Key and value as it was given, secrets too.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, setting)| (key.as_str(), setting.value.as_str()))
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
    /// The settings of each context of the file.
    contexts: BTreeMap<String, Vec<(String, Setting)>>,
    problems: Vec<Problem>,
}

impl Layers {
    /// `written` is the name as the operator wrote it.
    fn set(&mut self, key: &str, written: &str, value: Result<String, String>, origin: Origin) {
        if let Some(setting) = self.check(key, written, value, origin) {
            self.settings.insert(key.to_owned(), setting);
        }
    }

    /// `None`: it is a problem, and noted.
    fn check(&mut self, key: &str, written: &str, value: Result<String, String>, origin: Origin) -> Option<Setting> {
        if !names::is_known(key) {
            let suggestion = names::suggest(key, KEYS.keys().map(String::as_str));
            self.problems.push(Problem::UnknownKey {
                written: written.to_owned(),
                origin,
                suggestion,
            });
            return None;
        }
        match value {
            Ok(value) => Some(Setting { value, origin }),
            Err(message) => {
                self.problems.push(Problem::Source { origin, message });
                None
            }
        }
    }

    /// Lays a context over what is there. All contexts were checked with the file, also those that nobody asks for.
    fn add_context(&mut self, name: &str, file: Option<&Path>) {
        if let Some(settings) = self.contexts.remove(name) {
            return self.settings.extend(settings);
        }
        let message = match file {
            None => format!("the context {name} is a table of the file: give --config FILE as well"),
            Some(path) if self.contexts.is_empty() => {
                format!("{} has no contexts: [contexts.{name}] would be one", path.display())
            }
            Some(path) => {
                let there: Vec<_> = self.contexts.keys().map(String::as_str).collect();
                format!(
                    "{} has no context {name}: there are {}",
                    path.display(),
                    there.join(", ")
                )
            }
        };
        let origin = Origin::Flag("--context");
        self.problems.push(Problem::Source { origin, message });
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
                    origin: origin(None),
                    message,
                });
            }
        };
        match DeTable::parse(&text) {
            Ok(table) => document::for_each_leaf(&text, &table, &mut |leaf| {
                let (Some(name), key) = names::split_context(&leaf.key) else {
                    return self.set(&leaf.key, &leaf.key, leaf.value, origin(Some(leaf.line)));
                };
                let (name, path, line) = (name.to_owned(), path.to_owned(), leaf.line);
                let origin = Origin::Context {
                    name: name.clone(),
                    path,
                    line,
                };
                if let Some(setting) = self.check(key, &leaf.key, leaf.value, origin) {
                    self.contexts.entry(name).or_default().push((key.to_owned(), setting));
                }
            }),
            Err(error) => {
                let line = document::line_of(&text, error.span().map_or(0, |span| span.start));
                // Not the error's own Display: it quotes the line, and a secret may stand there.
                let message = format!("the file is not TOML: {}", error.message());
                self.problems.push(Problem::Source {
                    origin: origin(Some(line)),
                    message,
                });
            }
        }
    }

    fn add_environment(&mut self, environment: &[(OsString, OsString)]) {
        let mut ours: Vec<(Cow<'_, str>, &OsStr)> = environment
            .iter()
            .map(|(name, value)| (name.to_string_lossy(), value.as_os_str()))
            .filter(|(name, value)| !names::is_service_link(name, &value.to_string_lossy()))
            .collect();
        // Conventional names first, so that DISPATCHER_* overwrites them; and a stable order of errors.
        ours.sort_by(|(a, _), (b, _)| (a.starts_with(ENV_PREFIX), a).cmp(&(b.starts_with(ENV_PREFIX), b)));
        let mut seen = BTreeSet::new();
        for (name, value) in &ours {
            let name = name.as_ref();
            let Some((key, from_file)) = names::key_of_variable(name) else {
                if name.starts_with(ENV_PREFIX) {
                    self.problems.push(Problem::UnknownKey {
                        written: name.to_owned(),
                        origin: Origin::Environment(name.to_owned()),
                        suggestion: names::suggest(name, KEYS.keys().map(|key| names::variable(key))),
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

/// Without the newline that editors and `echo` put at a file's end.
fn read_secret(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}
