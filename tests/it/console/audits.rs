//! What an audit found, and the way from there to the replay of it.

use reqwest::{StatusCode, header};
use uuid::Uuid;

use super::Browser;
use crate::{
    admin_api::audits::two_audits,
    operate::{replayed, step},
    support::Stage,
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
