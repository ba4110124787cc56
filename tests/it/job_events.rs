//! `GET /api/jobs/{jobId}/events`.

use chrono::Utc;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, content::ContentService, drafts, eventually, token_for, token_with};

/// A client of the stream, and what has arrived of it.
struct Events {
    answer: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(app: &App, job_id: Uuid, token: &str, last_event_id: Option<&str>) -> Self {
        let mut request = app
            .http
            .get(format!("{}/api/jobs/{job_id}/events", app.base_url))
            .bearer_auth(token);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        Self {
            answer: request.send().await.expect("an answer"),
            text: String::new(),
        }
    }

    /// The next event's id and data; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                };
                if let Some(data) = field("data") {
                    assert_eq!(field("event"), Some("status"));
                    return Some((
                        field("id").expect("an id").to_owned(),
                        serde_json::from_str(data).expect("JSON"),
                    ));
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answer.chunk())
                .await
                .expect("a chunk in time");
            self.text += str::from_utf8(&chunk.expect("the stream is whole")?).expect("UTF-8");
        }
    }

    /// Up to and with the first event of this status.
    async fn until(&mut self, status: &str) -> (String, Value) {
        loop {
            let (id, data) = self.next().await.expect("the stream goes on");
            if data["status"] == status {
                return (id, data);
            }
        }
    }
}

async fn job(stage: &Stage, app: &App) -> (Uuid, String) {
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let token = token_for(user);
    (app.accept(draft, &token).await, token)
}

#[tokio::test]
async fn a_stream_tells_each_change_resumes_and_ends_after_a_final_status() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let (job_id, token) = job(&stage, &app).await;
    let mut events = Events::open(&app, job_id, &token, None).await;
    assert_eq!(events.answer.headers()["content-type"], "text/event-stream");
    events.until("PENDING").await;
    // Otherwise the message could be published after the final status, which is one more change to tell.
    eventually("the message is published", PATIENCE, async || {
        let body: Value = app.get_job(job_id, &token).await.unwrap().json().await.unwrap();
        if body["message"]["state"] == "published" {
            Ok(())
        } else {
            Err(body)
        }
    })
    .await;
    content
        .result(
            job_id,
            &json!({"jobId": job_id, "status": "PROCESSING", "images": [], "error": null}),
        )
        .await;
    let (processing, _) = events.until("PROCESSING").await;

    // Another client resumes behind what this one has seen.
    let mut resumed = Events::open(&app, job_id, &token, Some(&processing)).await;
    content
        .result(
            job_id,
            &json!({"jobId": job_id, "status": "FAILED", "images": [], "error": "no ink"}),
        )
        .await;
    let (last, body) = events.until("FAILED").await;
    assert_eq!(body["error"], "no ink");
    assert_eq!(
        body,
        app.get_job(job_id, &token)
            .await
            .unwrap()
            .json::<Value>()
            .await
            .unwrap()
    );
    assert_eq!(events.next().await, None);
    assert_eq!(
        resumed.next().await.expect("an event").1["status"],
        "FAILED",
        "PROCESSING is not told again"
    );
    assert_eq!(resumed.next().await, None);

    let over = Events::open(&app, job_id, &token, Some(&last)).await;
    assert_eq!(over.answer.status(), 204, "nothing to reconnect for");
    let stranger = Events::open(&app, job_id, &token_for(Uuid::new_v4()), None).await;
    assert_eq!(stranger.answer.status(), 404);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires_and_is_resumed_with_another() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let job_id = app.accept(draft, &token_for(user)).await;
    let short = token_with(&json!({"sub": user, "exp": Utc::now().timestamp() + 1}));
    let mut events = Events::open(&app, job_id, &short, None).await;
    let (mut known, _) = events.next().await.expect("an event");
    // The job is never answered: nothing else ends it.
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some((id, _)) = events.next().await {
            known = id;
        }
    });
    ended.await.expect("the stream ends with its token");
    let refused = Events::open(&app, job_id, &short, Some(&known)).await;
    assert_eq!(refused.answer.status(), 401);

    let mut resumed = Events::open(&app, job_id, &token_for(user), Some(&known)).await;
    assert_eq!(resumed.answer.status(), 200);
    let content = ContentService::on(&stage).await;
    let failed = json!({"jobId": job_id, "status": "FAILED", "images": [], "error": "no ink"});
    content.result(job_id, &failed).await;
    resumed.until("FAILED").await;
}

