//! The operators' pages, without JavaScript: what is in them, who may see them, and that nothing in them runs.

mod acts;
mod audits;
mod pages;

use std::time::Duration;

use reqwest::{Response, StatusCode, header};

use crate::support::{App, Stage, eventually, token::token_of};

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
