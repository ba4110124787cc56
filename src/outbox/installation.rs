//! Which log this installation writes to. Another cluster or topic behind the same address (a restore, a
//! blue/green switch) halts publishing until an operator accepts it.

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
    /// Kafka's `transactional.id` of every leader: whoever initialises it ends what another left open.
    pub fn transactional_id(&self, topic: &str) -> String {
        format!("{topic}.{}", self.installation_id)
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
    sqlx::query_as("select installation_id, topic, cluster_id from installation")
        .fetch_one(conn)
        .await
}

/// Records what was seen, where nothing was recorded.
pub async fn record(conn: &mut PgConnection, topic: &str, cluster_id: Option<&str>) -> sqlx::Result<()> {
    sqlx::query(
        "update installation set topic = coalesce(topic, $1), cluster_id = coalesce(cluster_id, $2)
         where topic is null or (cluster_id is null and $2 is not null)",
    )
    .bind(topic)
    .bind(cluster_id)
    .execute(conn)
    .await
    .map(|_| ())
}

/// Forgets the recorded identity: the next start records what it sees. The position's offsets belong to the
/// old log; the tail read notices that they are out of range, or begins by time. Returns what was recorded.
pub async fn accept_identity(conn: &mut PgConnection, actor: &Actor) -> sqlx::Result<Installation> {
    let known = read(&mut *conn).await?;
    sqlx::query("update installation set topic = null, cluster_id = null")
        .execute(&mut *conn)
        .await?;
    let detail = json!({"forgotten_topic": known.topic, "forgotten_cluster_id": known.cluster_id});
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
        };
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
}
