//! What an audit found, and the way from there to the replay of it.

use std::time::Duration;

use reqwest::{StatusCode, header};
use uuid::Uuid;

use super::{Browser, says};
use crate::{
    admin_api::audits::two_audits,
    operate::{insert_messages, kill, replayed, run, settle, step},
    support::{Stage, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_audit_found_missing_is_chosen_by_it_and_sent_once_however_often_it_is_confirmed() {
    let stage = Stage::new().await;
    let [first, second] = two_audits(&stage).await;
    // It does not relay: nothing moves but by the test.
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let (viewer, operator) = (Browser::of(&app, "viewer").await, Browser::of(&app, "operator").await);
    let form = viewer.page("/replays/new").await;
    for told in [&*first.id, &second.id, ": 2 missing", ": 4 missing"] {
        assert!(form.contains(told), "{told}: {form}");
    }

    let dry_run = format!("/replays/new?preview=1&audit={}", first.id);
    let page = operator.page(&dry_run).await;
    let operation = format!("missing-{}", first.id);
    for told in [
        "2 messages of 1 event drafts",
        "Type 2 to confirm",
        &format!("name=\"operation_id\" value=\"{operation}\""),
        &format!("type=\"hidden\" name=\"audit\" value=\"{}\"", first.id),
        &format!("value=\"{}\" selected", first.id),
        &format!("href=\"/outbox/{}\"", first.missing[0]),
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(viewer.page(&dry_run).await.contains("may look and not decide"));
    let page = operator.page(&format!("{dry_run}&ids=1")).await;
    assert!(page.contains("audit goes with nothing else"), "{page}");
    let forgotten = format!("/replays/new?preview=1&audit={}", Uuid::nil());
    let page = operator.page(&forgotten).await;
    assert!(page.contains("no such audit"), "{page}");

    let form = |operation| {
        [
            ("audit", &*first.id),
            ("operation_id", operation),
            ("reason", "unclean election"),
            ("confirm", "2"),
        ]
    };
    let refused = viewer.post("/replays", &form(&operation)).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let renamed = operator.post("/replays", &form("once more")).await;
    assert_eq!(renamed.status(), StatusCode::BAD_REQUEST);
    let renamed = renamed.text().await.expect("text");
    assert!(renamed.contains("is sent once"), "{renamed}");
    let to = operator.act("/replays", &form(&operation)).await;
    assert_eq!(operator.act("/replays", &form(&operation)).await, to, "sent twice");
    let again = operator.get(&dry_run).await;
    assert_eq!(again.status(), StatusCode::SEE_OTHER, "the dry run of what was sent");
    assert_eq!(again.headers()[header::LOCATION], to);
    let page = operator.page(&to).await;
    assert!(page.contains(&first.id) && page.contains(&operation), "{page}");
    step(&stage).await;
    assert_eq!(replayed(&stage.pool).await, first.missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_says_what_is_missing_and_leads_to_its_replay_until_there_is_one() {
    let stage = Stage::new().await;
    let [first, second] = two_audits(&stage).await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let (viewer, operator) = (Browser::of(&app, "viewer").await, Browser::of(&app, "operator").await);
    let list = viewer.page("/audits").await;
    let at = |id: &str| {
        list.find(&format!("href=\"/audits/{id}\""))
            .unwrap_or_else(|| panic!("{id}: {list}"))
    };
    assert!(at(&second.id) < at(&first.id), "newest first");
    assert_eq!(list.matches("something wrong").count(), 2, "{list}");

    let path = format!("/audits/{}", first.id);
    let send = format!("/replays/new?preview=1&#38;audit={}#dry-run", first.id);
    let page = operator.page(&path).await;
    for told in ["Missing: 2", "all that is retained", &*send, "ops", &stage.topic] {
        // The range of the first ends where the second's begins.
        assert_eq!(page.contains(told), told != "all that is retained", "{told}: {page}");
    }
    for id in &first.missing {
        assert!(page.contains(&format!("href=\"/outbox/{id}\"")), "{id}: {page}");
    }
    for id in &second.missing {
        assert!(!page.contains(&format!("href=\"/outbox/{id}\"")), "{id}: {page}");
    }
    let page = viewer.page(&path).await;
    assert!(
        page.contains("may look and not decide") && !page.contains(&send),
        "{page}"
    );

    let operation = format!("missing-{}", first.id);
    let form = [
        ("audit", &*first.id),
        ("operation_id", &operation),
        ("reason", "a disk"),
        ("confirm", "2"),
    ];
    let replay = operator.act("/replays", &form).await;
    let page = operator.page(&path).await;
    assert!(page.contains(&replay) && !page.contains(&send), "{page}");
    assert!(
        operator
            .page(&format!("/audits/{}", second.id))
            .await
            .contains("Missing: 4")
    );
    for none in [Uuid::nil().to_string(), "1".to_owned()] {
        let answer = operator.get(&format!("/audits/{none}")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{none}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_findings_is_cut_and_says_so() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 130, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let audit = run(&stage, &["audit"]).await.any_json();
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let viewer = Browser::of(&app, "viewer").await;
    let id = audit["id"].as_str().expect("an id");
    let page = viewer.page(&format!("/audits/{id}")).await;
    assert!(
        page.contains("Missing: 130") && page.contains("The first 100 are shown"),
        "{page}"
    );
    assert_eq!(page.matches("href=\"/outbox/").count(), 100, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_tells_of_the_last_audit_only_when_it_is_bad_or_says_nothing_of_today() {
    let stage = Stage::new().await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let viewer = Browser::of(&app, "viewer").await;
    says(&viewer, "/", "No audit yet").await;
    run(&stage, &["audit"]).await.json();
    eventually(
        "nothing is told of a clean audit",
        Duration::from_secs(30),
        async || {
            let page = viewer.page("/").await;
            let silent = !page.contains("No audit yet") && !page.contains("last audit");
            if silent && page.contains("Every accepted job is in Kafka") {
                Ok(())
            } else {
                Err(page)
            }
        },
    )
    .await;
    sqlx::query("update outbox_audits set started_at = started_at - interval '8 days'")
        .execute(&stage.pool)
        .await
        .expect("an old audit");
    says(&viewer, "/", "The last audit was 8 d").await;
    let [_, last] = two_audits(&stage).await;
    says(&viewer, "/", "found 4 messages missing in Kafka").await;
    // A later one, of a range in which nothing is missing, says nothing of these. A look that sees the dead letter came after it.
    run(&stage, &["audit", "--from", "2999-01-01T00:00:00Z"]).await.json();
    let dead = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &dead, "an-odd-class").await;
    let page = says(&viewer, "/", "an-odd-class").await;
    assert!(page.contains("found 4 messages missing in Kafka"), "{page}");
    assert!(page.contains(&format!("href=\"/audits/{}\"", last.id)), "{page}");
    assert!(
        page.contains("Nothing accepted is lost") && !page.contains("Every accepted job is in Kafka"),
        "{page}"
    );
}
