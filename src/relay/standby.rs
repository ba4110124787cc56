//! Standing by until the lease can be taken.

use std::time::Duration;

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{End, Relay, within};
use crate::outbox::{
    checkpoints::{self, CheckpointError, Lease},
    partitions,
};

/// A standby looks at least this often, so that a lease that was given back is found soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns with the lease and the connection that took it.
pub(super) async fn stand_by(relay: &Relay, cancel: &CancellationToken) -> Result<(PgConnection, Lease), End> {
    let mut db = relay.connect().await?;
    loop {
        failpoint!("relay.take_over.before", lost);
        let taken = take_over(relay, &mut db).await?;
        if let Some(lease) = taken {
            failpoint!("relay.take_over.after", lost);
            return Ok((db, lease));
        }
        let leadership = within(checkpoints::read_leadership(&mut db)).await?;
        // A little later than the end, so that one look is enough.
        let wait = (leadership.remaining + Duration::from_millis(rand::random_range(5..25))).min(LOOK_EVERY);
        if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Err(End::Stopped);
        }
    }
}

/// Tries to take the lease over. Where no partition is left for the next checkpoint, it makes the next one: a leader makes
/// them ahead, and there may be none for as long as nobody can.
async fn take_over(relay: &Relay, db: &mut PgConnection) -> Result<Option<Lease>, CheckpointError> {
    let length = relay.options.lease;
    match within(checkpoints::take_over(db, &relay.leader, length)).await {
        Err(CheckpointError::Database(error)) if partitions::is_missing(&error, "outbox_checkpoints") => {
            let newest = within(checkpoints::newest_seq(db)).await?;
            within(partitions::ensure_checkpoints(db, newest)).await?;
            within(checkpoints::take_over(db, &relay.leader, length)).await
        }
        taken => taken,
    }
}
