//! The rules. Each is one function; what it finds is a [`Violation`].

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Delivery, History, OperatorAct, Outcome, Request};
use crate::support::Record;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Answered 202, and neither in the topic nor a dead letter.
    Lost(Uuid),
    /// A record that no row of the outbox accounts for.
    NoRow(String),
    /// A job that no request asked for, as far as its clients know.
    NotAskedFor(Uuid),
    /// One Idempotency-Key, two jobs.
    TwoJobsOfAKey(String),
    /// A request that was answered before another of its draft was sent comes behind that one.
    Reordered(Uuid),
    /// The records of one job are in more than one partition.
    TwoPartitions(Uuid),
    /// More records than rows, beyond what take-overs may repeat.
    Repeated { repeats: usize, allowed: usize },
    /// A fence or a number went back, or a number is missing.
    LogWentBack(String),
    /// The checkpoint of this number has a receipt of an id that it does not settle.
    UnsettledReceipts(i64),
    /// A status or a message's state went back, or a final one changed.
    StatusWentBack(String),
    /// A replay sent something else than its selection.
    WrongReplay(String),
    /// A record was handed over while the relay was paused.
    SentWhilePaused(String),
    /// Something is still waiting.
    NotDrained(i64),
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(job) => write!(
                f,
                "job {job} was answered 202 and is neither in the topic nor a dead letter"
            ),
            Self::NoRow(record) => write!(f, "a record without an accepted row: {record}"),
            Self::NotAskedFor(job) => write!(
                f,
                "job {job} was accepted, and no request of its draft may have made it"
            ),
            Self::TwoJobsOfAKey(key) => write!(f, "two jobs were made under the key {key}"),
            Self::Reordered(job) => {
                write!(
                    f,
                    "job {job} is in front of one that was answered before it was asked for"
                )
            }
            Self::TwoPartitions(job) => write!(f, "job {job} is in two partitions"),
            Self::Repeated { repeats, allowed } => write!(f, "{repeats} records are repeats, {allowed} are allowed"),
            Self::UnsettledReceipts(seq) => write!(f, "checkpoint {seq} has receipts of ids that it does not settle"),
            Self::LogWentBack(what) => write!(f, "the checkpoints: {what}"),
            Self::StatusWentBack(what) => write!(f, "a status went back: {what}"),
            Self::WrongReplay(what) => write!(f, "a replay: {what}"),
            Self::SentWhilePaused(what) => write!(f, "handed over while paused: {what}"),
            Self::NotDrained(pending) => write!(f, "{pending} messages are still pending"),
        }
    }
}

/// What a history that was checked holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Jobs answered 202.
    pub accepted: usize,
    /// Records in the topic.
    pub records: usize,
    /// Records whose row had one already.
    pub repeats: usize,
    /// Accepted jobs whose message is a dead letter, and not in the topic.
    pub dead: usize,
    /// Take-overs of a lease that was not given back.
    pub rough_take_overs: usize,
}

impl History {
    /// Holds everything against every promise.
    pub fn check(&self) -> (Kept, Vec<Violation>) {
        let mut found = Vec::new();
        let first = first_appearances(&self.records, &mut found);
        let mut kept = Kept {
            accepted: self.accepted().len(),
            records: self.records.len(),
            rough_take_overs: self.rough_take_overs(),
            ..Kept::default()
        };
        kept.dead = self.every_202_is_in_the_topic(&first, &mut found);
        self.every_record_has_a_row(&mut found);
        self.every_job_was_asked_for(&mut found);
        self.a_key_has_one_job(&mut found);
        self.drafts_are_in_order(&first, &mut found);
        kept.repeats = self.repeats_are_bounded(kept.rough_take_overs, &mut found);
        self.the_log_only_grows(&mut found);
        self.receipts_are_of_what_is_settled(&mut found);
        self.status_never_goes_back(&mut found);
        self.replays_send_their_selection(&mut found);
        self.a_pause_holds(&mut found);
        if self.pending != 0 {
            found.push(Violation::NotDrained(self.pending));
        }
        (kept, found)
    }

    /// Gives how many are dead letters instead.
    fn every_202_is_in_the_topic(&self, first: &HashMap<Uuid, (i32, i64)>, found: &mut Vec<Violation>) -> usize {
        let dead: HashSet<Uuid> = self
            .dead
            .iter()
            .filter_map(|id| Some(self.rows.get(id)?.job_id))
            .collect();
        let missing: Vec<Uuid> = self
            .accepted()
            .into_iter()
            .filter(|job| !first.contains_key(job))
            .collect();
        found.extend(
            missing
                .iter()
                .filter(|job| !dead.contains(job))
                .map(|job| Violation::Lost(*job)),
        );
        missing.iter().filter(|job| dead.contains(job)).count()
    }

