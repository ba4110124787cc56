//! The command line itself: what every command has in common, and those that print documents.

use std::{fs, io::Read, path::Path, process::Stdio};

use base64::Engine as _;
use futures_util::future::join_all;
use nix::pty::openpty;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, migrate::Migrator};
use tokio::time::timeout;
use uuid::Uuid;

use super::{insert_messages, run};
use crate::support::{PATIENCE, Stage, app::dispatcher, drafts, stage::empty_database, token_for};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misspelt_is_answered_with_what_may_be_meant() {
    let stage = Stage::new().await;
    for (arguments, meant) in [
        (&["outbx", "list"][..], "'outbox'"),
        (&["outbox", "lst"], "'list'"),
        (&["outbox", "list", "--stat", "dead"], "'--state'"),
        (&["outbox", "list", "--state", "publishd"], "'published'"),
        (&["replay", "create", "--misssing"], "'--missing'"),
        (
            &["outbox", "list", "--set", "relay.leas=5s"],
            "did you mean relay.lease",
        ),
        (&["outbox", "list", "--context", "staging"], "give --config FILE"),
        (&["start-dev", "--context", "staging"], "knows no --context"),
    ] {
        run(&stage, arguments).await.failed(2, meant);
    }
    run(&stage, &[]).await.failed(2, "Usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_meets_an_open_report_gives_up_says_so_and_can_be_run_again() {
    let stage = Stage::new().await.set("database.url", &empty_database().await);
    let url = stage.environment()["database.url"].clone();
    let mut report = PgConnection::connect(&url).await.expect("a connection");
    // It changes a table that the report reads.
    let changing = 20_261_127_000_001;
    let newest = {
        let mut older = Migrator::new(Path::new("migrations")).await.expect("migrations");
        let newest = older.migrations.last().expect("a migration").version;
        older
            .migrations
            .to_mut()
            .retain(|migration| migration.version < changing);
        older.run(&mut report).await.expect("the schema of the version before");
        newest
    };
    report
        .execute("begin; select count(*) from outbox_status")
        .await
        .expect("a report");
    let refused = timeout(PATIENCE, run(&stage, &["migrate"])).await;
    let refused = refused.expect("it gives up");
    refused.failed(1, "another session uses what is to be changed");
    let at = async |report: &mut PgConnection| -> i64 {
        sqlx::query_scalar("select max(version) from schema_compatibility")
            .fetch_one(report)
            .await
            .expect("a version")
    };
    assert!(at(&mut report).await < changing);
    report.execute("commit").await.expect("the end of the report");
    assert!(run(&stage, &["migrate"]).await.code == 0);
    assert_eq!(at(&mut report).await, newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_were_sent_again_before_they_named_their_retry_name_it_after_the_migration() {
    let stage = Stage::new().await.set("database.url", &empty_database().await);
    let url = stage.environment()["database.url"].clone();
    let mut conn = PgConnection::connect(&url).await.expect("a connection");
    let mut older = Migrator::new(Path::new("migrations")).await.expect("migrations");
    older
        .migrations
        .to_mut()
        .retain(|migration| migration.version < 20_261_127_000_001);
    older.run(&mut conn).await.expect("the schema of the version before");
    // 1 died and was sent again as 2, which died and was sent again as 3; 4 was given up, 5 is undecided.
    conn.execute(
        "create table first partition of outbox_messages for values from (1) to (1000);
         insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload, replay_of)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), '', replay_of
         from unnest(array[null, 1, 1, null, null]::bigint[]) replay_of;
         insert into outbox_dead_letters (outbox_id, error_class, error, resolution, resolved_at)
         values (1, 'c', 'e', 'retried', now()), (2, 'c', 'e', 'retried', now()), (4, 'c', 'e', 'discarded', now()),
                (5, 'c', 'e', null, null)",
    )
    .await
    .expect("letters");
    // As the program would; it makes partitions beside, where one of ours is.
    let newer = Migrator::new(Path::new("migrations")).await.expect("migrations");
    newer.run(&mut conn).await.expect("the newest schema");
    let retries: Vec<(i64, Option<i64>)> =
        sqlx::query_as("select outbox_id, retry_id from outbox_dead_letters order by outbox_id")
            .fetch_all(&mut conn)
            .await
            .expect("letters");
    assert_eq!(retries, [(1, Some(3)), (2, Some(3)), (4, None), (5, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_who_may_do_what_and_for_how_long() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let output = stage
        .run(&[
            "token",
            "--user",
            &user.to_string(),
            "--ttl",
            "5m",
            "--role",
            "operator",
        ])
        .await;
    let token = String::from_utf8(output.stdout).expect("UTF-8");
    let claims = token.trim().split('.').nth(1).expect("a JWT");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!((&claims["sub"], &claims["role"]), (&json!(user), &json!("operator")));
    assert_eq!(
        claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(e, i)| e - i),
        Some(300)
    );
    run(&stage, &["token", "--user", "me"]).await.failed(2, "--user");
    run(&stage, &["token", "--user", &user.to_string(), "--ttl", "0s"])
        .await
        .failed(2, "at least 1s");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_and_shown_without_its_secrets() {
    let stage = Stage::new().await;
    let shown = run(&stage, &["config", "show"]).await;
    let rows = shown.rows();
    let row = |key: &str| {
        rows.iter()
            .find(|row| row["key"] == key)
            .unwrap_or_else(|| panic!("no {key}"))
    };
    assert_eq!(row("kafka.topic")["value"], stage.topic);
    assert_eq!(row("kafka.topic")["source"], "environment DISPATCHER_KAFKA__TOPIC");
    assert_eq!(row("relay.lease")["source"], "default");
    assert!(!shown.stdout.contains(crate::support::token::SECRET), "{shown:?}");
    let ok = stage.run(&["config", "check"]).await;
    assert_eq!((ok.status.code(), &*ok.stdout), (Some(0), &b"ok\n"[..]));
    run(&stage, &["config", "check", "--set", "relay.lease=1ms"])
        .await
        .failed(2, "relay.lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_completions_are_printed_without_any_server() {
    let committed = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
        fs::read(path).expect("it is committed")
    };
    for (arguments, file) in [
        (&["openapi"][..], "openapi.json"),
        (&["asyncapi"], "asyncapi.json"),
        (&["asyncapi", "--schema", "job"], "image-job.schema.json"),
        (&["asyncapi", "--schema", "result"], "image-job-result.schema.json"),
    ] {
        let output = dispatcher(&[].into()).args(arguments).output().expect("it runs");
        assert!(
            output.stdout == committed(file),
            "{arguments:?} is not what is committed"
        );
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = dispatcher(&[].into())
            .args(["completions", shell])
            .output()
            .expect("it runs");
        let script = String::from_utf8(output.stdout).expect("UTF-8");
        for word in ["audit", "outbox", "tail", "export", "missing"] {
            assert!(
                output.status.success() && script.contains(word),
                "no {word} for {shell}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_replicas_may_migrate_at_once_and_again() {
    let stage = Stage::new().await.set("database.url", &empty_database().await);
    for ran in join_all((0..5).map(|_| run(&stage, &["migrate"]))).await {
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let again = run(&stage, &["migrate"]).await;
    assert!(again.json()["version"].as_i64() > Some(20_261_123_000_000), "{again:?}");
    let told = stage.run(&["migrate"]).await;
    assert!(
        String::from_utf8_lossy(&told.stderr).contains("the schema is at version"),
        "{told:?}"
    );
    run(&stage, &["outbox", "stats"]).await.json();
}

/// What a command prints on a terminal.
fn on_terminal(stage: &Stage, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let terminal = openpty(None, None).expect("a terminal");
    let mut child = {
        // The command keeps the other end: with it, the terminal ends.
        let mut command = dispatcher(&stage.environment());
        command
            .env_remove("NO_COLOR")
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::from(terminal.slave.try_clone().expect("a copy")))
            .stderr(Stdio::from(terminal.slave));
        command.spawn().expect("it runs")
    };
    let mut shown = Vec::new();
    // Linux says EIO at the end.
    let _ = fs::File::from(terminal.master).read_to_end(&mut shown);
    assert!(child.wait().expect("a status").code().is_some());
    String::from_utf8(shown).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_shows_on_a_terminal_how_far_it_is_and_leaves_only_its_numbers() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    for _ in 0..3 {
        app.accept(draft, &token_for(user)).await;
    }
    stage.records(3).await;
    stage.drained().await;
    let shown = on_terminal(&stage, &["audit"], &[("TERM", "xterm")]);
    let (bar, rest) = shown
        .rsplit_once("100% of 3 offsets")
        .unwrap_or_else(|| panic!("{shown:?}"));
    assert!(!bar.contains("receipts") && rest.contains("receipts"), "{shown:?}");
    let piped = stage.run(&["audit"]).await;
    assert!(!String::from_utf8_lossy(&piped.stderr).contains("offsets"), "{piped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_bold_headings_and_none_with_no_color() {
    let stage = Stage::new().await;
    insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let list = |environment: &[(&str, &str)]| on_terminal(&stage, &["outbox", "list"], environment);
    let (bold, plain) = (list(&[]), list(&[("NO_COLOR", "1")]));
    assert!(bold.contains("\u{1b}[1m") && bold.contains("pending"), "{bold:?}");
    assert!(!plain.contains('\u{1b}') && plain.contains("pending"), "{plain:?}");
    let usage = |environment: &[(&str, &str)]| on_terminal(&stage, &["outbx"], environment);
    assert!(
        usage(&[("TERM", "xterm")]).contains("\u{1b}["),
        "clap colours its errors"
    );
    assert!(!usage(&[("TERM", "xterm"), ("NO_COLOR", "1")]).contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_export_gives_a_terminal_control_characters_and_a_csv_file_has_them_as_they_were() {
    let stage = Stage::new().await;
    let dead = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let error = "too\u{9b}2J\u{7f} large\u{1b}[31m";
    sqlx::query("insert into outbox_dead_letters (outbox_id, error_class, error) values ($1, 'c', $2)")
        .bind(dead[0])
        .bind(error)
        .execute(&stage.pool)
        .await
        .expect("a dead letter");
    for format in ["csv", "ndjson"] {
        let shown = on_terminal(&stage, &["outbox", "export", "--format", format], &[]);
        let rows: Vec<_> = shown.lines().filter(|line| line.contains("large")).collect();
        assert_eq!(rows.len(), 1, "{format}: {shown:?}");
        assert!(
            !rows[0].contains(['\u{9b}', '\u{7f}']) && !rows[0].contains("\u{1b}[31m"),
            "{format}: {shown:?}"
        );
    }
    let piped = stage.run(&["outbox", "export", "--format", "csv"]).await;
    assert!(String::from_utf8_lossy(&piped.stdout).contains(error), "{piped:?}");
    let piped = stage.run(&["outbox", "export", "--format", "ndjson"]).await;
    let text = String::from_utf8(piped.stdout).expect("UTF-8");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    let row: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(row["error"], error);
}
