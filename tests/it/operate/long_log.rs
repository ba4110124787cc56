//! Lists of a long log: what is looked at is bounded and says so, and what an index or a time leads to is found at once.
//! Long is the distance of ids, not the number of rows: ids are drawn and thrown away.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Ran, insert_messages, kill, run, settle};
use crate::support::Stage;

/// More ids than one page looks at.
const FAR: i64 = 250_000;

/// Throws away ids, so that the next message is [`FAR`] from the last.
async fn go_far(pool: &PgPool) {
    sqlx::query("select setval('outbox_messages_id_seq', last_value + $1) from outbox_messages_id_seq")
        .bind(FAR)
        .execute(pool)
        .await
        .expect("a sequence");
}

/// Writes one message of a draft at a time; returns its id.
async fn insert_at(pool: &PgPool, draft: Uuid, at: DateTime<Utc>, replay: Option<Uuid>) -> i64 {
    sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, replay_id, payload)
         values (gen_random_uuid(), gen_random_uuid(), $1, $2, $2, $3, '{}') returning id",
    )
    .bind(draft)
    .bind(at)
    .bind(replay)
    .fetch_one(pool)
    .await
    .expect("a message")
}

fn ids(ran: &Ran) -> Vec<i64> {
    ran.rows()
        .iter()
        .map(|row| row["id"].as_i64().expect("an id"))
        .collect()
}

