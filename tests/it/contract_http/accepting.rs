//! Accepting a job: what a client sends and gets.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Someone, get, job_of, post, problem, raw, send};
use crate::support::{PATIENCE, Stage, drafts, eventually, token_for};

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
async fn the_log_ties_a_request_to_its_job() {
    let stage = Stage::new()
        .await
        .set("log.filter", "info,image_job_dispatcher::http=debug");
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let (_, _, body) = send(someone.post(&app).header("x-request-id", "the-post")).await;
    let job = job_of(&body);
    send(get(&app, &job, &someone.token).header("x-request-id", "the-get")).await;
    for (request, status) in [("the-post", 202), ("the-get", 200)] {
        let line = eventually("a line of the log", PATIENCE, async || {
            let log = app.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["request_id"] == request).ok_or(log)
        })
        .await;
        assert_eq!(
            (&line["job_id"], &line["status"]),
            (&json!(job), &json!(status)),
            "{line}"
        );
    }
}
