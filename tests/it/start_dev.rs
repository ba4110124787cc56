//! `dispatcher start-dev`, as a newcomer meets it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use image_job_dispatcher::dev_stack::{end_with_this_process, forget_ended, free_port};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use sqlx::{Connection, PgConnection};

use crate::support::{PATIENCE, eventually, rig::kafka_libs};

/// Servers, service and story, on a machine that runs other tests.
const START: Duration = Duration::from_mins(3);

/// A directory of `start-dev`, removed at the end.
struct Place {
    dir: tempfile::TempDir,
}

/// A running `start-dev`.
struct StartDev {
    child: Child,
    /// Standard output up to its last line.
    told: String,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The jars are here already, wherever the others have them from.
        kafka_libs().await;
        let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join(".dev/kafka-libs");
        if jars.is_dir() {
            std::os::unix::fs::symlink(jars, dir.path().join("kafka-libs")).unwrap();
        }
        Self { dir }
    }

    /// Starts it and waits until it has told its story. Its `DATABASE_URL` is of somebody else.
    async fn start(&self) -> StartDev {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
        command
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/not_ours")
            .arg("start-dev");
        command.arg("--dir").arg(self.dir.path());
        for key in ["http.listen", "admin.listen"] {
            command.args(["--set", &format!("{key}=127.0.0.1:{}", free_port().unwrap())]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        end_with_this_process(&child).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let told = tokio::task::spawn_blocking(move || {
            let mut told = String::new();
            for line in lines {
                let last = line.starts_with("Ctrl-C stops");
                told += &line;
                told.push('\n');
                if last {
                    break;
                }
            }
            told
        });
        let told = tokio::time::timeout(START, told)
            .await
            .expect("start-dev tells its story in time")
            .unwrap();
        StartDev { child, told }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("dispatcher.toml")
    }

    /// Runs another command on what `start-dev` has started.
    fn dispatcher(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
        let output = command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn database_url(&self) -> String {
        let config: toml::Table = std::fs::read_to_string(self.config()).unwrap().parse().unwrap();
        config["database"]["url"].as_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // As root, PostgreSQL's data is elsewhere, where its user may go.
        if let Ok(elsewhere) = std::fs::read_link(self.dir.path().join("postgres")) {
            let _ = std::fs::remove_dir_all(elsewhere);
        }
    }
}

impl StartDev {
    fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    async fn ended(mut self) -> std::process::ExitStatus {
        let status = eventually("start-dev ends", PATIENCE, async || {
            self.child.try_wait().unwrap().ok_or("it runs")
        })
        .await;
        forget_ended(&self.child);
        status
    }
}

#[tokio::test]
async fn start_dev_shows_a_job_from_request_to_record_and_keeps_its_data_for_the_next_start() {
    let place = Place::new().await;
    let first = place.start().await;
    for expected in [
        "202 Accepted",
        "\"status\":\"PENDING\"",
        "state        published",
        "ce_specversion: 1.0",
        "TOKEN=",
    ] {
        assert!(first.told.contains(expected), "no {expected} in:\n{}", first.told);
    }
    let list = place.dispatcher(&["--output", "ndjson", "outbox", "list"]);
    assert_eq!(list.lines().count(), 1, "one job: {list}");

    first.signal(Signal::SIGINT);
    let status = first.ended().await;
    assert!(status.success(), "Ctrl-C is a good end: {status}");
    assert!(
        PgConnection::connect(&place.database_url()).await.is_err(),
        "PostgreSQL was stopped too"
    );

    let second = place.start().await;
    let list = place.dispatcher(&["--output", "ndjson", "outbox", "list"]);
    assert_eq!(
        list.lines().count(),
        2,
        "the job of the first start is still there: {list}"
    );

    second.signal(Signal::SIGKILL);
    second.ended().await;
    eventually(
        "the servers of a killed start-dev end too",
        PATIENCE,
        async || match PgConnection::connect(&place.database_url()).await {
            Ok(_) => Err("PostgreSQL answers"),
            Err(_) => Ok(()),
        },
    )
    .await;
}
