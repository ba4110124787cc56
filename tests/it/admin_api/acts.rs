use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Executor as _, PgConnection};
use uuid::Uuid;

use super::{Desk, send};
use crate::{
    operate::{insert_messages, kill, replayed, run, settle},
    support::{PATIENCE, Stage, eventually},
};

/// What a row of the operators' log says, but for its id and time.
fn told(row: &Value) -> Value {
    json!([row["who"], row["role"], row["via"], row["act"], row["reason"]])
}

/// An idempotency key that has outlived its time.
pub async fn expire_a_key(stage: &Stage) {
    sqlx::query("insert into idempotency_keys values ($1, 'old', $1, $1, clock_timestamp() - interval '3 days')")
        .bind(Uuid::new_v4())
        .execute(&stage.pool)
        .await
        .expect("a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_over_http_is_in_the_operators_log_with_who_and_why() {
    let desk = Desk::new().await;
    let (stage, operator) = (&desk.stage, &desk.operator);
    let all = insert_messages(&stage.pool, 6, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[..3]).await;
    kill(&stage.pool, &all[3..], "message-too-large").await;
    expire_a_key(stage).await;

    let post =
        async |token: &str, path: &str, body: Value| desk.post(token, &format!("/admin/api/{path}"), &body).await;
    post(operator, "pause", json!({"reason": " upgrade "})).await.ok();
    assert_eq!(
        post(operator, "pause", json!({"reason": "again"})).await.ok()["pause"]["reason"],
        "upgrade"
    );
    assert_eq!(
        post(operator, "resume", json!({})).await.ok()["was"]["reason"],
        "upgrade"
    );
    assert_eq!(post(operator, "resume", json!({})).await.ok()["changed"], false);
    post(&desk.admin, "resume", json!({"accept_identity": true})).await.ok();
    let retry = json!({"ids": [all[3]], "reason": "limit raised"});
    assert_eq!(
        post(operator, "dead-letters/retry", retry.clone()).await.ok()["retried"],
        1
    );
    assert_eq!(
        post(operator, "dead-letters/retry", retry).await.ok(),
        &json!({"retried": 0, "replay_id": null})
    );
    let discard = json!({"class": "message-too-large", "reason": "stale"});
    assert_eq!(
        post(operator, "dead-letters/discard", discard.clone()).await.ok(),
        &json!({"discarded": 2})
    );
    assert_eq!(
        post(operator, "dead-letters/discard", discard).await.ok(),
        &json!({"discarded": 0})
    );
    let create = json!({"selection": {"ids": [all[0], all[1]]}, "reason": "lost", "operation_id": "op/1"});
    let created = post(operator, "replays", create.clone()).await;
    assert_eq!(created.status, 201);
    let id = created.ok()["id"].as_str().expect("an id");
    assert_eq!(created.headers["location"], format!("/admin/api/replays/{id}"));
    assert_eq!(
        post(operator, "replays", create).await.status,
        200,
        "the same operation starts nothing twice"
    );
    for (change, state) in [
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "running"),
        ("cancel", "cancelled"),
    ] {
        assert_eq!(
            post(operator, &format!("replays/{id}/{change}"), json!(null))
                .await
                .ok()["state"],
            state
        );
    }
    post(operator, &format!("replays/{id}/resume"), json!(null))
        .await
        .failed(409, "replay-has-ended", "cancelled");
    let gone = post(&desk.admin, "retain", json!({"reason": "the disk is full"})).await;
    assert_eq!(
        gone.ok(),
        &json!({"rows": [{"what": "idempotency_keys", "rows": 1, "dropped": true}]})
    );
    post(&desk.admin, "retain", json!({})).await.ok();

    let mut acts = desk.acts().await;
    acts.reverse();
    let who = |role: &str| desk.sub(role);
    let row = |role: &str, act: &str, reason: Value| json!([who(role), role, "api", act, reason]);
    let expected = [
        row("operator", "pause", json!("upgrade")),
        row("operator", "resume", json!(null)),
        row("admin", "accept-identity", json!(null)),
        row("operator", "dead-retry", json!("limit raised")),
        row("operator", "dead-discard", json!("stale")),
        row("operator", "replay-create", json!("lost")),
        row("operator", "replay-pause", json!(null)),
        row("operator", "replay-resume", json!(null)),
        row("operator", "replay-cancel", json!(null)),
        row("admin", "retain", json!("the disk is full")),
    ];
    assert_eq!(acts.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(acts[3]["subject"], format!("the dead letters {}", all[3]));
    assert_eq!(
        (&acts[3]["detail"]["count"], &acts[3]["detail"]["ids"]),
        (&json!(1), &json!([all[3]]))
    );
    assert_eq!(acts[4]["detail"], json!({"count": 2, "class": "message-too-large"}));
    assert_eq!(acts[5]["subject"], format!("replay {id}"));

    let only = desk.get(&desk.viewer, "/admin/api/acts?act=pause&limit=1").await;
    assert_eq!(only.ok()["rows"].as_array().expect("rows").len(), 1);
    let of_admin = desk
        .get(&desk.viewer, &format!("/admin/api/acts?who={}", who("admin")))
        .await;
    assert_eq!(of_admin.ok()["rows"].as_array().expect("rows").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_of_a_command_is_in_the_operators_log_too() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 6, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[..3]).await;
    kill(&stage.pool, &all[3..], "invalid-record").await;
    expire_a_key(&stage).await;
    let ops = async |arguments: &[&str]| {
        run(&stage, &[arguments, &["--by", "ops", "--yes"]].concat())
            .await
            .json();
    };
    let id = |n: usize| all[n].to_string();
    ops(&["pause", "--reason", "upgrade"]).await;
    ops(&["resume", "--accept-identity"]).await;
    ops(&["dead", "retry", &id(3), "--reason", "limit raised"]).await;
    ops(&["dead", "discard", "--all", "--reason", "stale"]).await;
    ops(&[
        "replay",
        "create",
        "--id",
        &id(0),
        "--reason",
        "lost",
        "--operation-id",
        "op",
    ])
    .await;
    ops(&["replay", "pause", "op"]).await;
    ops(&["replay", "resume", "op"]).await;
    ops(&["replay", "cancel", "op"]).await;
    ops(&["retain"]).await;
    ops(&["retain"]).await;
    let list = async |arguments: &[&str]| -> Vec<Value> {
        let listed = run(&stage, &[&["acts"], arguments].concat()).await.json();
        listed.as_array().expect("rows").clone()
    };
    let rows = list(&[]).await;
    let by_command = |row: &Value| row["who"] == "ops" && row["role"].is_null() && row["via"] == "cli";
    assert!(rows.iter().all(by_command), "{rows:?}");
    let fields: BTreeSet<_> = rows[0].as_object().expect("a row").keys().map(String::as_str).collect();
    let all_fields = ["act", "at", "detail", "id", "reason", "role", "subject", "via", "who"];
    assert_eq!(fields, BTreeSet::from(all_fields));
    let acts: Vec<_> = rows
        .iter()
        .rev()
        .map(|row| row["act"].as_str().expect("an act"))
        .collect();
    assert_eq!(
        acts,
        [
            "pause",
            "accept-identity",
            "resume",
            "dead-retry",
            "dead-discard",
            "replay-create",
            "replay-pause",
            "replay-resume",
            "replay-cancel",
            "retain"
        ]
    );
    let retried = list(&["--act", "dead-retry", "--who", "ops"]).await;
    assert_eq!((retried.len(), &retried[0]["reason"]), (1, &"limit raised".into()));
    assert!(list(&["--who", "somebody else"]).await.is_empty());
    let newest = rows[0]["id"].to_string();
    assert_eq!(list(&["--after", &newest, "--limit", "1"]).await, rows[1..2]);
    let changed = sqlx::query("update operator_acts set who = 'nobody'")
        .execute(&stage.pool)
        .await;
    assert!(
        changed
            .expect_err("the log is append-only")
            .to_string()
            .contains("append-only")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_cannot_be_recorded_is_not_done() {
    let desk = Desk::new().await;
    let (stage, operator) = (&desk.stage, &desk.operator);
    let all = insert_messages(&stage.pool, 4, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[..2]).await;
    kill(&stage.pool, &all[2..], "invalid-record").await;
    expire_a_key(stage).await;
    let create = json!({"selection": {"ids": [all[0]]}, "reason": "lost", "operation_id": "op"});
    desk.post(operator, "/admin/api/replays", &create).await.ok();
    let look = async || -> String {
        sqlx::query_scalar(
            "select json_build_array((select json_agg(c) from outbox_control c), (select json_agg(r) from outbox_replays r),
                                     (select json_agg(d) from outbox_dead_letters d), (select json_agg(i) from installation i),
                                     (select count(*) from outbox_messages), (select count(*) from idempotency_keys))::text",
        )
        .fetch_one(&stage.pool)
        .await
        .expect("the state")
    };
    let before = look().await;
    stage
        .pool
        .execute(
            "create function no_room() returns trigger language plpgsql as $$ begin raise exception 'no room'; end $$;
             create trigger no_room before insert on operator_acts for each row execute function no_room()",
        )
        .await
        .expect("a trigger");
    let another = json!({"selection": {"ids": [all[1]]}, "reason": "lost", "operation_id": "op2"});
    for (path, body) in [
        ("pause", json!({"reason": "x"})),
        ("resume", json!({"accept_identity": true})),
        ("dead-letters/retry", json!({"all": true, "reason": "x"})),
        ("dead-letters/discard", json!({"all": true, "reason": "x"})),
        ("replays", another),
        ("replays/op/pause", json!(null)),
        ("replays/op/cancel", json!(null)),
        ("retain", json!({})),
    ] {
        let answer = desk.post(&desk.admin, &format!("/admin/api/{path}"), &body).await;
        answer.failed(500, "internal", "");
        assert_eq!(look().await, before, "{path}");
    }
    for command in [
        &["pause", "--reason", "x"][..],
        &["resume", "--accept-identity"],
        &["dead", "retry", "--all", "--reason", "x"],
        &["dead", "discard", "--all", "--reason", "x"],
        &["replay", "create", "--id", &all[1].to_string(), "--reason", "x"],
        &["replay", "pause", "op"],
        &["retain"],
    ] {
        run(stage, &[command, &["--yes"]].concat()).await.failed(1, "no room");
        assert_eq!(look().await, before, "{command:?}");
    }
    assert_eq!(replayed(&stage.pool).await, [0; 0]);
    stage
        .pool
        .execute("drop trigger no_room on operator_acts")
        .await
        .expect("dropped");
    desk.post(operator, "/admin/api/pause", &json!({"reason": "x"}))
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_starts_only_with_the_count_that_was_agreed_to() {
    let desk = Desk::new().await;
    let (stage, operator, user) = (&desk.stage, &desk.operator, Uuid::new_v4());
    let all = insert_messages(&stage.pool, 5, &[Uuid::new_v4()], user).await;
    settle(&stage.pool, &all[..4]).await;
    let selection = json!({"user": user});
    let preview = desk
        .post(operator, "/admin/api/replays/preview", &json!({"selection": selection}))
        .await;
    assert_eq!((&preview.ok()["count"], &preview.ok()["keys"]), (&json!(4), &json!(1)));
    let cli = run(
        stage,
        &[
            "replay",
            "create",
            "--user",
            &user.to_string(),
            "--reason",
            "x",
            "--dry-run",
        ],
    )
    .await;
    assert_eq!(preview.ok(), &cli.json(), "the same words and numbers as the command's");
    settle(&stage.pool, &all[4..]).await;
    let create = |count: i64, operation: &str| json!({"selection": selection, "reason": "lost", "operation_id": operation, "count": count, "rate": 2});
    let refused = desk.post(operator, "/admin/api/replays", &create(4, "op")).await;
    refused.failed(409, "selection-changed", "5 messages match now");
    let created = desk.post(operator, "/admin/api/replays", &create(5, "op")).await;
    assert_eq!((created.status, &created.ok()["matched"]), (201, &json!(5)));
    assert_eq!(created.ok()["seconds_left"], 2.5);
    let other = json!({"selection": {"ids": [all[0]]}, "reason": "lost", "operation_id": "op"});
    desk.post(operator, "/admin/api/replays", &other)
        .await
        .failed(422, "operation-id-reused", "another selection");
    let nobody = json!({"selection": {"user": Uuid::new_v4()}, "reason": "lost", "operation_id": "op3"});
    desk.post(operator, "/admin/api/replays", &nobody)
        .await
        .failed(404, "not-found", "nothing matches");
    let shown = desk.get(&desk.viewer, "/admin/api/replays/op").await;
    assert_eq!(shown.ok(), &run(stage, &["replay", "show", "op"]).await.json());
    let listed = desk.get(&desk.viewer, "/admin/api/replays").await;
    assert_eq!(listed.ok()["rows"], json!(run(stage, &["replay", "list"]).await.rows()));
    send(
        desk.request(Method::GET, "/admin/api/replays/nothing%00")
            .bearer_auth(operator),
    )
    .await
    .failed(404, "not-found", "");
}

/// Two messages, and the transaction whose lock whoever wants to read them waits for.
async fn two_that_nobody_can_count(stage: &Stage) -> (Vec<i64>, PgConnection) {
    let all = insert_messages(&stage.pool, 2, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let mut holder = stage.connect().await;
    sqlx::raw_sql("begin; lock table outbox_messages in access exclusive mode")
        .execute(&mut holder)
        .await
        .expect("the lock");
    (all, holder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_may_read_for_longer_than_a_look_may() {
    let desk = Desk::new().await;
    let (all, mut holder) = two_that_nobody_can_count(&desk.stage).await;
    // A list is ended by PostgreSQL after 30 s; the dry run waits on.
    let list = desk.get(&desk.viewer, "/admin/api/messages");
    let preview = async {
        let asked = json!({"selection": {"ids": all}});
        let preview = desk.post(&desk.operator, "/admin/api/replays/preview", &asked);
        tokio::pin!(preview);
        tokio::select! {
            early = &mut preview => panic!("{early:?}"),
            list = list => list.failed(503, "database-unavailable", "took too long"),
        }
        // One is counted at a time.
        let another = desk.post(&desk.operator, "/admin/api/replays/preview", &asked).await;
        another.failed(503, "overloaded", "rows are being counted for somebody else");
        let create = json!({"selection": {"ids": all}, "reason": "lost", "operation_id": "op"});
        let create = desk.post(&desk.operator, "/admin/api/replays", &create).await;
        create.failed(503, "overloaded", "rows are being counted for somebody else");
        let plan = desk.get(&desk.admin, "/admin/api/retain").await;
        plan.failed(503, "overloaded", "rows are being counted for somebody else");
        sqlx::raw_sql("rollback").execute(&mut holder).await.expect("its end");
        preview.await
    };
    assert_eq!(preview.await.ok()["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_that_nobody_waits_for_any_more_ends_in_postgresql_too() {
    let desk = Desk::new().await;
    let (all, mut holder) = two_that_nobody_can_count(&desk.stage).await;
    let mut beside = desk.stage.connect().await;
    let mut counted = async || -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and application_name = 'dispatcher console'",
        )
        .fetch_one(&mut beside)
        .await
        .expect("activity")
    };
    let asked = json!({"selection": {"ids": all}});
    {
        let preview = desk.post(&desk.operator, "/admin/api/replays/preview", &asked);
        let waits = eventually("it is being counted", PATIENCE, async || match counted().await {
            1 => Ok(()),
            other => Err(other),
        });
        tokio::select! {
            early = preview => panic!("{early:?}"),
            () = waits => {}
        }
    }
    eventually("PostgreSQL has ended it", PATIENCE, async || match counted().await {
        0 => Ok(()),
        other => Err(other),
    })
    .await;
    sqlx::raw_sql("rollback").execute(&mut holder).await.expect("its end");
    let preview = desk.post(&desk.operator, "/admin/api/replays/preview", &asked).await;
    assert_eq!(preview.ok()["count"], 2, "the next one may be counted");
}
