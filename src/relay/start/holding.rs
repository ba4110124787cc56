//! Holding the lease while a start waits, for weeks perhaps: for Kafka, or for an operator who accepts what it has lost.

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{
    outbox::{
        checkpoints::{self, BASE_EVERY, Entry, Lease},
        partitions,
        position::Position,
    },
    relay::{End, Relay, upkeep::Upkeep, within},
};

/// A lease, and what each checkpoint says that only prolongs it: that nothing has changed.
pub(super) struct Holding<'a> {
    pub relay: &'a Relay,
    pub db: PgConnection,
    pub lease: Lease,
    pub next_offsets: Vec<i64>,
    pub position: Position,
    /// The number of the newest base row.
    pub base: i64,
    /// A wait uses up numbers of checkpoints, as leading does.
    pub upkeep: Upkeep,
    pub cancel: &'a CancellationToken,
}

impl Holding<'_> {
    /// Waits for `work` and prolongs the lease meanwhile. When it is cancelled, it gives the lease back.
    pub async fn keep_alive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.cancel.cancelled() => {
                    self.append(true).await?;
                    return Err(End::Stopped);
                }
                () = tokio::time::sleep(self.lease.length / 3) => self.prolong().await?,
            }
        }
    }

    /// Prolongs the lease.
    pub async fn prolong(&mut self) -> Result<(), End> {
        self.append(false).await?;
        // Jobs are accepted meanwhile, and nobody reads the rows.
        let drawn = within(partitions::read_drawn(&mut self.db)).await?;
        self.upkeep.tend(self.relay, drawn, self.lease.seq).await;
        Ok(())
    }

    async fn append(&mut self, give_back: bool) -> Result<(), End> {
        let base_due = self.lease.seq + 1 - self.base >= BASE_EVERY;
        let entry = Entry {
            next_offsets: self.next_offsets.clone(),
            base: base_due.then(|| (self.position.passed().clone(), self.position.closed().clone())),
            ..Entry::default()
        };
        within(checkpoints::append(&mut self.db, &mut self.lease, &entry, give_back)).await?;
        if base_due {
            self.base = self.lease.seq;
        }
        Ok(())
    }
}
