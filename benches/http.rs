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
    sync::{Barrier, Mutex, mpsc},
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
}

/// A connection of one user.
pub struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    request: Vec<u8>,
    /// Where the draft's id is in the request.
    id_at: usize,
    drafts: Vec<Uuid>,
    next: usize,
}

impl Client {
    /// Connects. `first`: which of the drafts is asked for first, so that clients of one user differ.
    pub async fn connect(address: &str, user: &User, first: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let before = "POST /api/events/";
        let request = format!(
            "{before}{}/content-generation HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
             Content-Length: 0\r\n\r\n",
            Uuid::nil(),
            user.token
        );
        Ok(Self {
            stream,
            inbox: Vec::with_capacity(4096),
            request: request.into_bytes(),
            id_at: before.len(),
            drafts: user.drafts.clone(),
            next: first,
        })
    }

    /// Asks for a job and waits until it is accepted; anything but 202 is an error.
    pub async fn accept(&mut self) -> Result<Uuid> {
        // A stride that is coprime to the number of drafts visits all of them.
        self.next = (self.next + 7919) % self.drafts.len();
        let mut text = Uuid::encode_buffer();
        let id = self.drafts[self.next].hyphenated().encode_lower(&mut text);
        self.request[self.id_at..self.id_at + id.len()].copy_from_slice(id.as_bytes());
        self.stream.write_all(&self.request).await?;
        loop {
            if let Some((status, body, end)) = parse(&self.inbox)? {
                let text = String::from_utf8_lossy(&self.inbox[body..end]);
                if status != 202 {
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

/// `connections` clients, spread over the addresses, that each ask again as soon as they are answered. After `warm_up`, what is answered
/// within `window` counts; `begin` and `end` are called at its edges.
pub async fn closed_loop<T>(
    addresses: &[&str],
    users: &[User],
    connections: usize,
    (warm_up, window): (Duration, Duration),
    mut edge: impl AsyncFnMut() -> Result<T>,
) -> Result<(Closed, T, T)> {
    let ready = Arc::new(Barrier::new(connections + 1));
    let mut clients = JoinSet::new();
    for n in 0..connections {
        let address = addresses[n % addresses.len()];
        let mut client = Client::connect(address, &users[n % users.len()], n * 97).await?;
        let ready = ready.clone();
        clients.spawn(async move {
            ready.wait().await;
            let begin = Instant::now() + warm_up;
            let end = begin + window;
            let (mut answered, mut latency) = (0, histogram());
            let mut sent = Instant::now();
            while sent < end {
                client.accept().await?;
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
    while let Some(done) = clients.join_next().await {
        let (answered, latency) = done??;
        all.answered += answered;
        all.latency.add(&latency)?;
    }
    Ok((all, before, after))
}

/// A request that was accepted.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    pub job: Uuid,
    /// When it was to be sent, by the schedule.
    pub due: Instant,
    /// When the answer was here.
    pub answered: Instant,
}

/// Requests at a fixed rate, whatever the service does: one that finds all connections busy waits, and its time
/// counts from when it was due. So a stall is not hidden by the requests that it kept from being sent.
pub async fn open_loop(
    address: &str,
    users: &[User],
    connections: usize,
    (rate, window): (f64, Duration),
) -> Result<Vec<Accepted>> {
    let (schedule, due) = mpsc::unbounded_channel();
    let due = Arc::new(Mutex::new(due));
    let mut clients = JoinSet::new();
    for n in 0..connections {
        let mut client = Client::connect(address, &users[n % users.len()], n * 97).await?;
        let due = due.clone();
        clients.spawn(async move {
            let mut accepted = Vec::new();
            loop {
                let next = due.lock().await.recv().await;
                let Some(due) = next else {
                    return anyhow::Ok(accepted);
                };
                let job = client.accept().await?;
                let answered = Instant::now();
                accepted.push(Accepted { job, due, answered });
            }
        });
    }
    // A thread, because the runtime's timers have a grain of a millisecond.
    let pacing = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        for n in 0..(rate * window.as_secs_f64()) as u64 {
            let due = start + Duration::from_secs_f64(n as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if schedule.send(due).is_err() {
                break;
            }
        }
    });
    pacing.await?;
    let mut all = Vec::new();
    while let Some(done) = clients.join_next().await {
        all.append(&mut done??);
    }
    Ok(all)
}
