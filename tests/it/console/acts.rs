use reqwest::{StatusCode, header};

use super::{Browser, FORM, says, settled, write};
use crate::support::Stage;

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
