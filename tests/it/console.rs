//! The operators' pages, without JavaScript: what is in them, who may see them, and that nothing in them runs.

use std::time::Duration;

use reqwest::{Response, StatusCode, header};
use uuid::Uuid;

use crate::support::{App, Stage, drafts, eventually, token::token_of, token_for};

/// The policy of every page: scripts and styles from here only, and none inside a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a browser calls a form that it sends.
const FORM: &str = "application/x-www-form-urlencoded";

fn encode(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

/// A browser of one operator: it accepts HTML and has the cookie of a log-in.
struct Browser<'a> {
    app: &'a App,
    cookie: String,
    language: &'static str,
}

impl<'a> Browser<'a> {
    async fn of(app: &'a App, role: &str) -> Self {
        let answer = app
            .http
            .post(format!("{}/login", app.admin_url))
            .header("origin", &app.admin_url)
            .header(header::CONTENT_TYPE, FORM)
            .body(encode(&[("token", &token_of(role).1), ("next", "/")]))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{:?}", answer.text().await);
        let cookie = answer.headers()[header::SET_COOKIE].to_str().expect("text");
        Self {
            app,
            cookie: cookie.split(';').next().expect("a pair").to_owned(),
            language: "en",
        }
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.app.http.get(format!("{}{path}", self.app.admin_url));
        let request = request.header(header::ACCEPT, "text/html,*/*;q=0.8");
        let request = request.header(header::ACCEPT_LANGUAGE, self.language);
        request
            .header(header::COOKIE, &self.cookie)
            .send()
            .await
            .expect("an answer")
    }

    /// A page that has to be there; its text.
    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        let (status, policy) = (
            answer.status(),
            answer.headers().get(header::CONTENT_SECURITY_POLICY).cloned(),
        );
        let page = answer.text().await.expect("text");
        assert_eq!(status, StatusCode::OK, "{path}: {page}");
        assert_eq!(policy.expect("a policy"), POLICY, "{path}");
        page
    }

    /// Sends a form, as a page of this console does.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let request = self.app.http.post(format!("{}{path}", self.app.admin_url));
        let request = request
            .header(header::ACCEPT, "text/html")
            .header(header::ACCEPT_LANGUAGE, self.language);
        let request = request
            .header("origin", &self.app.admin_url)
            .header(header::COOKIE, &self.cookie);
        let request = request.header(header::CONTENT_TYPE, FORM).body(encode(form));
        request.send().await.expect("an answer")
    }

    /// Sends a form that has to be taken; the page that it leads to.
    async fn act(&self, path: &str, form: &[(&str, &str)]) -> String {
        let answer = self.post(path, form).await;
        let (status, to) = (answer.status(), answer.headers().get(header::LOCATION).cloned());
        assert_eq!(
            status,
            StatusCode::SEE_OTHER,
            "{path}: {}",
            answer.text().await.expect("text")
        );
        to.expect("an address").to_str().expect("text").to_owned()
    }
}

/// Writes messages straight into the outbox, each of a key of its own. Gives their ids.
async fn write(stage: &Stage, messages: i32, bytes: i32) -> Vec<i64> {
    sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select id, id, gen_random_uuid(), clock_timestamp(), clock_timestamp(),
                convert_to(format('{\"jobId\":\"%s\",\"pad\":\"%s\"}', id, repeat('x', $2)), 'utf8')
         from (select gen_random_uuid() as id from generate_series(1, $1)) r returning id",
    )
    .bind(messages)
    .bind(bytes)
    .fetch_all(&stage.pool)
    .await
    .expect("rows")
}

/// Until nothing waits and so many are dead.
async fn settled(stage: &Stage, dead: i64) {
    eventually("all is settled", Duration::from_secs(45), async || {
        let seen: (i64, i64) = sqlx::query_as("select pending, dead from outbox_overview")
            .fetch_one(&stage.pool)
            .await
            .expect("overview");
        if seen == (0, dead) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

/// Until the page says it.
async fn says(browser: &Browser<'_>, path: &str, text: &str) -> String {
    eventually(&format!("{path} says {text:?}"), Duration::from_secs(30), async || {
        let page = browser.page(path).await;
        if page.contains(text) { Ok(page) } else { Err(page) }
    })
    .await
}

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
        wrong.contains("This filter cannot be used: &#60;b&#62;") && row(&wrong) == 0,
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
        let again = app
            .http
            .get(format!("{}{address}", app.admin_url))
            .header(header::IF_NONE_MATCH, &etag);
        assert_eq!(
            again.send().await.expect("an answer").status(),
            StatusCode::NOT_MODIFIED
        );
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
