//! Which log this installation writes to. Another cluster or topic behind the same address (a restore, a
//! blue/green switch), or a log that has lost what it acknowledged (a topic made again, an unclean election), halts
//! publishing until an operator accepts it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::acts::{Act, Actor, record_act};

/// The row of `installation`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Installation {
    /// Made by `migrate`.
    pub installation_id: Uuid,
    /// `kafka.topic` when a leader first saw the broker.
    pub topic: Option<String>,
    /// Kafka's cluster id at that time.
    pub cluster_id: Option<String>,
    /// Why publishing halts.
    pub halt_reason: Option<String>,
    /// Since when it does.
    pub halted_since: Option<DateTime<Utc>>,
    /// It halts until an operator accepts that the log has lost what it acknowledged.
    pub log_lost: bool,
    /// The largest record batch in bytes that `topic` takes, as a leader last saw it.
    pub record_limit: Option<i64>,
}

/// Publishing halts although Kafka answers. Accepting goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Halt {
    /// What was found, and what to do.
    pub reason: String,
    /// By PostgreSQL's clock.
    pub since: DateTime<Utc>,
}

/// A partition ends below what was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "partition {partition} of the topic ends at offset {end}, and everything below {acknowledged} was acknowledged: \
     the topic was made again or its log was cut; publishing waits; see what is missing with `dispatcher audit`, then \
     run `dispatcher resume --accept-identity`"
)]
pub struct LogLost {
    /// Of the topic.
    pub partition: i32,
    /// Where it ends, or where a new record was put; 0: it does not exist any more.
    pub end: i64,
    /// The next offset that was recorded.
    pub acknowledged: i64,
}

/// Does each partition (`ends`: its high watermark) reach up to the recorded next offset? Where none is known (-1),
/// nothing is asked.
pub fn check_log(next_offsets: &[i64], ends: &[i64]) -> Result<(), LogLost> {
    for (partition, acknowledged) in next_offsets.iter().copied().enumerate() {
        let end = ends.get(partition).copied().unwrap_or(0);
        if end < acknowledged {
            return Err(LogLost {
                partition: partition as i32,
                end,
                acknowledged,
            });
        }
    }
    Ok(())
}

/// The broker is not the one that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this outbox was published to {recorded}, and the configuration leads to {seen}: publishing waits; \
     if that is meant, run `dispatcher resume --accept-identity`"
)]
pub struct OtherIdentity {
    recorded: String,
    seen: String,
}

impl Installation {
    /// Why publishing halts, if it does.
    pub fn halt(&self) -> Option<Halt> {
        Some(Halt {
            reason: self.halt_reason.clone()?,
            since: self.halted_since?,
        })
    }

    /// What the topic takes, in bytes, as far as it is known: for when the broker cannot be asked.
    pub fn record_limit_of(&self, topic: &str) -> Option<usize> {
        let limit = self.record_limit.filter(|_| self.topic.as_deref() == Some(topic))?;
        usize::try_from(limit).ok()
    }

    /// Kafka's `transactional.id`s of every leader: whoever initialises one ends what another left open under it.
    pub fn transactional_ids(&self, topic: &str) -> [String; 2] {
        let first = format!("{topic}.{}", self.installation_id);
        let second = format!("{first}.2");
        [first, second]
    }

    /// Is this the log that was recorded? What is not known yet, or not told by the broker, is no difference.
    pub fn check(&self, topic: &str, cluster_id: Option<&str>) -> Result<(), OtherIdentity> {
        if self.topic.as_deref().is_some_and(|t| t != topic) {
            return Err(OtherIdentity {
                recorded: format!("topic {:?}", self.topic.as_deref().unwrap_or_default()),
                seen: format!("topic {topic:?}"),
            });
        }
        match (&self.cluster_id, cluster_id) {
            (Some(recorded), Some(seen)) if recorded != seen => Err(OtherIdentity {
                recorded: format!("kafka cluster {recorded:?}"),
                seen: format!("kafka cluster {seen:?}"),
            }),
            _ => Ok(()),
        }
    }
}

/// Reads it.
pub async fn read(conn: &mut PgConnection) -> sqlx::Result<Installation> {
    sqlx::query_as(
        "select installation_id, topic, cluster_id, halt_reason, halted_since, log_lost, record_limit from installation",
    )
    .fetch_one(conn)
    .await
}

