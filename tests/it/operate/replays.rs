use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use futures_util::future::join_all;
use image_job_dispatcher::outbox::replays::{Pace, Which, advance};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{insert_messages, job_of, kill, replayed, run, settle};
use crate::support::{PATIENCE, Stage, eventually, proxy::Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn one_operation_id_starts_one_replay_however_often_it_is_given() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 5, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let (first, other) = (all[0].to_string(), all[1].to_string());
    let create = |id| {
        [
            "replay",
            "create",
            "--id",
            id,
            "--reason",
            "lost",
            "--operation-id",
            "ticket-7",
            "--yes",
        ]
    };
    let arguments = create(&first);
    let ran = join_all((0..5).map(|_| run(&stage, &arguments))).await;
    for again in &ran {
        assert_eq!(again.json()["id"], ran[0].json()["id"]);
    }
    assert_eq!(run(&stage, &["replay", "list"]).await.rows().len(), 1);
    run(&stage, &create(&other)).await.failed(2, "another selection");
    assert_eq!(run(&stage, &["replay", "show", "ticket-7"]).await.json()["matched"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_exactly_warns_and_changes_nothing() {
    let stage = Stage::new().await;
    let (drafts, user) = ([Uuid::new_v4(), Uuid::new_v4()], Uuid::new_v4());
    let all = insert_messages(&stage.pool, 20, &drafts, user).await;
    settle(&stage.pool, &all[..16]).await;
    kill(&stage.pool, &all[16..18], "invalid-record").await;
    sqlx::query("insert into event_drafts (id, user_id, title) values ($1, $2, 'edited since')")
        .bind(drafts[0])
        .bind(user)
        .execute(&stage.pool)
        .await
        .expect("a draft");
    let dry = async |more: &[&str]| {
        run(
            &stage,
            &[&["replay", "create", "--reason", "look", "--dry-run"], more].concat(),
        )
        .await
        .json()
    };
    let whole = dry(&["--user", &user.to_string()]).await;
    assert_eq!(
        (&whole["count"], &whole["keys"], &whole["dead"]),
        (&json!(18), &json!(2), &json!(2)),
        "{whole}"
    );
    assert_eq!(whole["sample"], json!(all[..5]));
    assert_eq!(whole["lower_bound"], all[0]);
    assert_eq!(whole["upper_bound"], all[17], "what is pending is on its way: {whole}");
    assert_eq!(dry(&["--draft", &drafts[0].to_string()]).await["count"], 9);
    assert_eq!(dry(&["--dead-group", "invalid-record"]).await["count"], 2);
    assert_eq!(dry(&["--user", &Uuid::new_v4().to_string()]).await["count"], 0);

    let named = dry(&[
        "--id",
        &all[1].to_string(),
        "--job",
        &job_of(&stage.pool, all[18]).await.to_string(),
    ])
    .await;
    let warnings = named["warnings"].as_array().expect("warnings");
    let has = |name: &str| warnings.iter().any(|w| w["warning"] == name);
    assert_eq!(named["count"], 2);
    assert!(
        has("later-messages") && has("newer-draft") && has("still-pending"),
        "{named}"
    );

    run(
        &stage,
        &["replay", "create", "--id", "999999", "--reason", "x", "--yes"],
    )
    .await
    .failed(4, "999999");
    let nobody = Uuid::new_v4().to_string();
    run(
        &stage,
        &["replay", "create", "--job", &nobody, "--reason", "x", "--yes"],
    )
    .await
    .failed(4, &nobody);
    run(
        &stage,
        &["replay", "create", "--user", &nobody, "--reason", "x", "--yes"],
    )
    .await
    .failed(4, "nothing matches");
    run(
        &stage,
        &["replay", "create", "--user", &user.to_string(), "--reason", "x"],
    )
    .await
    .failed(2, "--yes");
    run(&stage, &["replay", "create", "--reason", "x", "--yes"])
        .await
        .failed(2, "required");
    assert_eq!(run(&stage, &["replay", "list"]).await.rows().len(), 0);
    assert_eq!(replayed(&stage.pool).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_chunk_neither_skips_nor_repeats_a_message() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let all = insert_messages(&stage.pool, 1_700, &[Uuid::new_v4()], user).await;
    settle(&stage.pool, &all).await;
    let create = [
        "replay",
        "create",
        "--user",
        &user.to_string(),
        "--reason",
        "lost",
        "--rate",
        "1000000",
        "--yes",
    ];
    let id: Uuid = run(&stage, &create).await.json()["id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("a UUID");

    let mut conn = stage.connect().await;
    let mut tx = conn.begin().await.expect("a transaction");
    let first = advance(&mut tx, Which::One(id), Pace::Now)
        .await
        .expect("a step")
        .expect("it runs");
    assert!(first.inserted > 0 && !first.done, "{first:?}");
    tx.commit().await.expect("a commit");

    // The second step has written its rows when its connection is cut off.
    let mut doomed = stage.connect().await;
    let mut tx = doomed.begin().await.expect("a transaction");
    advance(&mut tx, Which::One(id), Pace::Now)
        .await
        .expect("a step")
        .expect("it runs");
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *tx)
        .await
        .expect("a pid");
    // Meanwhile nobody else gets hold of it.
    let busy = advance(&mut conn, Which::Due, Pace::AtRate).await.expect("a look");
    assert_eq!(busy, None);
    sqlx::query("select pg_terminate_backend($1, 5000)")
        .bind(pid)
        .execute(&stage.pool)
        .await
        .expect("a kill");
    assert!(tx.commit().await.is_err());

    while !advance_once(&mut conn, id).await {}
    assert_eq!(replayed(&stage.pool).await, all);
    let shown = run(&stage, &["replay", "show", &id.to_string()]).await.json();
    assert_eq!(
        (&shown["state"], &shown["replayed"], &shown["matched"]),
        (&json!("done"), &json!(1_700), &json!(1_700))
    );
    assert_eq!(
        advance(&mut conn, Which::One(id), Pace::Now).await.expect("a look"),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_later_under_a_lower_id_is_not_part_of_a_replay() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let before = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], user).await;
    let mut late = stage.connect().await;
    let mut open = late.begin().await.expect("a transaction");
    let late_id: i64 = sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select gen_random_uuid(), job_id, key, event_time, created_at, payload from outbox_messages where id = $1
         returning id",
    )
    .bind(before[0])
    .fetch_one(&mut *open)
    .await
    .expect("a row");
    let after = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], user).await;
    settle(&stage.pool, &[&before[..], &after[..]].concat()).await;
    let create = [
        "replay",
        "create",
        "--user",
        &user.to_string(),
        "--reason",
        "lost",
        "--yes",
    ];
    let created = run(&stage, &create).await.json();
    assert_eq!(created["matched"], 6);
    open.commit().await.expect("a commit");
    settle(&stage.pool, &[late_id]).await;

    let mut conn = stage.connect().await;
    let step = advance(&mut conn, Which::Due, Pace::Now)
        .await
        .expect("a step")
        .expect("it runs");
    assert!(step.done, "{step:?}");
    assert_eq!(replayed(&stage.pool).await, [&before[..], &after[..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replay_waits_and_a_cancelled_one_never_goes_on() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let id = all[0].to_string();
    run(
        &stage,
        &[
            "replay",
            "create",
            "--id",
            &id,
            "--reason",
            "x",
            "--operation-id",
            "op",
            "--yes",
        ],
    )
    .await
    .json();
    let mut conn = stage.connect().await;

    assert_eq!(run(&stage, &["replay", "pause", "op"]).await.json()["state"], "paused");
    assert_eq!(
        advance(&mut conn, Which::Due, Pace::AtRate).await.expect("a look"),
        None
    );
    run(&stage, &["replay", "pause", "op"]).await.json();
    assert_eq!(
        run(&stage, &["replay", "resume", "op"]).await.json()["state"],
        "running"
    );

    // While the relay is paused, nothing is written either.
    run(&stage, &["pause", "--reason", "x"]).await.json();
    assert_eq!(
        advance(&mut conn, Which::Due, Pace::AtRate).await.expect("a look"),
        None
    );
    run(&stage, &["resume"]).await.json();

    // Nobody can answer, and it would never go on.
    run(&stage, &["replay", "cancel", "op"]).await.failed(2, "--yes");
    assert_eq!(run(&stage, &["replay", "show", "op"]).await.json()["state"], "running");
    assert_eq!(
        run(&stage, &["replay", "cancel", "op", "--yes"]).await.json()["state"],
        "cancelled"
    );
    assert_eq!(
        advance(&mut conn, Which::Due, Pace::AtRate).await.expect("a look"),
        None
    );
    run(&stage, &["replay", "resume", "op"]).await.failed(1, "cancelled");
    run(&stage, &["replay", "show", "nothing"])
        .await
        .failed(4, "no replay nothing");
    assert_eq!(replayed(&stage.pool).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_exactly_its_selection_through_the_relay_with_the_same_event_ids() {
    let stage = Stage::new().await;
    let (drafts, user) = ([Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()], Uuid::new_v4());
    let all = insert_messages(&stage.pool, 30, &drafts, user).await;
    let _app = stage.app().await;
    let originals = stage.records(30).await;
    eventually("all 30 are settled", PATIENCE, async || {
        let stats = run(&stage, &["outbox", "stats"]).await.json();
        if stats["published"] == 30 { Ok(()) } else { Err(stats) }
    })
    .await;
    assert_eq!(originals.len(), 30);

    let cut: chrono::DateTime<Utc> = sqlx::query_scalar("select created_at from outbox_messages where id = $1")
        .bind(all[15])
        .fetch_one(&stage.pool)
        .await
        .expect("a message");
    let (from, draft) = (cut.to_rfc3339_opts(SecondsFormat::Micros, true), drafts[1].to_string());
    let create = [
        "replay", "create", "--from", &from, "--draft", &draft, "--reason", "lost", "--rate", "50", "--yes",
    ];
    let created = run(&stage, &create).await.json();
    assert_eq!(created["matched"], 5);

    let records = stage.records(35).await;
    let id = created["id"].as_str().expect("an id");
    let done = eventually("the replay is done", PATIENCE, async || {
        let shown = run(&stage, &["replay", "show", id]).await.json();
        if shown["state"] == "done" {
            Ok(shown)
        } else {
            Err(shown)
        }
    })
    .await;
    assert_eq!(done["replayed"], 5);
    // Nothing more comes: the relay has settled everything, and there are 35.
    tokio::time::timeout(Duration::from_secs(20), async {
        while run(&stage, &["outbox", "stats"]).await.json()["pending"] != 0 {}
    })
    .await
    .expect("drained");
    assert_eq!(stage.records_now().await.len(), 35);

    let (mut again, first): (Vec<_>, Vec<_>) = records.iter().partition(|r| r.headers.contains_key("replay-id"));
    again.sort_by_key(|record| record.header("outbox-id").parse::<i64>().expect("an id"));
    assert_eq!((again.len(), first.len()), (5, 30));
    let originals_of = |event_id: &str| first.iter().find(|r| r.header("ce_id") == event_id).copied();
    let mut replayed_ids = Vec::new();
    for record in again {
        assert_eq!(record.header("replay-id"), id);
        let original = originals_of(record.header("ce_id")).expect("an original of the same event id");
        assert_eq!((&record.key, &record.value), (&original.key, &original.value));
        replayed_ids.push(original.header("outbox-id").parse::<i64>().expect("an id"));
    }
    let expected: Vec<i64> = all
        .iter()
        .enumerate()
        .filter(|(n, _)| *n >= 15 && n % 3 == 0)
        .map(|(_, id)| *id)
        .collect();
    assert_eq!(replayed_ids, expected);
    assert_eq!(replayed(&stage.pool).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_scattered_replay_is_told_only_what_it_can_look_at_and_passes_over_gaps() {
    /// Each an id of its own, between others that are not part of it.
    const RANGES: i64 = 200_000;
    /// Their text has more than three times as many.
    const BYTES_OF_A_STEP: u32 = 1_000_000;
    /// 50,000 ids each, and one that is full.
    const STEPS: i64 = 2 * RANGES / 50_000 + 2;
    const FAR: i64 = 900_000;
    let stage = Stage::new().await;
    let mut all: Vec<i64> = sqlx::query_scalar(
        "insert into outbox_messages (id, event_id, job_id, key, event_time, created_at, payload)
         overriding system value
         select id, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), clock_timestamp(), clock_timestamp(), '{}'
         from (select 2 * n as id from generate_series(1, 900) n union all select $1) ids
         returning id",
    )
    .bind(FAR)
    .fetch_all(&stage.pool)
    .await
    .expect("messages");
    all.sort_unstable();
    sqlx::query("select setval('outbox_messages_id_seq', $1)")
        .bind(FAR)
        .execute(&stage.pool)
        .await
        .expect("a sequence");
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into outbox_replays (id, operation_id, filter, reason, requested_by, lower_bound, upper_bound, within,
                                     cursor, matched, rate)
         select $1, 'scattered', $2, 'lost', 'a test', 2, $3,
                range_agg(int8range(2 * n, 2 * n + 1)) + int8multirange(int8range($3, $3 + 1)), 1, $4, 1000000
         from generate_series(1, $5) n",
    )
    .bind(id)
    .bind(json!({"by": "missing", "audit": Uuid::nil()}))
    .bind(FAR)
    .bind(all.len() as i64)
    .bind(RANGES)
    .execute(&stage.pool)
    .await
    .expect("a replay");

    let proxy = Proxy::start(stage.servers().postgres.port()).await;
    let mut database = url::Url::parse(&stage.database_url).expect("a URL");
    database.set_port(Some(proxy.port)).expect("a port");
    let mut conn = PgConnection::connect(database.as_str()).await.expect("a connection");
    let mut steps = 0;
    loop {
        // What answers with more loses its connection.
        proxy.cut_after_answered(BYTES_OF_A_STEP);
        steps += 1;
        if advance_once(&mut conn, id).await {
            break;
        }
    }
    assert_eq!(replayed(&stage.pool).await, all);
    assert!(steps <= STEPS, "{steps} steps");
}

/// One step of a replay, committed. Tells whether it was the last.
async fn advance_once(conn: &mut PgConnection, id: Uuid) -> bool {
    let mut tx = conn.begin().await.expect("a transaction");
    let step = advance(&mut tx, Which::One(id), Pace::Now)
        .await
        .expect("a step")
        .expect("it runs");
    tx.commit().await.expect("a commit");
    step.done
}
