//! What the HTTP interface promises, one by one against the running program.

mod accepting;
mod availability;
mod failures;
mod reading;

use reqwest::{RequestBuilder, Response, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, drafts, token_for};

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
    let later = [429, 503].contains(&expected) || code == "idempotency-in-progress";
    assert_eq!(later, headers.contains_key("retry-after"), "{headers:?}");
    body
}

fn job_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["jobId"]
        .as_str()
        .unwrap_or_else(|| panic!("no jobId in {body}"))
        .to_owned()
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
