//! The checker is itself tested: a good history passes, and each rule is proved by one that breaks it.

use std::{sync::OnceLock, time::Instant};

use chrono::TimeDelta;

use super::*;

static START: OnceLock<Instant> = OnceLock::new();

fn at(second: u64) -> Instant {
    *START.get_or_init(Instant::now) + Duration::from_secs(second)
}

fn request(draft: Uuid, outcome: Outcome, sent: u64, answered: u64) -> Request {
    Request {
        draft,
        key: None,
        sent: at(sent),
        answered: at(answered),
        outcome,
    }
}

/// Of job `n` of [`good`], at the offset of its row's id.
fn record(history: &History, id: i64, offset: i64) -> Record {
    let row = &history.rows[&id];
    let mut headers: BTreeMap<String, String> = [
        ("outbox-id".to_owned(), id.to_string()),
        ("ce_id".to_owned(), row.event_id.to_string()),
    ]
    .into();
    headers.extend(row.replay_id.map(|id| ("replay-id".to_owned(), id.to_string())));
    Record {
        partition: 0,
        offset,
        created_ms: 1_790_000_000_000,
        key: row.key.to_string(),
        value: format!("{{\"jobId\":\"{}\"}}", row.job_id).into_bytes(),
        headers,
    }
}

fn checkpoint(seq: i64, fence: i64, gives_back: bool) -> Checkpoint {
    Checkpoint {
        seq,
        fence,
        leader: format!("replica/{fence}"),
        gives_back,
        settles_its_receipts: true,
    }
}

/// Two jobs of one draft, asked for one after the other; each in the topic once. Another request was refused.
fn good() -> (History, [Uuid; 2]) {
    let (draft, a, b) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let row = |job_id| Row {
        event_id: Uuid::new_v4(),
        job_id,
        key: draft,
        replay_of: None,
        replay_id: None,
    };
    let mut history = History {
        requests: vec![
            request(draft, Outcome::Accepted(a), 0, 1),
            request(draft, Outcome::Refused(503), 1, 2),
            request(draft, Outcome::Accepted(b), 2, 3),
        ],
        records: Vec::new(),
        jobs: [(a, draft), (b, draft)].into(),
        rows: [(1, row(a)), (2, row(b))].into(),
        dead: HashSet::new(),
        pending: 0,
        checkpoints: vec![
            checkpoint(0, 0, true),
            checkpoint(1, 1, false),
            checkpoint(2, 1, true),
            checkpoint(3, 2, false),
        ],
        replays: Vec::new(),
        statuses: Vec::new(),
        log_seen: Vec::new(),
        acts: Vec::new(),
        delivery: Delivery::AtLeastOnce { window: 2 },
        pause_grace: Duration::from_secs(1),
    };
    history.records = vec![record(&history, 1, 0), record(&history, 2, 1)];
    (history, [a, b])
}

fn breaks(history: &History, expected: &[&str]) {
    let (_, violations) = history.check();
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for word in expected {
        assert!(said.iter().any(|s| s.contains(word)), "{word} in {said:?}");
    }
}

#[test]
fn a_good_history_passes() {
    let kept = good().0.kept();
    assert_eq!((kept.accepted, kept.records, kept.repeats, kept.dead), (2, 2, 0, 0));
    assert_eq!(kept.rough_take_overs, 0, "both leases were given back");
}

#[test]
fn a_lost_job_is_noticed_and_a_dead_letter_is_none() {
    let (mut history, _) = good();
    history.records.pop();
    breaks(&history, &["neither in the topic nor a dead letter"]);
    history.dead.insert(2);
    assert_eq!(history.kept().dead, 1);
}

