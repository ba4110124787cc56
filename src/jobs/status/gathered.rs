//! Reads of single jobs that are asked for together, made together: most of what one costs PostgreSQL is the statement and
//! not the job, and clients that poll ask more often than they have jobs accepted.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use uuid::Uuid;

use super::{Found, Statements, StatusError};

/// Statements at the same time. Who asks meanwhile is answered by the next one.
const READERS: usize = 2;
/// Jobs of one statement.
const BATCH: usize = 256;
/// Requests that wait for a statement. More are refused at once.
const WAITING: usize = 4_096;
/// For an answer, whoever is in front: where PostgreSQL hangs, statements end one after the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Cloning is cheap; all clones gather together.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    statements: Statements,
    waiting: Arc<Mutex<Vec<Waiting>>>,
    readers: Arc<Semaphore>,
}

#[derive(Debug)]
struct Waiting {
    job_id: Uuid,
    reply: oneshot::Sender<Result<Option<Found>, StatusError>>,
}

impl Gathered {
    pub(super) fn new(statements: Statements) -> Self {
        Self {
            statements,
            waiting: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// The job as it is after this call, if there is one.
    pub(super) async fn read(&self, job_id: Uuid) -> Result<Option<Found>, StatusError> {
        let (reply, answer) = oneshot::channel();
        let reader = {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING {
                waiting.retain(|one| !one.reply.is_closed());
                if waiting.len() >= WAITING {
                    return Err(StatusError::Crowded);
                }
            }
            waiting.push(Waiting { job_id, reply });
            // Under the lock, as a reader that finds nobody waiting gives its permit back: either it is had, or all
            // readers come here once more.
            Arc::clone(&self.readers).try_acquire_owned().ok()
        };
        if let Some(permit) = reader {
            tokio::spawn(self.clone().read_waiting(permit));
        }
        match timeout(PATIENCE, answer).await {
            Ok(answer) => answer.expect("a reader answers"),
            Err(_) => Err(StatusError::Timeout),
        }
    }

    /// Reads until nobody waits. Nobody's going away ends it, for others wait as well.
    async fn read_waiting(self, permit: OwnedSemaphorePermit) {
        loop {
            let mut batch: Vec<Waiting> = {
                let mut waiting = self.waiting.lock();
                if waiting.is_empty() {
                    drop(permit);
                    return;
                }
                let some = waiting.len().min(BATCH);
                waiting.drain(..some).collect()
            };
            batch.retain(|one| !one.reply.is_closed());
            if !batch.is_empty() {
                self.answer(batch).await;
            }
        }
    }

    async fn answer(&self, batch: Vec<Waiting>) {
        let mut job_ids: Vec<Uuid> = batch.iter().map(|one| one.job_id).collect();
        job_ids.sort_unstable();
        job_ids.dedup();
        let read = self.statements.read_each(&job_ids).await;
        let read = read.map(|jobs| jobs.into_iter().collect::<HashMap<_, _>>());
        for Waiting { job_id, reply } in batch {
            let found = match &read {
                Ok(jobs) => jobs.get(&job_id).cloned().transpose(),
                Err(error) => Err(error.clone()),
            };
            let _ = reply.send(found);
        }
    }
}