/// Records PostgreSQL's timeline, and returns the one that was recorded before.
pub async fn replace_timeline(conn: &mut PgConnection, timeline: i32) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar(
        "with known as materialized (
             select timeline from installation
         ), now as (
             update installation set timeline = $1 where timeline is distinct from $1
         )
         select timeline from known",
    )
    .bind(timeline)
    .fetch_one(conn)
    .await
}

/// Records what was seen, where nothing was recorded, the topic's limit where it is another, and that publishing goes
/// on. The next offsets have to be recorded before: those of another log would halt the next start.
pub async fn record(
    conn: &mut PgConnection,
    topic: &str,
    cluster_id: Option<&str>,
    record_limit: Option<usize>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update installation
         set topic = coalesce(topic, $1), cluster_id = coalesce(cluster_id, $2), record_limit = coalesce($3, record_limit),
             halt_reason = null, halted_since = null
         where not log_lost
           and (topic is null or (cluster_id is null and $2 is not null) or halt_reason is not null
                or record_limit is distinct from coalesce($3, record_limit))",
    )
    .bind(topic)
    .bind(cluster_id)
    .bind(record_limit.and_then(|bytes| i64::try_from(bytes).ok()))
    .execute(conn)
    .await
    .map(|_| ())
}

/// Records why publishing halts. With `log_lost` only [`accept_identity`] ends it.
pub async fn halt(conn: &mut PgConnection, reason: &str, log_lost: bool) -> sqlx::Result<()> {
    sqlx::query(
        "update installation
         set halt_reason = $1, halted_since = coalesce(halted_since, clock_timestamp()), log_lost = $2
         where not log_lost and halt_reason is distinct from $1",
    )
    .bind(reason)
    .bind(log_lost)
    .execute(conn)
    .await
    .map(|_| ())
}

/// Forgets the recorded identity and a halt: the next start records what it sees. The position's offsets belong to
/// the old log: that start does not read from them, and does not ask that the log reaches up to them. Returns what was
/// recorded.
pub async fn accept_identity(conn: &mut PgConnection, actor: &Actor) -> sqlx::Result<Installation> {
    let known = read(&mut *conn).await?;
    sqlx::query(
        "update installation
         set topic = null, cluster_id = null, record_limit = null, halt_reason = null, halted_since = null,
             log_lost = false",
    )
    .execute(&mut *conn)
    .await?;
    let detail = json!({
        "forgotten_topic": known.topic,
        "forgotten_cluster_id": known.cluster_id,
        "was_halted": known.halt(),
    });
    record_act(conn, actor, Act::AcceptIdentity, "installation", detail, None).await?;
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_topic_or_cluster_is_refused_and_the_unknown_is_not() {
        let known = Installation {
            installation_id: Uuid::nil(),
            topic: Some("image-job-topic".into()),
            cluster_id: Some("a".into()),
            halt_reason: None,
            halted_since: None,
            log_lost: false,
            record_limit: Some(5_000),
        };
        assert_eq!(known.record_limit_of("image-job-topic"), Some(5_000));
        assert_eq!(known.record_limit_of("other"), None);
        assert!(known.check("image-job-topic", Some("a")).is_ok());
        assert!(known.check("image-job-topic", None).is_ok());
        assert!(
            known
                .check("image-job-topic", Some("b"))
                .unwrap_err()
                .to_string()
                .contains("--accept-identity")
        );
        assert!(known.check("other", Some("a")).is_err());
        let fresh = Installation {
            topic: None,
            cluster_id: None,
            ..known
        };
        assert!(fresh.check("other", Some("b")).is_ok());
    }

    #[test]
    fn a_log_that_ends_below_what_was_acknowledged_is_lost_and_one_that_goes_on_is_not() {
        assert_eq!(check_log(&[5, 0, -1], &[5, 7, 0]), Ok(()));
        assert_eq!(check_log(&[], &[0, 0]), Ok(()), "nothing is known yet");
        let lost = |partition, end, acknowledged| {
            Err(LogLost {
                partition,
                end,
                acknowledged,
            })
        };
        assert_eq!(check_log(&[5, 8], &[5, 7]), lost(1, 7, 8));
        assert_eq!(check_log(&[5, 8], &[5]), lost(1, 0, 8), "the partition is gone");
        assert_eq!(check_log(&[5, 0, -1], &[5]), Ok(()), "nothing was in them");
    }
}
