use reqwest::{Method, header};
use serde_json::json;
use uuid::Uuid;

use super::{Answer, Desk, send};
use crate::support::{PATIENCE, Stage, eventually, token_for, token_of, token_with};

async fn log_in(desk: &Desk, token: &str, next: &str, headers: &[(&str, &str)]) -> Answer {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("token", token), ("next", next)])
        .finish();
    let mut request = desk
        .request(Method::POST, "/login")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(request).await
}

/// The cookie as a browser sends it back.
fn cookie_of(answer: &Answer) -> String {
    let set = answer.headers[header::SET_COOKIE].to_str().expect("ASCII");
    set.split(';').next().expect("a pair").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_who_operates_and_no_role_below_viewer_is_let_in() {
    let desk = Desk::new().await;
    for role in ["viewer", "operator", "admin"] {
        let (sub, token) = token_of(role);
        let me = desk.get(&token, "/admin/api/me").await;
        assert_eq!(me.ok(), &json!({"name": sub, "role": role, "via": "api"}));
        assert_eq!(me.headers[header::CACHE_CONTROL], "no-store");
    }
    let user = token_for(Uuid::new_v4());
    desk.get(&user, "/admin/api/me")
        .await
        .failed(403, "forbidden", "viewer");
    desk.get(&token_of("user").1, "/admin/api/me")
        .await
        .failed(403, "forbidden", "viewer");
    let expired = token_with(&json!({"sub": Uuid::new_v4(), "role": "admin", "exp": 1}));
    desk.get(&expired, "/admin/api/me")
        .await
        .failed(401, "unauthorized", "expired");
    let nobody = send(desk.request(Method::GET, "/admin/api/me")).await;
    nobody.failed(401, "unauthorized", "missing");
    assert_eq!(nobody.headers[header::WWW_AUTHENTICATE], "Bearer");
    // What machines ask stays open.
    for open in ["/metrics", "/livez", "/readyz", "/openapi.json"] {
        assert_eq!(send(desk.request(Method::GET, open)).await.status, 200, "{open}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_by_a_token_and_its_cookie_is_out_of_reach_of_scripts_and_other_sites() {
    let desk = Desk::new().await;
    let (sub, token) = token_of("operator");
    let plain = log_in(&desk, &token, "/replays?state=running", &[]).await;
    assert_eq!(plain.status, 303, "{plain:?}");
    assert_eq!(plain.headers[header::LOCATION], "/replays?state=running");
    let set = plain.headers[header::SET_COOKIE].to_str().expect("ASCII");
    for flag in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.split("; ").any(|part| part == flag), "{flag}: {set}");
    }
    assert!(
        set.starts_with("dispatcher_session=") && !set.contains("Secure"),
        "{set}"
    );

    let cookie = cookie_of(&plain);
    let me = send(desk.request(Method::GET, "/admin/api/me").header("cookie", &cookie)).await;
    assert_eq!(me.ok(), &json!({"name": sub, "role": "operator", "via": "console"}));

    let tls = ("x-forwarded-proto", "https");
    let secure = log_in(&desk, &token, "", &[tls]).await;
    assert_eq!(secure.headers[header::LOCATION], "/");
    let set = secure.headers[header::SET_COOKIE].to_str().expect("ASCII");
    assert!(
        set.starts_with("__Host-dispatcher_session=") && set.contains("; Secure"),
        "{set}"
    );
    let me = desk
        .request(Method::GET, "/admin/api/me")
        .header("cookie", cookie_of(&secure));
    send(me.header(tls.0, tls.1)).await.ok();

    let out = send(desk.request(Method::POST, "/logout").header("cookie", &cookie)).await;
    assert_eq!(
        (out.status, &out.headers[header::LOCATION]),
        (303, &header::HeaderValue::from_static("/login"))
    );
    let ended: Vec<_> = out.headers.get_all(header::SET_COOKIE).iter().collect();
    assert_eq!(ended.len(), 2);
    assert!(
        ended
            .iter()
            .all(|set| set.to_str().expect("ASCII").contains("Max-Age=0")),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn log_in_refuses_what_is_no_operator_s_token_and_leads_nowhere_else() {
    let desk = Desk::new().await;
    log_in(&desk, "", "/", &[]).await.failed(401, "unauthorized", "missing");
    log_in(&desk, "a.b.c", "/", &[])
        .await
        .failed(401, "unauthorized", "malformed");
    log_in(&desk, "x\r\nSet-Cookie: a=b", "/", &[])
        .await
        .failed(401, "unauthorized", "");
    log_in(&desk, &token_for(Uuid::new_v4()), "/", &[])
        .await
        .failed(403, "forbidden", "viewer");
    log_in(&desk, &"a".repeat(5_000), "/", &[])
        .await
        .failed(400, "malformed-body", "3900");
    log_in(&desk, &"a".repeat(20_000), "/", &[])
        .await
        .failed(413, "body-too-large", "16384");
    let json = desk
        .request(Method::POST, "/login")
        .json(&json!({"token": desk.viewer}));
    send(json).await.failed(415, "unsupported-media-type", "");
    for next in [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/x\r\nSet-Cookie: a=b",
        "/\tx",
    ] {
        let answer = log_in(&desk, &desk.viewer, next, &[]).await;
        assert_eq!(answer.headers[header::LOCATION], "/", "{next:?}");
        assert_eq!(answer.headers.get_all(header::SET_COOKIE).iter().count(), 1, "{next:?}");
    }
    // Another site's page cannot log its own token in.
    for from in [
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        log_in(&desk, &desk.viewer, "/", &[from])
            .await
            .failed(403, "cross-origin", "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_session_cookies_are_refused_in_words_and_a_page_without_any_is_sent_to_the_log_in() {
    let desk = Desk::new().await;
    let cookie = cookie_of(&log_in(&desk, &desk.viewer, "/", &[]).await);
    let two = format!("{cookie}; dispatcher_session=other");
    let refused = send(desk.request(Method::GET, "/admin/api/me").header("cookie", &two)).await;
    refused.failed(401, "unauthorized", "two cookies");
    let challenge = "Bearer error=\"invalid_request\", \
                     error_description=\"there are two cookies dispatcher_session: delete both\"";
    assert_eq!(refused.headers[header::WWW_AUTHENTICATE], challenge);
    // The log-in would set one of them only: whoever was sent there would come back for ever.
    let visit = desk
        .request(Method::GET, "/")
        .header("accept", "text/html")
        .header("cookie", &two);
    let told = visit.send().await.expect("an answer");
    assert_eq!(told.status(), 401);
    assert_eq!(told.headers()[header::WWW_AUTHENTICATE], challenge);
    let page = told.text().await.expect("text");
    assert!(page.contains("two cookies dispatcher_session: delete both"), "{page}");
    let visit = desk
        .request(Method::GET, "/admin/api/me?x=1&y=%2F")
        .header("accept", "text/html,*/*;q=0.8");
    let sent = send(visit).await;
    assert_eq!(sent.status, 303);
    assert_eq!(
        sent.headers[header::LOCATION],
        "/login?next=%2Fadmin%2Fapi%2Fme%3Fx%3D1%26y%3D%252F"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_keys_for_tokens_runs_and_has_no_console() {
    let stage = Stage::new().await;
    let app = stage.spawn_app(&["--role", "relay"], &[("auth.jwt_secret", "")]);
    let get = async |path: &str| app.http.get(format!("{}{path}", app.admin_url)).send().await;
    eventually("the relay's listener answers", PATIENCE, async || {
        get("/readyz").await.map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(get("/metrics").await.expect("an answer").status(), 200);
    assert_eq!(get("/admin/api/me").await.expect("an answer").status(), 404);
    assert!(app.log().contains("no console"), "{}", app.log());
}
