//! Settings of the service's sessions in PostgreSQL, in one place, and how long an answer is waited for: what nobody waits
//! for any more has to end there too.

use std::{io, time::Duration};

use futures_util::FutureExt as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time;

/// Of every session of the service. A statement ends a second after its client has closed the connection: otherwise one
/// that waits for a lock stays when it was given up, and takes a connection of the server for as long. A session ends a
/// minute after its client's machine has gone without a word (over a Unix socket none does, and PostgreSQL ignores these).
pub fn of_service(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("client_connection_check_interval", "1s"),
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ])
}

/// PostgreSQL itself ends a statement that takes longer: whoever waits a little longer than this keeps the connection.
pub fn with_statement_timeout(options: PgConnectOptions, timeout: Duration) -> PgConnectOptions {
    options.options([("statement_timeout", timeout.as_millis())])
}

/// PostgreSQL gives up a transaction whose client has said nothing for so long, and what it has locked.
pub fn with_idle_timeout(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("idle_in_transaction_session_timeout", "30s")])
}

/// Of a session whose statements look rows up by index: one plan for a statement, made once, and
/// never a sequential scan, not even where a table was empty when the plan was made. What is switched off
/// has an absurd cost, and that would have every such plan compiled first, for half a second.
pub fn with_stable_plans(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ])
}

/// Bounds a call of the database. What takes longer has failed, as [`sqlx::Error::Io`]: its connection is half-open, or its
/// server stands still.
///
/// # Errors
/// Those of `call`, and that it took longer than `bound`.
pub fn answered_within<T, E: From<sqlx::Error>>(
    bound: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    let late = move |_| {
        let text = format!("PostgreSQL has not answered for {bound:?}");
        Err(sqlx::Error::from(io::Error::new(io::ErrorKind::TimedOut, text)).into())
    };
    // No `async fn`, which would hold `call` twice: the statements' futures are large.
    time::timeout(bound, call).map(move |answer| answer.unwrap_or_else(late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_says_nothing_is_named_and_for_how_long() {
        let call = std::future::pending::<sqlx::Result<()>>();
        let error = answered_within(Duration::from_millis(1), call).await.unwrap_err();
        assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
        assert!(
            error.to_string().contains("PostgreSQL has not answered for 1ms"),
            "{error}"
        );
    }
}
