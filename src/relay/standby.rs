//! Standing by until the lease can be taken.

use std::time::Duration;

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{End, Relay, within};
use crate::outbox::checkpoints::{self, Lease};

/// A standby looks at least this often, so that a lease that was given back is found soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns with the lease and the connection that took it.
pub(super) async fn stand_by(relay: &Relay, cancel: &CancellationToken) -> Result<(PgConnection, Lease), End> {
    let mut db = relay.connect().await?;
    loop {
        let length = relay.options.lease;
        failpoint!("relay.take_over.before", lost);
        let taken = within(checkpoints::take_over(&mut db, &relay.leader, length)).await?;
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
