//! The rig: what a test needs around the real program. A test reads
//!
//! ```ignore
//! let stage = Stage::new().await;                        // fresh database, fresh topics
//! let app = stage.app().await;                           // `dispatcher serve`, ready
//! let user = Uuid::new_v4();
//! let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
//! let answer = app.post_job(draft, &token_for(user)).await;
//! let records = stage.records(1).await;                  // from the topic, by a consumer of its own
//! ```
//!
//! A test that stops, kills or freezes servers takes [`Stage::with_servers_of_its_own`]. Nothing sleeps to
//! assert: [`eventually`] polls with a bound and shows what was seen last.

#![allow(
    dead_code,
    unused_imports,
    clippy::allow_attributes,
    reason = "a library for tests: what one revision's tests leave unused stays for the next"
)]

pub mod app;
pub mod content;
pub mod document;
pub mod drafts;
pub mod history;
pub mod load;
pub mod proxy;
pub mod psql;
pub mod records;
pub mod rig;
pub mod s3;
pub mod stage;
pub mod token;
pub mod topics;

pub use app::App;
pub use records::Record;
pub use stage::Stage;
pub use token::{token_for, token_of, token_with};

use std::time::{Duration, Instant};

/// How long a thing may take that normally takes milliseconds, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `look` until it gives `Ok`, at most for `bound`; then panics with `what` and the last `Err`. A look that does
/// not come back is given up [`PATIENCE`] later, too: on a machine whose disk is full, a server may neither answer nor
/// hang up.
pub async fn eventually<T, E: std::fmt::Display>(
    what: &str,
    bound: Duration,
    look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    eventually_or_late(what, bound, PATIENCE, look).await
}

async fn eventually_or_late<T, E: std::fmt::Display>(
    what: &str,
    bound: Duration,
    late: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + bound;
    let mut seen = "nothing".to_owned();
    loop {
        match tokio::time::timeout_at((deadline + late).into(), look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => seen = error.to_string(),
            Err(elapsed) => {
                panic!("not within {bound:?}: {what}; the last look has not ended ({elapsed}); before it: {seen}")
            }
        }
        assert!(
            Instant::now() < deadline,
            "not within {bound:?}: {what}; seen last: {seen}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client that keeps connections; follows nothing, retries nothing, and waits for no byte for ever.
pub fn http_client() -> reqwest::Client {
    // Refused when another test was first: then it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(PATIENCE)
        .read_timeout(4 * PATIENCE)
        .build()
        .expect("an HTTP client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "it answers; the last look has not ended (deadline has elapsed); before it: not yet")]
    async fn a_look_that_never_ends_is_given_up() {
        let mut looks = 0;
        eventually_or_late(
            "it answers",
            Duration::from_millis(200),
            Duration::from_millis(50),
            async || {
                looks += 1;
                if looks == 1 {
                    return Err::<(), _>("not yet");
                }
                std::future::pending().await
            },
        )
        .await;
    }
}
