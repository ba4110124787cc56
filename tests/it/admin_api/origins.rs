use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{Answer, Desk, send};

/// A POST of a browser with a session, with these headers beside it.
fn from_browser(desk: &Desk, cookie: &str, headers: &[(&str, &str)]) -> RequestBuilder {
    let mut request = desk
        .request(Method::POST, "/admin/api/pause")
        .header("cookie", cookie)
        .json(&json!({"reason": "a page said so"}));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
}

fn cookie(token: &str) -> String {
    format!("dispatcher_session={token}")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_s_page_cannot_act_with_an_operator_s_session() {
    let desk = Desk::new().await;
    let session = cookie(&desk.operator);
    let host = desk.app.admin_url.strip_prefix("http://").expect("a URL").to_owned();
    let other_port = format!("http://{}:1", host.split(':').next().expect("a host"));
    for headers in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "")],
        // A page of another port: the cookie is sent, for it is the same site.
        &[("origin", &other_port)],
        &[("sec-fetch-site", "same-site"), ("origin", &other_port)],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "cross-site"), ("origin", &desk.app.admin_url)],
        &[("sec-fetch-site", "")],
    ] {
        let answer = send(from_browser(&desk, &session, headers)).await;
        answer.failed(403, "cross-origin", "");
    }
    // What a form of another page could send without being asked is no act either.
    for simple in ["text/plain", "application/x-www-form-urlencoded"] {
        let form = desk
            .request(Method::POST, "/admin/api/pause")
            .header("cookie", &session)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", simple)
            .body("{\"reason\": \"x\"}");
        send(form).await.failed(415, "unsupported-media-type", "");
    }
    // A GET acts on nothing.
    let state = desk.get(&desk.viewer, "/admin/api/pause").await;
    assert_eq!(state.ok(), &json!({"paused": false, "pause": null}));
    assert_eq!(desk.acts().await.len(), 0);

    let own: Answer = send(from_browser(&desk, &session, &[("sec-fetch-site", "same-origin")])).await;
    assert_eq!(own.ok()["changed"], true);
    let own = send(from_browser(&desk, &session, &[("origin", &desk.app.admin_url)])).await;
    assert_eq!(own.ok()["changed"], false);
    assert_eq!(desk.acts().await[0]["via"], "console");
    // A viewer's session stays a viewer's.
    let viewer = from_browser(&desk, &cookie(&desk.viewer), &[("sec-fetch-site", "same-origin")]);
    send(viewer).await.failed(403, "forbidden", "operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_needs_no_origin_and_its_token_counts_before_a_cookie() {
    let desk = Desk::new().await;
    let both = desk
        .request(Method::GET, "/admin/api/me")
        .bearer_auth(&desk.viewer)
        .header("cookie", cookie(&desk.admin));
    let me = send(both).await;
    assert_eq!((&me.ok()["role"], &me.ok()["via"]), (&json!("viewer"), &json!("api")));
    let paused = desk
        .post(&desk.operator, "/admin/api/pause", &json!({"reason": "x"}))
        .await;
    assert_eq!(paused.ok()["changed"], true);
    // Not even with a good token, from another site's page.
    let from_page = desk
        .request(Method::POST, "/admin/api/resume")
        .bearer_auth(&desk.operator)
        .header("origin", "https://evil.example")
        .json(&json!({}));
    send(from_page).await.failed(403, "cross-origin", "");
}
