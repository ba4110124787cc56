//! Following a runbook: its blocks, run as a person would run them.

use std::{collections::BTreeMap, fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path};

use image_job_dispatcher::dev_stack::KafkaLibs;

use crate::support::{Stage, app::dispatcher, document, psql::type_in, rig::kafka_libs};

/// Commands that ask before they change something. There is no terminal here to answer at.
const ASKING: [&str; 3] = ["dispatcher dead ", "dispatcher replay create", "dispatcher retain"];

/// A runbook, a stage to follow it on, and what its examples stand for.
pub struct Runbook<'a> {
    name: &'a str,
    stage: &'a Stage,
    settings: Vec<(&'a str, &'a str)>,
    stands_for: Vec<(String, String)>,
    bin: tempfile::TempDir,
}

impl<'a> Runbook<'a> {
    /// `settings` are beside those of the stage.
    pub async fn open(stage: &'a Stage, name: &'a str, settings: &[(&'a str, &'a str)]) -> Self {
        let bin = tempfile::tempdir().expect("a directory");
        write_tools(bin.path(), &kafka_libs().await);
        Self {
            name,
            stage,
            settings: settings.to_vec(),
            stands_for: vec![("image-job-topic".to_owned(), stage.topic.clone())],
            bin,
        }
    }

    /// Where the runbook says `example`, `real` is meant.
    #[must_use]
    pub fn with(mut self, example: &str, real: &impl ToString) -> Self {
        self.stands_for.insert(0, (example.to_owned(), real.to_string()));
        self
    }

    /// Runs all blocks below "What to look at". Gives everything they printed.
    pub async fn look(&self) -> String {
        // `doctor` finds something wrong: that is why one looks.
        self.follow("What to look at", &[0, 3, 5]).await
    }

    /// Runs all blocks below "What to do".
    pub async fn act(&self) -> String {
        self.follow("What to do", &[0]).await
    }

    async fn follow(&self, heading: &str, fine: &[i32]) -> String {
        let text = document::read(&format!("docs/runbooks/{}.md", self.name));
        let mut printed = String::new();
        let blocks = document::blocks(&text)
            .into_iter()
            .filter(|block| block.heading == heading);
        for block in blocks {
            let mut text = block.text;
            for (example, real) in &self.stands_for {
                text = text.replace(example, real);
            }
            match &*block.language {
                "sh" => {
                    for line in text.lines() {
                        printed += &self.run_line(line, fine).await;
                    }
                }
                "sql" => {
                    let rows = type_in(&mut self.stage.connect().await, &text)
                        .await
                        .unwrap_or_else(|error| panic!("{}: {error}: {text}", self.name));
                    for row in rows {
                        writeln!(printed, "{row}").expect("writing to a String cannot fail");
                    }
                }
                other => panic!("{}: a block of {other:?}", self.name),
            }
        }
        assert!(!printed.is_empty(), "{}: nothing below {heading}", self.name);
        printed
    }

    async fn run_line(&self, line: &str, fine: &[i32]) -> String {
        let asks = ASKING.iter().any(|command| line.starts_with(command)) && !line.contains(" list");
        let line = if asks && !line.contains("--dry-run") {
            format!("{line} --yes")
        } else {
            line.to_owned()
        };
        let mut settings: BTreeMap<_, _> = self.stage.environment();
        settings.extend(
            self.settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        // The environment of the program, for a shell that finds it and Kafka's tools first.
        let program = dispatcher(&settings);
        let mut shell = std::process::Command::new("bash");
        shell.args(["-e", "-c", &line]).stdin(std::process::Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let real = Path::new(program.get_program()).parent().expect("a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env(
            "PATH",
            format!("{}:{}:{path}", real.display(), self.bin.path().display()),
        );
        shell.env("KAFKA_BROKERS", self.stage.servers().kafka.bootstrap());
        shell.current_dir(std::env::temp_dir());
        let output = tokio::task::spawn_blocking(move || shell.output())
            .await
            .expect("a task")
            .expect("bash runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_some_and(|code| fine.contains(&code)),
            "{}: {line}: {}: {printed}",
            self.name,
            output.status
        );
        printed
    }
}

/// Kafka's own tools, under their usual names.
fn write_tools(dir: &Path, libs: &KafkaLibs) {
    for (name, class) in [
        ("kafka-topics.sh", "org.apache.kafka.tools.TopicCommand"),
        ("kafka-configs.sh", "org.apache.kafka.tools.ConfigCommand"),
    ] {
        let tool = libs.tool(class);
        let words: Vec<_> = std::iter::once(tool.get_program())
            .chain(tool.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).expect("a tool");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a tool that runs");
    }
}
