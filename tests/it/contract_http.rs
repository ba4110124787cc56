//! contract.md, "HTTP", line by line against the running program.

use std::time::Duration;

use chrono::Utc;
use reqwest::{Method, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, drafts, eventually, token_for, token_with};

/// A user with one complete draft.
struct Someone {
    token: String,
    draft: Uuid,
}

impl Someone {
    async fn new(stage: &Stage) -> Self {
        let user = Uuid::new_v4();
        let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
        Self {
            token: token_for(user),
            draft,
        }
    }

    fn post(&self, app: &App) -> RequestBuilder {
        post(app, &self.draft.to_string(), &self.token)
    }
}

fn post(app: &App, draft: &str, token: &str) -> RequestBuilder {
    app.http
        .post(format!("{}/api/events/{draft}/content-generation", app.base_url))
        .bearer_auth(token)
}

fn get(app: &App, job: &str, token: &str) -> RequestBuilder {
    app.http
        .get(format!("{}/api/jobs/{job}", app.base_url))
        .bearer_auth(token)
}

async fn send(request: RequestBuilder) -> (u16, HeaderMap, String) {
    parts(request.send().await.expect("an answer")).await
}

async fn parts(answer: Response) -> (u16, HeaderMap, String) {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.text().await.expect("a body"))
}

/// The body of a failure, after all that every failure promises was checked.
#[track_caller]
fn problem((status, headers, body): &(u16, HeaderMap, String), expected: u16, code: &str) -> Value {
    assert_eq!(
        (*status, headers["content-type"].as_bytes()),
        (expected, "application/problem+json".as_bytes()),
        "{body}"
    );
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["type"], format!("/problems/{code}"));
    assert_eq!(body["status"], expected);
    assert_eq!(body["requestId"], headers["x-request-id"].to_str().expect("text"));
    assert!(
        body["title"].is_string() && body["detail"].is_string() && body["instance"].is_string(),
        "{body}"
    );
    assert_eq!(
        [429, 503].contains(&expected),
        headers.contains_key("retry-after"),
        "{headers:?}"
    );
    body
}

fn job_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["jobId"]
        .as_str()
        .unwrap_or_else(|| panic!("no jobId in {body}"))
        .to_owned()
}

