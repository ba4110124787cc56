//! Whether PostgreSQL keeps what it has committed, and whether a commit ever ends.

use sqlx::PgConnection;

use super::{Finding, bytes};

#[derive(Clone, sqlx::FromRow)]
struct Durability {
    synchronous_commit: String,
    fsync: String,
    full_page_writes: String,
    standby_names: String,
    synchronous_standbys: i64,
    asynchronous_standbys: i64,
    /// Who may not, sees standbys but not what they are.
    sees_standbys: bool,
    archiver_fails: bool,
}

pub(super) async fn check(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    let d: Durability = sqlx::query_as(
        "select current_setting('synchronous_commit') as synchronous_commit,
                current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
                current_setting('synchronous_standby_names') as standby_names,
                (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum'))
                    as synchronous_standbys,
                (select count(*) from pg_stat_replication where sync_state = 'async') as asynchronous_standbys,
                pg_has_role('pg_read_all_stats', 'usage') as sees_standbys,
                (select coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
                 from pg_stat_archiver) as archiver_fails",
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut findings = vec![judge(&d), judge_archiver(&d)];
    findings.push(check_slots(conn).await?);
    Ok(findings)
}

fn judge(d: &Durability) -> Finding {
    const CHECK: &str = "postgresql.durability";
    if d.synchronous_commit == "off" {
        return Finding::fail(
            CHECK,
            "synchronous_commit is off: a crash loses jobs that were answered 202",
            "set synchronous_commit to on for this database and user",
        );
    }
    if d.fsync == "off" || d.full_page_writes == "off" {
        return Finding::warn(
            CHECK,
            format!(
                "fsync is {}, full_page_writes is {}: a power failure loses jobs, or the database",
                d.fsync, d.full_page_writes
            ),
            "good for tests only: set both to on",
        );
    }
    let waits = d.synchronous_commit != "local";
    if !d.standby_names.is_empty() && !waits {
        return Finding::warn(
            CHECK,
            "synchronous_commit is local: no commit waits for a standby, and a fail-over loses the newest jobs",
            "set synchronous_commit to on for this database and user",
        );
    }
    if !d.standby_names.is_empty() && d.sees_standbys && d.synchronous_standbys == 0 {
        return Finding::fail(
            CHECK,
            format!(
                "synchronous_standby_names is {:?}, and no such standby is connected: every commit waits for one, \
                 and no job is answered",
                d.standby_names
            ),
            "bring a standby back; or empty synchronous_standby_names and reload, knowing that a fail-over may then \
             lose jobs",
        );
    }
    if d.asynchronous_standbys > 0 && d.standby_names.is_empty() {
        return Finding::warn(
            CHECK,
            format!(
                "{} asynchronous standbys and no synchronous one: a fail-over loses the newest jobs",
                d.asynchronous_standbys
            ),
            "set synchronous_standby_names, such as 'ANY 1 (*)'",
        );
    }
    Finding::ok(
        CHECK,
        format!(
            "synchronous_commit is {}, {} synchronous standbys",
            d.synchronous_commit, d.synchronous_standbys
        ),
    )
}

fn judge_archiver(d: &Durability) -> Finding {
    const CHECK: &str = "postgresql.archiver";
    if d.archiver_fails {
        return Finding::warn(
            CHECK,
            "archive_command fails: WAL is kept until the disk is full, and the back-up has a gap",
            "look at PostgreSQL's log and mend archive_command",
        );
    }
    Finding::ok(CHECK, "nothing fails")
}

/// A slot whose reader is away keeps WAL for it, without a bound unless `max_slot_wal_keep_size` is set.
async fn check_slots(conn: &mut PgConnection) -> sqlx::Result<Finding> {
    const CHECK: &str = "postgresql.replication_slots";
    let idle: Vec<(String, i64)> = sqlx::query_as(
        "select slot_name::text,
                coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn()
                                              else pg_current_wal_lsn() end, restart_lsn), 0)::bigint
         from pg_replication_slots
         where not active and not temporary and restart_lsn is not null order by 2 desc limit 5",
    )
    .fetch_all(conn)
    .await?;
    let Some((name, kept)) = idle.first() else {
        return Ok(Finding::ok(CHECK, "none without a reader"));
    };
    Ok(Finding::warn(
        CHECK,
        format!(
            "the slot {name} has no reader and keeps {} of WAL ({} such slots): it grows until the disk is full",
            bytes(*kept),
            idle.len()
        ),
        format!("bring its reader back, or `select pg_drop_replication_slot('{name}')`"),
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    fn sound() -> Durability {
        Durability {
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            standby_names: String::new(),
            synchronous_standbys: 0,
            asynchronous_standbys: 0,
            sees_standbys: true,
            archiver_fails: false,
        }
    }

    #[test]
    fn a_server_that_can_lose_what_it_committed_or_never_commits_is_named() {
        let quorum = Durability {
            standby_names: "ANY 1 (*)".to_owned(),
            synchronous_standbys: 1,
            asynchronous_standbys: 1,
            ..sound()
        };
        let with = |change: fn(&mut Durability), of: &Durability| {
            let mut changed = of.clone();
            change(&mut changed);
            judge(&changed).status
        };
        assert_eq!(judge(&sound()).status, Status::Ok);
        assert_eq!(judge(&quorum).status, Status::Ok);
        assert_eq!(
            with(|d| d.synchronous_commit = "off".to_owned(), &sound()),
            Status::Fail
        );
        assert_eq!(with(|d| d.fsync = "off".to_owned(), &sound()), Status::Warn);
        assert_eq!(with(|d| d.full_page_writes = "off".to_owned(), &sound()), Status::Warn);
        assert_eq!(with(|d| d.asynchronous_standbys = 1, &sound()), Status::Warn);
        assert_eq!(
            with(|d| d.synchronous_commit = "local".to_owned(), &quorum),
            Status::Warn
        );
        assert_eq!(with(|d| d.synchronous_standbys = 0, &quorum), Status::Fail);
        // Who may not see what standbys are, knows nothing of them.
        let blind = Durability {
            sees_standbys: false,
            synchronous_standbys: 0,
            ..quorum
        };
        assert_eq!(judge(&blind).status, Status::Ok);
    }
}
