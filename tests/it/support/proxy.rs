//! A TCP proxy in front of a server on this machine: it loses answers, delays, throttles, stops one direction,
//! and hangs up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

/// What becomes of the connection once a message with the needle has been forwarded to the server.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// The server's answer is awaited and lost.
    AfterTheAnswer,
    /// At once, while the server is at work; the server notices nothing.
    BeforeTheAnswer,
    /// Half-open: nothing passes on it ever again, and nobody is told.
    Stranded,
    /// The same, but only by [`Proxy::strand`], which strands no other connection.
    StrandedWhenTold,
}

/// How one direction of all connections is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    #[default]
    Free,
    /// Each piece arrives so much later.
    Delayed(Duration),
    /// So many bytes a second.
    Slow(u32),
    /// Nothing passes; nothing is lost, and nobody is told.
    Stopped,
}

/// How a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Towards the server.
    pub up: Flow,
    /// Towards the client.
    pub down: Flow,
}

/// Connections live until the proxy is dropped, or hangs up.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    server: u16,
    needle: Option<(&'static [u8], Cut)>,
    cuts: AtomicU32,
    weather: watch::Sender<Weather>,
    /// Grows with each hanging up.
    hangups: watch::Sender<u64>,
    /// Grows with each stranding.
    strandings: watch::Sender<u64>,
    /// Bytes of answers that pass before the connection that carries the last one is cut; negative: any number.
    answers_left: AtomicI64,
}

impl Proxy {
    /// In fair weather, until it is told otherwise.
    pub async fn start(server: u16) -> Self {
        Self::with(server, None).await
    }

    /// Cuts the connections of messages with the needle, once it is told to by [`Proxy::cut_next`].
    pub async fn cutting(server: u16, needle: &'static [u8], cut: Cut) -> Self {
        Self::with(server, Some((needle, cut))).await
    }

    async fn with(server: u16, needle: Option<(&'static [u8], Cut)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            server,
            needle,
            cuts: AtomicU32::new(0),
            weather: watch::channel(Weather::default()).0,
            hangups: watch::channel(0).0,
            strandings: watch::channel(0).0,
            answers_left: AtomicI64::new(-1),
        });
        let of_connections = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, Arc::clone(&of_connections)));
            }
        });
        Self { port, state, accepting }
    }

    /// The next messages with the needle lose their answer and their connection.
    pub fn cut_next(&self, messages: u32) {
        self.state.cuts.store(messages, Ordering::SeqCst);
    }

    /// Messages that are still to be cut.
    pub fn cuts_left(&self) -> u32 {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// From now on, also on connections that are open.
    pub fn set(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// Ends all connections; new ones are taken.
    pub fn hang_up(&self) {
        self.state.hangups.send_modify(|times| *times += 1);
    }

    /// Half-open: nothing passes on any connection of now ever again, and nobody is told. New ones are sound.
    pub fn strand(&self) {
        self.state.strandings.send_modify(|times| *times += 1);
    }

    /// Cuts the connection that carries the answer's byte after so many more, in the middle of a reply perhaps.
    pub fn cut_after_answered(&self, bytes: u32) {
        self.state.answers_left.store(i64::from(bytes), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.hang_up();
    }
}

/// How a direction ended.
enum Ended {
    /// Somebody hung up.
    Closed,
    /// Nothing passes any more.
    Stranded,
    /// The message with the needle was forwarded.
    Hit(Cut),
}

async fn carry(mut client: TcpStream, state: Arc<State>) {
    let address = SocketAddr::from(([127, 0, 0, 1], state.server));
    let (mut hangups, mut strandings) = (state.hangups.subscribe(), state.strandings.subscribe());
    // A server that is down refuses, and so does the link.
    let Ok(mut server) = TcpStream::connect(address).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let carried = AtomicBool::new(!matches!(state.needle, Some((_, Cut::StrandedWhenTold))));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            ended = up(from_client, to_server, &state, &carried) => ended,
            () = down(from_server, to_client, &state) => Ended::Closed,
            _ = hangups.changed() => Ended::Closed,
            () = stranded(&mut strandings, &carried) => Ended::Stranded,
        }
    };
    if matches!(ended, Ended::Stranded) {
        let _ = hangups.changed().await;
    }
    if let Ended::Hit(cut) = ended {
        if matches!(cut, Cut::BeforeTheAnswer) {
            drop(client);
        }
        // Until the server is done with what it was asked.
        let mut answer = [0; 1 << 12];
        let _ = tokio::time::timeout(Duration::from_secs(30), server.read(&mut answer)).await;
    }
}

/// Returns when what `carried` the needle is to be stranded.
async fn stranded(strandings: &mut watch::Receiver<u64>, carried: &AtomicBool) {
    while strandings.changed().await.is_ok() {
        if carried.load(Ordering::SeqCst) {
            return;
        }
    }
}

