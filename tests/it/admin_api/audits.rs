use serde_json::{Value, json};
use uuid::Uuid;

use super::Desk;
use crate::{
    operate::{insert_messages, replayed, run, settle, step},
    support::Stage,
};

/// An audit, and what it found missing.
pub struct Lost {
    pub id: String,
    pub missing: Vec<i64>,
    /// As the command printed it.
    pub printed: Value,
}

/// Two audits of different messages of one event draft: the older found two missing, the newer four.
pub async fn two_audits(stage: &Stage) -> [Lost; 2] {
    let all = insert_messages(&stage.pool, 6, &[Uuid::new_v4()], Uuid::new_v4()).await;
    // Acknowledged, it says; and the topic is empty.
    settle(&stage.pool, &all).await;
    let cut: String = sqlx::query_scalar("select to_json(created_at) #>> '{}' from outbox_messages where id = $1")
        .bind(all[2])
        .fetch_one(&stage.pool)
        .await
        .expect("a time");
    let audit = async |option: &str, missing: &[i64]| {
        let ran = run(stage, &["audit", "--by", "ops", option, &cut]).await;
        ran.failed(5, "acknowledged messages are missing");
        let printed = ran.any_json();
        let found = printed["findings"].as_array().expect("findings").iter();
        let found: Vec<_> = found.map(|f| f["outbox_id"].as_i64().expect("an id")).collect();
        assert_eq!(found, missing, "{printed}");
        Lost {
            id: printed["id"].as_str().expect("an id").to_owned(),
            missing: found,
            printed,
        }
    };
    [audit("--to", &all[..2]).await, audit("--from", &all[2..]).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_s_findings_are_sent_once_whoever_asks_and_no_other_audit_s() {
    let desk = Desk::new().await;
    let stage = &desk.stage;
    let [first, second] = two_audits(stage).await;
    let post = async |path: &str, body: Value| desk.post(&desk.operator, &format!("/admin/api/{path}"), &body).await;
    let of = |lost: &Lost| json!({"selection": {"audit": lost.id}});
    let create = |lost: &Lost, more: Value| {
        let mut body = json!({"selection": {"audit": lost.id}, "reason": "unclean election"});
        let fields = body.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        body
    };

    let preview = post("replays/preview", of(&first)).await;
    assert_eq!(preview.ok()["sample"], json!(first.missing));
    let command = ["replay", "create", "--missing", "--reason", "unclean election"];
    let dry_run = run(stage, &[&command[..], &["--dry-run"]].concat()).await;
    assert_eq!(
        post("replays/preview", of(&second)).await.ok(),
        &dry_run.json(),
        "the command takes the last audit"
    );

    post("replays", create(&first, json!({"operation_id": "mine"})))
        .await
        .failed(400, "malformed-body", "is sent once");
    post("replays", create(&first, json!({"count": 3})))
        .await
        .failed(409, "selection-changed", "2 messages match now");
    let created = post("replays", create(&first, json!({"count": 2}))).await;
    let operation = format!("missing-{}", first.id);
    assert_eq!(
        (created.status, &created.ok()["matched"], &created.ok()["operation_id"]),
        (201, &json!(2), &json!(operation))
    );
    let again = post("replays", create(&first, json!({"operation_id": operation}))).await;
    assert_eq!((again.status, &again.ok()["id"]), (200, &created.ok()["id"]));
    step(stage).await;
    assert_eq!(replayed(&stage.pool).await, first.missing);

    // The command and the API start one and the same.
    run(stage, &[&command[..], &["--yes", "--operation-id", "mine"]].concat())
        .await
        .failed(2, "is sent once");
    let started = run(stage, &[&command[..], &["--yes"]].concat()).await.json();
    assert_eq!(started["operation_id"], format!("missing-{}", second.id));
    let again = post("replays", create(&second, json!({}))).await;
    assert_eq!((again.status, &again.ok()["id"]), (200, &started["id"]));
    step(stage).await;
    assert_eq!(replayed(&stage.pool).await, [first.missing, second.missing].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_found_nothing_or_is_none_starts_nothing() {
    let desk = Desk::new().await;
    let clean = run(&desk.stage, &["audit"]).await.json();
    let create = async |selection: Value| {
        let body = json!({"selection": selection, "reason": "x"});
        desk.post(&desk.operator, "/admin/api/replays", &body).await
    };
    create(json!({"audit": clean["id"]}))
        .await
        .failed(404, "not-found", "nothing matches");
    create(json!({"audit": Uuid::nil()}))
        .await
        .failed(404, "not-found", "no such audit");
    create(json!({"audit": clean["id"], "user": Uuid::nil()})).await.failed(
        400,
        "malformed-body",
        "audit goes with nothing else",
    );
    create(json!({"audit": "the last"}))
        .await
        .failed(400, "malformed-body", "UUID");
    create(json!({"user": Uuid::nil()}))
        .await
        .failed(400, "malformed-body", "operation_id is missing");
    assert_eq!(desk.acts().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_are_listed_newest_first_and_each_is_shown_as_the_command_printed_it() {
    let desk = Desk::new().await;
    let [first, second] = two_audits(&desk.stage).await;
    let clean = run(&desk.stage, &["audit", "--to", "2026-01-01T00:00:00Z"])
        .await
        .json();
    let get = async |path: &str| desk.get(&desk.viewer, &format!("/admin/api/audits{path}")).await;
    // A list leaves out what was found one by one.
    let row = |printed: &Value| {
        let mut row = printed.clone();
        row.as_object_mut().expect("an object").remove("findings");
        row
    };
    let all = get("").await;
    let rows = [row(&clean), row(&second.printed), row(&first.printed)];
    assert_eq!(all.ok(), &json!({"rows": rows, "next": null}));
    let page = get("?limit=2").await;
    assert_eq!(page.ok(), &json!({"rows": rows[..2], "next": second.id}));
    let page = get(&format!("?limit=2&after={}", second.id)).await;
    assert_eq!(page.ok(), &json!({"rows": rows[2..], "next": null}));
    for printed in [&clean, &second.printed, &first.printed] {
        let shown = get(&format!("/{}", printed["id"].as_str().expect("an id"))).await;
        assert_eq!(shown.ok(), printed);
    }
    get(&format!("/{}", Uuid::nil()))
        .await
        .failed(404, "not-found", "no audit");
    get("/1").await.failed(400, "malformed-id", "no audit's");
}