    fn every_record_has_a_row(&self, found: &mut Vec<Violation>) {
        for record in &self.records {
            let row = outbox_id(record).and_then(|id| self.rows.get(&id));
            let accounted = row.is_some_and(|row| {
                self.jobs.contains_key(&row.job_id)
                    && job_of(record) == Some(row.job_id)
                    && record.headers.get("ce_id") == Some(&row.event_id.to_string())
                    && record.key == row.key.to_string()
                    && record.headers.get("replay-id") == row.replay_id.map(|id| id.to_string()).as_ref()
            });
            if !accounted {
                let (partition, offset, headers) = (record.partition, record.offset, &record.headers);
                found.push(Violation::NoRow(format!("{partition}/{offset} {headers:?}")));
            }
        }
    }

    /// Of each draft, at most as many unanswered jobs as requests whose outcome nobody knows.
    fn every_job_was_asked_for(&self, found: &mut Vec<Violation>) {
        let accepted = self.accepted();
        let mut maybe: HashMap<Uuid, usize> = HashMap::new();
        for request in &self.requests {
            if request.outcome == Outcome::Ambiguous {
                *maybe.entry(request.draft).or_default() += 1;
            }
        }
        for (job, draft) in self.jobs.iter().filter(|(job, _)| !accepted.contains(job)) {
            match maybe.get_mut(draft) {
                Some(left @ 1..) => *left -= 1,
                _ => found.push(Violation::NotAskedFor(*job)),
            }
        }
    }

    fn a_key_has_one_job(&self, found: &mut Vec<Violation>) {
        let mut jobs: HashMap<&str, Uuid> = HashMap::new();
        for request in &self.requests {
            if let (Some(key), Some(job)) = (&request.key, request.job())
                && *jobs.entry(key).or_insert(job) != job
            {
                found.push(Violation::TwoJobsOfAKey(key.clone()));
            }
        }
    }

    fn drafts_are_in_order(&self, first: &HashMap<Uuid, (i32, i64)>, found: &mut Vec<Violation>) {
        // A repeat of a key is answered with an earlier request's job: what counts is when that was first asked for.
        let mut asked: HashMap<Uuid, Instant> = HashMap::new();
        let mut first_asked_by_key: HashMap<&str, Instant> = HashMap::new();
        for request in &self.requests {
            if let Some(key) = &request.key {
                let at = first_asked_by_key.entry(key).or_insert(request.sent);
                *at = (*at).min(request.sent);
            }
        }
        let mut by_draft: HashMap<Uuid, Vec<&Request>> = HashMap::new();
        for request in &self.requests {
            let Some(job) = request.job().filter(|job| first.contains_key(job)) else {
                continue;
            };
            let sent = request
                .key
                .as_ref()
                .map_or(request.sent, |key| first_asked_by_key[&**key]);
            let at = asked.entry(job).or_insert(sent);
            *at = (*at).min(sent);
            by_draft.entry(request.draft).or_default().push(request);
        }
        let job = |r: &Request| r.job().expect("only accepted ones are compared");
        let offset = |r: &Request| first[&job(r)].1;
        for requests in by_draft.values_mut() {
            // Whatever was answered before a request was sent has to be in front of it: so is the furthest of them.
            let mut by_sent = requests.clone();
            by_sent.sort_by_key(|r| asked[&job(r)]);
            requests.sort_by_key(|r| r.answered);
            let (mut answered, mut furthest) = (0, -1);
            for request in by_sent {
                while answered < requests.len() && requests[answered].answered < asked[&job(request)] {
                    furthest = furthest.max(offset(requests[answered]));
                    answered += 1;
                }
                if offset(request) <= furthest {
                    found.push(Violation::Reordered(job(request)));
                }
            }
        }
    }

    fn rough_take_overs(&self) -> usize {
        let rough = |pair: &&[super::Checkpoint]| pair[1].fence != pair[0].fence && !pair[0].gives_back;
        self.checkpoints.windows(2).filter(rough).count()
    }

    fn repeats_are_bounded(&self, rough_take_overs: usize, found: &mut Vec<Violation>) -> usize {
        let rows: HashSet<Option<i64>> = self.records.iter().map(outbox_id).collect();
        let repeats = self.records.len() - rows.len();
        let allowed = match self.delivery {
            Delivery::AtLeastOnce { window } => rough_take_overs * window,
            Delivery::ExactlyOnce => 0,
        };
        if repeats > allowed {
            found.push(Violation::Repeated { repeats, allowed });
        }
        repeats
    }

    /// Else a message would be shown as published, and a crash before the next checkpoint would have it looked for again.
    fn receipts_are_of_what_is_settled(&self, found: &mut Vec<Violation>) {
        for checkpoint in self.checkpoints.iter().filter(|c| !c.settles_its_receipts) {
            found.push(Violation::UnsettledReceipts(checkpoint.seq));
        }
    }