#[test]
fn a_record_of_no_row_is_noticed_whatever_of_it_is_wrong() {
    let spoil: [fn(&mut Record); 5] = [
        |r| drop(r.headers.insert("outbox-id".to_owned(), "7".to_owned())),
        |r| drop(r.headers.insert("ce_id".to_owned(), Uuid::new_v4().to_string())),
        |r| drop(r.headers.insert("replay-id".to_owned(), Uuid::new_v4().to_string())),
        |r| r.key = Uuid::new_v4().to_string(),
        |r| drop(r.headers.remove("outbox-id")),
    ];
    for spoil in spoil {
        let (mut history, _) = good();
        let mut extra = record(&history, 2, 2);
        spoil(&mut extra);
        history.delivery = Delivery::AtLeastOnce { window: 100 };
        history.checkpoints[2].gives_back = false;
        history.records.push(extra);
        breaks(&history, &["without an accepted row"]);
    }
    let (mut history, [_, b]) = good();
    history.jobs.remove(&b);
    breaks(&history, &["without an accepted row"]);
}

#[test]
fn a_job_of_a_refused_request_is_noticed_and_one_of_an_ambiguous_one_may_be() {
    let (mut history, _) = good();
    history.requests[2].outcome = Outcome::Refused(503);
    breaks(&history, &["no request of its draft may have made it"]);
    history.requests[2].outcome = Outcome::Ambiguous;
    history.kept();
    // One request of unknown outcome accounts for one job.
    history.requests.remove(0);
    breaks(&history, &["no request of its draft may have made it"]);
}

#[test]
fn a_key_with_two_jobs_is_noticed_and_a_repeat_is_not() {
    let (mut history, _) = good();
    history.requests[0].key = Some("k".to_owned());
    history.requests[2].key = Some("k".to_owned());
    breaks(&history, &["two jobs were made under the key"]);
    let (mut history, _) = good();
    history.requests[0].key = Some("k".to_owned());
    let mut again = history.requests[0].clone();
    (again.sent, again.answered) = (at(5), at(6));
    history.requests.push(again);
    history.kept();
}

#[test]
fn a_broken_order_is_noticed_and_requests_that_overlapped_have_none() {
    let (mut history, _) = good();
    history.records = vec![record(&history, 2, 0), record(&history, 1, 1)];
    breaks(&history, &["in front of one that was answered before"]);
    history.requests[2].sent = at(0);
    history.kept();
}

#[test]
fn a_job_in_two_partitions_is_noticed() {
    let (mut history, _) = good();
    history.checkpoints[2].gives_back = false;
    let mut again = record(&history, 2, 5);
    again.partition = 3;
    history.records.push(again);
    breaks(&history, &["two partitions"]);
}

#[test]
fn repeats_are_counted_and_bounded_by_the_window_of_each_take_over_that_was_not_handed_over() {
    let (mut history, _) = good();
    for offset in 2..4 {
        history.records.push(record(&history, 1, offset));
    }
    breaks(&history, &["2 records are repeats, 0 are allowed"]);
    history.checkpoints[2].gives_back = false;
    assert_eq!(history.kept().repeats, 2);
    history.records.push(record(&history, 2, 4));
    breaks(&history, &["3 records are repeats, 2 are allowed"]);
    history.records.truncate(3);
    history.delivery = Delivery::ExactlyOnce;
    breaks(&history, &["1 records are repeats, 0 are allowed"]);
}

#[test]
fn a_checkpoint_that_is_missing_and_a_fence_that_goes_back_are_noticed() {
    let (mut history, _) = good();
    history.checkpoints.remove(2);
    breaks(&history, &["3 comes after 1"]);
    let (mut history, _) = good();
    history.checkpoints.push(checkpoint(4, 1, false));
    breaks(&history, &["the checkpoints: "]);
    // A zombie's row, under the fence of the one that took over.
    let (mut history, _) = good();
    history.checkpoints.push(Checkpoint {
        leader: "zombie/1".to_owned(),
        ..checkpoint(4, 2, false)
    });
    breaks(&history, &["the checkpoints: "]);
}

#[test]
fn a_receipt_of_an_id_that_its_checkpoint_does_not_settle_is_noticed() {
    let (mut history, _) = good();
    history.checkpoints[2].settles_its_receipts = false;
    breaks(&history, &["checkpoint 2 has receipts"]);
}

