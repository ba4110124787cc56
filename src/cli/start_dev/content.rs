//! The Content Service beside the dispatcher: `content-worker`, when it was built too.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use super::{config::free, servers::Servers};
use crate::{
    config::Config,
    dev_stack::{end_with_this_process, forget_ended},
};

/// Where its pages are, unless that port is taken.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);
/// From SIGTERM; the worker's own budget is below it.
const STOPS_WITHIN: Duration = Duration::from_secs(12);

/// A running worker; ends with this process.
#[derive(Debug)]
pub(super) struct ContentWorker {
    child: Child,
    /// Of its pages.
    pub(super) url: String,
    /// Where its pictures are.
    pub(super) pictures: PathBuf,
}

impl ContentWorker {
    /// `None`: the program was not built.
    pub(super) fn start(config: &Config, servers: &Servers, dir: &Path) -> Result<Option<Self>> {
        let program = std::env::current_exe()?.with_file_name("content-worker");
        if !program.is_file() {
            return Ok(None);
        }
        let listen = free(LISTEN, None)?;
        let pictures = dir.join("pictures");
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("content-worker.log"))?;
        let mut command = Command::new(&program);
        command
            .env_clear()
            .args(["--brokers", &servers.kafka.bootstrap(), "--topic", &config.kafka.topic])
            .args(["--result-topic", &config.kafka.result_topic])
            .args(["--instance", "start-dev", "--list-jobs"])
            .args([
                "--listen",
                &listen.to_string(),
                "--shutdown-budget",
                "8s",
                "--directory",
            ])
            .arg(&pictures)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Ctrl-C at the terminal is for `start-dev`, which stops it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        end_with_this_process(&child)?;
        Ok(Some(Self {
            child,
            url: format!("http://{listen}"),
            pictures,
        }))
    }

    /// SIGTERM, and SIGKILL to one that does not end.
    pub(super) async fn stop(mut self) -> Result<()> {
        // It may have ended by itself.
        let _ = signal::kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + STOPS_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        forget_ended(&self.child);
        Ok(())
    }
}
