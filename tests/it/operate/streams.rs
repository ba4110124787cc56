//! `outbox tail` and `outbox export`: output that is written while it comes.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use image_job_dispatcher::dev_stack::end_with_this_process;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use sqlx::Connection as _;
use uuid::Uuid;

use super::{insert_messages, job_of, kill, run, settle};
use crate::support::{PATIENCE, Stage, app::dispatcher, eventually};

/// A running `outbox tail --output ndjson`.
struct Tail {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Tail {
    fn start(stage: &Stage, arguments: &[&str]) -> Self {
        let mut command: Command = dispatcher(&stage.environment());
        command
            .args(["outbox", "tail", "--output", "ndjson"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("dispatcher runs");
        end_with_this_process(&child).expect("the guard listens");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, into) = (child.stdout.take().expect("a pipe"), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("an object a line");
                into.lock().expect("not poisoned").push(line);
            }
        });
        Self { child, lines }
    }

    /// The ids in the order in which they were printed, once there are so many.
    async fn ids(&self, count: usize) -> Vec<i64> {
        eventually(&format!("{count} lines"), PATIENCE, async || {
            let lines = self.lines.lock().expect("not poisoned");
            let ids: Vec<i64> = lines.iter().map(|line| line["id"].as_i64().expect("an id")).collect();
            if ids.len() >= count {
                Ok(ids)
            } else {
                Err(format!("{ids:?}"))
            }
        })
        .await
    }

    /// Ctrl-C; gives what was said.
    fn interrupt(mut self) -> String {
        signal::kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).expect("it runs");
        assert!(self.child.wait().expect("a status").success());
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut said)
            .expect("UTF-8");
        said
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_shows_each_message_once_also_one_that_commits_late_under_a_lower_id() {
    let stage = Stage::new().await;
    let (drafts, user) = ([Uuid::new_v4()], Uuid::new_v4());
    let first = insert_messages(&stage.pool, 3, &drafts, user).await;
    let tail = Tail::start(&stage, &["--after", &first[0].to_string()]);
    assert_eq!(tail.ids(2).await, first[1..]);

    let mut late = stage.connect().await;
    let mut open = late.begin().await.expect("a transaction");
    let late_id: i64 = sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select gen_random_uuid(), job_id, key, event_time, created_at, payload from outbox_messages where id = $1
         returning id",
    )
    .bind(first[0])
    .fetch_one(&mut *open)
    .await
    .expect("a row");
    let later = insert_messages(&stage.pool, 3, &drafts, user).await;
    assert_eq!(tail.ids(5).await, [&first[1..], &later[..]].concat());
    let last = tail
        .lines
        .lock()
        .expect("not poisoned")
        .last()
        .cloned()
        .expect("a line");
    assert_eq!(
        (&last["state"], last["key"].as_str()),
        (&"pending".into(), Some(&*drafts[0].to_string()))
    );
    open.commit().await.expect("a commit");
    assert_eq!(tail.ids(6).await[5], late_id);

    let said = tail.interrupt();
    assert!(said.contains(&format!("outbox tail --after {}", later[2])), "{said}");
    let again = Tail::start(&stage, &["--after", &later[2].to_string()]);
    let next = insert_messages(&stage.pool, 1, &drafts, user).await;
    assert_eq!(again.ids(1).await, next, "it goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_of_a_state_shows_messages_as_they_enter_it() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 6, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let published = Tail::start(&stage, &["--state", "published", "--after", "0"]);
    let dead = Tail::start(&stage, &["--state", "dead", "--after", "0"]);
    settle(&stage.pool, &all[3..5]).await;
    assert_eq!(published.ids(2).await, all[3..5]);
    kill(&stage.pool, &all[2..3], "invalid-record").await;
    settle(&stage.pool, &all[..2]).await;
    assert_eq!(published.ids(4).await, [all[3], all[4], all[0], all[1]]);
    assert_eq!(dead.ids(1).await, all[2..3]);
    let said = published.interrupt();
    assert!(
        said.contains(&format!("--after {}", all[4])),
        "all up to it is settled: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_is_narrowed_by_draft_and_by_job_and_has_no_end_for_json() {
    let stage = Stage::new().await;
    let drafts = [Uuid::new_v4(), Uuid::new_v4()];
    let all = insert_messages(&stage.pool, 6, &drafts, Uuid::new_v4()).await;
    let of_draft = Tail::start(&stage, &["--after", "0", "--draft", &drafts[0].to_string()]);
    let job = job_of(&stage.pool, all[2]).await.to_string();
    let of_job = Tail::start(&stage, &["--after", "0", "--job", &job]);
    // The drafts take turns, and the first message is of the second.
    assert_eq!(of_draft.ids(3).await, [all[1], all[3], all[5]]);
    assert_eq!(of_job.ids(1).await, [all[2]]);
    run(&stage, &["outbox", "tail"]).await.failed(2, "ndjson");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_message_that_a_list_has_and_escapes_formulas() {
    let stage = Stage::new().await;
    let drafts = [Uuid::new_v4(), Uuid::new_v4()];
    // More than a page.
    let all = insert_messages(&stage.pool, 2_300, &drafts, Uuid::new_v4()).await;
    settle(&stage.pool, &all[..2_000]).await;
    kill(&stage.pool, &all[2_000..2_001], "invalid-record").await;
    sqlx::query("update outbox_dead_letters set error = '=cmd|'' /C calc''!A0'")
        .execute(&stage.pool)
        .await
        .expect("an error text");
    let text = async |more: &[&str]| {
        let output = stage.run(&[&["outbox", "export"], more].concat()).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let newest_first: Vec<i64> = all.iter().rev().copied().collect();

    let csv = text(&[]).await;
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("id,event_id,job_id,topic,key,state,created_at,published_at,partition,offset,replay_of,replay_id,error")
    );
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let ids: Vec<i64> = rows.iter().map(|row| row[0].parse().expect("an id")).collect();
    assert_eq!(ids, newest_first);
    let dead = rows.iter().find(|row| row[5] == "dead").expect("the dead one");
    assert_eq!(dead[12], "'=cmd|' /C calc'!A0");

    let ndjson = text(&["--format", "ndjson"]).await;
    let rows: Vec<Value> = ndjson
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let listed = run(&stage, &["outbox", "list", "--limit", "1000"]).await.rows();
    assert_eq!(rows[..1_000], listed[..], "the same fields and values as the list's");
    assert_eq!(rows.len(), 2_300);

    let narrowed = text(&[
        "--format",
        "ndjson",
        "--state",
        "published",
        "--draft",
        &drafts[0].to_string(),
    ])
    .await;
    assert_eq!(narrowed.lines().count(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_closes_the_output_ends_the_command_without_an_error() {
    let stage = Stage::new().await;
    insert_messages(&stage.pool, 3_000, &[Uuid::new_v4()], Uuid::new_v4()).await;
    for command in [&["outbox", "export"][..], &["outbox", "tail", "--after", "0"]] {
        let mut child = dispatcher(&stage.environment())
            .args(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dispatcher runs");
        let mut first = [0; 10];
        child
            .stdout
            .take()
            .expect("a pipe")
            .read_exact(&mut first)
            .expect("a few bytes");
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .expect("a task");
        let ended = ended.expect("a status");
        assert!(ended.status.success(), "{command:?}: {ended:?}");
        assert!(!String::from_utf8_lossy(&ended.stderr).contains("error"), "{ended:?}");
    }
}
