//! What other replicas have changed: each says it by `NOTIFY`, after its commits, and hears the others.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Watch;
use crate::outbox::{
    listener::{self, Heard},
    notifier::{Notice, Subscription},
    position::Ids,
};

/// The channel on which replicas tell each other what has changed.
const CHANNEL: &str = "job_changes";
/// At most one transaction in this time, and so one lock on the whole database, which a commit with a NOTIFY takes.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(50);
/// For PostgreSQL to take what is announced. After it, whoever waits elsewhere polls.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Jobs, or ranges of ids, in one payload: PostgreSQL takes less than 8,000 bytes, and each has 42 at most.
const IN_ONE_PAYLOAD: usize = 150;

/// One start of a replica, so that it does not heed what it said itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origin(Uuid);

impl Origin {
    /// Of this start.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }
}

/// The payload of one notification, as JSON. Members that are not known are ignored, so that a newer replica can
/// say more.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    from: Origin,
    /// Outbox ids that were settled, by the first and the last of each range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    messages: Vec<(i64, i64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<Uuid>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    anything: bool,
}

/// Says what `changes` gathers, on a connection of its own. On `finished`, once more what has not been said.
/// What cannot be said is dropped: whoever waits elsewhere polls.
pub async fn announce(database: PgConnectOptions, changes: Subscription, origin: Origin, finished: CancellationToken) {
    let database = database.application_name("dispatcher notify jobs").options([
        // Nothing is written that could be lost.
        ("synchronous_commit", "off"),
    ]);
    let mut conn = None;
    loop {
        let notice = finished.run_until_cancelled(changes.next()).await;
        let last = notice.is_none();
        let notice = notice.unwrap_or_else(|| changes.take());
        if !notice.is_empty() {
            let payloads = payloads(origin, &notice);
            let problem = match timeout(ANSWER_TIMEOUT, say(&database, &mut conn, &payloads)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            if let Some(problem) = problem {
                // The relay and the results say what is wrong with PostgreSQL.
                tracing::debug!(problem, "other replicas are not told of changes");
                conn = None;
            }
        }
        if last {
            return;
        }
        sleep(ANNOUNCE_EVERY).await;
    }
}

async fn say(database: &PgConnectOptions, conn: &mut Option<PgConnection>, payloads: &[String]) -> sqlx::Result<()> {
    if conn.is_none() {
        *conn = Some(database.connect().await?);
    }
    if let Some(conn) = conn {
        sqlx::query("select pg_notify($1, payload) from unnest($2::text[]) payload")
            .bind(CHANNEL)
            .bind(payloads)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Hears what other replicas say, and passes it on. Never returns: drop it.
pub async fn listen(database: PgConnectOptions, watch: Watch, origin: Origin) {
    listener::listen(database, "dispatcher jobs listener", CHANNEL, |heard| match heard {
        Heard::Listening => watch.hears(true),
        Heard::Nothing => watch.hears(false),
        Heard::Said(payload) => {
            if let Some(notice) = read(origin, payload) {
                watch.notice(&notice);
            }
        }
    })
    .await;
}

fn payloads(from: Origin, notice: &Notice) -> Vec<String> {
    let said = |messages, jobs, anything| {
        let said = Said {
            from,
            messages,
            jobs,
            anything,
        };
        serde_json::to_string(&said).expect("numbers and texts always serialise")
    };
    if notice.anything {
        return vec![said(Vec::new(), Vec::new(), true)];
    }
    let ranges: Vec<_> = notice.messages.iter().map(|ids| (ids.start, ids.end - 1)).collect();
    let jobs: Vec<_> = notice.jobs.iter().copied().collect();
    let of_messages = ranges
        .chunks(IN_ONE_PAYLOAD)
        .map(|some| said(some.to_vec(), Vec::new(), false));
    let of_jobs = jobs
        .chunks(IN_ONE_PAYLOAD)
        .map(|some| said(Vec::new(), some.to_vec(), false));
    of_messages.chain(of_jobs).collect()
}

/// `None`: we said it ourselves. What cannot be read may be anything.
fn read(own: Origin, payload: &str) -> Option<Notice> {
    let anything = Notice {
        anything: true,
        ..Notice::default()
    };
    let Ok(said) = serde_json::from_str::<Said>(payload) else {
        return Some(anything);
    };
    if said.from == own {
        return None;
    }
    if said.anything
        || said
            .messages
            .iter()
            .any(|(first, last)| first > last || *last == i64::MAX)
    {
        return Some(anything);
    }
    Some(Notice {
        messages: said
            .messages
            .iter()
            .map(|(first, last)| *first..last + 1)
            .collect::<Ids>(),
        jobs: said.jobs.into_iter().collect(),
        anything: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_whatever_its_length_but_not_by_oneself() {
        let (us, others) = (Origin::new(), Origin::new());
        let notice = Notice {
            messages: (0..4000_i64)
                .map(|n| i64::MAX - 9000 + 2 * n..i64::MAX - 8999 + 2 * n)
                .collect(),
            jobs: (0..90).map(|_| Uuid::now_v7()).collect(),
            anything: false,
        };
        let said = payloads(us, &notice);
        assert!(said.iter().all(|payload| payload.len() < 8000), "{}", said[0].len());
        let mut heard = Notice::default();
        for payload in &said {
            assert_eq!(read(us, payload), None);
            let part = read(others, payload).unwrap();
            heard.messages.extend(part.messages.iter().cloned());
            heard.jobs.extend(part.jobs);
        }
        assert_eq!(heard, notice);
    }

    #[test]
    fn what_is_not_understood_may_be_anything() {
        let own = Origin::new();
        let of = |text: &str| format!(r#"{{"from":"{}",{text}}}"#, Uuid::new_v4());
        for payload in [
            "",
            "{}",
            &of(r#""anything":true"#),
            &of(r#""messages":[[2,1]]"#),
            &of(r#""messages":[[1,9223372036854775807]]"#),
            &of(r#""jobs":["x"]"#),
        ] {
            assert!(read(own, payload).is_some_and(|notice| notice.anything), "{payload}");
        }
        let newer = read(own, &of(r#""messages":[[3,4]],"weather":"fine""#)).unwrap();
        assert_eq!(newer.messages, std::iter::once(3..5).collect());
    }
}
