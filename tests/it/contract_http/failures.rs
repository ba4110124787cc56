//! Every failure is a problem with a stable code.

use chrono::Utc;
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::Executor as _;
use uuid::Uuid;

use super::{Someone, get, post, problem, raw, send};
use crate::support::{PATIENCE, Stage, eventually, token_with};

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
async fn a_read_that_fails_for_good_is_no_outage_and_is_in_the_log() {
    let stage = Stage::new().await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let someone = Someone::new(&stage).await;
    let job = app.accept(someone.draft, &someone.token).await.to_string();
    // As with a right that was taken away, or a schema that was changed by hand.
    stage
        .pool
        .execute("alter table job_results rename to job_results_away")
        .await
        .unwrap();
    problem(&send(get(&app, &job, &someone.token)).await, 500, "internal");
    eventually("it is in the log, once", PATIENCE, async || {
        let log = app.log();
        let said = log.lines().filter(|line| line.contains("a request failed"));
        let said: Vec<&str> = said.filter(|line| line.contains("job_results")).collect();
        if said.len() == 1 && said[0].contains("ERROR") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    stage
        .pool
        .execute("alter table job_results_away rename to job_results")
        .await
        .unwrap();
    assert_eq!(send(get(&app, &job, &someone.token)).await.0, 200);
}
