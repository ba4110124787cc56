//! The accept loop of all listeners, on hyper itself: `axum::serve` sets no timer, so a client could
//! send its headers for ever.
//!
//! Bounded here: open connections, the time a head may take, the head's size, the time that a client may leave an
//! answer unread, the time that an end may take. HTTP/1.1 only; TLS is the proxy's business.

mod bare_errors;
#[cfg(test)]
mod tests;
mod unread;

use std::{convert::Infallible, future::poll_fn, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use bare_errors::BareErrors;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use unread::Unread;

use super::{catalogue::Code, request_id::RequestId};

/// The limits of one listener.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// Open connections at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// To receive a request's head, counted from the connection's start or the answer before: so it is
    /// also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Of all headers together, in bytes. Up to about twice as much is read, to answer 431 with the
    /// request's own id.
    pub max_header_bytes: usize,
    /// For a client to take something more of an answer that waits for it: [`WRITE_TIMEOUT`].
    pub write_timeout: Duration,
    /// What requests in flight get to finish in once `cancel` is cancelled; then they are cut off.
    pub drain: Duration,
}

/// A client that takes nothing of its answer for so long is cut off: it would keep its connection for ever.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// More headers than any honest client sends.
const MAX_HEADERS: usize = 100;
/// What the request line may add to the headers.
const REQUEST_LINE_BYTES: usize = 16 * 1024;
/// How long, and for how many bytes, a closing connection is read on, so that a client which is still
/// sending sees the answer and not a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// Answers connections until `cancel` is cancelled, then lets requests in flight finish, within
/// [`ListenerOptions::drain`]. Idle connections are closed at once. `router` says for each request who answers it.
pub async fn serve(
    listener: TcpListener,
    router: impl Fn() -> Router + Clone + Send + Unpin + 'static,
    options: ListenerOptions,
    cancel: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(options.max_connections));
    let options = Arc::new(options);
    let connections = TaskTracker::new();
    let cut_off = CancellationToken::new();
    let mut pause = AcceptPause::default();

    loop {
        let next = async {
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = cancel.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                pause.reset();
                let connection = serve_connection(stream, router.clone(), Arc::clone(&options), cancel.clone());
                let cut_off = cut_off.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    cut_off.run_until_cancelled(connection).await;
                });
            }
            Err(error) => {
                cancel.run_until_cancelled(pause.after(&error)).await;
            }
        }
    }

    // New connections are refused from here on, so a balancer goes elsewhere.
    drop(listener);
    connections.close();
    if tokio::time::timeout(options.drain, connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests did not finish in time and are cut off"
        );
        cut_off.cancel();
        connections.wait().await;
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: impl Fn() -> Router + Unpin,
    options: Arc<ListenerOptions>,
    cancel: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it began");
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        // Boxed, for hyper gives the socket back only from behind a future that can be moved.
        let answer = router().oneshot(request.map(Body::new));
        Box::pin(async move { answer.await.map_err(|never: Infallible| never) })
    });
    let head_bytes = 2 * options.max_header_bytes + REQUEST_LINE_BYTES;
    let io = Unread::new(BareErrors::new(stream), options.write_timeout);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_header_size(head_bytes)
        .max_buf_size(head_bytes.next_power_of_two())
        .serve_connection(TokioIo::new(io), service);

    let ended = tokio::select! {
        biased;
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = cancel.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };

    let parts = connection.into_parts();
    let mut io = parts.io.into_inner().into_inner().into_inner();
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
        // Nothing received is an idle connection and no failed request.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            let answer = bare_errors::answer(Code::RequestTimeout, &RequestId::new());
            // The peer may be gone; it had its chance.
            let _ = tokio::time::timeout(LINGER, io.write_all(&answer)).await;
        }
    }
    let _ = tokio::time::timeout(LINGER, linger(&mut io)).await;
}

/// Closes our side, then reads what the client still sends: closing with unread bytes would reset the
/// connection, and the reset can overtake the answer.
async fn linger(io: &mut TcpStream) -> io::Result<()> {
    io.shutdown().await?;
    let mut scratch = [0; 4096];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match io.read(&mut scratch).await? {
            0 => break,
            n => left = left.saturating_sub(n),
        }
    }
    Ok(())
}

/// Keeps a failing `accept` from spinning.
#[derive(Debug, Default)]
struct AcceptPause {
    failures: u32,
}

impl AcceptPause {
    fn reset(&mut self) {
        self.failures = 0;
    }

    /// At once when only that one connection was lost; else (no descriptors, no memory) 10 ms, doubling
    /// up to 1.28 s.
    async fn after(&mut self, error: &io::Error) {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
        ) {
            return;
        }
        let pause = Duration::from_millis(10 << self.failures.min(7));
        self.failures += 1;
        tracing::warn!(%error, ?pause, "cannot accept connections");
        tokio::time::sleep(pause).await;
    }
}
