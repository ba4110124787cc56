//! Requests at a rate, whatever the service does: an open loop, which faults do not slow down.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use uuid::Uuid;

use crate::http::{Asking, Client, Drafts, User};

/// For a request to be accepted, with all its attempts.
const PATIENCE: Duration = Duration::from_mins(1);
/// For one attempt to be answered: longer than the service waits for anything.
const ANSWER: Duration = Duration::from_secs(15);
/// Before the next attempt. Shorter than the service's Retry-After, which makes it no easier for the service.
const PAUSE: Duration = Duration::from_millis(100);

/// A request that was accepted.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    pub job: Uuid,
    /// When it was to be sent, by the schedule.
    pub due: Instant,
    /// When the answer was here.
    pub answered: Instant,
}

/// A client as a service deserves it: every request has an Idempotency-Key, and is sent again with it, over a new
/// connection to the next replica, until it is accepted.
pub struct Persistent {
    addresses: Vec<String>,
    user: User,
    drafts: Drafts,
    /// Which of the addresses is asked.
    at: usize,
    connection: Option<Client>,
}

impl Persistent {
    /// The `n`th of several, whose addresses and drafts differ from the others'. Connects when it first asks.
    pub fn new(addresses: &[String], users: &[User], n: usize) -> Self {
        let user = users[n % users.len()].clone();
        Self {
            addresses: addresses.to_vec(),
            drafts: user.drafts_from(n * 97),
            user,
            at: n,
            connection: None,
        }
    }

    async fn attempt(&mut self, draft: Uuid, key: Uuid) -> Result<Uuid> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let address = &self.addresses[self.at % self.addresses.len()];
                none.insert(Client::connect(address, &self.user, 0).await?)
            }
        };
        connection.accept_draft(draft, Some(key)).await
    }
}

impl Asking for Persistent {
    async fn ask(&mut self) -> Result<Uuid> {
        let (draft, key) = (self.drafts.draw(), Uuid::new_v4());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let problem = match timeout(ANSWER, self.attempt(draft, key)).await {
                Ok(Ok(job)) => return Ok(job),
                Ok(Err(problem)) => problem,
                Err(_) => anyhow!("no answer within {ANSWER:?}"),
            };
            if Instant::now() > deadline {
                return Err(problem.context(format!("a request was not accepted within {PATIENCE:?}")));
            }
            self.connection = None;
            self.at += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Requests at a fixed rate, whatever the service does: one that finds all connections busy waits, and its time
/// counts from when it was due. So a stall is not hidden by the requests that it kept from being sent.
pub struct Load {
    /// Requests a second; none: no more.
    rate: Arc<Mutex<Option<f64>>>,
    pacing: JoinHandle<()>,
    clients: JoinSet<Result<Vec<Accepted>>>,
}

impl Load {
    /// Requests of these clients, `rate` a second.
    pub fn start(clients: Vec<impl Asking>, rate: f64) -> Self {
        let rate = Arc::new(Mutex::new(Some(rate)));
        let (schedule, due) = mpsc::unbounded_channel();
        let due = Arc::new(tokio::sync::Mutex::new(due));
        let mut running = JoinSet::new();
        for mut client in clients {
            let due = due.clone();
            running.spawn(async move {
                let mut accepted = Vec::new();
                loop {
                    let next = due.lock().await.recv().await;
                    let Some(due) = next else {
                        return anyhow::Ok(accepted);
                    };
                    let job = client.ask().await?;
                    let answered = Instant::now();
                    accepted.push(Accepted { job, due, answered });
                }
            });
        }
        // A thread, because the runtime's timers have a grain of a millisecond.
        let pacing = tokio::task::spawn_blocking({
            let rate = rate.clone();
            move || {
                let mut due = Instant::now();
                loop {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let Some(rate) = *rate.lock() else { break };
                    if schedule.send(due).is_err() {
                        break;
                    }
                    due += Duration::from_secs_f64(1.0 / rate);
                }
            }
        });
        Self {
            rate,
            pacing,
            clients: running,
        }
    }

    /// From now on so many a second.
    pub fn set_rate(&self, rate: f64) {
        *self.rate.lock() = Some(rate);
    }

    /// No more requests; waits until all that were due are accepted, and gives them.
    pub async fn stop(mut self) -> Result<Vec<Accepted>> {
        *self.rate.lock() = None;
        self.pacing.await.context("the pacing of the load")?;
        let mut all = Vec::new();
        while let Some(done) = self.clients.join_next().await {
            all.append(&mut done??);
        }
        Ok(all)
    }
}

/// A load of plain clients, at one rate for `window`.
pub async fn open_loop(
    address: &str,
    users: &[User],
    connections: usize,
    (rate, window): (f64, Duration),
) -> Result<Vec<Accepted>> {
    let mut clients = Vec::new();
    for n in 0..connections {
        clients.push(Client::connect(address, &users[n % users.len()], n * 97).await?);
    }
    let load = Load::start(clients, rate);
    tokio::time::sleep(window).await;
    load.stop().await
}
