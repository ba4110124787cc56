use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use sqlx::Executor as _;

use super::{Browser, FORM, encode, says, settled, write};
use crate::{
    admin_api::expire_a_key,
    operate::{kill, settle},
    support::Stage,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_told_everywhere_and_only_an_operator_can_end_it() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let (viewer, operator) = (Browser::of(&app, "viewer").await, Browser::of(&app, "operator").await);
    assert!(operator.page("/control").await.contains("action=\"/control/pause\""));
    assert!(
        !viewer
            .page("/control")
            .await
            .contains("<form method=\"post\" action=\"/control")
    );
    for path in ["/control/pause", "/control/resume", "/dead", "/replays"] {
        let refused = viewer.post(path, &[("reason", "why not")]).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(
            refused
                .text()
                .await
                .expect("text")
                .contains("this needs the role operator"),
            "{path}"
        );
    }
    let silent = operator.post("/control/pause", &[("reason", " ")]).await;
    assert_eq!(silent.status(), StatusCode::BAD_REQUEST);

    operator
        .act("/control/pause", &[("reason", "moving <b>brokers</b>")])
        .await;
    says(&viewer, "/control", "moving &#60;b&#62;brokers").await;
    for path in ["/", "/outbox", "/settings"] {
        says(&viewer, path, "class=\"banner\"").await;
    }
    let page = viewer.page("/").await;
    assert!(
        page.contains("Publishing is paused") && !page.contains("All is well"),
        "{page}"
    );
    operator.act("/control/resume", &[]).await;
    says(&viewer, "/", "All is well").await;
    let log = viewer.page("/log").await;
    for told in [
        "<strong>pause</strong>",
        "<strong>resume</strong>",
        "moving &#60;b&#62;brokers",
        "console",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }

    // A page of another origin cannot act with the operator's cookie.
    let foreign = app
        .http
        .post(format!("{}/control/pause", app.admin_url))
        .header("origin", "https://evil.example");
    let foreign = foreign
        .header(header::COOKIE, &operator.cookie)
        .header(header::CONTENT_TYPE, FORM);
    let answer = foreign.body("reason=x").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_by_their_cause_and_decided_about() {
    let stage = Stage::with_topic(&[("max.message.bytes", "3000")]).await;
    let app = stage.app().await;
    let ids = write(&stage, 3, 5000).await;
    settled(&stage, 3).await;
    let operator = Browser::of(&app, "operator").await;
    let page = says(&operator, "/", "Dead letters wait for a decision: 3").await;
    assert!(page.contains("href=\"/dead?class=message-too-large\""), "{page}");
    let page = operator.page("/dead?class=message-too-large").await;
    for told in [
        "Retry all 3 of this cause",
        &format!("value=\"{}\"", ids[1]),
        "message-too-large",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    let to = operator.act("/dead", &[("act", "discard"), ("reason", "x")]).await;
    assert!(operator.page(&to).await.contains("Nothing was selected"), "{to}");

    let one = ids[0].to_string();
    let form = [
        ("act", "discard"),
        ("id", &*one),
        ("reason", "withdrawn"),
        ("class", "message-too-large"),
    ];
    let to = operator.act("/dead", &form).await;
    assert!(operator.page(&to).await.contains("1 discarded."), "{to}");
    let page = operator.page(&format!("/outbox/{one}")).await;
    assert!(
        page.contains("Discarded by") && page.contains("Reason: withdrawn"),
        "{page}"
    );

    let form = [
        ("act", "retry-class"),
        ("class", "message-too-large"),
        ("reason", "mended"),
    ];
    let to = operator.act("/dead", &form).await;
    assert!(operator.page(&to).await.contains("2 sent again."), "{to}");
    let page = says(&operator, &format!("/outbox/{}", ids[2]), "Replays of this message").await;
    assert!(page.contains("Retried by"), "{page}");
    assert!(operator.page("/dead?resolved=1").await.contains("discarded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_dead_letter_is_refused_and_nothing_is_decided() {
    let stage = Stage::new().await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let ids = write(&stage, 2, 10).await;
    kill(&stage.pool, &ids[..1], "invalid-record").await;
    let operator = Browser::of(&app, "operator").await;
    let (dead, alive) = (ids[0].to_string(), ids[1].to_string());
    for act in ["retry", "discard"] {
        for (id, status, why) in [
            ("seven", StatusCode::BAD_REQUEST, "&#34;seven&#34; is no outbox id"),
            ("", StatusCode::BAD_REQUEST, "is no outbox id"),
            ("9223372036854775808", StatusCode::BAD_REQUEST, "is no outbox id"),
            (&alive, StatusCode::NOT_FOUND, "is no dead letter"),
        ] {
            let form = [("act", act), ("reason", "x"), ("id", &*dead), ("id", id)];
            let refused = operator.post("/dead", &form).await;
            assert_eq!(refused.status(), status, "{act} {id:?}");
            let page = refused.text().await.expect("text");
            assert!(page.contains(why), "{act} {id:?}: {page}");
        }
    }
    let open: i64 = sqlx::query_scalar("select count(*) from outbox_dead_letters where resolution is null")
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
    assert_eq!(open, 1);
}

/// What is resolved is refused, as when PostgreSQL is stopped in the middle of it.
const STOPPED_MIDWAY: &str = "
    create function stop_it() returns trigger language plpgsql as
        $$ begin raise exception 'stopped' using errcode = 'admin_shutdown'; end $$;
    create trigger stopped before update on outbox_dead_letters for each row execute function stop_it()";

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_cut_off_may_have_been_done_in_part_whichever_way_it_was_asked_for() {
    let stage = Stage::new().await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let ids = write(&stage, 1, 10).await;
    kill(&stage.pool, &ids, "invalid-record").await;
    stage.pool.execute(STOPPED_MIDWAY).await.expect("a trigger");
    let operator = Browser::of(&app, "operator").await;
    for path in ["/dead", "/admin/api/dead-letters/retry"] {
        let request = app.http.post(format!("{}{path}", app.admin_url));
        let request = request
            .header("origin", &app.admin_url)
            .header(header::COOKIE, &operator.cookie);
        let request = if path == "/dead" {
            let form = [("act", "retry"), ("reason", "x"), ("id", &*ids[0].to_string())];
            request.header(header::CONTENT_TYPE, FORM).body(encode(&form))
        } else {
            request.json(&json!({"ids": ids, "reason": "x"}))
        };
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(problem["code"], "outcome-unknown", "{path}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_needs_its_number_typed_and_the_same_form_starts_it_once() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let ids = write(&stage, 40, 10).await;
    settled(&stage, 0).await;
    let operator = Browser::of(&app, "operator").await;
    let nothing = operator.page("/replays/new?preview=1").await;
    assert!(nothing.contains("This filter cannot be used"), "{nothing}");
    let page = operator
        .page("/replays/new?preview=1&from=2026-01-02T03%3A04&rate=20")
        .await;
    for told in [
        "40 messages of 40 event drafts",
        "At this rate it takes 2.0 s",
        "Type 40 to confirm",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(
        page.contains(&format!("href=\"/outbox/{}\"", ids[0])),
        "a sample: {page}"
    );
    let operation = page.split("name=\"operation_id\" value=\"").nth(1).expect("a name");
    let operation = operation.split('"').next().expect("a value");

    let form = |confirm| {
        [
            ("from", "2026-01-02T03:04"),
            ("rate", "20"),
            ("operation_id", operation),
            ("reason", "a consumer lost its disk"),
            ("confirm", confirm),
        ]
    };
    for wrong in ["39", "", "forty"] {
        let page = operator
            .post("/replays", &form(wrong))
            .await
            .text()
            .await
            .expect("text");
        assert!(
            page.contains("nothing was started") && page.contains(operation),
            "{wrong}: {page}"
        );
    }
    let to = operator.act("/replays", &form("40")).await;
    assert_eq!(operator.act("/replays", &form("40")).await, to, "sent twice");
    operator.act(&format!("{to}/pause"), &[]).await;
    let page = operator.page(&to).await;
    assert!(
        page.contains("paused") && page.contains("a consumer lost its disk"),
        "{page}"
    );
    operator.act(&format!("{to}/resume"), &[]).await;
    says(&operator, &to, "40 of 40").await;
    assert_eq!(stage.records(80).await.len(), 80, "each once more");
    let late = operator.post(&format!("{to}/cancel"), &[]).await;
    assert_eq!(late.status(), StatusCode::CONFLICT);
    assert!(operator.page("/replays").await.contains("a consumer lost its disk"));
    let id = to.rsplit('/').next().expect("an id");
    let page = operator.page(&format!("/outbox?replay={id}")).await;
    assert!(page.contains("40 match"), "{page}");
}

/// Three settled messages of an hour ago, which fill the first partition, it seems.
async fn fill_a_partition(stage: &Stage) {
    let ids: Vec<i64> = sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), at, at, '{}'
         from (select clock_timestamp() - interval '1 hour' as at from generate_series(1, 3)) r returning id",
    )
    .fetch_all(&stage.pool)
    .await
    .expect("rows");
    settle(&stage.pool, &ids).await;
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
         select max(seq) + 1, max(fence), 'gone/1', clock_timestamp(), 'at-least-once', '{}', '{[1,1000001)}', '{[4,1000001)}'
         from outbox_checkpoints",
    )
    .execute(&stage.pool)
    .await
    .expect("a base");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_dropped_by_an_admin_who_saw_it_and_said_why() {
    let stage = Stage::new().await.set("outbox.retention", "1m");
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let (operator, admin) = (Browser::of(&app, "operator").await, Browser::of(&app, "admin").await);
    let nothing = admin.page("/control?plan=1").await;
    assert!(nothing.contains("Nothing is settled and old enough"), "{nothing}");
    expire_a_key(&stage).await;
    let dry_run = admin.page("/control?plan=1").await;
    assert!(
        dry_run.contains("name=\"what\" value=\"idempotency_keys\""),
        "{dry_run}"
    );

    let page = operator.page("/control").await;
    assert!(
        page.contains("needs the role admin") && !page.contains("plan=1"),
        "{page}"
    );
    assert_eq!(operator.get("/control?plan=1").await.status(), StatusCode::FORBIDDEN);
    let form = |partition, word| {
        [
            ("what", "idempotency_keys"),
            ("what", partition),
            ("reason", "the disk is <full>"),
            ("confirm", word),
        ]
    };
    let refused = operator.post("/control/retain", &form("", "drop")).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);

    // More would go than was shown; then the word is wrong.
    fill_a_partition(&stage).await;
    let page = admin.page("/control?plan=1").await;
    let shown = page
        .split("name=\"what\" value=\"outbox_messages")
        .nth(1)
        .expect("a partition");
    let partition = format!("outbox_messages{}", shown.split('"').next().expect("a name"));
    for (partition, word) in [("", "drop"), (&*partition, ""), (&*partition, "yes")] {
        let page = admin.post("/control/retain", &form(partition, word)).await;
        let page = page.text().await.expect("text");
        assert!(
            page.contains("nothing was dropped") && page.contains("value=\"the disk is &#60;full&#62;\""),
            "{partition} {word}: {page}"
        );
    }
    let silent = admin
        .post("/control/retain", &[("what", &*partition), ("confirm", "drop")])
        .await;
    assert_eq!(silent.status(), StatusCode::BAD_REQUEST, "no reason");
    let rows = async || -> (i64, i64) {
        sqlx::query_as("select (select count(*) from outbox_messages), (select count(*) from idempotency_keys)")
            .fetch_one(&stage.pool)
            .await
            .expect("counts")
    };
    assert_eq!(rows().await, (3, 1), "nothing has gone so far");
    assert!(admin.page("/log").await.contains("Nobody has changed anything yet"));

    let to = admin.act("/control/retain", &form(&partition, "drop")).await;
    let page = admin.page(&to).await;
    assert!(page.contains("Dropped. Partitions: 1; idempotency keys: 1"), "{page}");
    assert_eq!(rows().await, (0, 0));
    let log = operator.page("/log").await;
    for told in [
        "<strong>retain</strong>",
        "the disk is &#60;full&#62;",
        &partition,
        "console",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
}
