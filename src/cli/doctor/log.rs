//! The schema, and what is in the outbox.

use sqlx::PgConnection;

use super::{Finding, duration};
use crate::{
    cli::Context,
    outbox::{
        audits::read_standing_audit,
        control::read_pause,
        overview::{Overview, read_overview},
        partitions::{self, end_of},
        schema::{self, Migrated, Misfit},
    },
};

/// A message that waits for longer than this, while a leader leads, is stuck or behind a long backlog.
const OLD_BACKLOG_SECONDS: f64 = 60.0;

/// Columns that `jobs` are made from.
const DRAFT_COLUMNS: [&str; 8] = [
    "id",
    "user_id",
    "title",
    "prize",
    "brand_color",
    "logo_url",
    "store_info",
    "selected_recommendation_id",
];

/// The schema's version; true when the other checks can look at our tables.
pub(super) async fn check_schema(conn: &mut PgConnection) -> sqlx::Result<(Finding, bool)> {
    let migrated = schema::read_migrated(conn).await?;
    Ok((judge_schema(migrated, schema::version()), migrated.is_some()))
}

fn judge_schema(migrated: Option<Migrated>, known: i64) -> Finding {
    const CHECK: &str = "schema.version";
    let version = migrated.map_or(0, |migrated| migrated.version);
    match schema::judge(migrated, known) {
        Ok(_) => Finding::ok(CHECK, format!("{version}")),
        Err(Misfit::Missing) => Finding::fail(
            CHECK,
            "our tables are missing: no job can be accepted",
            "run `dispatcher migrate`",
        ),
        Err(Misfit::TooNew(..)) => Finding::fail(
            CHECK,
            format!("{version}, on which this program ({known}) can no longer run"),
            "install the newer version of the dispatcher",
        ),
        Err(Misfit::TooOld(..)) => Finding::fail(
            CHECK,
            format!("{version}, older than this program's {known}"),
            "run `dispatcher migrate`",
        ),
    }
}

/// Everything that is read from our own tables.
pub(super) async fn check_log(conn: &mut PgConnection, context: &Context) -> sqlx::Result<Vec<Finding>> {
    let mut findings = vec![
        check_drafts(conn).await?,
        check_sequence(conn).await?,
        check_partitions(conn, context.config.outbox.partition_rows).await?,
        judge_leftovers(&partitions::read_leftovers(conn).await?),
    ];
    let overview = read_overview(conn).await?;
    let pause = read_pause(conn).await?;
    findings.push(check_leader(&overview));
    findings.push(match pause {
        Some(pause) => Finding::warn(
            "outbox.pause",
            format!("paused since {} by {}: {}", pause.since, pause.by, pause.reason),
            "nothing is sent until `dispatcher resume`; jobs are accepted",
        ),
        None => Finding::ok("outbox.pause", "not paused"),
    });
    findings.push(check_backlog(&overview));
    findings.push(if overview.dead > 0 {
        Finding::warn(
            "outbox.dead_letters",
            format!("{} messages were refused for good and wait for you", overview.dead),
            "see `dispatcher dead list --group`; then retry or discard them",
        )
    } else {
        Finding::ok("outbox.dead_letters", "none waits for you")
    });
    let audit = read_standing_audit(conn).await?;
    findings.push(match audit {
        Some(audit) if audit.counts.missing > 0 => Finding::fail(
            "outbox.audit",
            format!(
                "the audit of {} found {} messages missing from the topic",
                audit.started_at, audit.counts.missing
            ),
            "find out what Kafka lost and why, then `dispatcher replay create --missing`; see docs/audit.md",
        ),
        Some(audit) => Finding::ok(
            "outbox.audit",
            format!("the one of {} found nothing missing", audit.started_at),
        ),
        None => Finding::ok(
            "outbox.audit",
            "none was made yet: `dispatcher audit` compares the topic with the receipts",
        ),
    });
    Ok(findings)
}