#[tokio::test]
async fn open_streams_do_not_hold_up_a_stop() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (job_id, token) = job(&stage, &app).await;
        let mut events = Events::open(&app, job_id, &token, None).await;
        events.next().await.expect("an event");
        clients.push(events);
    }
    app.term();
    let status = eventually("the service ends", std::time::Duration::from_secs(6), async || {
        app.exit_status().ok_or("it runs")
    })
    .await;
    assert!(status.success());
    for mut events in clients {
        while events.next().await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_becomes_of_the_message_dead_and_sent_again_included() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let paused = stage.run(&["pause", "--reason", "a test"]).await;
    assert!(paused.status.success(), "{paused:?}");
    let (job_id, token) = job(&stage, &app).await;
    let mut events = Events::open(&app, job_id, &token, None).await;
    let state_of = |(_, body): (String, Value)| body["message"]["state"].as_str().expect("a state").to_owned();
    assert_eq!(state_of(events.next().await.expect("an event")), "pending");

    // Smaller than the record, behind the service's back.
    stage.limit_topic("300").await;
    let resumed = stage.run(&["resume"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    assert_eq!(
        state_of(events.next().await.expect("an event")),
        "dead",
        "{}",
        app.log()
    );

    stage.limit_topic("1000000").await;
    eventually("the retried message is published", 2 * PATIENCE, async || {
        // Refused again while the broker's change is on its way.
        let retry = stage
            .run(&["dead", "retry", "--all", "--reason", "the limit was raised", "--yes"])
            .await;
        let body: Value = app.get_job(job_id, &token).await.unwrap().json().await.unwrap();
        if body["message"]["state"] == "published" {
            Ok(())
        } else {
            Err(format!("{body}; {retry:?}"))
        }
    })
    .await;
    while state_of(events.next().await.expect("an event")) != "published" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_only_accepts_tells_what_the_others_have_done() {
    const JOBS: u32 = 5;
    let stage = Stage::new().await;
    let content = ContentService::on(&stage).await;
    // It has no public listener to be asked whether it is ready; the first job waits for it.
    let _relay = stage.spawn_app(&["--role", "relay"], &[]);
    let api = stage.app_with(&["--role", "api"], &[]).await;
    eventually("it listens for what others say", PATIENCE, async || {
        let listens: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database()
                            and application_name = 'dispatcher jobs listener' and state = 'idle' and query ilike 'listen%')",
        )
        .fetch_one(&stage.pool)
        .await
        .expect("activity");
        listens.then_some(()).ok_or("nobody does")
    })
    .await;
    let mut slow = std::time::Duration::ZERO;
    for _ in 0..JOBS {
        let (job_id, token) = job(&stage, &api).await;
        let mut events = Events::open(&api, job_id, &token, None).await;
        loop {
            let (_, body) = events.next().await.expect("an event");
            if body["message"]["state"] == "published" {
                break;
            }
        }
        let result = |status: &str| json!({"jobId": job_id, "status": status, "images": [], "error": "no ink"});
        content.result(job_id, &result("PROCESSING")).await;
        events.until("PROCESSING").await;
        let began = std::time::Instant::now();
        content.result(job_id, &result("FAILED")).await;
        events.until("FAILED").await;
        slow += began.elapsed();
    }
    // Right after a change was told, polling alone would take its whole period for the next one: a second, of a replica that
    // knows that it hears nothing.
    let by_polling = std::time::Duration::from_secs(1) * JOBS;
    assert!(slow < by_polling / 2, "{slow:?} for {JOBS} changes");
}