#[test]
fn a_log_that_was_seen_to_shrink_is_noticed() {
    let (mut history, _) = good();
    history.log_seen = vec![LogSeen { seq: 5, fence: 2 }, LogSeen { seq: 7, fence: 2 }];
    history.kept();
    history.log_seen.push(LogSeen { seq: 6, fence: 2 });
    history.log_seen.push(LogSeen { seq: 6, fence: 1 });
    breaks(&history, &["seq: 6, fence: 2", "seq: 6, fence: 1"]);
}

#[test]
fn a_status_that_goes_back_is_noticed_unless_the_answers_overlapped() {
    let (mut history, [job, _]) = good();
    let seen = |asked, answered, status: &str, message: &str| StatusSeen {
        job,
        asked: at(asked),
        answered: at(answered),
        status: status.to_owned(),
        message: message.to_owned(),
    };
    history.statuses = vec![
        seen(0, 1, "PENDING", "pending"),
        seen(2, 3, "PROCESSING", "published"),
        seen(2, 4, "PENDING", "pending"),
        seen(5, 6, "COMPLETED", "published"),
    ];
    history.kept();
    for (status, message) in [
        ("PROCESSING", "published"),
        ("FAILED", "published"),
        ("COMPLETED", "pending"),
        ("NOT FOUND", ""),
    ] {
        let mut back = history.clone();
        back.statuses.push(seen(7, 8, status, message));
        let (_, violations) = back.check();
        assert!(!violations.is_empty(), "{status} {message}");
        assert!(violations.iter().all(|v| matches!(v, Violation::StatusWentBack(_))));
    }
}

/// [`good`] with a replay of its first row, done.
fn replayed() -> History {
    let (mut history, _) = good();
    let id = Uuid::new_v4();
    history.replays.push(ReplayRow {
        id,
        operation: "op".to_owned(),
        state: "done".to_owned(),
    });
    let copy = Row {
        replay_of: Some(1),
        replay_id: Some(id),
        ..history.rows[&1].clone()
    };
    history.rows.insert(3, copy);
    history.records.push(record(&history, 3, 2));
    history.acts.push(OperatorAct::Replay {
        operation: "op".to_owned(),
        ids: vec![1],
    });
    history
}

#[test]
fn a_replay_that_sends_its_selection_passes_and_is_no_repeat() {
    assert_eq!(replayed().kept().repeats, 0);
}

#[test]
fn a_replay_that_sends_less_more_or_something_else_is_noticed() {
    let mut less = replayed();
    less.acts[0] = OperatorAct::Replay {
        operation: "op".to_owned(),
        ids: vec![1, 2],
    };
    breaks(&less, &["wrote [1], selected were [1, 2]"]);
    let mut more = replayed();
    more.acts[0] = OperatorAct::Replay {
        operation: "op".to_owned(),
        ids: vec![],
    };
    breaks(&more, &["wrote [1], selected were []"]);
    let mut unsent = replayed();
    unsent.records.pop();
    breaks(&unsent, &["row 3 is not in the topic"]);
    let mut renamed = replayed();
    renamed.rows.get_mut(&3).expect("the copy").event_id = Uuid::new_v4();
    renamed.records.pop();
    let again = record(&renamed, 3, 2);
    renamed.records.push(again);
    breaks(&renamed, &["another event id"]);
    let mut gone = replayed();
    gone.replays[0].operation = "other".to_owned();
    breaks(&gone, &["was confirmed and does not exist"]);
    let mut stuck = replayed();
    stuck.replays[0].state = "running".to_owned();
    breaks(&stuck, &["op is running"]);
}

#[test]
fn a_record_handed_over_in_a_pause_is_noticed_after_its_grace() {
    let (mut history, _) = good();
    let sent = DateTime::from_timestamp_millis(1_790_000_000_000).expect("an instant");
    let paused = |before: i64, after: i64| OperatorAct::Paused {
        from: sent - TimeDelta::seconds(before),
        to: sent + TimeDelta::seconds(after),
    };
    history.acts = vec![paused(1, 5), paused(9, -1)];
    history.kept();
    history.acts = vec![paused(2, 5)];
    breaks(&history, &["row 1 at", "row 2 at"]);
}

#[test]
fn what_still_waits_is_noticed() {
    let (mut history, _) = good();
    history.pending = 3;
    breaks(&history, &["3 messages are still pending"]);
}
