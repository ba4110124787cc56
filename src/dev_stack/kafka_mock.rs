//! librdkafka's broker inside this process, for `start-dev` on a machine without Java. It forgets everything
//! when it ends and keeps at most 5 MiB or 100,000 records of each partition.

use std::{sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};
use rdkafka::mocking::MockCluster;

/// A stand-in for a broker, on 127.0.0.1. Dropping ends it.
#[derive(Debug)]
pub struct MockBroker {
    bootstrap: String,
    /// Dropped to end the thread.
    _running: mpsc::Sender<()>,
}

impl MockBroker {
    /// Starts it with these topics.
    pub async fn start(topics: Vec<String>, partitions: i32) -> Result<Self> {
        let (running, until_dropped) = mpsc::channel::<()>();
        let (started, answer) = tokio::sync::oneshot::channel();
        // The cluster may not leave the thread that made it.
        thread::Builder::new().name("mock-kafka".to_owned()).spawn(move || {
            let made = MockCluster::new(1).and_then(|cluster| {
                for topic in &topics {
                    cluster.create_topic(topic, partitions, 1)?;
                }
                Ok(cluster)
            });
            match made {
                Ok(cluster) => {
                    let _ = started.send(Ok(cluster.bootstrap_servers()));
                    let _ = until_dropped.recv();
                }
                Err(error) => drop(started.send(Err(anyhow!(error)))),
            }
        })?;
        let bootstrap = answer.await?.context("librdkafka's mock broker does not start")?;
        Ok(Self {
            bootstrap,
            _running: running,
        })
    }

    /// `host:port`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}
