//! Clients that are slow, endless, many or malicious, against the running program: whatever they do, it is bounded, and
//! somebody honest is answered meanwhile.

use std::{fs, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, content::ContentService, drafts, eventually, token_for, token_of};

/// Clients at once, where each of them costs something.
const CLIENTS: usize = 100;
/// Idle connections; fewer where this process may not have as many files open.
const IDLE: usize = 10_000;
/// What else the tests of this process have open.
const OTHER_FILES: usize = 4_000;
/// Of them, those that are opened together: what overflows the listener's backlog is lost in the kernel, which is its
/// matter. Some systems have 128 places there.
const AT_ONCE: usize = 100;
/// What an idle connection may cost the program. Measured: 21 kB, in a build that is not optimised.
const BYTES_PER_CONNECTION: usize = 48 * 1024;

struct Honest {
    app: App,
    draft: Uuid,
    token: String,
}

impl Honest {
    async fn on(stage: &Stage) -> Self {
        Self::at(stage, stage.app().await).await
    }

    async fn at(stage: &Stage, app: App) -> Self {
        let user = Uuid::new_v4();
        Self {
            app,
            draft: drafts::insert(&stage.pool, &drafts::complete(user)).await,
            token: token_for(user),
        }
    }

    /// One job, over a connection of its own.
    async fn is_answered(&self) {
        let answered = timeout(PATIENCE, self.app.accept(self.draft, &self.token)).await;
        answered.expect("somebody honest is answered");
    }

    async fn connect(&self) -> TcpStream {
        let address = self.app.base_url.strip_prefix("http://").expect("a URL");
        TcpStream::connect(address).await.expect("a connection")
    }

    fn post_head(&self, headers: &str) -> String {
        format!(
            "POST /api/events/{}/content-generation HTTP/1.1\r\nauthorization: Bearer {}\r\n{headers}\r\n",
            self.draft, self.token
        )
    }
}

