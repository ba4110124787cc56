//! A TCP proxy that loses the answer to a message.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What becomes of the connection once a message with the needle has been forwarded to the server.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// The server's answer is awaited and lost.
    AfterTheAnswer,
    /// At once, while the server is at work; the server notices nothing.
    BeforeTheAnswer,
}

/// Stands in front of a server on this machine.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    cuts: Arc<AtomicU32>,
}

impl Proxy {
    /// Cuts nothing before [`Proxy::cut_next`].
    pub async fn start(server: u16, needle: &'static [u8], cut: Cut) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let cuts = Arc::new(AtomicU32::new(0));
        let left = cuts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server");
                tokio::spawn(carry(client, server, needle, cut, left.clone()));
            }
        });
        Self { port, cuts }
    }

    /// The next messages with the needle lose their answer and their connection.
    pub fn cut_next(&self, messages: u32) {
        self.cuts.store(messages, Ordering::SeqCst);
    }

    /// Messages that are still to be cut.
    pub fn cuts_left(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, needle: &[u8], cut: Cut, cuts: Arc<AtomicU32>) {
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(n @ 1..) = read else { return };
                if server.write_all(&asked[..n]).await.is_err() {
                    return;
                }
                let hit = asked[..n].windows(needle.len()).any(|window| window == needle);
                if hit && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                    match cut {
                        Cut::AfterTheAnswer => _ = server.read(&mut answered).await,
                        Cut::BeforeTheAnswer => {
                            drop(client);
                            // Until the server is done with what it was asked.
                            _ = server.read(&mut answered).await;
                        }
                    }
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
