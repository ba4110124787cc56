//! A load of requests with a history, and what the history must agree with.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Record, http_client};

/// One request, as its client saw it.
#[derive(Debug, Clone)]
pub struct Request {
    pub draft: Uuid,
    pub sent: Instant,
    pub answered: Instant,
    pub outcome: Outcome,
}

/// What the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 202.
    Accepted(Uuid),
    /// A definite refusal: nothing was accepted.
    Refused(u16),
    /// No answer, or one that says that nobody knows: maybe.
    Ambiguous,
}

/// Clients that send one request after the other, each to a random draft, until they are stopped.
pub struct Load {
    clients: JoinSet<Vec<Request>>,
    stop: Arc<AtomicBool>,
    target: Arc<RwLock<String>>,
}

impl Load {
    /// `clients` at once, at the service at `base_url`.
    pub fn start(base_url: &str, token: &str, drafts: &[Uuid], clients: usize) -> Self {
        let mut load = Self {
            clients: JoinSet::new(),
            stop: Arc::default(),
            target: Arc::new(RwLock::new(base_url.to_owned())),
        };
        for client in 0..clients {
            let (stop, target) = (Arc::clone(&load.stop), Arc::clone(&load.target));
            let (token, drafts) = (token.to_owned(), drafts.to_vec());
            load.clients.spawn(async move {
                let http = http_client();
                let mut history = Vec::new();
                for n in client.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let draft = drafts[(n * 7919) % drafts.len()];
                    let base_url = target.read().clone();
                    let request = send(&http, &base_url, &token, draft).await;
                    let pause = !matches!(request.outcome, Outcome::Accepted(_));
                    history.push(request);
                    if pause {
                        // Nobody listens at the moment.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                history
            });
        }
        load
    }

    /// From now on the requests go there.
    pub fn aim_at(&self, base_url: &str) {
        base_url.clone_into(&mut self.target.write());
    }

    /// Stops the clients and gives the history of all.
    pub async fn stop(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

async fn send(http: &reqwest::Client, base_url: &str, token: &str, draft: Uuid) -> Request {
    let sent = Instant::now();
    let url = format!("{base_url}/api/events/{draft}/content-generation");
    let answer = http
        .post(url)
        .bearer_auth(token)
        .timeout(Duration::from_secs(20))
        .send()
        .await;
    let outcome = match answer {
        Err(error) if error.is_connect() => Outcome::Refused(0),
        Err(_) => Outcome::Ambiguous,
        Ok(answer) => {
            let status = answer.status().as_u16();
            match answer.json::<serde_json::Value>().await {
                Ok(body) if status == 202 => body["jobId"]
                    .as_str()
                    .and_then(|id| id.parse().ok())
                    .map_or(Outcome::Ambiguous, Outcome::Accepted),
                Ok(body) if body["code"] == "outcome-unknown" => Outcome::Ambiguous,
                Ok(_) => Outcome::Refused(status),
                Err(_) => Outcome::Ambiguous,
            }
        }
    };
    Request {
        draft,
        sent,
        answered: Instant::now(),
        outcome,
    }
}

/// The jobs that were answered 202.
pub fn accepted(history: &[Request]) -> HashSet<Uuid> {
    history
        .iter()
        .filter_map(|r| match r.outcome {
            Outcome::Accepted(job) => Some(job),
            _ => None,
        })
        .collect()
}

/// What the topic holds beyond one record a job.
#[derive(Debug)]
pub struct Delivered {
    /// Records of jobs that were already there.
    pub repeats: usize,
}

/// Holds the records against the history and the jobs in the database. Panics with what is wrong: a 202 that
/// is not in the topic, a record without a job, a repeat under another `ce_id`, or a first appearance before
/// that of a request of the same draft that had been answered before this one was sent.
pub fn check_delivery(history: &[Request], records: &[Record], jobs: &HashSet<Uuid>) -> Delivered {
    let mut first: HashMap<Uuid, (i32, i64)> = HashMap::new();
    let mut event_ids: HashMap<Uuid, String> = HashMap::new();
    let mut repeats = 0;
    for record in records {
        let job: Uuid = record.job_id().parse().expect("a job id");
        assert!(jobs.contains(&job), "a record without an accepted job: {record:?}");
        let at = (record.partition, record.offset);
        let earliest = first.entry(job).or_insert(at);
        if *earliest != at {
            repeats += 1;
            assert_eq!(earliest.0, at.0, "job {job} in two partitions");
            *earliest = (*earliest).min(at);
        }
        let event_id = record.header("ce_id").to_owned();
        let before = event_ids.entry(job).or_insert_with(|| event_id.clone());
        assert_eq!(*before, event_id, "job {job} was repeated under another ce_id");
    }
    let lost: Vec<Uuid> = accepted(history)
        .into_iter()
        .filter(|job| !first.contains_key(job))
        .collect();
    assert!(
        lost.is_empty(),
        "{} accepted jobs are not in the topic, such as {:?}",
        lost.len(),
        &lost[..lost.len().min(5)]
    );

    let mut by_draft: HashMap<Uuid, Vec<&Request>> = HashMap::new();
    for request in history {
        if matches!(request.outcome, Outcome::Accepted(_)) {
            by_draft.entry(request.draft).or_default().push(request);
        }
    }
    let offset = |r: &Request| match r.outcome {
        Outcome::Accepted(job) => first[&job].1,
        _ => unreachable!("only accepted requests are compared"),
    };
    for requests in by_draft.values_mut() {
        // Whatever was answered before a request was sent has to be in front of it: so is the furthest of them.
        let mut by_sent = requests.clone();
        by_sent.sort_by_key(|r| r.sent);
        requests.sort_by_key(|r| r.answered);
        let (mut answered, mut furthest) = (0, -1);
        for request in by_sent {
            while answered < requests.len() && requests[answered].answered < request.sent {
                furthest = furthest.max(offset(requests[answered]));
                answered += 1;
            }
            assert!(
                offset(request) > furthest,
                "draft {}: {:?} is in front of a request that was answered before it was sent",
                request.draft,
                request.outcome
            );
        }
    }
    Delivered { repeats }
}

/// All jobs in the database.
pub async fn jobs_in_database(pool: &sqlx::PgPool) -> HashSet<Uuid> {
    let ids: Vec<Uuid> = sqlx::query_scalar("select id from jobs")
        .fetch_all(pool)
        .await
        .expect("jobs");
    ids.into_iter().collect()
}

mod tests {
    //! The checker is itself tested: each rule by a history that breaks it.

    use super::*;

    fn record(job: Uuid, offset: i64, event: &str) -> Record {
        Record {
            partition: 0,
            offset,
            key: String::new(),
            value: format!("{{\"jobId\":\"{job}\"}}").into_bytes(),
            headers: [("ce_id".to_owned(), event.to_owned())].into(),
        }
    }

    fn request(draft: Uuid, job: Uuid, sent: u64, answered: u64) -> Request {
        let start = *START.get_or_init(Instant::now);
        Request {
            draft,
            sent: start + Duration::from_secs(sent),
            answered: start + Duration::from_secs(answered),
            outcome: Outcome::Accepted(job),
        }
    }

    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    fn two() -> (Vec<Request>, HashSet<Uuid>, Uuid, Uuid) {
        let (draft, a, b) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        (
            vec![request(draft, a, 0, 1), request(draft, b, 2, 3)],
            [a, b].into(),
            a,
            b,
        )
    }

    #[test]
    fn a_good_history_passes_and_repeats_are_counted() {
        let (history, jobs, a, b) = two();
        let records = [record(a, 0, "a"), record(b, 1, "b"), record(a, 2, "a")];
        assert_eq!(check_delivery(&history, &records, &jobs).repeats, 1);
    }

    #[test]
    #[should_panic(expected = "accepted jobs are not in the topic")]
    fn a_lost_job_is_noticed() {
        let (history, jobs, a, _) = two();
        check_delivery(&history, &[record(a, 0, "a")], &jobs);
    }

    #[test]
    #[should_panic(expected = "a record without an accepted job")]
    fn a_record_of_nobody_is_noticed() {
        let (history, jobs, a, b) = two();
        check_delivery(
            &history,
            &[record(a, 0, "a"), record(b, 1, "b"), record(Uuid::new_v4(), 2, "c")],
            &jobs,
        );
    }

    #[test]
    #[should_panic(expected = "was repeated under another ce_id")]
    fn a_repeat_that_cannot_be_recognised_is_noticed() {
        let (history, jobs, a, b) = two();
        check_delivery(
            &history,
            &[record(a, 0, "a"), record(b, 1, "b"), record(a, 2, "x")],
            &jobs,
        );
    }

    #[test]
    #[should_panic(expected = "is in front of a request that was answered before it was sent")]
    fn a_broken_order_is_noticed() {
        let (history, jobs, a, b) = two();
        check_delivery(&history, &[record(b, 0, "b"), record(a, 1, "a")], &jobs);
    }

    #[test]
    fn requests_that_overlapped_may_come_in_any_order() {
        let (draft, a, b) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let history = [request(draft, a, 0, 3), request(draft, b, 2, 4)];
        check_delivery(&history, &[record(b, 0, "b"), record(a, 1, "a")], &[a, b].into());
    }
}
