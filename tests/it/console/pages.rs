use std::time::Duration;

use reqwest::{StatusCode, header};
use uuid::Uuid;

use super::{Browser, FORM, encode, says, settled, write};
use crate::support::{Stage, drafts, token::token_of, token_for};

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_complete_without_javascript_and_nothing_in_it_runs() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let title = "<script>alert(1)</script><b>bold</b>";
    sqlx::query("update event_drafts set title = $2 where id = $1")
        .bind(draft)
        .bind(title)
        .execute(&stage.pool)
        .await
        .expect("a title");
    let job = app.accept(draft, &token_for(user)).await;
    settled(&stage, 0).await;

    let mut browser = Browser::of(&app, "viewer").await;
    let to = browser.get(&format!("/outbox/{job}")).await.headers()[header::LOCATION].clone();
    let message = to.to_str().expect("text").to_owned();
    for (path, english, korean) in [
        ("/", "Nothing accepted is lost", "접수된 것은 잃지 않음"),
        ("/?span=24h", "The numbers behind the charts", "차트의 수치"),
        ("/outbox", &*message, "발행됨"),
        (&*message, "&#60;script&#62;alert(1)", "&#60;script&#62;alert(1)"),
        ("/dead", "No dead letter waits", "데드 레터가 없습니다"),
        ("/replays", "No replay was ever made", "재전송이 아직 없습니다"),
        ("/replays/new", "Dry run", "미리 보기"),
        ("/audits", "No audit was made yet", "감사가 아직 없습니다"),
        (
            "/control",
            "The relay is not paused",
            "릴레이는 일시 중지되지 않았습니다",
        ),
        ("/log", "Nobody has changed anything yet", "아직 변경한 사람이 없습니다"),
        ("/settings", "kafka.brokers", "kafka.brokers"),
    ] {
        for (language, expected) in [("en", english), ("ko-KR,ko;q=0.9,en;q=0.8", korean)] {
            browser.language = language;
            let page = says(&browser, path, expected).await;
            let code = &language[..2];
            assert!(page.contains(&format!("<html lang=\"{code}\">")), "{path}: {page}");
            assert_eq!(page.matches("<h1").count(), 1, "{path}");
            // What the policy would refuse is not even there.
            assert_eq!(
                page.matches("<script").count(),
                page.matches("<script src=\"/assets/").count(),
                "{path}"
            );
            for forbidden in [" style=", "<style", " onclick=", " onerror=", "javascript:", title] {
                assert!(!page.contains(forbidden), "{path}: {forbidden}");
            }
        }
    }
    browser.language = "en";
    let settings = browser.page("/settings").await;
    assert!(!settings.contains(crate::support::token::SECRET), "secrets are hidden");
    assert!(
        settings.contains("auth.jwt_secret") && settings.contains("DISPATCHER_AUTH__JWT_SECRET"),
        "{settings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_the_address_and_pages_go_on_where_the_last_one_ended() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let ids = write(&stage, 55, 10).await;
    settled(&stage, 0).await;
    let browser = Browser::of(&app, "viewer").await;
    let row = |page: &str| page.matches("<th scope=\"row\"").count();

    let first = browser
        .page("/outbox?state=published&from=2026-01-02T03%3A04%3A05")
        .await;
    assert_eq!(row(&first), 50);
    for shown in [
        "value=\"published\" selected",
        "value=\"2026-01-02T03:04:05\"",
        "55 match",
    ] {
        assert!(first.contains(shown), "{shown}: {first}");
    }
    let next = format!(
        "/outbox?state=published&#38;from=2026-01-02T03%3A04%3A05&#38;after={}",
        ids[5]
    );
    assert!(first.contains(&next), "{next}: {first}");
    let second = browser.page(&next.replace("&#38;", "&")).await;
    assert_eq!(row(&second), 5);
    assert!(
        second.contains("Newest") && !second.contains("rel=\"next\""),
        "{second}"
    );

    // All of it, from the admin API: the times are as it takes them, and the cookie is enough.
    let export = "/admin/api/messages/export/csv?state=published&#38;from=2026-01-02T03%3A04%3A05Z";
    assert!(first.contains(&format!("href=\"{export}\"")), "{first}");
    let answer = browser.get(&export.replace("&#38;", "&")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.expect("text").lines().count(), 56);

    assert_eq!(row(&browser.page("/outbox?state=pending").await), 0);
    assert!(browser.page("/outbox?state=dead").await.contains("No message matches"));
    let key: Uuid = sqlx::query_scalar("select key from outbox_messages where id = $1")
        .bind(ids[7])
        .fetch_one(&stage.pool)
        .await
        .expect("a row");
    assert_eq!(row(&browser.page(&format!("/outbox?draft={key}")).await), 1);
    let wrong = browser.page("/outbox?draft=%3Cb%3E").await;
    assert!(
        wrong.contains("This filter cannot be used: &#60;b&#62;") && row(&wrong) == 0 && !wrong.contains("/export/"),
        "{wrong}"
    );
    let missing = browser.get("/outbox/4711").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert!(missing.text().await.expect("text").contains("no message 4711"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_is_led_to_the_log_in_and_a_user_is_refused() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let visit = app
        .http
        .get(format!("{}/outbox?state=dead", app.admin_url))
        .header(header::ACCEPT, "text/html");
    let answer = visit.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(
        answer.headers()[header::LOCATION],
        "/login?next=%2Foutbox%3Fstate%3Ddead"
    );
    let form = app
        .http
        .get(format!("{}/login?next=%2Foutbox", app.admin_url))
        .send()
        .await
        .expect("an answer");
    let form = form.text().await.expect("text");
    assert!(form.contains("name=\"next\" value=\"/outbox\""), "{form}");
    let elsewhere = app
        .http
        .get(format!("{}/login?next=//evil.example", app.admin_url))
        .send()
        .await
        .expect("an answer");
    assert!(!elsewhere.text().await.expect("text").contains("evil"));

    // A program gets a problem, and a person a page.
    let answer = app
        .http
        .get(format!("{}/outbox", app.admin_url))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
    let login = app
        .http
        .post(format!("{}/login", app.admin_url))
        .header("origin", &app.admin_url);
    let login = login
        .header(header::ACCEPT, "text/html")
        .header(header::CONTENT_TYPE, FORM);
    let login = login.body(encode(&[("token", &token_of("user").1)]));
    let answer = login.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.headers().get(header::SET_COOKIE).is_none());
    let page = answer.text().await.expect("text");
    assert!(
        page.starts_with("<!doctype html>") && page.contains("the role viewer"),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_are_kept_for_ever_by_their_fingerprint() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let browser = Browser::of(&app, "viewer").await;
    let page = browser.page("/").await;
    let mut seen = 0;
    for address in page.split('"').filter(|part| part.starts_with("/assets/")) {
        let answer = browser.get(address).await;
        assert_eq!(answer.status(), StatusCode::OK, "{address}");
        assert_eq!(
            answer.headers()[header::CACHE_CONTROL],
            "public, max-age=31536000, immutable"
        );
        let etag = answer.headers()[header::ETAG].clone();
        assert!(!answer.bytes().await.expect("bytes").is_empty(), "{address}");
        let etag = etag.to_str().expect("ASCII");
        for (known, status) in [
            (etag, StatusCode::NOT_MODIFIED),
            (&*format!("\"x\", W/{etag}"), StatusCode::NOT_MODIFIED),
            ("*", StatusCode::NOT_MODIFIED),
            (&format!("x{etag}"), StatusCode::OK),
        ] {
            let again = app.http.get(format!("{}{address}", app.admin_url));
            let again = again.header(header::IF_NONE_MATCH, known);
            let answer = again.send().await.expect("an answer");
            assert_eq!(answer.status(), status, "{address}: {known}");
        }
        let old = browser
            .get(&format!("{}?v=old", address.split('?').next().expect("a path")))
            .await;
        assert_eq!(
            old.headers()[header::CACHE_CONTROL],
            "no-cache",
            "another version's page does not keep it"
        );
        seen += 1;
    }
    assert!(seen >= 7, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_stream_renews_the_overview_and_does_not_hold_up_a_stop() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let browser = Browser::of(&app, "viewer").await;
    let mut stream = browser.get("/live").await;
    assert_eq!(stream.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut received = String::new();
    while received.matches("event: look").count() < 2 {
        let chunk = tokio::time::timeout(Duration::from_secs(20), stream.chunk()).await;
        let chunk = chunk.expect("in time").expect("no error").expect("no end");
        received.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(received.contains("id=\"verdict\""), "{received}");
    let points: serde_json::Value = browser.get("/history.json?span=1h").await.json().await.expect("JSON");
    assert!(points[0]["at"].is_i64() && points[0]["pending"].is_number(), "{points}");
    assert_eq!(points[0]["gone_seconds"], 0.0, "nothing waits: {points}");

    let began = std::time::Instant::now();
    let status = app.term_and_wait().await;
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_tells_what_is_away_while_it_is_away() {
    let stage = Stage::with_servers_of_its_own().await;
    let app = stage.app().await;
    let browser = Browser::of(&app, "viewer").await;
    says(&browser, "/", "All is well").await;
    stage.servers().redis.stop().await.expect("Redis stops");
    let page = says(&browser, "/", "Only makes reading faster").await;
    assert!(page.contains("All is well"), "{page}");
    stage.servers().postgres.kill();
    let page = says(&browser, "/", "PostgreSQL does not answer").await;
    assert!(
        page.contains("Nothing accepted is lost"),
        "what was seen last is still there: {page}"
    );
    let page = browser.get("/outbox").await;
    assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.text().await.expect("text").contains("this page cannot be made"));
}
