//! The admin API against the running program: who may do what, from where, and what comes of it.

mod acts;
pub mod audits;
mod bad_input;
mod export;
mod origins;
mod reading;
mod roles;
mod session;

pub use self::acts::expire_a_key;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;
use uuid::Uuid;

use crate::support::{App, Stage, token_of};

/// A service, and a token of each role.
struct Desk {
    stage: Stage,
    app: App,
    viewer: String,
    operator: String,
    admin: String,
    /// Who the tokens are of: viewer, operator, admin.
    subs: [Uuid; 3],
}

/// An answer, read.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// The body of an answer that has to be 200 or 201.
    #[track_caller]
    fn ok(&self) -> &Value {
        assert!([200, 201].contains(&self.status), "{self:?}");
        &self.body
    }

    /// Failed as the catalogue says, with `word` in its detail.
    #[track_caller]
    fn failed(&self, status: u16, code: &str, word: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.body["code"], code, "{self:?}");
        assert!(
            self.body["detail"].as_str().expect("text").contains(word),
            "{word}: {self:?}"
        );
    }
}

impl Desk {
    async fn new() -> Self {
        Self::at_rest(Stage::new().await).await
    }

    /// On a service that does not relay: messages stay as the test has put them.
    async fn at_rest(stage: Stage) -> Self {
        let app = stage.app_with(&["--role", "api"], &[]).await;
        let [(a, viewer), (b, operator), (c, admin)] = ["viewer", "operator", "admin"].map(token_of);
        Self {
            stage,
            app,
            viewer,
            operator,
            admin,
            subs: [a, b, c],
        }
    }

    /// Who the role's token is of.
    fn sub(&self, role: &str) -> Uuid {
        let place = ["viewer", "operator", "admin"].iter().position(|known| *known == role);
        self.subs[place.expect("a role of the desk's")]
    }

    /// A request to the operators' listener, without a token.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.app.http.request(method, format!("{}{path}", self.app.admin_url))
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        send(self.request(Method::GET, path).bearer_auth(token)).await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).bearer_auth(token).json(body)).await
    }

    /// The operators' log, newest first.
    async fn acts(&self) -> Vec<Value> {
        let answer = self.get(&self.viewer, "/admin/api/acts").await;
        answer.ok()["rows"].as_array().expect("rows").clone()
    }
}

async fn send(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}