async fn check_drafts(conn: &mut PgConnection) -> sqlx::Result<Finding> {
    const CHECK: &str = "schema.event_drafts";
    let missing: Vec<String> = sqlx::query_scalar(
        "select name from unnest($1::text[]) name
         where not exists (select from pg_attribute
                           where attrelid = to_regclass('event_drafts') and attname = name and not attisdropped)",
    )
    .bind(DRAFT_COLUMNS.as_slice())
    .fetch_all(&mut *conn)
    .await?;
    if !missing.is_empty() {
        return Ok(Finding::fail(
            CHECK,
            format!("event_drafts has no {}: no job can be accepted", missing.join(", ")),
            "the Event Service's table has changed: let it keep these columns, or rename them in a view",
        ));
    }
    let readable: bool = sqlx::query_scalar("select has_table_privilege('event_drafts', 'select')")
        .fetch_one(conn)
        .await?;
    Ok(if readable {
        Finding::ok(CHECK, "has the columns that jobs are made from")
    } else {
        Finding::fail(
            CHECK,
            "event_drafts may not be read: no job can be accepted",
            "grant select on event_drafts to the user of database.url",
        )
    })
}

/// The treatment of holes rests on ids being drawn one by one.
async fn check_sequence(conn: &mut PgConnection) -> sqlx::Result<Finding> {
    const CHECK: &str = "schema.sequence";
    let cache = schema::read_sequence_cache(conn).await?;
    Ok(if cache == schema::SEQUENCE_CACHE {
        Finding::ok(CHECK, "draws ids one by one")
    } else {
        Finding::fail(
            CHECK,
            format!(
                "outbox_messages_id_seq has a cache of {cache}: sessions keep ids back, and late rows could be lost"
            ),
            "stop all services, then `alter sequence outbox_messages_id_seq cache 1`",
        )
    })
}

/// How far the partitions reach beyond what is used of them; none: there is no partition.
struct Ahead {
    messages: Option<i64>,
    checkpoints: Option<i64>,
    jobs_today: bool,
    jobs_tomorrow: bool,
}

#[derive(sqlx::FromRow)]
struct Used {
    messages: i64,
    checkpoints: i64,
    jobs_today: bool,
    jobs_tomorrow: bool,
}

async fn check_partitions(conn: &mut PgConnection, partition_rows: i64) -> sqlx::Result<Finding> {
    // Read before the ends, which only grow.
    let used: Used = sqlx::query_as(
        "select (select last_value from outbox_messages_id_seq) as messages,
                (select coalesce(max(seq), 0) from outbox_checkpoints) as checkpoints,
                to_regclass(to_char(now() at time zone 'utc', '\"jobs_\"YYYYMMDD')) is not null as jobs_today,
                to_regclass(to_char(now() at time zone 'utc' + interval '1 day', '\"jobs_\"YYYYMMDD')) is not null
                    as jobs_tomorrow",
    )
    .fetch_one(&mut *conn)
    .await?;
    let ahead = Ahead {
        messages: end_of(conn, "outbox_messages").await?.map(|end| end - used.messages),
        checkpoints: end_of(conn, "outbox_checkpoints")
            .await?
            .map(|end| end - used.checkpoints),
        jobs_today: used.jobs_today,
        jobs_tomorrow: used.jobs_tomorrow,
    };
    Ok(judge_partitions(&ahead, partition_rows))
}

fn judge_partitions(ahead: &Ahead, partition_rows: i64) -> Finding {
    const CHECK: &str = "schema.partitions";
    let messages = ahead.messages.unwrap_or(0);
    let checkpoints = ahead.checkpoints.unwrap_or(0);
    if messages <= 1 || checkpoints <= 1 || !ahead.jobs_today {
        return Finding::fail(
            CHECK,
            "a partition that is needed now is missing",
            "run `dispatcher migrate`, which makes it; a leader makes partitions ahead while it runs",
        );
    }
    let found = format!("ready for {messages} more messages and {checkpoints} more checkpoints");
    if messages < partition_rows / 2 || !ahead.jobs_tomorrow {
        return Finding::warn(
            CHECK,
            format!("{found}: fewer than a leader keeps ready"),
            "start a relay, or run `dispatcher migrate`; look for a lock on the tables when one runs",
        );
    }
    Finding::ok(CHECK, found)
}

