//! A load of requests whose clients keep a [history](super::history).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    App,
    history::{Outcome, Request},
    http_client,
};

/// How clients behave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// Between two requests of a client.
    pub pause: Duration,
    /// Every so many requests one has an Idempotency-Key, and is repeated while its outcome is unknown. 0: none.
    pub keyed_every: usize,
}

/// Times that a request with a key is repeated while nobody knows what became of it.
const REPEATS: usize = 3;

/// Clients that send one request after the other, each to a random draft, until they are stopped.
pub struct Load {
    clients: tokio::sync::Mutex<JoinSet<()>>,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    targets: Arc<RwLock<Vec<String>>>,
    accepted: Arc<Mutex<Vec<Uuid>>>,
}

/// Clients are told apart by it in their keys.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

impl Load {
    /// `clients` at once, at the service at `base_url`.
    pub fn start(base_url: &str, token: &str, drafts: &[Uuid], clients: usize) -> Self {
        Self::start_with(&[base_url], token, drafts, clients, Manners::default())
    }

    /// `clients` at once, each request at one of the services at `base_urls` in turn.
    pub fn start_with(base_urls: &[&str], token: &str, drafts: &[Uuid], clients: usize, manners: Manners) -> Self {
        let mut running = JoinSet::new();
        let mut load = Self {
            clients: tokio::sync::Mutex::default(),
            requests: Arc::default(),
            stop: Arc::default(),
            targets: Arc::new(RwLock::new(base_urls.iter().map(|url| (*url).to_owned()).collect())),
            accepted: Arc::default(),
        };
        for client in 0..clients {
            let client = Client {
                number: client,
                name: CLIENTS.fetch_add(1, Ordering::Relaxed),
                http: http_client(),
                token: token.to_owned(),
                drafts: drafts.to_vec(),
                manners,
                targets: Arc::clone(&load.targets),
                stop: Arc::clone(&load.stop),
                requests: Arc::clone(&load.requests),
                accepted: Arc::clone(&load.accepted),
            };
            running.spawn(client.run());
        }
        load.clients = tokio::sync::Mutex::new(running);
        load
    }

    /// From now on all requests go there.
    pub fn aim_at(&self, base_url: &str) {
        *self.targets.write() = vec![base_url.to_owned()];
    }

    /// From now on the requests for the `nth` service go there.
    pub fn aim_nth_at(&self, nth: usize, base_url: &str) {
        base_url.clone_into(&mut self.targets.write()[nth]);
    }

    /// The jobs that have been answered 202 so far, also after [`Load::stop`].
    pub fn accepted(&self) -> Arc<Mutex<Vec<Uuid>>> {
        Arc::clone(&self.accepted)
    }

    /// Where the requests go.
    pub fn targets(&self) -> Arc<RwLock<Vec<String>>> {
        Arc::clone(&self.targets)
    }

    /// Stops the clients and gives the requests of all.
    pub async fn stop(self) -> Vec<Request> {
        self.end().await;
        std::mem::take(&mut self.requests.lock())
    }

    /// Stops the clients; [`Load::stop`] gives their requests later.
    pub async fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut clients = self.clients.lock().await;
        while let Some(ended) = clients.join_next().await {
            ended.expect("a client");
        }
    }
}

struct Client {
    number: usize,
    name: u64,
    http: reqwest::Client,
    token: String,
    drafts: Vec<Uuid>,
    manners: Manners,
    targets: Arc<RwLock<Vec<String>>>,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Request>>>,
    accepted: Arc<Mutex<Vec<Uuid>>>,
}

impl Client {
    async fn run(self) {
        for n in self.number.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let draft = self.drafts[(n * 7919) % self.drafts.len()];
            let keyed = self.manners.keyed_every > 0 && n.is_multiple_of(self.manners.keyed_every);
            let key = keyed.then(|| format!("{}-{n}", self.name));
            for repeat in 0..=REPEATS {
                let request = send(&self.http, &self.target(n + repeat), &self.token, draft, key.as_deref()).await;
                let outcome = request.outcome;
                self.accepted.lock().extend(request.job());
                self.requests.lock().push(request);
                if !matches!(outcome, Outcome::Accepted(_)) {
                    // Nobody listens at the moment.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if outcome != Outcome::Ambiguous || !keyed {
                    break;
                }
            }
            tokio::time::sleep(self.manners.pause).await;
        }
    }

    fn target(&self, n: usize) -> String {
        let targets = self.targets.read();
        targets[n % targets.len()].clone()
    }
}

/// One request that has to be answered 202.
pub async fn accept(app: &App, draft: Uuid, token: &str) -> Request {
    let request = send(&app.http, &app.base_url, token, draft, None).await;
    assert!(request.job().is_some(), "{request:?}");
    request
}

/// One request, and what its client knows then.
pub async fn send(http: &reqwest::Client, base_url: &str, token: &str, draft: Uuid, key: Option<&str>) -> Request {
    let sent = Instant::now();
    let mut post = http
        .post(format!("{base_url}/api/events/{draft}/content-generation"))
        .bearer_auth(token)
        .timeout(Duration::from_secs(20));
    if let Some(key) = key {
        post = post.header("Idempotency-Key", key);
    }
    let outcome = match post.send().await {
        Err(error) if error.is_connect() => Outcome::Refused(0),
        Err(_) => Outcome::Ambiguous,
        Ok(answer) => {
            let status = answer.status().as_u16();
            match answer.json::<serde_json::Value>().await {
                Ok(body) if status == 202 => body["jobId"]
                    .as_str()
                    .and_then(|id| id.parse().ok())
                    .map_or(Outcome::Ambiguous, Outcome::Accepted),
                Ok(body) if body["code"] == "outcome-unknown" => Outcome::Ambiguous,
                Ok(_) => Outcome::Refused(status),
                Err(_) => Outcome::Ambiguous,
            }
        }
    };
    Request {
        draft,
        key: key.map(str::to_owned),
        sent,
        answered: Instant::now(),
        outcome,
    }
}
