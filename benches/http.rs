//! A client that costs little: the generator shares the machine with what it measures. One connection, kept alive;
//! requests are written whole, answers parsed by httparse, which is the parser inside hyper.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};
use uuid::Uuid;

/// Latencies from a microsecond to a minute, in microseconds, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// Who asks for what: a user's token, and the drafts that are the user's.
#[derive(Debug, Clone)]
pub struct User {
    pub token: String,
    pub drafts: Vec<Uuid>,
    /// Whether each request has an Idempotency-Key, of its own.
    pub keyed: bool,
}

impl User {
    /// The user's drafts without end, from the one at `first` on.
    pub fn drafts_from(&self, first: usize) -> Drafts {
        Drafts {
            ids: self.drafts.clone(),
            at: first,
        }
    }
}

/// A user's drafts, again and again.
pub struct Drafts {
    ids: Vec<Uuid>,
    at: usize,
}

impl Drafts {
    pub fn draw(&mut self) -> Uuid {
        // A stride that is coprime to the number of drafts visits all of them.
        self.at = (self.at + 7919) % self.ids.len();
        self.ids[self.at]
    }
}

/// Who asks for something about one job and waits for the answer. What is not the answer that was asked for is an error.
pub trait Asking: Send + 'static {
    /// The job.
    fn ask(&mut self) -> impl Future<Output = Result<Uuid>> + Send;
}

/// A connection of one user.
pub struct Client {
    connection: Connection,
    request: Vec<u8>,
    /// What follows the draft's id in a request, but for the key.
    rest: String,
    drafts: Drafts,
    keyed: bool,
}

impl Client {
    /// Connects. `first`: which of the drafts is asked for first, so that clients of one user differ.
    pub async fn connect(address: &str, user: &User, first: usize) -> Result<Self> {
        let rest = format!(
            "/content-generation HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n",
            user.token
        );
        Ok(Self {
            connection: Connection::to(address).await?,
            request: Vec::with_capacity(1024),
            rest,
            drafts: user.drafts_from(first),
            keyed: user.keyed,
        })
    }

    /// Asks for a job of the next draft and waits until it is accepted; anything but 202 is an error.
    pub async fn accept(&mut self) -> Result<Uuid> {
        let draft = self.drafts.draw();
        let key = self.keyed.then(Uuid::now_v7);
        self.accept_draft(draft, key).await
    }

    /// The same of this draft, with this Idempotency-Key. After an error an answer may still come on this connection,
    /// which would be taken for the next request's: connect anew.
    pub async fn accept_draft(&mut self, draft: Uuid, key: Option<Uuid>) -> Result<Uuid> {
        let mut text = Uuid::encode_buffer();
        self.request.clear();
        self.request.extend_from_slice(b"POST /api/events/");
        self.request
            .extend_from_slice(draft.hyphenated().encode_lower(&mut text).as_bytes());
        self.request.extend_from_slice(self.rest.as_bytes());
        if let Some(key) = key {
            self.request.extend_from_slice(b"Idempotency-Key: ");
            self.request
                .extend_from_slice(key.hyphenated().encode_lower(&mut text).as_bytes());
            self.request.extend_from_slice(b"\r\n");
        }
        self.request.extend_from_slice(b"\r\n");
        self.connection.exchange(&self.request, 202).await
    }
}

impl Asking for Client {
    async fn ask(&mut self) -> Result<Uuid> {
        self.accept().await
    }
}

/// A connection of one user who asks what became of jobs, one after the other.
pub struct Poller {
    connection: Connection,
    /// Whole requests.
    requests: Vec<String>,
    at: usize,
}

impl Poller {
    /// Connects. `first`: which of the jobs is asked about first.
    pub async fn connect(address: &str, user: &User, jobs: &[Uuid], first: usize) -> Result<Self> {
        let request = |job: &Uuid| {
            format!(
                "GET /api/jobs/{job} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n",
                user.token
            )
        };
        Ok(Self {
            connection: Connection::to(address).await?,
            requests: jobs.iter().map(request).collect(),
            at: first,
        })
    }
}

impl Asking for Poller {
    async fn ask(&mut self) -> Result<Uuid> {
        self.at = (self.at + 1) % self.requests.len();
        self.connection.exchange(self.requests[self.at].as_bytes(), 200).await
    }
}

struct Connection {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Connection {
    async fn to(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            inbox: Vec::with_capacity(4096),
        })
    }

    /// The job that the answer is about; an answer of another status is an error.
    async fn exchange(&mut self, request: &[u8], expected: u16) -> Result<Uuid> {
        self.stream.write_all(request).await?;
        loop {
            if let Some((status, body, end)) = parse(&self.inbox)? {
                let text = String::from_utf8_lossy(&self.inbox[body..end]);
                if status != expected {
                    bail!("the service answered {status}: {text}");
                }
                let job = job_id(&text).with_context(|| format!("no jobId in {text}"))?;
                self.inbox.drain(..end);
                return Ok(job);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                bail!("the service closed the connection");
            }
        }
    }
}

/// Status, where the body begins and where it ends; none while it has not come whole.
fn parse(inbox: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = response.parse(inbox)? else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = match length {
        Some(header) => std::str::from_utf8(header.value)?.trim().parse()?,
        None => bail!("an answer without Content-Length"),
    };
    let end = body + length;
    let status = response.code.context("an answer without status")?;
    Ok((inbox.len() >= end).then_some((status, body, end)))
}

fn job_id(body: &str) -> Option<Uuid> {
    let (_, rest) = body.split_once("\"jobId\":\"")?;
    rest.get(..36)?.parse().ok()
}

/// What a closed loop has done within its window.
pub struct Closed {
    pub answered: u64,
    pub latency: Histogram<u64>,
}

/// `connections` clients of these users, spread over the addresses, that ask for jobs.
pub async fn clients(addresses: &[&str], users: &[User], connections: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for n in 0..connections {
        let address = addresses[n % addresses.len()];
        clients.push(Client::connect(address, &users[n % users.len()], n * 97).await?);
    }
    Ok(clients)
}

/// Clients that each ask again as soon as they are answered. After `warm_up`, what is answered within `window` counts;
/// `edge` is called at both its ends.
pub async fn closed_loop<T>(
    clients: Vec<impl Asking>,
    (warm_up, window): (Duration, Duration),
    mut edge: impl AsyncFnMut() -> Result<T>,
) -> Result<(Closed, T, T)> {
    let ready = Arc::new(Barrier::new(clients.len() + 1));
    let mut running = JoinSet::new();
    for mut client in clients {
        let ready = ready.clone();
        running.spawn(async move {
            ready.wait().await;
            let begin = Instant::now() + warm_up;
            let end = begin + window;
            let (mut answered, mut latency) = (0, histogram());
            let mut sent = Instant::now();
            while sent < end {
                client.ask().await?;
                let now = Instant::now();
                if now >= begin && now < end {
                    answered += 1;
                    latency.saturating_record((now - sent).as_micros() as u64);
                }
                sent = now;
            }
            anyhow::Ok((answered, latency))
        });
    }
    ready.wait().await;
    tokio::time::sleep(warm_up).await;
    let before = edge().await?;
    tokio::time::sleep(window).await;
    let after = edge().await?;
    let mut all = Closed {
        answered: 0,
        latency: histogram(),
    };
    while let Some(done) = running.join_next().await {
        let (answered, latency) = done??;
        all.answered += answered;
        all.latency.add(&latency)?;
    }
    Ok((all, before, after))
}