    fn the_log_only_grows(&self, found: &mut Vec<Violation>) {
        for pair in self.checkpoints.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            if b.seq != a.seq + 1 {
                found.push(Violation::LogWentBack(format!("{} comes after {}", b.seq, a.seq)));
            }
            let one_more = b.fence == a.fence + 1;
            if !(one_more || b.fence == a.fence && b.leader == a.leader) {
                found.push(Violation::LogWentBack(format!("{b:?} comes after {a:?}")));
            }
        }
        for pair in self.log_seen.windows(2) {
            let (earlier, later) = (pair[0], pair[1]);
            if later.seq < earlier.seq || later.fence < earlier.fence {
                found.push(Violation::LogWentBack(format!("{later:?} was seen after {earlier:?}")));
            }
        }
    }

    fn status_never_goes_back(&self, found: &mut Vec<Violation>) {
        let mut by_job: HashMap<Uuid, Vec<super::StatusSeen>> = HashMap::new();
        for seen in &self.statuses {
            by_job.entry(seen.job).or_default().push(seen.clone());
        }
        for seen in by_job.values() {
            for later in seen {
                if later.status == "NOT FOUND" {
                    let job = later.job;
                    found.push(Violation::StatusWentBack(format!(
                        "job {job} was answered 202, and then 404"
                    )));
                    continue;
                }
                for earlier in seen.iter().filter(|earlier| earlier.answered < later.asked) {
                    let (now, then) = (rank(&later.status), rank(&earlier.status));
                    let back = now < then || then == 2 && later.status != earlier.status;
                    let unpublished = earlier.message == "published" && later.message != "published";
                    if back || unpublished {
                        let (job, a, b) = (later.job, earlier, later);
                        let of = |s: &super::StatusSeen| format!("{}/{}", s.status, s.message);
                        found.push(Violation::StatusWentBack(format!(
                            "job {job}: {} after {}",
                            of(b),
                            of(a)
                        )));
                    }
                }
            }
        }
    }

    /// A replay that ran to its end: exactly the rows that were named, each once, and a record of each.
    fn replays_send_their_selection(&self, found: &mut Vec<Violation>) {
        let published: HashSet<Option<i64>> = self.records.iter().map(outbox_id).collect();
        for act in &self.acts {
            let OperatorAct::Replay { operation, ids } = act else {
                continue;
            };
            let Some(replay) = self.replays.iter().find(|r| r.operation == *operation) else {
                found.push(Violation::WrongReplay(format!(
                    "{operation} was confirmed and does not exist"
                )));
                continue;
            };
            if replay.state != "done" {
                found.push(Violation::WrongReplay(format!("{operation} is {}", replay.state)));
            }
            let of_replay = |row: &&super::Row| row.replay_id == Some(replay.id);
            let mut sent: Vec<i64> = self
                .rows
                .values()
                .filter(of_replay)
                .filter_map(|r| r.replay_of)
                .collect();
            sent.sort_unstable();
            let mut selected = ids.clone();
            selected.sort_unstable();
            if sent != selected {
                found.push(Violation::WrongReplay(format!(
                    "{operation} wrote {sent:?}, selected were {selected:?}"
                )));
            }
            for (id, row) in self.rows.iter().filter(|(_, row)| row.replay_id == Some(replay.id)) {
                let original = row.replay_of.and_then(|id| self.rows.get(&id));
                if !published.contains(&Some(*id)) {
                    found.push(Violation::WrongReplay(format!(
                        "{operation}: row {id} is not in the topic"
                    )));
                }
                if original.is_none_or(|original| original.event_id != row.event_id) {
                    found.push(Violation::WrongReplay(format!(
                        "{operation}: row {id} has another event id"
                    )));
                }
            }
        }
    }

    fn a_pause_holds(&self, found: &mut Vec<Violation>) {
        let grace = TimeDelta::from_std(self.pause_grace).expect("a short time");
        for act in &self.acts {
            let OperatorAct::Paused { from, to } = act else {
                continue;
            };
            for record in &self.records {
                let at = DateTime::<Utc>::from_timestamp_millis(record.created_ms).unwrap_or_default();
                if at > *from + grace && at < *to {
                    let id = outbox_id(record).unwrap_or_default();
                    let text = format!("row {id} at {at}, paused from {from} to {to}");
                    found.push(Violation::SentWhilePaused(text));
                }
            }
        }
    }
}

/// Of each job, the first record. All of a job's are in one partition.
fn first_appearances(records: &[Record], found: &mut Vec<Violation>) -> HashMap<Uuid, (i32, i64)> {
    let mut first: HashMap<Uuid, (i32, i64)> = HashMap::new();
    for record in records {
        // One that names no job has no row either: that is its own rule.
        let Some(job) = job_of(record) else { continue };
        let at = (record.partition, record.offset);
        let earliest = first.entry(job).or_insert(at);
        if earliest.0 != at.0 {
            found.push(Violation::TwoPartitions(job));
        }
        *earliest = (*earliest).min(at);
    }
    first
}

fn job_of(record: &Record) -> Option<Uuid> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Names {
        job_id: Uuid,
    }
    serde_json::from_slice::<Names>(&record.value)
        .ok()
        .map(|names| names.job_id)
}

fn outbox_id(record: &Record) -> Option<i64> {
    record.headers.get("outbox-id")?.parse().ok()
}

fn rank(status: &str) -> u8 {
    match status {
        "PENDING" => 0,
        "PROCESSING" => 1,
        _ => 2,
    }
}
