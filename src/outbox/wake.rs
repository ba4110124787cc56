//! How accepting tells the relay that there is something to read.

use std::sync::Arc;

use tokio::sync::Notify;

/// A coalescing signal: any number of [`Wake::wake`] before a [`Wake::woken`] end it once. It may be lost
/// with the process; the relay's poll is the net below.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// There are new rows, committed.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for a `wake`, one in the past included.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}
