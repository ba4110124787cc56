//! Where and when something was measured, and how to repeat it.

use std::{fs, process::Command};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    settings::{Settings, root},
    stack::{POSTGRES, Stack},
};

/// One run of the benchmarks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub command: String,
    pub at: String,
    pub commit: String,
    pub machine: String,
    pub versions: String,
    /// What else the machine did, as the load average of five minutes says it at the start.
    pub load_before: f64,
}

impl Run {
    /// This run, on this machine.
    pub async fn now(settings: &Settings, stack: &Stack) -> Result<Self> {
        let postgres: String = sqlx::query_scalar("show server_version")
            .fetch_one(&mut stack.admin().await?)
            .await?;
        let set: Vec<_> = POSTGRES.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let redis = printed("redis-server", &["--version"]);
        let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v="));
        let java = printed("java", &["--version"]);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Self {
            command: settings.command(),
            at: chrono::Utc::now().format("%Y-%m-%d %H:%M:%SZ").to_string(),
            commit: commit(),
            machine: machine(),
            versions: format!(
                "PostgreSQL {postgres} ({}), Redis {}, Apache Kafka {} on {}, librdkafka {}, {}",
                set.join(", "),
                redis.unwrap_or("of an unknown version"),
                kafka_version().unwrap_or_else(|| "of KAFKA_HOME".to_owned()),
                java.lines().next().unwrap_or("an unknown Java"),
                rdkafka::util::get_rdkafka_version().1,
                printed("rustc", &["--version"])
            ),
            load_before: load
                .split(' ')
                .nth(1)
                .and_then(|minutes| minutes.parse().ok())
                .unwrap_or_default(),
        })
    }
}

/// The commit that was measured; with `-dirty` when something was changed that is measured or that measures.
fn commit() -> String {
    let directory = root().display().to_string();
    let at = printed("git", &["-C", &directory, "describe", "--always"]);
    let built = ["src", "benches", "migrations", "Cargo.toml", "Cargo.lock"];
    let status = ["-C", &directory, "status", "--porcelain", "--"];
    let changed = printed("git", &[&status[..], &built].concat());
    if changed.is_empty() { at } else { format!("{at}-dirty") }
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |model| model.trim_start_matches([':', '\t', ' ']));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: f64 = memory
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} cores ({model}), {:.0} GiB, Linux {}",
        processors(),
        kib / 1024.0 / 1024.0,
        kernel.trim()
    )
}

pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn kafka_version() -> Option<String> {
    if std::env::var_os("KAFKA_HOME").is_some() {
        return None;
    }
    let mut libs = fs::read_dir(root().join(".dev/kafka-libs")).ok()?.flatten();
    libs.find_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("kafka-")?.to_owned()))
}

/// What a program prints, trimmed; empty when it is not there.
fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