#[tokio::test]
async fn a_job_is_accepted_and_read_where_location_says() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;

    let (status, headers, body) = send(someone.post(&app).header("x-request-id", "mine")).await;
    assert_eq!(status, 202, "{body}");
    let job = job_of(&body);
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({"jobId": job, "status": "PENDING"})
    );
    assert_eq!(headers["location"], format!("/api/jobs/{job}"));
    assert!(headers["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
    assert_eq!(headers["x-request-id"], "mine");
    assert!(!headers.contains_key("idempotent-replayed"));

    let read = eventually("the message is published", PATIENCE, async || {
        let (status, _, body) = send(get(&app, &job, &someone.token)).await;
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        if body["message"]["state"] == "published" {
            Ok(body)
        } else {
            Err(body)
        }
    })
    .await;
    assert_eq!(read["jobId"], job);
    assert_eq!(read["status"], "PENDING");
    assert_eq!(read["eventDraftId"], someone.draft.to_string());
    assert!(chrono::DateTime::parse_from_rfc3339(read["createdAt"].as_str().unwrap()).is_ok());
    assert_eq!((&read["images"], &read["error"]), (&json!([]), &Value::Null));
    assert_eq!(read["message"]["topic"], stage.topic);
    let record = &stage.records(1).await[0];
    assert_eq!(read["message"]["partition"], record.partition);
    assert_eq!(read["message"]["offset"], record.offset);
    assert!(read["message"]["publishedAt"].is_string());
}

#[tokio::test]
async fn no_body_is_needed_json_is_ignored_and_anything_else_is_refused() {
    let stage = Stage::new()
        .await
        .set("http.max_body_bytes", "1000")
        .set("http.body_timeout", "1s");
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let large = "x".repeat(1001);
    for (content_type, body, refused) in [
        (None, "", None),
        (Some("text/plain"), "", None),
        (Some("application/json"), "{}", None),
        (Some("application/json; charset=utf-8"), "not JSON at all", None),
        (Some("application/vnd.x+json"), "[]", None),
        (None, "{}", Some((415, "unsupported-media-type"))),
        (Some("text/plain"), "x", Some((415, "unsupported-media-type"))),
        (Some("application/json"), &large, Some((413, "body-too-large"))),
    ] {
        let mut request = someone.post(&app).body(body.to_owned());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = send(request).await;
        match refused {
            None => assert_eq!(answer.0, 202, "{content_type:?} {body}: {}", answer.2),
            Some((status, code)) => drop(problem(&answer, status, code)),
        }
    }
    // One that never ends.
    let head = format!(
        "POST /api/events/{}/content-generation HTTP/1.1\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
        someone.draft, someone.token
    );
    let started = Instant::now();
    let answer = raw(&app, head.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"request-timeout\""),
        "{answer}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Sends bytes and reads until the service closes.
async fn raw(app: &App, bytes: &[u8]) -> String {
    let address = app.base_url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("the bytes go out");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("the service closes the connection")
        .expect("text");
    answer
}

#[tokio::test]
async fn only_a_valid_token_is_let_in_and_each_refusal_names_the_scheme() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let (user, now) = (Uuid::new_v4(), Utc::now().timestamp());
    let (head, rest) = someone.token.split_once('.').unwrap();
    let (claims, _) = rest.split_once('.').unwrap();
    let mut authorizations: Vec<String> = [
        json!({"sub": user, "exp": now - 3600}),
        json!({"sub": user}),
        json!({"sub": user, "exp": now + 3600, "nbf": now + 1800}),
        json!({"sub": "me", "exp": now + 3600}),
        json!({"exp": now + 3600}),
        json!({"sub": user, "exp": "soon"}),
    ]
    .iter()
    .map(|claims| format!("Bearer {}", token_with(claims)))
    .collect();
    authorizations.extend([
        String::new(),
        "Basic dXNlcjpwYXNz".to_owned(),
        "Bearer".to_owned(),
        "Bearer x.y.z".to_owned(),
        format!("Bearer {head}.{claims}.AAAA"),
        // {"alg":"none"}
        format!("Bearer eyJhbGciOiJub25lIn0.{claims}."),
    ]);
    for authorization in &authorizations {
        for (method, path) in [
            (
                Method::POST,
                format!("/api/events/{}/content-generation", someone.draft),
            ),
            (Method::GET, format!("/api/jobs/{}", Uuid::new_v4())),
        ] {
            let mut request = app.http.request(method, format!("{}{path}", app.base_url));
            if !authorization.is_empty() {
                request = request.header("authorization", authorization);
            }
            let answer = send(request).await;
            problem(&answer, 401, "unauthorized");
            let challenge = answer.1["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with("Bearer"), "{authorization}: {challenge}");
        }
    }
    assert_eq!(send(someone.post(&app)).await.0, 202);
}

#[tokio::test]
async fn what_is_missing_and_what_is_not_yours_look_the_same() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let (owner, other) = (Someone::new(&stage).await, Someone::new(&stage).await);
    let job = app.accept(owner.draft, &owner.token).await.to_string();
    let missing = Uuid::new_v4().to_string();

    let same = |answer: (u16, HeaderMap, String), id: &str| {
        let mut body = problem(&answer, 404, "not-found");
        body["requestId"] = Value::Null;
        (
            body.to_string().replace(id, "ID"),
            answer.1.keys().cloned().collect::<Vec<_>>(),
        )
    };
    let foreign_draft = owner.draft.to_string();
    assert_eq!(
        same(send(post(&app, &foreign_draft, &other.token)).await, &foreign_draft),
        same(send(post(&app, &missing, &other.token)).await, &missing),
    );
    assert_eq!(
        same(send(get(&app, &job, &other.token)).await, &job),
        same(send(get(&app, &missing, &other.token)).await, &missing),
    );
    for bad in ["1", &missing.replace('-', ""), "%7B%7D", "%FF"] {
        let code = if bad == "%FF" {
            "malformed-request"
        } else {
            "malformed-id"
        };
        problem(&send(post(&app, bad, &owner.token)).await, 400, code);
        problem(&send(get(&app, bad, &owner.token)).await, 400, code);
    }
}

#[tokio::test]
async fn a_draft_that_cannot_become_a_job_is_refused_by_name() {
    let stage = Stage::with_topic(&[("max.message.bytes", "2000")]).await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let token = token_for(user);
    let unselected = drafts::Draft {
        selected_recommendation_id: None,
        ..drafts::complete(user)
    };
    let untitled = drafts::Draft {
        title: String::new(),
        ..drafts::complete(user)
    };
    let large = drafts::Draft {
        prize: Some("x".repeat(3000)),
        ..drafts::complete(user)
    };
    for (draft, status, code) in [
        (&unselected, 409, "no-recommendation"),
        (&untitled, 422, "draft-incomplete"),
    ] {
        drafts::insert(&stage.pool, draft).await;
        problem(&send(post(&app, &draft.id.to_string(), &token)).await, status, code);
    }
    drafts::insert(&stage.pool, &large).await;
    // The topic's limit is read from the broker, a moment after the start.
    eventually("the topic's limit is known", PATIENCE, async || {
        let answer = send(post(&app, &large.id.to_string(), &token)).await;
        if answer.0 == 202 {
            return Err(answer.2);
        }
        problem(&answer, 413, "message-too-large");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_names_one_request_of_one_user() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let (one, other) = (Someone::new(&stage).await, Someone::new(&stage).await);
    let with_key = |someone: &Someone, key: &str| someone.post(&app).header("idempotency-key", key);

    // Ten at once are one job, and all but one say so.
    let answers = futures_util::future::join_all((0..10).map(|_| send(with_key(&one, "k")))).await;
    let job = job_of(&answers[0].2);
    assert!(
        answers
            .iter()
            .all(|(status, _, body)| *status == 202 && job_of(body) == job),
        "{answers:?}"
    );
    let replayed = |(_, headers, _): &&(u16, HeaderMap, String)| {
        headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    };
    assert_eq!(answers.iter().filter(replayed).count(), 9);

    // Quoted and raw are the same, and an edit of the draft changes nothing.
    sqlx::query("update event_drafts set title = '', selected_recommendation_id = null where id = $1")
        .bind(one.draft)
        .execute(&stage.pool)
        .await
        .unwrap();
    let answer = send(with_key(&one, "\"k\"")).await;
    assert_eq!((answer.0, job_of(&answer.2)), (202, job.clone()));
    assert!(replayed(&&answer));

    // Another user's key is another key; another draft is another request.
    let answer = send(with_key(&other, "k")).await;
    assert!(
        answer.0 == 202 && job_of(&answer.2) != job && !replayed(&&answer),
        "{answer:?}"
    );
    let second = send(post(&app, &other.draft.to_string(), &one.token).header("idempotency-key", "k")).await;
    assert!([404, 422].contains(&second.0), "{second:?}");
    let user = Uuid::new_v4();
    let two = drafts::insert_many(&stage.pool, user, 2).await;
    let token = token_for(user);
    let first = send(post(&app, &two[0].to_string(), &token).header("idempotency-key", "k")).await;
    assert_eq!(first.0, 202, "{first:?}");
    let second = send(post(&app, &two[1].to_string(), &token).header("idempotency-key", "k")).await;
    problem(&second, 422, "idempotency-key-reused");

    // A failure is not stored.
    let draft = drafts::Draft {
        selected_recommendation_id: None,
        ..drafts::complete(user)
    };
    drafts::insert(&stage.pool, &draft).await;
    let repeat = || post(&app, &draft.id.to_string(), &token).header("idempotency-key", "later");
    problem(&send(repeat()).await, 409, "no-recommendation");
    sqlx::query("update event_drafts set selected_recommendation_id = gen_random_uuid() where id = $1")
        .bind(draft.id)
        .execute(&stage.pool)
        .await
        .unwrap();
    let answer = send(repeat()).await;
    assert!(answer.0 == 202 && !replayed(&&answer), "{answer:?}");

    let longest = "x".repeat(255);
    assert_eq!(send(with_key(&other, &longest)).await.0, 202);
    for bad in ["", "\"\"", "\"open", "a\tb", &format!("{longest}x")] {
        problem(&send(with_key(&other, bad)).await, 400, "malformed-header");
    }
    let twice = with_key(&other, "a").header("idempotency-key", "a");
    problem(&send(twice).await, 400, "malformed-header");
}

#[tokio::test]
async fn a_reader_is_told_what_is_new_and_may_wait_for_it() {
    let stage = Stage::new().await;
    // Nobody relays, so the job stays as it is.
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let someone = Someone::new(&stage).await;
    let job = app.accept(someone.draft, &someone.token).await.to_string();
    let read = || get(&app, &job, &someone.token);

    let (status, headers, _) = send(read()).await;
    assert_eq!(status, 200);
    let tag = headers["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    for known in [
        tag.clone(),
        tag[2..].to_owned(),
        format!("\"x\", {tag}"),
        "*".to_owned(),
    ] {
        let (status, headers, body) = send(read().header("if-none-match", &known)).await;
        assert_eq!(
            (status, body.as_str(), headers["etag"].to_str().unwrap()),
            (304, "", &*tag),
            "{known}"
        );
    }
    assert_eq!(send(read().header("if-none-match", "\"x\"")).await.0, 200);

    // Nothing new: the wait runs out.
    for (request, status) in [(read(), 200), (read().header("if-none-match", &tag), 304)] {
        let started = Instant::now();
        let (answered, headers, _) = send(request.header("prefer", "respond-async, wait=1")).await;
        assert_eq!(
            (answered, headers["preference-applied"].to_str().unwrap()),
            (status, "wait=1")
        );
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    }
    // Something other than what the caller has: no wait at all.
    let started = Instant::now();
    assert_eq!(
        send(read().header("if-none-match", "\"x\"").header("prefer", "wait=60"))
            .await
            .0,
        200
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(
        send(read().header("prefer", "wait=soon"))
            .await
            .1
            .get("preference-applied")
            .is_none()
    );

    // News end the wait; so does the end of the service, below.
    let waiting = tokio::spawn(send(read().header("if-none-match", &tag).header("prefer", "wait=60")));
    let relay = stage.spawn_app(&["--role", "relay"], &[]);
    let (status, headers, body) = waiting.await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"published\""), "{body}");
    drop(relay);

    let tag = headers["etag"].clone();
    let waiting = tokio::spawn(send(read().header("if-none-match", tag).header("prefer", "wait=60")));
    tokio::task::yield_now().await;
    // It has arrived when it is no longer answered at once: one round trip of another request later.
    assert_eq!(send(read()).await.0, 200);
    assert!(app.term_and_wait().await.success());
    assert_eq!(waiting.await.unwrap().0, 304);
}

#[tokio::test]
async fn the_frameworks_own_failures_are_problems_too() {
    let stage = Stage::new().await.set("http.header_timeout", "1s");
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let url = |path: &str| format!("{}{path}", app.base_url);
    problem(&send(app.http.get(url("/nowhere"))).await, 404, "no-such-route");
    problem(&send(app.http.get(url("/metrics"))).await, 404, "no-such-route");
    let content_generation = format!("/api/events/{}/content-generation", someone.draft);
    for (method, path, allowed) in [
        (Method::GET, &*content_generation, "POST"),
        (Method::DELETE, &*content_generation, "POST"),
        (Method::POST, &*format!("/api/jobs/{}", someone.draft), "GET,HEAD"),
        (Method::PUT, "/livez", "GET,HEAD"),
    ] {
        let answer = send(app.http.request(method, url(path))).await;
        problem(&answer, 405, "method-not-allowed");
        assert_eq!(answer.1["allow"], allowed);
    }
    for size in [20_000, 200_000] {
        let answer = send(someone.post(&app).header("x", "x".repeat(size))).await;
        problem(&answer, 431, "headers-too-large");
    }
    let answer = raw(&app, b"GET /livez HTTP/1.1\r\nhost").await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("application/problem+json"),
        "{answer}"
    );

    // The type of a problem is a page of the service.
    let (status, headers, body) = send(app.http.get(url("/problems/not-found"))).await;
    assert_eq!(
        (status, headers["content-type"].as_bytes()),
        (200, "text/html; charset=utf-8".as_bytes())
    );
    assert!(body.contains("not-found"), "{body}");
    problem(
        &send(app.http.get(url("/problems/nothing"))).await,
        404,
        "no-such-route",
    );
}

#[tokio::test]
async fn a_trace_goes_with_the_message_when_it_is_well_formed() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    for traceparent in [PARENT, &PARENT.to_uppercase(), "00-0-0-0"] {
        assert_eq!(send(someone.post(&app).header("traceparent", traceparent)).await.0, 202);
    }
    // One draft: one partition, in the order of the requests.
    let records = stage.records(3).await;
    let traces: Vec<_> = records.iter().map(|record| record.headers.get("traceparent")).collect();
    assert!(
        traces[0].is_some_and(|trace| trace.starts_with(&PARENT[..35])),
        "{traces:?}"
    );
    assert_eq!(traces[1..], [None, None]);
}

