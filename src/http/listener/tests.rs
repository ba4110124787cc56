//! Raw bytes against a real listener: what no HTTP client would send.

use axum::{http::StatusCode, routing::get};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::*;
use crate::{
    http::{
        AdminState, admin_router,
        edge::{Edge, surround},
        health::Readiness,
        openapi,
    },
    telemetry::Metrics,
};

const MAX_HEADER_BYTES: usize = 4096;
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// More than the kernel keeps of an answer for both sides of a connection.
const LARGE: usize = 32 << 20;

struct Server {
    address: std::net::SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// The operators' router, which needs nothing but a database that is never there.
    async fn of_operators() -> Self {
        let database = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
        let state = AdminState {
            readiness: Readiness::new(database, CancellationToken::new()),
            metrics: Metrics::new(),
            max_header_bytes: MAX_HEADER_BYTES,
        };
        Self::of(admin_router(state, &openapi::document(), Router::new())).await
    }

    async fn of(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = ListenerOptions {
            max_connections: 2,
            header_timeout: Duration::from_millis(300),
            max_header_bytes: MAX_HEADER_BYTES,
            write_timeout: WRITE_TIMEOUT,
            drain: Duration::from_secs(5),
        };
        let cancel = CancellationToken::new();
        let task = tokio::spawn(serve(listener, move || router.clone(), options, cancel.clone()));
        Self { address, cancel, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// All that comes back until the server closes.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer))
        .await
        .expect("the server closes the connection")
        .unwrap();
    answer
}

/// The status, when the answer is a whole problem; the parts of a problem are checked here.
fn problem(answer: &str) -> (u16, String) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {answer:?}"));
    assert!(head.contains("content-type: application/problem+json"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let status = body["status"].as_u64().unwrap();
    let code = body["code"].as_str().unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert_eq!(body["type"], format!("/problems/{code}"));
    let request_id = body["requestId"].as_str().unwrap();
    assert!(
        head.contains(&format!("x-request-id: {request_id}\r\n")) || head.ends_with(request_id),
        "{answer}"
    );
    for text in ["title", "detail", "instance"] {
        assert!(body[text].is_string(), "{text}: {answer}");
    }
    (status as u16, code.to_owned())
}

#[tokio::test]
async fn every_bad_request_gets_a_problem() {
    let server = Server::of_operators().await;
    let long = "x".repeat(MAX_HEADER_BYTES);
    let longer = "x".repeat(8 * MAX_HEADER_BYTES);
    let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
    for (request, status, code) in [
        ("GET /nowhere HTTP/1.1\r\n\r\n".to_owned(), 404, "no-such-route"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 404, "no-such-route"),
        ("GET /docs/nothing.js HTTP/1.1\r\n\r\n".to_owned(), 404, "no-such-route"),
        (
            "POST /livez HTTP/1.1\r\ncontent-length: 0\r\n\r\n".to_owned(),
            405,
            "method-not-allowed",
        ),
        ("BREW /livez HTTP/1.1\r\n\r\n".to_owned(), 405, "method-not-allowed"),
        (
            format!("GET /livez HTTP/1.1\r\nx: {long}\r\n\r\n"),
            431,
            "headers-too-large",
        ),
        (
            format!("GET /livez HTTP/1.1\r\nx: {longer}\r\n\r\n"),
            431,
            "headers-too-large",
        ),
        (format!("GET /livez HTTP/1.1\r\n{many}\r\n"), 431, "headers-too-large"),
        (format!("GET /livez HTTP/1.1\r\nx: {longer}"), 431, "headers-too-large"),
        (
            "GET /livez HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
            400,
            "malformed-request",
        ),
        ("GET /livez HTTP/9.9\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("G\u{1}T /livez HTTP/1.1\r\n\r\n".to_owned(), 400, "malformed-request"),
        (
            "GET /livez HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(),
            400,
            "malformed-request",
        ),
        ("GET /liv".to_owned(), 408, "request-timeout"),
        ("GET /livez HTTP/1.1\r\nhost: x\r\n".to_owned(), 408, "request-timeout"),
        ("GET /readyz HTTP/1.1\r\n\r\n".to_owned(), 503, "database-unavailable"),
    ] {
        let answer = server.send(request.as_bytes()).await;
        assert_eq!(
            problem(&answer),
            (status, code.to_owned()),
            "{}",
            &request[..request.len().min(80)]
        );
        assert_eq!(status == 405, answer.contains("\r\nallow: GET,HEAD\r\n"), "{answer}");
        assert_eq!(status == 503, answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_may_bring_its_own_id() {
    let server = Server::of_operators().await;
    let answer = server
        .send(b"GET /nowhere HTTP/1.1\r\nx-request-id: mine\r\n\r\n")
        .await;
    assert!(
        answer.contains("\r\nx-request-id: mine\r\n") && answer.contains("\"requestId\":\"mine\""),
        "{answer}"
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let server = Server::of_operators().await;
    assert_eq!(read_to_end(&mut server.connect().await).await, "");
    let answer = server.send(b"GET /livez HTTP/1.1\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"status\":\"ok\"}"),
        "{answer}"
    );
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let server = Server::of_operators().await;
    let holders = [server.connect().await, server.connect().await];
    let started = Instant::now();
    let answer = server.send(b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    // The holders send nothing: one of them has to run into the time-out first.
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        started.elapsed() >= Duration::from_millis(200),
        "{:?}",
        started.elapsed()
    );
    drop(holders);
}

/// A request for a large answer, whose beginning has arrived.
async fn begin_reading(server: &Server) -> TcpStream {
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /large HTTP/1.1\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    stream
}

#[tokio::test]
async fn clients_that_do_not_read_their_answers_keep_nobody_out() {
    let large = get(|| async { vec![b'x'; LARGE] });
    let server = Server::of(
        Router::new()
            .route("/large", large)
            .route("/quick", get(|| async { "quick" })),
    )
    .await;
    let unread = [begin_reading(&server).await, begin_reading(&server).await];
    let answer = server.send(b"GET /quick HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("quick"), "{answer}");
    drop(unread);
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_lives_on() {
    let router = Router::new()
        .route("/panic", get(|| async { panic!("on purpose") as StatusCode }))
        .route("/bare", get(|| async { (StatusCode::IM_A_TEAPOT, "plain text") }));
    let edge = Edge {
        metrics: Metrics::new(),
        max_header_bytes: MAX_HEADER_BYTES,
    };
    let server = Server::of(surround(router, edge)).await;
    let answer = server
        .send(b"GET /panic HTTP/1.1\r\n\r\nGET /bare HTTP/1.1\r\nconnection: close\r\n\r\n")
        .await;
    let second = answer.rfind("HTTP/1.1").unwrap();
    assert_eq!(problem(&answer[..second]), (500, "internal".to_owned()));
    assert!(
        !answer.contains("on purpose") && !answer.contains("plain text"),
        "{answer}"
    );
    // A status that the catalogue does not have falls back to the nearest that it has.
    assert_eq!(problem(&answer[second..]), (400, "malformed-request".to_owned()));
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_lets_requests_finish() {
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = get({
        let (begun, finish) = (Arc::clone(&begun), Arc::clone(&finish));
        move || async move {
            begun.notify_one();
            finish.notified().await;
            "finished"
        }
    });
    let server = Server::of(Router::new().route("/slow", slow).route("/quick", get(|| async {}))).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\n\r\n").await.unwrap();
    begun.notified().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /quick HTTP/1.1\r\n\r\n").await.unwrap();
    assert_ne!(idle.read(&mut [0; 1024]).await.unwrap(), 0);

    server.cancel.cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(!server.task.is_finished());
    finish.notify_one();
    let answer = read_to_end(&mut busy).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("finished"),
        "{answer}"
    );
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_client_that_is_still_sending_sees_the_answer_and_no_reset() {
    let server = Server::of_operators().await;
    let mut stream = server.connect().await;
    let head = "POST /livez HTTP/1.1\r\ncontent-length: 700000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 700_000]).await.unwrap();
    assert_eq!(problem(&read_to_end(&mut stream).await).0, 405);
}
