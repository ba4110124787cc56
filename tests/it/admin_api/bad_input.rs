use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Desk, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_not_understood_is_refused_by_name_and_never_reaches_the_database_as_text() {
    let desk = Desk::new().await;
    let get = async |path: &str| desk.get(&desk.viewer, &format!("/admin/api/{path}")).await;
    for (path, word) in [
        ("messages?lmit=7", "lmit"),
        ("messages?limit=0", "1 to 1000"),
        ("messages?limit=-1", "1 to 1000"),
        ("messages?limit=1001", "1 to 1000"),
        ("messages?limit=9223372036854775807", "1 to 1000"),
        ("messages?limit=9223372036854775808", "limit"),
        ("messages?after=99999999999999999999", "after"),
        ("messages?after=7%20or%201=1", "after"),
        ("messages?after=7&after=8", "twice"),
        ("messages?state=dead'%3B%20drop%20table%20jobs%3B--", "state"),
        ("messages?job='%20or%20''='", "job"),
        ("messages?from=yesterday", "from"),
        ("messages?from=-10000-01-01T00:00:00Z", "0 to 9999"),
        ("messages?to=-262143-01-01T00:00:00Z", "0 to 9999"),
        (
            "messages?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            "not before",
        ),
        ("messages?error_class=a%00b", "NUL"),
        ("messages?error_class=a&state=pending", "error_class"),
        (
            "messages?key=0193a5c7-8d1e-7b3a-9f52-3c1d5e7a9b10&draft=0193a5c7-8d1e-7b3a-9f52-3c1d5e7a9b11",
            "one thing",
        ),
        ("dead-letters?resolved=maybe", "resolved"),
        ("replays?after=1", "after"),
        ("messages/export/csv?limit=7", "no limit"),
        ("messages/export/csv?state=lost", "state"),
        ("messages/export/ndjson?from=yesterday", "from"),
        ("audits?after=1", "after"),
        ("audits?limit=0", "1 to 1000"),
        ("acts?act=delete", "act"),
        ("acts?who=%00", "NUL"),
    ] {
        get(path).await.failed(400, "malformed-query", word);
    }
    // Text is text, whatever it looks like.
    for path in [
        "messages?error_class='%3B%20drop%20table%20outbox_dead_letters%3B--",
        "dead-letters?class=%25",
        "acts?who='%20or%20'1'='1",
        "messages?after=-9223372036854775808",
        "messages?after=9223372036854775807",
        "messages?from=0001-01-01T00:00:00Z",
        "messages?to=9999-12-31T23:59:59Z",
    ] {
        assert_eq!(get(path).await.ok()["rows"], json!([]), "{path}");
    }
    get(&format!("messages?replay={}", Uuid::new_v4()))
        .await
        .failed(404, "not-found", "no replay");
    get("messages/export/xml")
        .await
        .failed(404, "not-found", "csv or ndjson");
    get("nothing").await.failed(404, "no-such-route", "");
    send(
        desk.request(Method::DELETE, "/admin/api/messages/1")
            .bearer_auth(&desk.admin),
    )
    .await
    .failed(405, "method-not-allowed", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_understood_changes_nothing() {
    let desk = Desk::new().await;
    let post = async |path: &str, body: &Value| desk.post(&desk.admin, &format!("/admin/api/{path}"), body).await;
    let long = "a".repeat(1_001);
    for (path, body, word) in [
        ("pause", json!({}), "reason"),
        ("pause", json!({"reason": "  "}), "reason is empty"),
        ("pause", json!({"reason": long}), "1000"),
        ("pause", json!({"reason": "a\u{0}b"}), "NUL"),
        ("pause", json!({"reason": "x", "force": true}), "force"),
        ("pause", json!(["x"]), "cannot be used"),
        ("resume", json!({"accept_identity": "yes"}), "cannot be used"),
        ("dead-letters/retry", json!({"reason": "x"}), "exactly one"),
        ("dead-letters/retry", json!({"ids": [], "reason": "x"}), "exactly one"),
        (
            "dead-letters/retry",
            json!({"ids": [1], "all": true, "reason": "x"}),
            "exactly one",
        ),
        (
            "dead-letters/discard",
            json!({"class": "", "reason": "x"}),
            "class is empty",
        ),
        (
            "dead-letters/discard",
            json!({"ids": [1.5], "reason": "x"}),
            "cannot be used",
        ),
        (
            "replays",
            json!({"selection": {}, "reason": "x", "operation_id": "o"}),
            "names nothing",
        ),
        (
            "replays",
            json!({"selection": {"ids": [1], "user": Uuid::nil()}, "reason": "x", "operation_id": "o"}),
            "nothing else",
        ),
        (
            "replays",
            json!({"selection": {"usr": Uuid::nil()}, "reason": "x", "operation_id": "o"}),
            "usr",
        ),
        (
            "replays/preview",
            json!({"selection": {"from": "-10000-01-01T00:00:00Z"}}),
            "0 to 9999",
        ),
        (
            "replays",
            json!({"selection": {"ids": [1]}, "reason": "x", "operation_id": ""}),
            "operation_id is empty",
        ),
        (
            "replays",
            json!({"selection": {"ids": [1]}, "reason": "x", "operation_id": "o", "rate": 0}),
            "rate",
        ),
        (
            "replays",
            json!({"selection": {"ids": [1]}, "reason": "x", "operation_id": "o", "rate": 2_000_000}),
            "rate",
        ),
        ("retain", json!({"older_than": "1m"}), "older_than"),
        ("retain", json!({"reason": " "}), "reason is empty"),
    ] {
        post(path, &body).await.failed(400, "malformed-body", word);
    }
    post("dead-letters/retry", &json!({"ids": [7], "reason": "x"}))
        .await
        .failed(404, "not-found", "7 is no dead letter");
    let unknown = json!({"selection": {"ids": [7]}, "reason": "x", "operation_id": "o"});
    post("replays", &unknown)
        .await
        .failed(404, "not-found", "no such message in the outbox: 7");
    // The listener closes this connection, so it is not one for the next request.
    let huge = desk
        .request(Method::POST, "/admin/api/dead-letters/discard")
        .bearer_auth(&desk.admin)
        .header("connection", "close")
        .json(&json!({"ids": vec![1_234_567; 40_000], "reason": "x"}));
    send(huge).await.failed(413, "body-too-large", "262144");
    let empty = desk.request(Method::POST, "/admin/api/pause").bearer_auth(&desk.admin);
    send(empty).await.failed(400, "malformed-body", "");
    assert_eq!(desk.acts().await.len(), 0);
}
