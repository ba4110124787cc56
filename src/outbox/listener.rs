//! Listening for what other replicas say by `NOTIFY`.

use std::time::Duration;

use sqlx::{
    Executor as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::{sleep, timeout};

use super::session::answered_within;

/// After a lost connection or a failed attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A listening connection that has been silent for so long is asked whether it is one: where a half-open one is silent
/// for ever, nobody would listen again.
const SILENCE: Duration = Duration::from_secs(10);
/// For PostgreSQL to answer when it is asked, and to begin with.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'a> {
    /// From now on. What was said before is lost: look for it elsewhere.
    Listening,
    /// A notification's payload.
    Said(&'a str),
    /// The connection is lost, or cannot be had.
    Nothing,
}

/// Listens on `channel`, on a connection of its own under the name `application`, and again whenever the connection
/// is lost. Never returns: drop it.
pub async fn listen(
    database: PgConnectOptions,
    application: &'static str,
    channel: &'static str,
    mut hear: impl FnMut(Heard<'_>),
) {
    let database = database.application_name(application);
    loop {
        if let Err(error) = listen_once(&database, channel, &mut hear).await {
            tracing::debug!(%error, channel, "listening for other replicas failed");
        }
        hear(Heard::Nothing);
        sleep(RETRY_AFTER).await;
    }
}

async fn begin_to_listen(database: &PgConnectOptions, channel: &str) -> sqlx::Result<PgListener> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(database.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(channel).await?;
    Ok(listener)
}

async fn listen_once(database: &PgConnectOptions, channel: &str, hear: &mut impl FnMut(Heard<'_>)) -> sqlx::Result<()> {
    let mut listener = answered_within(ANSWER_TIMEOUT, begin_to_listen(database, channel)).await?;
    hear(Heard::Listening);
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(said))) => hear(Heard::Said(said.payload())),
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            // A link of which one end is gone is as silent as one on which nothing happens.
            Err(_) => {
                answered_within(ANSWER_TIMEOUT, listener.execute("select 1")).await?;
            }
        }
    }
}
