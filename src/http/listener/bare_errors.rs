//! hyper answers a head that it cannot read by itself, with a status and no body. This wrapper of the
//! socket puts a problem in its place, so that every failure reads the same.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::http::{catalogue::Code, problem, request_id::RequestId};

/// The statuses with which hyper answers by itself. It leaves the body out; we never do on an error.
const OWN_ANSWERS: [(&[u8], Code); 3] = [
    (b"HTTP/1.1 400 ", Code::MalformedRequest),
    (b"HTTP/1.1 414 ", Code::UriTooLong),
    (b"HTTP/1.1 431 ", Code::HeadersTooLarge),
];

/// A whole answer with a problem, after which the connection is closed.
pub(super) fn answer(code: Code, request_id: &RequestId) -> Vec<u8> {
    let status = code.entry().status;
    // The path is not known: the head was not read.
    let body = problem::body(code, code.entry().meaning, "", request_id.as_str());
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\nx-request-id: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n",
        problem::MEDIA_TYPE,
        body.len(),
        request_id.as_str(),
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    answer
}

/// What to write in place of `written`, when that is an answer of hyper's own.
fn instead_of(written: &[u8]) -> Option<Vec<u8>> {
    let (_, code) = OWN_ANSWERS.into_iter().find(|(head, _)| written.starts_with(head))?;
    let empty = b"content-length: 0\r\n";
    (written.ends_with(b"\r\n\r\n") && written.windows(empty.len()).any(|part| part == empty)).then(|| {
        let request_id = RequestId::new();
        tracing::debug!(
            request_id = request_id.as_str(),
            code = code.entry().code,
            "refused a head that cannot be read"
        );
        answer(code, &request_id)
    })
}

/// A socket whose empty error answers are replaced.
#[derive(Debug)]
pub(super) struct BareErrors {
    stream: TcpStream,
    /// The replacement, from `sent` on still to be written.
    pending: Vec<u8>,
    sent: usize,
}

impl BareErrors {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            sent: 0,
        }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.pending.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.pending[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for BareErrors {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BareErrors {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        if let Some(answer) = instead_of(buf) {
            self.pending = answer;
            self.sent = 0;
            // The rest goes out with the flush that hyper does next.
            let _ = self.poll_pending(cx)?;
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // An answer of hyper's own is a head alone: one slice.
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_error_answer_is_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let replaced = String::from_utf8(instead_of(bare).unwrap()).unwrap();
        assert!(
            replaced.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"),
            "{replaced}"
        );
        assert!(replaced.contains("\"code\":\"headers-too-large\""), "{replaced}");
        for kept in [
            &b"HTTP/1.1 431 X\r\ncontent-length: 2\r\n\r\n{}"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"",
        ] {
            assert_eq!(instead_of(kept), None, "{kept:?}");
        }
    }
}
