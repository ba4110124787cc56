//! Redis, or Valkey, from the binary of this machine. It keeps nothing: a restart finds it empty.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Home, find_on_path, process::Server};

const START_BOUND: Duration = Duration::from_secs(20);
const STOP_BOUND: Duration = Duration::from_secs(5);

/// A Redis server on 127.0.0.1.
#[derive(Debug)]
pub struct RedisServer {
    server: Server,
    port: u16,
    _home: Home,
}

impl RedisServer {
    /// Starts it in `home` and waits until it answers.
    pub async fn start(home: &Home) -> Result<Self> {
        let binary = find_on_path(&["redis-server", "valkey-server"])
            .context("neither redis-server nor valkey-server is on PATH: on Debian, `apt-get install redis-server`")?;
        let dir = home.dir("redis")?;
        let port = home.port("redis")?;
        let server = Server::new("Redis", home.file("redis.log"), move || {
            let mut command = Command::new(&binary);
            command.args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ]);
            command.arg("--dir").arg(&dir);
            command
        });
        let redis = Self {
            server,
            port,
            _home: home.clone(),
        };
        redis.restart().await?;
        Ok(redis)
    }

    /// Starts it again, empty, on the same port.
    pub async fn restart(&self) -> Result<()> {
        self.server.start()?;
        self.server
            .ready(START_BOUND, || async {
                ping(self.port).await.is_ok_and(|answer| answer == *b"+PONG")
            })
            .await
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop(Signal::SIGTERM, STOP_BOUND).await
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops it where it is: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.server.thaw();
    }
}

async fn ping(port: u16) -> std::io::Result<[u8; 5]> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