/// Retention drops what it has detached itself; of any other it cannot know that nobody keeps it.
fn judge_leftovers(tables: &[String]) -> Finding {
    const CHECK: &str = "schema.leftovers";
    if tables.is_empty() {
        return Finding::ok(CHECK, "no table is named like a partition and is none");
    }
    let tables = tables.join(", ");
    Finding::warn(
        CHECK,
        format!("named like partitions and none: {tables}; nobody drops them, and their disk stays taken"),
        format!("if nobody keeps them on purpose, `drop table {tables}`; otherwise rename them"),
    )
}

fn check_leader(o: &Overview) -> Finding {
    const CHECK: &str = "outbox.leader";
    match (&o.leader, o.lease_until) {
        (Some(leader), Some(until)) => Finding::ok(CHECK, format!("{leader} leads until {until} or renews")),
        _ if o.pending > 0 => Finding::fail(
            CHECK,
            format!("nobody relays, and {} messages wait", o.pending),
            "start `dispatcher serve` with --role all or relay, or look into its log",
        ),
        _ => Finding::warn(
            CHECK,
            "nobody relays; nothing waits",
            "start `dispatcher serve` with --role all or relay",
        ),
    }
}

fn check_backlog(o: &Overview) -> Finding {
    const CHECK: &str = "outbox.backlog";
    let found = format!(
        "{} messages wait, the oldest for {}",
        o.pending,
        duration(o.oldest_pending_age_seconds)
    );
    if o.pending > 0 && o.oldest_pending_age_seconds > OLD_BACKLOG_SECONDS {
        return Finding::fail(
            CHECK,
            found,
            "Kafka, a pause, a missing leader or an open transaction holds them: see the other lines",
        );
    }
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn a_schema_that_is_too_old_or_too_new_says_what_to_do() {
        for (version, oldest, known, status, advice) in [
            (2, 1, 2, Status::Ok, None),
            (3, 2, 2, Status::Ok, None), // a newer schema on which this one still runs
            (3, 3, 2, Status::Fail, Some("install the newer")),
            (1, 1, 2, Status::Fail, Some("dispatcher migrate")),
        ] {
            let finding = judge_schema(
                Some(Migrated {
                    version,
                    oldest_compatible: oldest,
                }),
                known,
            );
            assert_eq!(finding.status, status, "{finding:?}");
            match advice {
                None => assert_eq!(finding.advice, None),
                Some(words) => assert!(finding.advice.as_deref().unwrap().contains(words), "{finding:?}"),
            }
        }
    }

    #[test]
    fn missing_partitions_are_found_before_they_are_needed() {
        let ahead = |messages, checkpoints, today, tomorrow| Ahead {
            messages,
            checkpoints,
            jobs_today: today,
            jobs_tomorrow: tomorrow,
        };
        let status = |ahead: &Ahead| judge_partitions(ahead, 1000).status;
        assert_eq!(status(&ahead(Some(1500), Some(9), true, true)), Status::Ok);
        assert_eq!(status(&ahead(Some(400), Some(9), true, true)), Status::Warn);
        assert_eq!(status(&ahead(Some(1500), Some(9), true, false)), Status::Warn);
        assert_eq!(status(&ahead(Some(1), Some(9), true, true)), Status::Fail);
        assert_eq!(status(&ahead(None, Some(9), true, true)), Status::Fail);
        assert_eq!(status(&ahead(Some(1500), Some(9), false, true)), Status::Fail);
    }
}
