//! Following the log live: each message once, as it is written, or as it is settled.
//!
//! Ids are not in the order of commits, so a cursor alone would miss rows. What was looked at is remembered as a set, as
//! the relay does.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    position::{Ids, MultirangeError, from_multirange, to_multirange},
    query::{MessageState, MessageStatus, read_status},
};

/// Messages that one look brings.
const LOOK: i64 = 1_000;
/// Ids below the newest that were not seen yet, and are asked for at each look; the newest of them.
const HOLES: usize = 10_000;

/// Which messages are followed. Each field narrows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Followed {
    /// As they enter this state. None: as they are written, whatever their state is then.
    pub state: Option<MessageState>,
    /// Only of this job.
    pub job: Option<Uuid>,
    /// Only of this event draft.
    pub draft: Option<Uuid>,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// PostgreSQL.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The position cannot be read.
    #[error(transparent)]
    Malformed(#[from] MultirangeError),
}

/// What one look brought.
#[derive(Debug)]
pub struct News {
    /// By id.
    pub messages: Vec<MessageStatus>,
    /// There may be more already.
    pub more: bool,
}

/// Where a look at the log goes on.
#[derive(Debug)]
pub struct Follower {
    followed: Followed,
    /// Ids that need no look any more.
    seen: Ids,
}

#[derive(sqlx::FromRow)]
struct Candidate {
    id: i64,
    key: Uuid,
    job_id: Uuid,
}

impl Follower {
    /// From behind this id on; none: from what happens from now on.
    pub async fn begin(conn: &mut PgConnection, followed: Followed, after: Option<i64>) -> Result<Self, FollowError> {
        let mut seen = Ids::new();
        let after = match (after, followed.state) {
            (Some(after), _) => after,
            // What waits now is settled later.
            (None, Some(MessageState::Published | MessageState::Dead)) => {
                seen = read_passed(conn).await?;
                0
            }
            (None, Some(MessageState::Pending) | None) => {
                sqlx::query_scalar("select coalesce(max(id), 0) from outbox_messages")
                    .fetch_one(conn)
                    .await?
            }
        };
        seen.insert(0..after.max(0) + 1);
        Ok(Self { followed, seen })
    }

    /// Everything up to this id was looked at: whoever begins behind it misses nothing.
    pub fn looked_up_to(&self) -> i64 {
        self.seen.first().map_or(0, |first| first.end - 1)
    }

    /// What is new since the last look.
    pub async fn look(&mut self, conn: &mut PgConnection) -> Result<News, FollowError> {
        let candidates = match self.followed.state {
            Some(MessageState::Published | MessageState::Dead) => self.find_settled(conn).await?,
            Some(MessageState::Pending) | None => self.find_written(conn).await?,
        };
        for candidate in &candidates {
            self.seen.insert(candidate.id..candidate.id + 1);
        }
        let ids: Vec<i64> = candidates
            .iter()
            .filter(|c| self.followed.job.is_none_or(|job| job == c.job_id))
            .filter(|c| self.followed.draft.is_none_or(|draft| draft == c.key))
            .map(|c| c.id)
            .collect();
        let mut messages = read_status(conn, &ids).await?;
        if let Some(state) = self.followed.state {
            messages.retain(|m| m.state == state);
        }
        messages.reverse();
        Ok(News {
            messages,
            more: candidates.len() as i64 == LOOK,
        })
    }

    /// Rows above the newest that was seen, and under holes. What is closed will not come.
    async fn find_written(&mut self, conn: &mut PgConnection) -> Result<Vec<Candidate>, FollowError> {
        let top = self.seen.last().map_or(0, |last| last.end - 1);
        let mut holes: Vec<i64> = self.seen.gaps(&(1..top + 1)).flatten().collect();
        if !holes.is_empty() {
            let closed: Option<String> = sqlx::query_scalar("select closed::text from outbox_position()")
                .fetch_one(&mut *conn)
                .await?;
            let closed = from_multirange(closed.as_deref().unwrap_or("{}"))?;
            holes.retain(|id| !closed.contains(id));
            holes.drain(..holes.len().saturating_sub(HOLES));
            let open: Ids = holes.iter().map(|id| *id..*id + 1).collect();
            self.seen.extend(open.gaps(&(1..top + 1)).collect::<Vec<_>>());
        }
        Ok(sqlx::query_as(
            "select id, key, job_id from outbox_messages where id = any($1)
             union all
             (select id, key, job_id from outbox_messages where id > $2 order by id limit $3)",
        )
        .persistent(false)
        .bind(&holes)
        .bind(top)
        .bind(LOOK)
        .fetch_all(conn)
        .await?)
    }

    /// What is settled, and was not when it was looked at last.
    async fn find_settled(&self, conn: &mut PgConnection) -> Result<Vec<Candidate>, FollowError> {
        Ok(sqlx::query_as(
            "select m.id, m.key, m.job_id
             from (select unnest(outbox_settled() - $1::text::int8multirange) as r) news,
                  lateral (select id, key, job_id from outbox_messages
                           where id >= lower(news.r) and id < upper(news.r) order by id limit $2) m
             order by m.id limit $2",
        )
        .persistent(false)
        .bind(to_multirange(&self.seen))
        .bind(LOOK)
        .fetch_all(conn)
        .await?)
    }
}

async fn read_passed(conn: &mut PgConnection) -> Result<Ids, FollowError> {
    let passed: Option<String> = sqlx::query_scalar("select passed::text from outbox_position()")
        .fetch_one(conn)
        .await?;
    Ok(from_multirange(passed.as_deref().unwrap_or("{}"))?)
}
