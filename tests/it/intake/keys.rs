//! Idempotency keys: one job for a key, whatever happens at the same time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use image_job_dispatcher::jobs::{AcceptError, Accepted};
use sqlx::Connection;
use uuid::Uuid;

use super::{Ground, accept_all};
use crate::support::drafts;

#[tokio::test]
async fn parallel_repeats_on_two_replicas_make_one_job() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let replicas = [ground.intake(), ground.intake()];
    for round in 0..20 {
        let key = format!("round {round}");
        let requests = || (0..40).map(|_| ground.keyed(draft, &key));
        let (a, b) = tokio::join!(
            accept_all(&replicas[0], requests()),
            accept_all(&replicas[1], requests())
        );
        let answers: Vec<Accepted> = a.into_iter().chain(b).map(Result::unwrap).collect();
        assert!(
            answers.iter().all(|answer| answer.job_id == answers[0].job_id),
            "one job"
        );
        let first = answers.iter().filter(|answer| !answer.replayed).count();
        assert_eq!(first, 1, "one of them was the first");
    }
    assert_eq!(ground.count("jobs").await, 20);
    assert_eq!(ground.count("outbox_messages").await, 20);
    ground.stop().await;
}

#[tokio::test]
async fn many_keys_in_opposite_orders_never_deadlock() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 120).await;
    let replicas = [ground.intake(), ground.intake()];
    let keyed = |id: &Uuid| ground.keyed(*id, &id.to_string());
    let (a, b) = tokio::join!(
        accept_all(&replicas[0], draft_ids.iter().map(keyed)),
        accept_all(&replicas[1], draft_ids.iter().rev().map(keyed)),
    );
    for (a, b) in a.into_iter().zip(b.into_iter().rev()) {
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.job_id, b.job_id);
        assert_ne!(a.replayed, b.replayed);
    }
    assert_eq!(ground.count("jobs").await, 120);
    ground.stop().await;
}

#[tokio::test]
async fn a_replay_outlives_the_draft_and_another_draft_is_refused() {
    let ground = Ground::new().await;
    let (draft, other) = (ground.draft().await, ground.draft().await);
    let intake = ground.intake();
    let first = intake.accept(ground.keyed(draft, "k")).await.unwrap();
    let replay = Ok(Accepted {
        job_id: first.job_id,
        replayed: true,
    });
    assert_eq!(intake.accept(ground.keyed(draft, "k")).await, replay);

    ground
        .run("update event_drafts set title = '', selected_recommendation_id = null")
        .await;
    assert_eq!(intake.accept(ground.keyed(draft, "k")).await, replay);
    ground.run("delete from event_drafts").await;
    assert_eq!(intake.accept(ground.keyed(draft, "k")).await, replay);

    assert_eq!(
        intake.accept(ground.keyed(other, "k")).await,
        Err(AcceptError::KeyReused)
    );
    let mut stranger = ground.keyed(draft, "k");
    stranger.user_id = Uuid::new_v4();
    assert_eq!(
        intake.accept(stranger).await,
        Err(AcceptError::NotFound),
        "a key is its user's own"
    );
    ground.stop().await;
}

/// Another replica's transaction that has inserted the key and not ended.
async fn hold_key(ground: &Ground, draft: Uuid, key: &str) -> (sqlx::PgConnection, Uuid) {
    let mut holder = ground.stage.connect().await;
    let job_id = Uuid::now_v7();
    sqlx::raw_sql("begin").execute(&mut holder).await.unwrap();
    sqlx::query("insert into idempotency_keys values ($1, $2, $3, $4, now())")
        .bind(ground.user)
        .bind(key)
        .bind(draft)
        .bind(job_id)
        .execute(&mut holder)
        .await
        .unwrap();
    (holder, job_id)
}

#[tokio::test]
async fn a_key_that_is_held_is_waited_for_five_seconds_and_holds_up_nobody_else() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let intake = ground.intake();
    let (holder, _) = hold_key(&ground, draft, "held").await;
    let began = Instant::now();
    let repeats = accept_all(&intake, (0..3).map(|_| ground.keyed(draft, "held")));
    let others = async {
        for _ in 0..20 {
            let began = Instant::now();
            accept_all(&intake, (0..10).map(|_| ground.request(draft)))
                .await
                .into_iter()
                .for_each(|answer| assert!(answer.is_ok()));
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "held up for {:?}",
                began.elapsed()
            );
        }
    };
    let (repeats, ()) = tokio::join!(repeats, others);
    assert_eq!(repeats, vec![Err(AcceptError::KeyInProgress); 3]);
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_millis(4_500) && waited < Duration::from_secs(8),
        "{waited:?}"
    );
    holder.close().await.unwrap();
    ground.stop().await;
}

#[tokio::test]
async fn many_repeats_of_a_held_key_are_told_in_time_and_hold_up_no_other_key() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let intake = ground.intake();
    let (holder, _) = hold_key(&ground, draft, "held").await;
    let began = Instant::now();
    let timed = async |request| {
        let answer = intake.accept(request).await;
        (answer, began.elapsed())
    };
    // Handed in at once, so they are of the same batches, and the free keys stand behind the held one.
    let (held, free) = tokio::join!(
        join_all((0..16).map(|_| timed(ground.keyed(draft, "held")))),
        join_all((0..10).map(|n| timed(ground.keyed(draft, &format!("free {n}")))))
    );
    for (answer, waited) in free {
        assert!(answer.is_ok(), "{answer:?} after {waited:?}");
        assert!(waited < Duration::from_secs(4), "accepted after {waited:?}");
    }
    for (answer, waited) in held {
        assert_eq!(answer, Err(AcceptError::KeyInProgress), "after {waited:?}");
        assert!(
            waited > Duration::from_millis(4_500) && waited < Duration::from_secs(8),
            "{waited:?}"
        );
    }
    holder.close().await.unwrap();
    ground.stop().await;
}

#[tokio::test]
async fn a_held_key_is_answered_as_its_holder_ends() {
    let ground = Ground::new().await;
    let (draft, other) = (ground.draft().await, ground.draft().await);
    let intake = ground.intake();
    for (key, end, draft_of_repeat) in [("a", "commit", draft), ("b", "commit", other), ("c", "rollback", draft)] {
        let (mut holder, job_id) = hold_key(&ground, draft, key).await;
        let repeat = intake.accept(ground.keyed(draft_of_repeat, key));
        let finish = async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            sqlx::raw_sql(end).execute(&mut holder).await.unwrap();
        };
        let (answer, ()) = tokio::join!(repeat, finish);
        match key {
            "a" => assert_eq!(answer, Ok(Accepted { job_id, replayed: true })),
            "b" => assert_eq!(answer, Err(AcceptError::KeyReused)),
            _ => assert!(!answer.unwrap().replayed, "rolled back: the repeat is the first"),
        }
    }
    assert_eq!(ground.count("jobs").await, 1);
    ground.stop().await;
}
