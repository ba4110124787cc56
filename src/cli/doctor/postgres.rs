//! PostgreSQL: the truth. What the promise asks of the server and of the schema.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Finding, bytes, disk, durability, is_local, log, permissions, transactions};
use crate::{
    cli::{CliError, Context},
    outbox::schema::OLDEST_POSTGRESQL,
};

/// `server_version_num` of 15.2 is 150002.
const VERSIONS_OF_A_MAJOR: i32 = 10_000;
/// Segments of WAL that are made under load cost latency: below this, they are.
const MIN_WAL_BYTES: i64 = 1 << 30;
/// Above this, tokens expire early or late; the lease itself runs by PostgreSQL's clock alone.
const CLOCK_SKEW_SECONDS: f64 = 1.0;

pub(super) async fn check(context: &Context, long_transaction: Duration) -> Vec<Finding> {
    let mut conn = match context.database().await {
        Ok(conn) => conn,
        Err(error) => return vec![explain(&error)],
    };
    let mut findings = vec![Finding::ok("postgresql.reachable", context.database_name())];
    collect(&mut findings, "postgresql.server", check_server(&mut conn).await);
    collect(&mut findings, "postgresql.tls", check_tls(&mut conn, context).await);
    collect(
        &mut findings,
        "postgresql.durability",
        durability::check(&mut conn).await,
    );
    collect(
        &mut findings,
        "postgresql.disk",
        disk::check_postgres(&mut conn, context).await,
    );
    collect(
        &mut findings,
        "postgresql.transactions",
        transactions::check(&mut conn, long_transaction).await,
    );
    let schema = log::check_schema(&mut conn).await;
    // Without our tables, every other check would only say so again. Not to see them is a question of rights.
    let (there, readable) = match &schema {
        Ok((_, migrated)) => (*migrated, *migrated),
        Err(_) => (true, false),
    };
    collect(
        &mut findings,
        "schema.version",
        schema.map(|(finding, _)| vec![finding]),
    );
    if there {
        collect(&mut findings, "schema.permissions", permissions::check(&mut conn).await);
    }
    if readable {
        collect(&mut findings, "outbox", log::check_log(&mut conn, context).await);
    }
    findings
}

/// What a group of checks found, or why it could not look.
fn collect(findings: &mut Vec<Finding>, check: &'static str, found: sqlx::Result<Vec<Finding>>) {
    match found {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(match CliError::from(error) {
            CliError::Unreachable(message) => Finding::unreachable(check, message, "look at PostgreSQL's own log"),
            other => Finding::fail(
                check,
                format!("cannot be checked: {other}"),
                "let the user of database.url read it, or run `dispatcher migrate`",
            ),
        }),
    }
}

/// The message says which it is: no answer, a refused login, no such database. TLS has its own advice.
fn explain(error: &CliError) -> Finding {
    const CHECK: &str = "postgresql.reachable";
    let said = error.to_string();
    let lower = said.to_lowercase();
    let advice = if lower.contains("pg_hba") || lower.contains("no encryption") {
        "the server may demand TLS: add ?sslmode=require (or verify-full) to database.url, or a line in its pg_hba.conf"
    } else if lower.contains("tls") || lower.contains("certificate") || lower.contains("ssl") {
        "the server offers no TLS, or one that is not trusted: check sslmode and sslrootcert of database.url"
    } else if lower.contains("password") || lower.contains("login") {
        "check user and password of database.url"
    } else {
        "start PostgreSQL, or check database.url: while it is away no job is accepted"
    };
    Finding::unreachable(CHECK, said, advice)
}

#[derive(sqlx::FromRow)]
struct Server {
    version: i32,
    version_text: String,
    min_wal: i64,
    max_wal: i64,
    in_recovery: bool,
    read_only: String,
    clock: DateTime<Utc>,
    used_connections: i64,
    max_connections: i32,
}

async fn check_server(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    let before = Utc::now();
    let s: Server = sqlx::query_as(
        "select current_setting('server_version_num')::int as version,
                current_setting('server_version') as version_text,
                pg_size_bytes(current_setting('min_wal_size')) as min_wal,
                pg_size_bytes(current_setting('max_wal_size')) as max_wal,
                pg_is_in_recovery() as in_recovery,
                current_setting('default_transaction_read_only') as read_only,
                clock_timestamp() as clock,
                (select count(*) from pg_stat_activity where backend_type = 'client backend') as used_connections,
                current_setting('max_connections')::int as max_connections",
    )
    .fetch_one(conn)
    .await?;
    let after = Utc::now();
    Ok(vec![
        check_version(s.version, &s.version_text),
        check_writable(s.in_recovery, &s.read_only),
        check_wal(s.min_wal, s.max_wal),
        check_clock(before, s.clock, after),
        check_connections(s.used_connections, s.max_connections),
    ])
}