/// Sends `head`, then `piece` again and again with a pause before each, until the service has closed; what it answered,
/// and how many bytes it took.
async fn send_for_ever(mut stream: TcpStream, head: &str, piece: &[u8], pause: Duration) -> (String, usize) {
    let (mut from, mut to) = stream.split();
    let mut taken = 0;
    let mut answer = Vec::new();
    let sending = async {
        if to.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        loop {
            tokio::time::sleep(pause).await;
            match to.write(piece).await {
                Ok(bytes) => taken += bytes,
                // It has closed.
                Err(_) => return,
            }
        }
    };
    let reading = async {
        // A reset after the answer is an end too.
        let _ = from.read_to_end(&mut answer).await;
    };
    // The answer is read to its end, whoever is still sending.
    timeout(PATIENCE, async {
        tokio::select! {
            () = reading => {}
            () = async { sending.await; std::future::pending::<()>().await } => {}
        }
    })
    .await
    .expect("the service ends it");
    (String::from_utf8_lossy(&answer).into_owned(), taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_come_a_byte_at_a_time_are_cut_off_however_steadily_they_come() {
    let stage = Stage::new().await.set("http.header_timeout", "1s");
    let honest = Honest::on(&stage).await;
    let slow = join_all((0..CLIENTS).map(async |_| {
        let stream = honest.connect().await;
        send_for_ever(stream, "GET /livez HTTP/1.1\r\nx: ", b"a", Duration::from_millis(50)).await
    }));
    let (slow, ()) = tokio::join!(slow, honest.is_answered());
    for (answer, _) in slow {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_an_end_are_refused_and_no_more_than_their_bound_is_read() {
    let stage = Stage::new().await;
    let honest = Honest::on(&stage).await;
    let line = format!("x-{}: {}\r\n", "n".repeat(50), "v".repeat(1000));
    let floods = join_all((0..CLIENTS).map(async |_| {
        let stream = honest.connect().await;
        send_for_ever(stream, "GET /livez HTTP/1.1\r\n", line.as_bytes(), Duration::ZERO).await
    }));
    let (floods, ()) = tokio::join!(floods, honest.is_answered());
    for (answer, taken) in floods {
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
        // What is read, what is read on so that the answer is seen, and what the kernel holds of both sides.
        assert!(taken < 16 << 20, "{taken} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_an_end_are_refused_by_size_and_by_time_and_large_ones_before_they_are_sent() {
    let stage = Stage::new().await;
    let honest = Honest::on(&stage).await;
    let hasty = stage.app_with(&[], &[("http.body_timeout", "1s")]).await;
    let hasty = Honest::at(&stage, hasty).await;
    let chunked = honest.post_head("content-type: application/json\r\ntransfer-encoding: chunked\r\n");
    let declared = honest.post_head("content-type: application/json\r\ncontent-length: 100000000000\r\n");
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
    let large = join_all(
        (0..CLIENTS)
            .map(async |_| send_for_ever(honest.connect().await, &chunked, chunk.as_bytes(), Duration::ZERO).await),
    );
    let chunked_for_hasty = hasty.post_head("content-type: application/json\r\ntransfer-encoding: chunked\r\n");
    let slow = join_all((0..CLIENTS).map(async |_| {
        let (stream, pause) = (hasty.connect().await, Duration::from_millis(50));
        send_for_ever(stream, &chunked_for_hasty, b"1\r\n \r\n", pause).await
    }));
    let huge = async {
        let mut stream = honest.connect().await;
        stream.write_all(declared.as_bytes()).await.expect("the head goes out");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let (large, slow, huge, ()) = tokio::join!(large, slow, huge, honest.is_answered());
    for (answer, taken) in large {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
        assert!(taken < 16 << 20, "{taken} bytes");
    }
    for (answer, _) in slow {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
    assert_eq!(huge, "HTTP/1.1 413", "not a byte of the body was sent");
    let jobs: i64 = sqlx::query_scalar("select count(*) from jobs")
        .fetch_one(&stage.pool)
        .await
        .expect("the count");
    assert_eq!(jobs, 1, "the honest one");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_little_and_keep_nobody_out() {
    let idle = IDLE.min(open_files().saturating_sub(OTHER_FILES));
    assert!(idle >= 100, "`ulimit -n` allows {} open files", open_files());
    let stage = Stage::new()
        .await
        .set("http.max_connections", "10100")
        .set("http.header_timeout", "60s");
    let honest = Honest::on(&stage).await;
    honest.is_answered().await;
    let before = honest.app.resident();
    let started = Instant::now();
    let mut held = Vec::with_capacity(idle);
    while held.len() < idle {
        held.extend(join_all((0..AT_ONCE.min(idle - held.len())).map(|_| honest.connect())).await);
        eventually("those so far are accepted", PATIENCE, async || {
            let now = files_of(&honest.app);
            if now >= held.len() {
                Ok(())
            } else {
                Err(format!("{now} of {}", held.len()))
            }
        })
        .await;
    }
    for _ in 0..20 {
        honest.is_answered().await;
    }
    let grown = honest.app.resident().saturating_sub(before);
    println!(
        "{idle} idle connections in {:?}: {} kB more, {} bytes each",
        started.elapsed(),
        grown / 1024,
        grown / idle
    );
    assert!(grown < idle * BYTES_PER_CONNECTION, "{} bytes each", grown / idle);
    drop(held);
    eventually("they are gone", PATIENCE, async || {
        let now = files_of(&honest.app);
        if now < idle { Ok(()) } else { Err(now) }
    })
    .await;
    honest.is_answered().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_sends_forges_a_line_of_the_log_or_a_header_of_an_answer() {
    for format in ["json", "pretty"] {
        let stage = Stage::new()
            .await
            .set("log.format", format)
            .set("log.filter", "trace,rdkafka=info");
        let honest = Honest::on(&stage).await;
        let (_, admin) = token_of("admin");
        let forged = "%0d%0a{%22level%22:%22ERROR%22,%22message%22:%22forged%22}%0d%0aX-Forged:%20yes%1b[2J";
        let odd = "\u{9b}31m\u{85}\u{2028}forged\t\u{7f}";
        let form = format!("token={admin}&next=/x%0d%0aX-Forged:%20yes");
        let pause = r#"{"reason": "a\r\n2026-11-26T00:00:00Z ERROR forged\u001b[2J\u2028\u0085"}"#;
        let with_body = |path: &str, kind: &str, body: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nauthorization: Bearer {admin}\r\ncontent-type: {kind}\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        };
        let get = |path: &str, headers: &str| {
            format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {admin}\r\n{headers}connection: close\r\n\r\n")
        };
        let requests = [
            (false, get(&format!("/api/jobs/{forged}"), "")),
            (
                false,
                get(
                    &format!("/{forged}?{forged}"),
                    &format!("x-request-id: a\u{1b}{odd}\r\n"),
                ),
            ),
            (
                false,
                get("/livez", &format!("user-agent: {odd}\r\nx-forwarded-for: {odd}\r\n")),
            ),
            (false, get("/livez", "x-request-id: a\r\n X-Forged: yes\r\n")),
            (
                false,
                honest.post_head(&format!(
                    "idempotency-key: {odd}\r\ntraceparent: {odd}\r\nconnection: close\r\n"
                )),
            ),
            (true, get(&format!("/admin/api/replays/{forged}"), "")),
            (true, get(&format!("/admin/api/acts?who={forged}"), "")),
            (true, with_body("/admin/api/pause", "application/json", pause)),
            (true, with_body("/login", "application/x-www-form-urlencoded", &form)),
        ];
        for (operators, request) in &requests {
            let answer = raw(
                if *operators {
                    &honest.app.admin_url
                } else {
                    &honest.app.base_url
                },
                request,
            )
            .await;
            assert!(answer.starts_with("HTTP/1.1 "), "{request:?}: {answer:?}");
            let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
            let forged = head
                .lines()
                .any(|line| line.to_ascii_lowercase().starts_with("x-forged"));
            assert!(!forged, "{request:?}: {head}");
        }
        // As JSON carries them in its texts, characters of U+007F to U+009F are no escapes.
        let status = "forged\u{9b}2J\u{85}\r\n\u{1b}[31m";
        let content = ContentService::on(&stage).await;
        content
            .result("x", &json!({"jobId": Uuid::new_v4(), "status": status}))
            .await;
        eventually("the result is put aside", PATIENCE, async || {
            let log = honest.app.log();
            log.contains("a result is put aside")
                .then_some(())
                .ok_or("nothing of it in the log")
        })
        .await;
        honest.app.term_and_wait().await;

        let log = honest.app.log();
        assert!(
            log.contains("forged"),
            "something of it is in the log, or nothing was tried"
        );
        for line in log.lines() {
            assert!(!line.contains(char::is_control), "{line:?}");
            let begins_as_an_event = if format == "json" {
                serde_json::from_str::<Value>(line).is_ok_and(|event| event["message"] != "forged")
            } else {
                line.get(..4).is_some_and(|year| year.parse::<u16>().is_ok()) && !line.contains("Z ERROR forged")
                    || line.contains("\\u000d\\u000a")
                    || line.contains("\\r\\n")
            };
            assert!(begins_as_an_event, "{line:?}");
        }
        // Nor does it rule the terminal of whoever reads it by a command.
        for command in [&["outbox", "stats"][..], &["pause", "--reason", "x"], &["resume"]] {
            let done = stage.run(command).await;
            let said = String::from_utf8([done.stdout, done.stderr].concat()).expect("UTF-8");
            assert!(said.contains("forged"), "{command:?} tells the reason: {said:?}");
            for line in said.split('\n') {
                let forged = line.contains(char::is_control) || line.starts_with("2026-");
                assert!(!forged, "{command:?}: {line:?}");
            }
        }
    }
}

async fn raw(url: &str, request: &str) -> String {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("the bytes go out");
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the service closes the connection").expect("bytes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// `ulimit -n` of this process, which its children have too.
fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line");
    let soft = line.split_whitespace().nth(3).expect("a number");
    soft.parse().unwrap_or(usize::MAX)
}

fn files_of(app: &App) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", app.pid())).expect("its files");
    files.count()
}
