//! Tells the relay that there is something to read.

use std::{sync::Arc, time::Duration};

use sqlx::{Executor, PgConnection};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ANSWER_TIMEOUT, IntakeOptions, session::Session};
use crate::outbox::wake::Wake;

/// At most one NOTIFY in this time: each takes a lock on the whole database in its commit.
const NOTIFY_EVERY: Duration = Duration::from_millis(5);

/// Wakes the relay: in this process by a signal, elsewhere by one coalesced `NOTIFY outbox`, after the
/// commit and on a connection of its own, for in the accepting transaction it would cost three quarters of
/// the throughput. It may be lost: the leader's poll is the net below.
#[derive(Debug, Clone)]
pub(super) struct Announcer {
    wake: Wake,
    leading: watch::Receiver<bool>,
    elsewhere: Arc<Notify>,
}

impl Announcer {
    pub(super) fn spawn(options: &IntakeOptions, tracker: &TaskTracker, finished: CancellationToken) -> Self {
        let announcer = Self {
            wake: options.wake.clone(),
            leading: options.leading.clone(),
            elsewhere: Arc::default(),
        };
        let database = options.database.clone().application_name("dispatcher intake notify");
        let session = Session::new(database, options.connect_timeout);
        tracker.spawn(announcer.clone().run(session, finished));
        announcer
    }

    /// Rows were committed.
    pub(super) fn announce(&self) {
        self.wake.wake();
        if !*self.leading.borrow() {
            self.elsewhere.notify_one();
        }
    }

    async fn run(self, mut session: Session, finished: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = self.elsewhere.notified() => {}
                () = finished.cancelled() => return,
            }
            // When nobody can be told, the batches have said why.
            if let Ok(conn) = session.ready().await
                && !notify(conn).await
            {
                session.discard();
            }
            sleep(NOTIFY_EVERY).await;
        }
    }
}

async fn notify(conn: &mut PgConnection) -> bool {
    failpoint!("intake.notify");
    matches!(timeout(ANSWER_TIMEOUT, conn.execute("notify outbox")).await, Ok(Ok(_)))
}