fn check_version(version: i32, text: &str) -> Finding {
    if version < OLDEST_POSTGRESQL * VERSIONS_OF_A_MAJOR {
        return Finding::fail(
            "postgresql.version",
            format!("{text}: the schema needs multiranges and more of version {OLDEST_POSTGRESQL}"),
            format!("upgrade PostgreSQL to {OLDEST_POSTGRESQL} or newer"),
        );
    }
    Finding::ok("postgresql.version", text)
}

fn check_writable(in_recovery: bool, read_only: &str) -> Finding {
    if in_recovery || read_only == "on" {
        return Finding::fail(
            "postgresql.writable",
            "the server is a standby or read-only: no job can be accepted",
            "let database.url name the primary, by an address that follows it in a fail-over",
        );
    }
    Finding::ok("postgresql.writable", "takes writes")
}

fn check_wal(min: i64, max: i64) -> Finding {
    let found = format!("min_wal_size {}, max_wal_size {}", bytes(min), bytes(max));
    if min < MIN_WAL_BYTES || max < 4 * MIN_WAL_BYTES {
        return Finding::warn(
            "postgresql.wal",
            format!("{found}: under load, new segments and early checkpoints cost latency"),
            "set min_wal_size to 1GB and max_wal_size to 4GB or more",
        );
    }
    Finding::ok("postgresql.wal", found)
}

fn check_clock(before: DateTime<Utc>, theirs: DateTime<Utc>, after: DateTime<Utc>) -> Finding {
    // Their instant lies between ours when the clocks agree; what lies outside is the least skew there is.
    let seconds = |delta: chrono::TimeDelta| delta.as_seconds_f64();
    let skew = seconds(before - theirs).max(seconds(theirs - after)).max(0.0);
    let found = format!("{skew:.3} s between this machine and PostgreSQL");
    if skew > CLOCK_SKEW_SECONDS {
        return Finding::warn(
            "postgresql.clock",
            format!("{found}: tokens expire early or late (leases run by PostgreSQL's clock alone)"),
            "run an NTP client on both machines",
        );
    }
    Finding::ok("postgresql.clock", found)
}

fn check_connections(used: i64, max: i32) -> Finding {
    let found = format!("{used} of {max} connections in use");
    if used * 10 > i64::from(max) * 9 {
        return Finding::warn(
            "postgresql.connections",
            format!("{found}: a replica that starts may find none"),
            "raise max_connections, or find who holds them in pg_stat_activity",
        );
    }
    Finding::ok("postgresql.connections", found)
}

/// What is said to another machine, passwords of users and their drafts included, can be read on the way.
async fn check_tls(conn: &mut PgConnection, context: &Context) -> sqlx::Result<Vec<Finding>> {
    let encrypted: bool = sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(conn)
        .await?;
    Ok(vec![judge_tls(encrypted, &context.database_host())])
}

fn judge_tls(encrypted: bool, host: &str) -> Finding {
    const CHECK: &str = "postgresql.tls";
    match (encrypted, is_local(host)) {
        (true, _) => Finding::ok(CHECK, "encrypted"),
        (false, true) => Finding::ok(CHECK, "not encrypted, on this machine"),
        (false, false) => Finding::warn(
            CHECK,
            format!("the connection to {host} is not encrypted: drafts and jobs can be read on the way"),
            "let PostgreSQL offer TLS (ssl = on), and add ?sslmode=verify-full to database.url",
        ),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::{super::Status, *};

    #[test]
    fn an_old_version_a_standby_and_small_wal_are_named() {
        assert_eq!(check_version(149_999, "14.9").status, Status::Fail);
        assert_eq!(check_version(150_000, "15.0").status, Status::Ok);
        assert_eq!(check_writable(true, "off").status, Status::Fail);
        assert_eq!(check_writable(false, "on").status, Status::Fail);
        assert_eq!(check_writable(false, "off").status, Status::Ok);
        assert_eq!(check_wal(80 << 20, 8 << 30).status, Status::Warn);
        assert_eq!(check_wal(1 << 30, 4 << 30).status, Status::Ok);
        assert_eq!(check_connections(91, 100).status, Status::Warn);
    }

    #[test]
    fn a_slow_answer_is_no_clock_skew() {
        let now = Utc::now();
        let s = TimeDelta::seconds;
        assert_eq!(check_clock(now, now + s(2), now + s(4)).status, Status::Ok);
        assert_eq!(check_clock(now, now + s(2), now).status, Status::Warn);
        assert_eq!(check_clock(now, now - s(2), now).status, Status::Warn);
    }
}