#[tokio::test]
async fn a_user_above_the_rate_is_told_when_to_come_back() {
    let stage = Stage::new().await.set("http.rate_limit", "2");
    let app = stage.app().await;
    let (one, other) = (Someone::new(&stage).await, Someone::new(&stage).await);
    let answers = futures_util::future::join_all((0..20).map(|_| send(one.post(&app)))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.0 != 202).collect();
    assert!(!refused.is_empty());
    for answer in refused {
        problem(answer, 429, "rate-limited");
    }
    assert_eq!(send(other.post(&app)).await.0, 202);
}

#[tokio::test]
async fn health_is_on_both_listeners_and_the_rest_for_operators_on_theirs() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    for base in [&app.base_url, &app.admin_url] {
        for path in ["/livez", "/readyz"] {
            let (status, _, body) = send(app.http.get(format!("{base}{path}"))).await;
            assert_eq!((status, body.as_str()), (200, "{\"status\":\"ok\"}"));
        }
    }
    let operators = |path: &str| send(app.http.get(format!("{}{path}", app.admin_url)));
    let (status, headers, body) = operators("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    assert!(
        body.contains("http_request_duration_seconds_count{route=\"/livez\",status=\"200\"}"),
        "{body}"
    );
    assert!(body.ends_with("# EOF\n"));

    let committed: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let (_, _, served) = operators("/openapi.json").await;
    assert_eq!(serde_json::from_str::<Value>(&served).unwrap(), committed);
    let printed = stage.run(&["openapi"]).await.stdout;
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        include_str!("../../docs/openapi.json")
    );
    let (status, _, page) = operators("/docs/").await;
    assert_eq!(status, 200);
    assert!(!page.contains("https://") && page.contains("swagger-ui"), "{page}");
}

#[tokio::test]
async fn without_postgresql_nothing_is_accepted_and_the_replica_is_not_ready() {
    let stage = Stage::with_servers_of_its_own().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let job = app.accept(someone.draft, &someone.token).await.to_string();
    stage.servers().postgres.kill();
    problem(&send(someone.post(&app)).await, 503, "database-unavailable");
    problem(
        &send(get(&app, &job, &someone.token)).await,
        503,
        "database-unavailable",
    );
    eventually("the replica is not ready", PATIENCE, async || {
        let answer = send(app.http.get(format!("{}/readyz", app.base_url))).await;
        if answer.0 == 200 {
            return Err("ready");
        }
        problem(&answer, 503, "database-unavailable");
        Ok(())
    })
    .await;
    assert_eq!(send(app.http.get(format!("{}/livez", app.base_url))).await.0, 200);
}