async fn up(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, state: &State, carried: &AtomicBool) -> Ended {
    let mut weather = state.weather.subscribe();
    let mut bytes = vec![0; 1 << 20];
    loop {
        let Ok(n @ 1..) = from.read(&mut bytes).await else {
            return Ended::Closed;
        };
        pass(&mut weather, |w| w.up, n).await;
        if to.write_all(&bytes[..n]).await.is_err() {
            return Ended::Closed;
        }
        let Some((needle, cut)) = state.needle else {
            continue;
        };
        if !bytes[..n].windows(needle.len()).any(|window| window == needle) {
            continue;
        }
        let one_less = |left: u32| left.checked_sub(1);
        match cut {
            Cut::StrandedWhenTold => carried.store(true, Ordering::SeqCst),
            _ if state
                .cuts
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                .is_err() => {}
            Cut::Stranded => return Ended::Stranded,
            cut => return Ended::Hit(cut),
        }
    }
}

async fn down(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, state: &State) {
    let mut weather = state.weather.subscribe();
    let mut bytes = vec![0; 1 << 16];
    loop {
        let Ok(n @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        pass(&mut weather, |w| w.down, n).await;
        let left = state.answers_left.load(Ordering::SeqCst);
        let passing = if left < 0 { n } else { n.min(left as usize) };
        if to.write_all(&bytes[..passing]).await.is_err() {
            return;
        }
        if left >= 0 {
            if passing < n {
                state.answers_left.store(-1, Ordering::SeqCst);
                return;
            }
            state.answers_left.store(left - n as i64, Ordering::SeqCst);
        }
    }
}

/// Returns when so many bytes may go on.
async fn pass(weather: &mut watch::Receiver<Weather>, direction: impl Fn(&Weather) -> Flow, bytes: usize) {
    loop {
        let flow = direction(&weather.borrow_and_update());
        let wait = match flow {
            Flow::Free => return,
            Flow::Delayed(by) => by,
            Flow::Slow(a_second) => Duration::from_secs_f64(bytes as f64 / f64::from(a_second)),
            Flow::Stopped => Duration::MAX,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => return,
            // The weather changed: what is left of the wait counts no more.
            changed = weather.changed() => if changed.is_err() { return },
        }
    }
}

mod tests {
    use std::time::Instant;

    use super::*;

    /// A server that sends back what it gets, and a client at it through a proxy.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = Proxy::start(port).await;
        let client = TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("the proxy");
        (proxy, client)
    }

    async fn ask(client: &mut TcpStream) -> std::io::Result<Duration> {
        let began = Instant::now();
        client.write_all(b"0123456789").await?;
        let mut answer = [0; 10];
        tokio::time::timeout(Duration::from_secs(5), client.read_exact(&mut answer)).await??;
        Ok(began.elapsed())
    }

    #[tokio::test]
    async fn a_link_is_as_it_was_told_to_be() {
        let (proxy, mut client) = echo().await;
        ask(&mut client).await.expect("an answer");
        let slow = Flow::Slow(100);
        for (up, down, at_least) in [
            (Flow::Delayed(Duration::from_millis(100)), Flow::Free, 100),
            (Flow::Free, Flow::Delayed(Duration::from_millis(100)), 100),
            (slow, Flow::Free, 100),
        ] {
            proxy.set(Weather { up, down });
            let took = ask(&mut client).await.expect("an answer");
            assert!(took >= Duration::from_millis(at_least), "{up:?} {down:?}: {took:?}");
        }
        // Stopped: nothing arrives, nothing is lost.
        proxy.set(Weather {
            down: Flow::Stopped,
            ..Weather::default()
        });
        client.write_all(b"x").await.expect("taken");
        let mut byte = [0];
        let waited = tokio::time::timeout(Duration::from_millis(200), client.read(&mut byte)).await;
        assert!(waited.is_err(), "{waited:?}");
        proxy.set(Weather::default());
        assert_eq!(client.read(&mut byte).await.expect("an answer"), 1);
    }

    #[tokio::test]
    async fn a_reply_is_cut_in_its_middle_and_all_connections_are_hung_up() {
        let (proxy, mut client) = echo().await;
        proxy.cut_after_answered(4);
        client.write_all(b"0123456789").await.expect("taken");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an end");
        assert_eq!(answer, b"0123");
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("the proxy");
        ask(&mut client).await.expect("an answer");
        proxy.hang_up();
        assert!(ask(&mut client).await.is_err());
        // Half-open: an old connection says nothing, a new one is sound.
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("the proxy");
        let mut old = connect().await;
        ask(&mut old).await.expect("an answer");
        proxy.strand();
        old.write_all(b"x").await.expect("taken");
        let mut byte = [0];
        let waited = tokio::time::timeout(Duration::from_millis(200), old.read(&mut byte)).await;
        assert!(waited.is_err(), "{waited:?}");
        ask(&mut connect().await).await.expect("an answer");
    }
}