/// The id behind `--after` in what a list said.
fn next(ran: &Ran) -> String {
    let (_, next) = ran
        .stderr
        .split_once("--after ")
        .unwrap_or_else(|| panic!("no next page: {ran:?}"));
    next.chars().take_while(char::is_ascii_digit).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_looked_at_as_many_ids_as_it_may_says_so_and_the_next_ones_find_the_oldest_row() {
    let stage = Stage::new().await;
    let (draft, other) = (Uuid::new_v4(), Uuid::new_v4());
    let oldest = insert_messages(&stage.pool, 1, &[draft], Uuid::new_v4()).await;
    go_far(&stage.pool).await;
    let newest = insert_messages(&stage.pool, 1, &[other], Uuid::new_v4()).await;
    let draft = draft.to_string();

    let (mut found, mut after, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let mut arguments = vec!["outbox", "list", "--draft", &draft];
        arguments.extend(after.iter().flat_map(|after| ["--after", after]));
        let page = run(&stage, &arguments).await;
        found.extend(ids(&page));
        pages += 1;
        if !page.stderr.contains("--after") {
            break;
        }
        assert!(page.stderr.contains("as many messages as one page may"), "{page:?}");
        after = Some(next(&page));
    }
    assert_eq!((&found, pages), (&oldest, 3), "{FAR} ids, 100,000 a page");
    // Without a filter each row is wanted, however far the next one is.
    let all = run(&stage, &["outbox", "list"]).await;
    assert_eq!((ids(&all), all.stderr.as_str()), (vec![newest[0], oldest[0]], ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_below_all_that_was_published_since_is_on_the_first_page() {
    let stage = Stage::new().await;
    let draft = Uuid::new_v4();
    let waiting = insert_messages(&stage.pool, 1, &[draft], Uuid::new_v4()).await;
    go_far(&stage.pool).await;
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled)
         select max(seq) + 1, 1, 'gone/1', clock_timestamp(), 'at-least-once', '{}', int8multirange(int8range($1 + 1, $2))
         from outbox_checkpoints",
    )
    .bind(waiting[0])
    .bind(FAR)
    .execute(&stage.pool)
    .await
    .expect("a checkpoint");
    let newest = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;

    let page = run(
        &stage,
        &["outbox", "list", "--state", "pending", "--draft", &draft.to_string()],
    )
    .await;
    assert_eq!((ids(&page), page.stderr.as_str()), (waiting.clone(), ""));
    let page = run(&stage, &["outbox", "list", "--state", "pending"]).await;
    assert_eq!(ids(&page), [newest[0], waiting[0]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_last_is_on_the_first_page_however_much_waits() {
    let stage = Stage::new().await;
    let published = insert_messages(&stage.pool, 2, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &published).await;
    go_far(&stage.pool).await;
    insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let page = run(&stage, &["outbox", "list", "--state", "published"]).await;
    assert_eq!(
        (ids(&page), page.stderr.as_str()),
        (vec![published[1], published[0]], "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_time_and_a_replay_are_on_the_first_page_however_much_was_written_since() {
    let stage = Stage::new().await;
    let (draft, replay, at) = (Uuid::new_v4(), Uuid::now_v7(), Utc::now() - TimeDelta::hours(3));
    insert_at(&stage.pool, draft, at - TimeDelta::minutes(2), None).await;
    let inside = insert_at(&stage.pool, draft, at, Some(replay)).await;
    sqlx::query(
        "insert into outbox_replays (id, operation_id, filter, reason, requested_by, created_at, lower_bound, upper_bound,
                                     within, cursor, matched, replayed, rate, state, changed_at)
         values ($1, 'op', '{\"by\": \"name\", \"jobs\": [], \"ids\": [1]}', 'x', 'x', $2, 1, 1, '{}', 1, 1, 1, 1, 'done', $3)",
    )
    .bind(replay)
    .bind(at - TimeDelta::seconds(1))
    .bind(at + TimeDelta::seconds(1))
    .execute(&stage.pool)
    .await
    .expect("a replay");
    go_far(&stage.pool).await;
    insert_at(&stage.pool, draft, at + TimeDelta::minutes(2), None).await;

    let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let (from, to) = (text(at - TimeDelta::seconds(1)), text(at + TimeDelta::seconds(1)));
    for narrowed in [&["--from", &from, "--to", &to][..], &["--replay", &replay.to_string()]] {
        let page = run(&stage, &[&["outbox", "list"], narrowed].concat()).await;
        assert_eq!((ids(&page), page.stderr.as_str()), (vec![inside], ""), "{narrowed:?}");
    }
    let nobody = Uuid::new_v4().to_string();
    assert_eq!(
        run(&stage, &["outbox", "list", "--replay", &nobody]).await.rows(),
        [Value::Null; 0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_a_window_has_what_was_written_after_the_clock_was_set_back() {
    let stage = Stage::new().await;
    let (draft, at) = (Uuid::new_v4(), Utc::now() - TimeDelta::hours(3));
    // As where a standby is promoted whose clock is three minutes behind.
    let before = insert_at(&stage.pool, draft, at, None).await;
    insert_at(&stage.pool, draft, at + TimeDelta::minutes(5), None).await;
    let after = insert_at(&stage.pool, draft, at + TimeDelta::minutes(2), None).await;
    let to = (at + TimeDelta::minutes(3)).to_rfc3339_opts(SecondsFormat::Micros, true);
    let export = stage
        .run(&["outbox", "export", "--format", "ndjson", "--to", &to])
        .await;
    let exported: Vec<Value> = serde_json::Deserializer::from_slice(&export.stdout)
        .into_iter::<Value>()
        .map(|row| row.expect("an object a line")["id"].clone())
        .collect();
    assert_eq!(json!(exported), json!([after, before]), "{export:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_whose_messages_retention_has_dropped_hide_none_that_is_there() {
    let stage = Stage::new().await;
    go_far(&stage.pool).await;
    let dead = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &dead, "invalid-record").await;
    sqlx::query(
        "insert into outbox_dead_letters (outbox_id, error_class, error)
         select n, 'invalid-record', 'refused' from generate_series(10, 5010) n",
    )
    .execute(&stage.pool)
    .await
    .expect("dead letters");
    for narrowed in [&[][..], &["--from", "2020-01-01T00:00:00Z"]] {
        let page = run(&stage, &[&["outbox", "list", "--state", "dead"], narrowed].concat()).await;
        assert_eq!((ids(&page), page.stderr.as_str()), (dead.clone(), ""), "{narrowed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_found_by_the_index_however_many_checkpoints_came_later() {
    let stage = Stage::new().await;
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled, receipt_ids,
                                         receipt_partitions, receipt_offsets, base_passed, base_closed)
         select n, 1, 'gone/1', clock_timestamp(), 'at-least-once', '{}', int8multirange(int8range(n, n + 1)), array[n],
                '{0}', array[n], case when n = 20000 then int8multirange(int8range(1, 20001)) end,
                case when n = 20000 then int8multirange() end
         from generate_series((select max(seq) + 1 from outbox_checkpoints), 20000) n",
    )
    .execute(&stage.pool)
    .await
    .expect("checkpoints");
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    sqlx::query("analyze outbox_checkpoints")
        .execute(&stage.pool)
        .await
        .expect("statistics");
    let mut conn = stage.connect().await;
    let mut pages = 0;
    // The first time, catalogues are read too.
    for _ in 0..2 {
        let plan: Value = sqlx::query_scalar(
            "explain (analyze, buffers, format json) select * from outbox_status where id = any ($1)",
        )
        .bind(&all)
        .fetch_one(&mut conn)
        .await
        .expect("a plan");
        let read = |what: &str| plan[0]["Plan"][what].as_i64().expect("a number");
        pages = read("Shared Hit Blocks") + read("Shared Read Blocks");
    }
    let whole: i64 =
        sqlx::query_scalar("select sum(relpages)::bigint from pg_class where relname ~ '^outbox_checkpoints_\\d+$'")
            .fetch_one(&mut conn)
            .await
            .expect("pages");
    assert!(
        pages < whole,
        "{pages} pages were read for three receipts, and the log has {whole}"
    );

    // And the list says the same as the view, of one that was given up too: it has no receipt.
    let dead = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &dead, "invalid-record").await;
    let receipts: i64 = sqlx::query_scalar("select count(*) from outbox_receipt($1)")
        .bind(dead[0])
        .fetch_one(&mut conn)
        .await
        .expect("a count");
    assert_eq!(receipts, 0);
    let view: Vec<(i64, String, Option<i32>, Option<i64>)> =
        sqlx::query_as(r#"select id, state, partition, "offset" from outbox_status order by id desc"#)
            .fetch_all(&stage.pool)
            .await
            .expect("the view");
    let listed: Vec<Value> = run(&stage, &["outbox", "list"]).await.rows();
    let listed: Vec<Value> = listed
        .iter()
        .map(|m| json!([m["id"], m["state"], m["partition"], m["offset"]]))
        .collect();
    assert_eq!(json!(listed), json!(view));
    assert_eq!(view[0], (dead[0], "dead".to_owned(), None, None));
    assert_eq!(view[1], (all[2], "published".to_owned(), Some(0), Some(all[2])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_dead_letters_is_counted_up_to_ten_thousand_and_says_so() {
    let stage = Stage::new().await;
    let few = insert_messages(&stage.pool, 2, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &few, "invalid-record").await;
    go_far(&stage.pool).await;
    insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    sqlx::query(
        "insert into outbox_dead_letters (outbox_id, error_class, error)
         select n, 'message-too-large', 'too large: ' || n from generate_series(10, 20010) n",
    )
    .execute(&stage.pool)
    .await
    .expect("dead letters");
    let groups = run(&stage, &["dead", "list", "--group"]).await.rows();
    let shown = |at: usize| json!([groups[at]["error_class"], groups[at]["count"], groups[at]["exact"]]);
    assert_eq!(shown(0), json!(["message-too-large", 10_000, false]));
    assert_eq!(shown(1), json!(["invalid-record", 2, true]));
    assert_eq!(groups[0]["sample_error"], "too large: 20010");
    assert_eq!(groups[0]["sample_ids"], json!([20010, 20009, 20008, 20007, 20006]));

    // Those that a filter has to look up are bounded, too: the message is behind thousands of others.
    let draft: Uuid = sqlx::query_scalar("select key from outbox_messages where id = $1")
        .bind(few[0])
        .fetch_one(&stage.pool)
        .await
        .expect("a draft");
    let narrowed = ["outbox", "list", "--state", "dead", "--draft", &draft.to_string()];
    let page = run(&stage, &narrowed).await;
    assert_eq!(ids(&page), [0; 0]);
    assert!(page.stderr.contains("as many messages as one page may"), "{page:?}");
    assert_eq!(next(&page), "18011", "2,000 below the newest");
    let rest = run(&stage, &[&narrowed[..], &["--after", "12"]].concat()).await;
    assert_eq!((ids(&rest), rest.stderr.as_str()), (vec![few[1], few[0]], ""));

    let discard = ["dead", "discard", "--reason", "a test", "--yes", "--class"];
    let counted = async |class: &str| {
        run(&stage, &[&discard[..], &[class]].concat()).await.json();
        let stats = run(&stage, &["outbox", "stats"]).await.json();
        json!([
            stats["dead_retried"],
            stats["dead_discarded"],
            stats["dead_resolved_exact"]
        ])
    };
    assert_eq!(counted("invalid-record").await, json!([0, 2, true]));
    assert_eq!(counted("message-too-large").await, json!([0, 10_000, false]));
}
