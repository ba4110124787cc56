//! Settings of the service's sessions in PostgreSQL, in one place: what nobody waits for any more has to end there too.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

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
