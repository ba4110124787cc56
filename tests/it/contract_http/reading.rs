//! Reading a job, and what the operators' listener shows.

use std::time::Duration;

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use super::{Someone, get, send};
use crate::support::{PATIENCE, Stage, eventually};

/// Clients of one user that may wait.
const PLACES: usize = 1_000;

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

    let committed: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let (_, _, served) = operators("/openapi.json").await;
    assert_eq!(serde_json::from_str::<Value>(&served).unwrap(), committed);
    let printed = stage.run(&["openapi"]).await.stdout;
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        include_str!("../../../docs/openapi.json")
    );
    let (status, _, page) = operators("/docs/").await;
    assert_eq!(status, 200);
    assert!(!page.contains("https://") && page.contains("swagger-ui"), "{page}");
}

#[tokio::test]
async fn a_wait_for_which_there_is_no_place_is_not_said_to_be_applied() {
    let stage = Stage::new().await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let someone = Someone::new(&stage).await;
    let job = app.accept(someone.draft, &someone.token).await.to_string();
    let address = app.base_url.strip_prefix("http://").expect("a URL");
    let head = format!(
        "GET /api/jobs/{job} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nprefer: wait=60\r\n\r\n",
        someone.token
    );
    let is_applied = async || {
        let (status, headers, body) = send(get(&app, &job, &someone.token).header("prefer", "wait=1")).await;
        assert_eq!(status, 200, "{body}");
        headers.contains_key("preference-applied")
    };
    assert!(is_applied().await);
    let begin_to_wait = async || {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("the bytes go out");
        stream
    };
    let mut waiting = Vec::new();
    for _ in 0..PLACES {
        waiting.push(begin_to_wait().await);
    }
    eventually("all places are taken", PATIENCE, async || {
        if is_applied().await {
            // It may have had the place of one that found none.
            waiting.push(begin_to_wait().await);
            return Err("it waits");
        }
        Ok(())
    })
    .await;
    drop(waiting);
    eventually("the places are given back", PATIENCE, async || {
        if is_applied().await { Ok(()) } else { Err("no place") }
    })
    .await;
}
