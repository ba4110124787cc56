//! `psql` is an interface: the ten questions of docs/operate.md, what each table and column says of itself, and the
//! role of people who only look.

use image_job_dispatcher::outbox::partitions;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use super::{insert_messages, job_of, kill, run, settle};
use crate::support::{Stage, document, psql::ask};

/// Makes the group role, and logs in as a member of it: a person who looks.
async fn log_in_as_viewer(stage: &Stage) -> PgConnection {
    let file = document::read("ops/postgresql/viewer.sql");
    // Twice: it is run again after upgrades.
    for _ in 0..2 {
        sqlx::raw_sql(AssertSqlSafe(file.clone()))
            .execute(&stage.pool)
            .await
            .expect("the role");
    }
    let name = format!("anna_{}", Uuid::new_v4().simple());
    let login = file
        .lines()
        .filter_map(|line| line.strip_prefix("--   "))
        .filter(|line| line.contains("role anna"));
    for statement in login {
        let statement = statement.replace("anna", &name).replace("'...'", "'barley'");
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&stage.pool)
            .await
            .expect("a login");
    }
    let (_, place) = stage.database_url.rsplit_once('@').expect("a password");
    PgConnection::connect(&format!("postgres://{name}:barley@{place}"))
        .await
        .expect("she may log in")
}

