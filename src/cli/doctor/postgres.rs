//! PostgreSQL: the truth. What the promise asks of the server and of the schema.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Finding, bytes, duration, log};
use crate::cli::{CliError, Context};

/// The oldest version that the schema and the statements are for.
const OLDEST_VERSION: i32 = 150_000;
/// A transaction this old holds back vacuum, and a hole in the outbox if it has drawn an id.
const LONG_TRANSACTION_SECONDS: f64 = 60.0;
/// Segments of WAL that are made under load cost latency: below this, they are.
const MIN_WAL_BYTES: i64 = 1 << 30;
/// Above this, tokens expire early or late; the lease itself runs by PostgreSQL's clock alone.
const CLOCK_SKEW_SECONDS: f64 = 1.0;

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let mut conn = match context.database().await {
        Ok(conn) => conn,
        Err(error) => return vec![explain(&error)],
    };
    let mut findings = vec![Finding::ok("postgresql.reachable", context.database_name())];
    collect(&mut findings, "postgresql.server", check_server(&mut conn).await);
    collect(
        &mut findings,
        "postgresql.transactions",
        check_transactions(&mut conn).await,
    );
    let migrated = match log::check_schema(&mut conn).await {
        Ok((finding, migrated)) => {
            findings.push(finding);
            migrated
        }
        Err(error) => {
            collect(&mut findings, "schema.version", Err(error));
            false
        }
    };
    // Without our tables, every other check would only say so again.
    if migrated {
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
    synchronous_commit: String,
    fsync: String,
    full_page_writes: String,
    standby_names: String,
    asynchronous_replicas: i64,
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
                current_setting('synchronous_commit') as synchronous_commit,
                current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
                current_setting('synchronous_standby_names') as standby_names,
                (select count(*) from pg_stat_replication where sync_state = 'async') as asynchronous_replicas,
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
        check_durability(&s),
        check_wal(s.min_wal, s.max_wal),
        check_clock(before, s.clock, after),
        check_connections(s.used_connections, s.max_connections),
    ])
}

fn check_version(version: i32, text: &str) -> Finding {
    if version < OLDEST_VERSION {
        return Finding::fail(
            "postgresql.version",
            format!("{text}: the schema needs multiranges and more of version 15"),
            "upgrade PostgreSQL to 15 or newer",
        );
    }
    Finding::ok("postgresql.version", text)
}

fn check_writable(in_recovery: bool, read_only: &str) -> Finding {
    if in_recovery || read_only == "on" {
        return Finding::fail(
            "postgresql.writable",
            "the server is a standby or read-only: no job can be accepted",
            "let database.url name the primary; with several hosts add ?target_session_attrs=read-write",
        );
    }
    Finding::ok("postgresql.writable", "takes writes")
}

fn check_durability(s: &Server) -> Finding {
    const CHECK: &str = "postgresql.durability";
    if s.synchronous_commit == "off" {
        return Finding::fail(
            CHECK,
            "synchronous_commit is off: a crash loses jobs that were answered 202",
            "set synchronous_commit to on for this database and user",
        );
    }
    if s.fsync == "off" || s.full_page_writes == "off" {
        return Finding::warn(
            CHECK,
            format!(
                "fsync is {}, full_page_writes is {}: a power failure loses jobs, or the database",
                s.fsync, s.full_page_writes
            ),
            "good for tests only: set both to on",
        );
    }
    if s.asynchronous_replicas > 0 && s.standby_names.is_empty() {
        return Finding::warn(
            CHECK,
            format!(
                "{} asynchronous replicas and no synchronous one: a fail-over loses the newest jobs",
                s.asynchronous_replicas
            ),
            "set synchronous_standby_names, such as 'ANY 1 (*)'",
        );
    }
    Finding::ok(CHECK, format!("synchronous_commit is {}", s.synchronous_commit))
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

#[derive(sqlx::FromRow)]
struct Oldest {
    what: String,
    seconds: f64,
}

/// Old snapshots stop vacuum everywhere; an open transaction that drew an outbox id keeps its hole open.
async fn check_transactions(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    const CHECK: &str = "postgresql.transactions";
    let oldest: Vec<Oldest> = sqlx::query_as(
        "select what, seconds from (
             select format('process %s of %s (%s, %s)', pid, coalesce(usename, '?'),
                           coalesce(nullif(application_name, ''), 'no application name'), state) as what,
                    extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
             from pg_stat_activity
             where pid <> pg_backend_pid() and xact_start is not null
               and backend_type in ('client backend', 'walsender')
             union all
             select format('prepared transaction %L of %s', gid, owner),
                    extract(epoch from clock_timestamp() - prepared)::float8
             from pg_prepared_xacts where database = current_database()
         ) t
         where seconds > $1 order by seconds desc limit 3",
    )
    .bind(LONG_TRANSACTION_SECONDS)
    .fetch_all(conn)
    .await?;
    if oldest.is_empty() {
        let found = format!("none is open for longer than {LONG_TRANSACTION_SECONDS} s");
        return Ok(vec![Finding::ok(CHECK, found)]);
    }
    Ok(oldest
        .iter()
        .map(|o| {
            Finding::warn(
                CHECK,
                format!(
                    "{} is open for {}: it holds back vacuum, and retention of partitions",
                    o.what,
                    duration(o.seconds)
                ),
                "end it: pg_terminate_backend(pid), or `rollback prepared`; then find who left it open",
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::{super::Status, *};

    fn server() -> Server {
        Server {
            version: 150_018,
            version_text: "15.18".to_owned(),
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            standby_names: String::new(),
            asynchronous_replicas: 0,
            min_wal: 80 << 20,
            max_wal: 1 << 30,
            in_recovery: false,
            read_only: "off".to_owned(),
            clock: Utc::now(),
            used_connections: 1,
            max_connections: 100,
        }
    }

    #[test]
    fn a_server_that_can_lose_what_it_committed_is_named() {
        assert_eq!(check_durability(&server()).status, Status::Ok);
        let off = "off".to_owned();
        let asynchronous = Server {
            synchronous_commit: off.clone(),
            ..server()
        };
        assert_eq!(check_durability(&asynchronous).status, Status::Fail);
        assert_eq!(
            check_durability(&Server { fsync: off, ..server() }).status,
            Status::Warn
        );
        let replicated = Server {
            asynchronous_replicas: 1,
            ..server()
        };
        assert_eq!(check_durability(&replicated).status, Status::Warn);
    }

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
