//! Transactions that stay open: they hold back vacuum, and the holes of ids that they drew.

use std::time::Duration;

use sqlx::PgConnection;

use super::{Finding, duration};

#[derive(sqlx::FromRow)]
struct Oldest {
    what: String,
    seconds: f64,
}

/// Reports those that are open for longer than `long`, and whether those of other users can be seen at all.
pub(super) async fn check(conn: &mut PgConnection, long: Duration) -> sqlx::Result<Vec<Finding>> {
    const CHECK: &str = "postgresql.transactions";
    let oldest: Vec<Oldest> = sqlx::query_as(
        "select what, seconds from (
             select format('process %s of %s (%s, %s)', pid, coalesce(usename, '?'),
                           coalesce(nullif(application_name, ''), 'no application name'), state) as what,
                    extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
             from pg_stat_activity
             where pid <> pg_backend_pid() and backend_type = 'client backend' and datname = current_database()
             union all
             select format('prepared transaction %L of %s', gid, owner),
                    extract(epoch from clock_timestamp() - prepared)::float8
             from pg_prepared_xacts where database = current_database()
         ) t
         where seconds > $1 order by seconds desc limit 3",
    )
    .bind(long.as_secs_f64())
    .fetch_all(&mut *conn)
    .await?;
    let mut findings: Vec<_> = oldest
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
        .collect();
    if findings.is_empty() {
        let found = format!("none is open for longer than {}", humantime::format_duration(long));
        findings.push(Finding::ok(CHECK, found));
    }
    findings.push(check_sight(conn).await?);
    Ok(findings)
}

async fn check_sight(conn: &mut PgConnection) -> sqlx::Result<Finding> {
    const CHECK: &str = "postgresql.statistics";
    let (sees_all, user): (bool, String) =
        sqlx::query_as("select pg_has_role('pg_read_all_stats', 'usage'), current_user::text")
            .fetch_one(conn)
            .await?;
    Ok(if sees_all {
        Finding::ok(CHECK, "sessions of all users can be seen")
    } else {
        Finding::warn(
            CHECK,
            format!(
                "{user} sees only sessions of its own: neither this nor outbox_oldest_transaction_age_seconds knows of \
                 others' long transactions"
            ),
            format!("grant pg_read_all_stats to {user}"),
        )
    })
}