/// A job of an hour ago that was never answered.
async fn insert_forgotten_job(stage: &Stage) -> Uuid {
    let mut conn = stage.connect().await;
    // An hour ago may be yesterday.
    partitions::ensure_jobs(&mut conn, chrono::Utc::now() - chrono::TimeDelta::days(1))
        .await
        .expect("yesterday's partitions");
    sqlx::query_scalar(
        "insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
         select uuid7_floor(at), gen_random_uuid(), gen_random_uuid(), 0, at
         from (select now() - interval '1 hour' as at) t returning id",
    )
    .fetch_one(&mut conn)
    .await
    .expect("a job")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_questions_of_the_document_are_answered_to_people_who_only_look() {
    let stage = Stage::new().await;
    let ids = insert_messages(&stage.pool, 12, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &ids[..8]).await;
    kill(&stage.pool, &ids[8..10], "message-too-large").await;
    let retried = ids[8].to_string();
    run(
        &stage,
        &["dead", "retry", &retried, "--reason", "the limit was raised", "--yes"],
    )
    .await
    .json();
    let forgotten = insert_forgotten_job(&stage).await;

    let mut anna = log_in_as_viewer(&stage).await;
    let job = job_of(&stage.pool, ids[0]).await;
    let mut answers = Vec::new();
    for block in document::blocks(&document::read("docs/operate.md")) {
        if block.language != "sql" || block.heading != "Ten questions, in SQL" {
            continue;
        }
        let query = block
            .text
            .replace("018f...", &job.to_string())
            .replace("4711", &retried);
        let rows = ask(&mut anna, &query)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", block.introduced_by));
        answers.push((block.introduced_by, rows));
    }
    let answer = |nth: usize, question: &str| {
        let (asked, rows) = &answers[nth];
        assert!(asked.contains(question), "{asked}");
        rows
    };
    assert_eq!(answers.len(), 10);

    // Two were never sent, and the retry of the dead one.
    let overview = &answer(0, "How much waits")[0];
    assert_eq!(
        (&overview["pending"], &overview["published"], &overview["dead"]),
        (&3.into(), &8.into(), &1.into())
    );
    let of_the_job = answer(1, "message of this job");
    assert_eq!(of_the_job.len(), 1);
    assert_eq!(
        (&of_the_job[0]["id"], &of_the_job[0]["state"]),
        (&ids[0].into(), &"published".into())
    );
    let waiting: Vec<_> = answer(2, "waited longest")
        .iter()
        .map(|row| row["id"].as_i64())
        .collect();
    assert_eq!(waiting[..2], [Some(ids[10]), Some(ids[11])]);
    assert_eq!(waiting.len(), 3);
    let sum = |rows: &[Value], column: &str| rows.iter().filter_map(|row| row[column].as_i64()).sum::<i64>();
    assert_eq!(sum(answer(3, "How many were accepted"), "count"), 12);
    assert_eq!(sum(answer(4, "How many were published"), "published"), 8);
    let latency = &answer(5, "How long")[0]["p50_p99"];
    assert!(latency[0].is_string() && latency[1].is_string(), "{latency}");
    let leaders = answer(6, "Who led");
    assert_eq!(leaders[0]["leader"], "gone/1");
    let dead = answer(7, "What is dead");
    assert_eq!(
        (&dead[0]["error_class"], &dead[0]["count"]),
        (&"message-too-large".into(), &1.into())
    );
    let again = answer(8, "sent again");
    assert_eq!(
        (&again[0]["state"], &again[1]["state"]),
        (&"dead".into(), &"pending".into())
    );
    assert_eq!(again[1]["reason"], "the limit was raised");
    let unanswered = answer(9, "no final answer");
    assert_eq!(unanswered.len(), 1);
    assert_eq!(unanswered[0]["id"], forgotten.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_only_look_see_the_views_and_nothing_of_what_users_wrote_and_change_nothing() {
    let stage = Stage::new().await;
    let ids = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let mut anna = log_in_as_viewer(&stage).await;
    let settings = ask(
        &mut anna,
        "select current_setting('statement_timeout') as s, current_setting('idle_in_transaction_session_timeout') as i",
    )
    .await
    .expect("settings");
    assert_eq!((&settings[0]["s"], &settings[0]["i"]), (&"30s".into(), &"1min".into()));
    assert_eq!(
        ask(&mut anna, "select * from outbox_status").await.expect("rows")[0]["id"],
        ids[0]
    );

    for refused in [
        "select payload from outbox_messages",
        "select * from outbox_messages",
        "select * from event_drafts",
        "select * from idempotency_keys",
        "select value from result_dead_letters",
        "select key from result_dead_letters",
        "insert into outbox_control values (true)",
        "update outbox_control set paused = true",
        "delete from outbox_dead_letters",
        "delete from outbox_status",
        "truncate jobs",
        "select nextval('outbox_messages_id_seq')",
        "create table mine (id int)",
        "alter table jobs add column mine int",
        "select pg_read_file('postgresql.conf')",
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(refused.to_owned()))
            .execute(&mut anna)
            .await
            .expect_err(refused);
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .map(String::from);
        // `delete from` a view: it is no view that can be written through.
        assert!(matches!(code.as_deref(), Some("42501" | "55000")), "{refused}: {error}");
    }
    // Whatever is added one day: nothing of it can be written, and no bytes of it be read.
    let may = ask(
        &mut anna,
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
         where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and not a.attisdropped
           and (has_table_privilege(c.oid, 'insert, update, delete, truncate, references, trigger')
                or has_column_privilege(c.oid, a.attnum, 'insert, update, references')
                or a.atttypid = 'bytea'::regtype and has_column_privilege(c.oid, a.attnum, 'select'))",
    )
    .await
    .expect("rows");
    assert!(may.is_empty(), "{may:?}");
    let views = ask(
        &mut anna,
        "select relname from pg_class
         where relnamespace = current_schema()::regnamespace and relkind = 'v' and not has_table_privilege(oid, 'select')",
    )
    .await
    .expect("rows");
    assert!(
        views.is_empty(),
        "views that ops/postgresql/viewer.sql does not grant: {views:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_view_and_column_says_what_it_is() {
    let stage = Stage::new().await;
    // Partitions are as their parents are, and event_drafts belongs to the Event Service.
    let silent = ask(
        &mut stage.connect().await,
        "select c.relname as of, a.attname as column
         from pg_class c left join pg_attribute a on a.attrelid = c.oid and not a.attisdropped
         where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
           and not c.relispartition and c.relname not in ('event_drafts', '_sqlx_migrations') and a.attnum > 0
           and (col_description(c.oid, a.attnum) is null or obj_description(c.oid, 'pg_class') is null)
         order by 1, 2",
    )
    .await
    .expect("rows");
    assert!(silent.is_empty(), "add `comment on` in a migration for: {silent:#?}");
}
