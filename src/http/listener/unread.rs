//! hyper's timers run while a request is received. While an answer goes out none does, and a client that does not read
//! it would keep its connection for ever. This wrapper of the socket gives such a client up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A socket on which writing fails when nothing could be written for `bound`.
#[derive(Debug)]
pub(super) struct Unread<S> {
    stream: S,
    bound: Duration,
    /// Runs while what is written waits for the client; there is none as long as writing goes on.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Unread<S> {
    pub(super) fn new(stream: S, bound: Duration) -> Self {
        Self {
            stream,
            bound,
            stuck: None,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let bound = self.bound;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(bound)));
        stuck.as_mut().poll(cx).map(|()| {
            let reason = format!("the client has read nothing for {bound:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, reason))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    /// Long enough for a reader that takes its time on a machine that is busy with other tests.
    const BOUND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn what_nobody_reads_fails_and_not_before_its_time() {
        let (ours, _unread) = duplex(8);
        let mut ours = Unread::new(ours, BOUND);
        let started = Instant::now();
        let failed = ours.write_all(&[b'x'; 64]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= BOUND);
    }

    #[tokio::test]
    async fn a_reader_that_takes_longer_for_all_and_always_takes_some_gets_all() {
        const PIECES: u32 = 40;
        let (ours, mut theirs) = duplex(1);
        let mut ours = Unread::new(ours, BOUND);
        let started = Instant::now();
        let reading = async {
            for _ in 0..PIECES {
                theirs.read_u8().await.unwrap();
                tokio::time::sleep(2 * BOUND / PIECES).await;
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[b'x'; PIECES as usize]), reading);
        written.unwrap();
        assert!(started.elapsed() > BOUND);
    }
}
