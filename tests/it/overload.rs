//! More than the service can do, on a service that can do little: its queue and batches are small, and the way to its
//! database is slow, so that its capacity is this test's and not the machine's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{
    App, Stage, drafts,
    history::{History, Outcome, Request},
    http_client,
    proxy::{Flow, Proxy, Weather},
    token_for,
};

/// Each way between service and database. With batches of 4, of which two are in flight, this allows some 80 a second.
const DELAY: Duration = Duration::from_millis(25);
const QUEUE: &str = "16";
const BATCH: &str = "4";
/// How long each rate is looked at.
const LOOK: Duration = Duration::from_secs(3);
/// An accepted request waits for those in the queue before it, five batches or so: half a second. Ten times as much is
/// still a bound, and no matter of the machine.
const LONGEST_P99: Duration = Duration::from_secs(5);
/// Memory that requests three times too many may add.
const MOST_MEMORY: usize = 48 << 20;

/// What a request was, and whether a refusal said what it has to.
struct Tried {
    request: Request,
    refused_well: bool,
}

#[derive(Clone)]
struct Caller {
    app: Arc<App>,
    http: reqwest::Client,
    token: String,
    drafts: Arc<Vec<Uuid>>,
}

impl Caller {
    async fn call(self, n: usize) -> Tried {
        let draft = self.drafts[n % self.drafts.len()];
        let url = format!("{}/api/events/{draft}/content-generation", self.app.base_url);
        let sent = Instant::now();
        let answer = self
            .http
            .post(url)
            .bearer_auth(&self.token)
            .send()
            .await
            .expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body: serde_json::Value = answer.json().await.expect("JSON");
        let outcome = match (status, body["jobId"].as_str()) {
            (202, Some(id)) => Outcome::Accepted(id.parse().expect("a UUID")),
            _ => Outcome::Refused(status),
        };
        let told = headers
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        Tried {
            refused_well: status == 202 || status == 503 && body["code"] == "overloaded" && told.is_some_and(|s| s > 0),
            request: Request {
                draft,
                key: None,
                sent,
                answered: Instant::now(),
                outcome,
            },
        }
    }

    /// Some clients, each with one request after the other: what the service can do.
    async fn at_capacity(&self, clients: usize) -> Vec<Tried> {
        let end = Instant::now() + LOOK;
        let mut running = JoinSet::new();
        for client in 0..clients {
            let caller = self.clone();
            running.spawn(async move {
                let mut tried = Vec::new();
                while Instant::now() < end {
                    tried.push(caller.clone().call(client + tried.len() * clients).await);
                }
                tried
            });
        }
        running.join_all().await.into_iter().flatten().collect()
    }

    /// So many requests a second, whatever becomes of those before.
    async fn at_rate(&self, rate: f64) -> Vec<Tried> {
        let (began, mut running) = (Instant::now(), JoinSet::new());
        let mut clock = tokio::time::interval(Duration::from_millis(10));
        while began.elapsed() < LOOK {
            clock.tick().await;
            let due = (began.elapsed().as_secs_f64() * rate) as usize;
            while running.len() < due {
                running.spawn(self.clone().call(running.len()));
            }
        }
        running.join_all().await
    }
}

fn accepted(tried: &[Tried]) -> usize {
    tried.iter().filter(|t| t.request.job().is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_three_times_its_capacity_the_service_refuses_the_rest_loses_nothing_and_is_itself_again_at_once() {
    let stage = Stage::new().await.set("intake.queue", QUEUE).set("intake.batch", BATCH);
    let proxy = Proxy::start(stage.servers().postgres.port()).await;
    let mut through_it = url::Url::parse(&stage.database_url).expect("a URL");
    through_it.set_port(Some(proxy.port)).expect("a port");
    let app = Arc::new(stage.app_with(&[], &[("database.url", through_it.as_str())]).await);
    let user = Uuid::new_v4();
    let caller = Caller {
        app: Arc::clone(&app),
        http: http_client(),
        token: token_for(user),
        drafts: Arc::new(drafts::insert_many(&stage.pool, user, 20).await),
    };
    let slow = Flow::Delayed(DELAY);
    proxy.set(Weather { up: slow, down: slow });

    let mut all = caller.at_capacity(12).await;
    let capacity = accepted(&all) as f64 / LOOK.as_secs_f64();
    assert_eq!(accepted(&all), all.len(), "nobody is refused who waits for an answer");

    let before = app.resident();
    let over = caller.at_rate(3.0 * capacity).await;
    let grown = app.resident().saturating_sub(before);
    let refused = over.len() - accepted(&over);
    let mut waited: Vec<_> = over.iter().filter(|t| t.request.job().is_some()).collect();
    waited.sort_by_key(|t| t.request.answered - t.request.sent);
    let p99 = waited[waited.len() * 99 / 100];
    let p99 = p99.request.answered - p99.request.sent;

    let after = caller.at_capacity(12).await;
    let again = accepted(&after) as f64 / LOOK.as_secs_f64();
    println!(
        "capacity {capacity:.0}/s; {} sent at three times that: {} accepted, p99 {p99:?}, {refused} refused, {} kB more; \
         then {again:.0}/s",
        over.len(),
        accepted(&over),
        grown / 1024
    );
    assert!(
        over.iter().all(|t| t.refused_well),
        "a refusal is 503, overloaded, and says when to come back"
    );
    assert!(
        refused > over.len() / 4,
        "{refused} of {} refused: that was no overload",
        over.len()
    );
    let kept_up = accepted(&over) as f64 / LOOK.as_secs_f64();
    assert!(
        kept_up > capacity / 2.0,
        "{kept_up:.0}/s under overload, and {capacity:.0}/s before"
    );
    assert!(p99 < LONGEST_P99, "an accepted request waited {p99:?}");
    assert!(grown < MOST_MEMORY, "{grown} bytes more");
    assert!(
        again > capacity * 0.7,
        "{again:.0}/s after it, and {capacity:.0}/s before"
    );
    assert_eq!(accepted(&after), after.len(), "and nobody is refused any more");

    proxy.set(Weather::default());
    all.extend(over);
    all.extend(after);
    stage.drained().await;
    let requests = all.into_iter().map(|t| t.request).collect();
    assert_eq!(History::gather(&stage, requests).await.kept().repeats, 0);
}
