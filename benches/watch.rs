//! The other end: a consumer of the topic, in this process.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use uuid::Uuid;

use crate::{
    load::Accepted,
    stack::{PARTITIONS, Stack},
};

/// For the last records to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// A consumer of all of a topic, from its beginning. It commits no offsets: nobody goes on where it ends, and `poll` gives
/// nothing, early, when a commit is answered.
pub fn reader(stack: &Stack, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = stack
        .kafka_client()
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}

/// A consumer that notes when each job's record came.
pub struct Watch {
    seen: Arc<Mutex<HashMap<Uuid, Instant>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Watch {
    /// Reads `topic` from its beginning, on a thread of its own.
    pub fn start(stack: &Stack, topic: &str) -> Result<Self> {
        let consumer = reader(stack, topic)?;
        let (seen, stop) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (seen, stop) = (seen.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(record) = consumer.poll(Duration::from_millis(100)) else {
                        continue;
                    };
                    let record = record?;
                    let now = Instant::now();
                    let headers = record.headers().context("a record without headers")?;
                    let subject = headers.iter().find(|header| header.key == "ce_subject");
                    let job = subject.and_then(|header| std::str::from_utf8(header.value?).ok()?.parse().ok());
                    // A repeat is not what was waited for.
                    seen.lock()
                        .entry(job.context("a record without ce_subject")?)
                        .or_insert(now);
                }
                Ok(())
            })
        };
        Ok(Self { seen, stop, thread })
    }

    /// What came since the last call.
    pub fn taken(&self) -> HashMap<Uuid, Instant> {
        std::mem::take(&mut *self.seen.lock())
    }

    /// When each job's first record came that came since [`Self::taken`]: of the accepted ones at least, for one that
    /// has not come in time is an error.
    pub async fn all_of(&self, accepted: &[Accepted]) -> Result<HashMap<Uuid, Instant>> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen: HashMap<Uuid, Instant> = HashMap::new();
        loop {
            for (job, at) in self.taken() {
                seen.entry(job).or_insert(at);
            }
            if accepted.iter().all(|request| seen.contains_key(&request.job)) {
                break;
            }
            if Instant::now() > deadline {
                let lost = accepted.iter().filter(|request| !seen.contains_key(&request.job));
                bail!(
                    "{} of {} accepted jobs are not in the topic after {PATIENCE:?}",
                    lost.count(),
                    accepted.len()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(seen)
    }

    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(done) => done,
            Err(_) => bail!("the consumer panicked"),
        }
    }
}
