//! A connection of the intake's own, and what its errors mean.

use std::time::Duration;

use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgSeverity},
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    jobs::store,
    outbox::partitions::{Log, missing_in},
};

/// Between attempts to connect: the first wait, doubled with each failure up to the last.
const CONNECT_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// After a write without an answer. The server keeps a session that hangs in its commit, so each stall
/// leaves one behind: the waits grow until they cannot use up its connections in an incident's time.
const STALL_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How long work waits for a connection that was sound until now. A restart of PostgreSQL fits in.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// No connection can be had now; the cause is in the log.
#[derive(Debug)]
pub(super) struct Down;

/// A connection that is made when it is needed and again when it was lost.
#[derive(Debug)]
pub(super) struct Session {
    options: PgConnectOptions,
    connect_timeout: Duration,
    conn: Option<PgConnection>,
    /// Attempts to connect that failed in a row.
    failures: u32,
    /// Writes without an answer in a row.
    stalls: u32,
    /// No attempt to connect before.
    retry_at: Option<Instant>,
}

impl Session {
    pub(super) fn new(options: PgConnectOptions, connect_timeout: Duration) -> Self {
        Self {
            options,
            connect_timeout,
            conn: None,
            failures: 0,
            stalls: 0,
            retry_at: None,
        }
    }

    /// The connection. Connects when there is none, again and again for [`CONNECT_PATIENCE`]; but while the
    /// server is known to be down, fails at once, except for one attempt after each backoff.
    pub(super) async fn ready(&mut self) -> Result<&mut PgConnection, Down> {
        let patience = if self.failures + self.stalls == 0 {
            CONNECT_PATIENCE
        } else {
            Duration::ZERO
        };
        self.ready_by(Instant::now() + patience).await
    }

    /// The same, until an instant.
    pub(super) async fn ready_by(&mut self, give_up: Instant) -> Result<&mut PgConnection, Down> {
        while self.conn.is_none() {
            if let Some(at) = self.retry_at {
                if at > give_up.max(Instant::now()) {
                    return Err(Down);
                }
                sleep_until(at).await;
            }
            self.connect().await;
            if self.conn.is_none() && Instant::now() >= give_up {
                return Err(Down);
            }
        }
        self.conn.as_mut().ok_or(Down)
    }

    async fn connect(&mut self) {
        let attempt = async {
            let mut conn = PgConnection::connect_with(&self.options).await?;
            store::refuse_asynchronous_commit(&mut conn).await?;
            Ok::<_, sqlx::Error>(conn)
        };
        let problem = match timeout(self.connect_timeout, attempt).await {
            Ok(Ok(conn)) => {
                if self.failures > 0 {
                    tracing::info!(attempts = self.failures + 1, "connected to postgresql again");
                }
                self.failures = 0;
                self.retry_at = None;
                self.conn = Some(conn);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.connect_timeout),
        };
        self.failures += 1;
        self.retry_at = Some(Instant::now() + backoff(CONNECT_BACKOFF, self.failures));
        // The first of a row, then ever fewer.
        if self.failures.is_power_of_two() {
            tracing::warn!(problem, attempts = self.failures, "cannot connect to postgresql");
        }
    }

    /// The connection is broken, or in the middle of something: the next use makes a new one.
    pub(super) fn discard(&mut self) {
        self.conn = None;
    }

    /// A write got no answer in time.
    pub(super) fn stalled(&mut self) {
        self.discard();
        self.stalls += 1;
        self.retry_at = Some(Instant::now() + backoff(STALL_BACKOFF, self.stalls));
    }

    /// A write was answered.
    pub(super) fn answered(&mut self) {
        self.stalls = 0;
    }
}

/// Half of it is random, so that replicas do not come back all at once.
fn backoff((first, last): (Duration, Duration), attempt: u32) -> Duration {
    let full = first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(last);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

/// What an error of a statement says. All but `Unknown` are definite: the statement changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may have been committed: the connection was lost, or the server ended it.
    Unknown,
    /// Serialisation failure or deadlock: the same again.
    Contended,
    /// Another transaction has inserted the idempotency key, and did not end in time.
    KeyHeld,
    /// Another lock was not had in time: a table's, mostly.
    Locked,
    /// A log has no partition for the row yet.
    NoPartition(Log),
    /// This connection is of no use any more (a plan of an older schema, a server that became a standby),
    /// another one may be.
    Stale,
    /// The server cannot do it now, or not at all: disk full, shutting down, a table that is not there.
    Outage,
    /// It is about one of the rows.
    BadRow,
}

/// Reads an error of a statement that was sent to the server.
pub(super) fn classify(error: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = error else {
        // Not even sent.
        return if matches!(error, sqlx::Error::Encode(_)) {
            Failure::BadRow
        } else {
            Failure::Unknown
        };
    };
    if let Some(log) = missing_in(error) {
        return Failure::NoPartition(log);
    }
    let error = database.downcast_ref::<PgDatabaseError>();
    // FATAL and PANIC end the session, and may come from its commit: a session that is terminated while
    // its commit waits for a standby has committed.
    if error.severity() != PgSeverity::Error {
        return Failure::Unknown;
    }
    match error.code() {
        "40001" | "40P01" => Failure::Contended,
        // Who waits for a row's transaction says so in the error's context; who waits for a table has none.
        "55P03" if error.r#where().is_some_and(|at| at.contains("idempotency_keys")) => Failure::KeyHeld,
        "55P03" => Failure::Locked,
        // Cached plan must not change result type; read-only transaction; no such prepared statement.
        "0A000" | "25006" | "26000" => Failure::Stale,
        code if code.starts_with("22") || code.starts_with("23") => Failure::BadRow,
        _ => Failure::Outage,
    }
}

/// What an operator can do about an error that no retry mends, for the log.
pub(super) fn advice(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("42P01") => "a table is missing: run `dispatcher migrate`",
        Some("42703") => "a column that this program reads is missing: compare event_drafts with the contract",
        Some("42501") => "the database user lacks a privilege: grant it",
        Some("53100") => "the database's disk is full: free some space",
        Some("55P03") => "another transaction locks a table: pg_locks and pg_stat_activity say which",
        Some("57014") => "the statement was cancelled or ran out of time: look at the load and the locks",
        _ => "see the error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_end_and_never_overflows() {
        for attempt in [1, 2, 5, 31, u32::MAX] {
            let wait = backoff(CONNECT_BACKOFF, attempt);
            assert!(
                wait >= CONNECT_BACKOFF.0 / 2 && wait <= CONNECT_BACKOFF.1,
                "{attempt}: {wait:?}"
            );
        }
        assert!(backoff(CONNECT_BACKOFF, 30) >= CONNECT_BACKOFF.1 / 2);
    }

    #[test]
    fn a_lost_connection_leaves_the_outcome_unknown() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(classify(&lost), Failure::Unknown);
    }
}
