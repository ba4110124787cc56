//! What retention keeps because somebody still has to decide about it.

use chrono::{TimeDelta, Utc};
use image_job_dispatcher::outbox::partitions;
use uuid::Uuid;

use super::{insert_messages, kill, run, settle};
use crate::support::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn partitions_stay_as_long_as_nobody_has_decided_about_a_dead_letter_in_them() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[1..]).await;
    kill(&stage.pool, &all[..1], "invalid-record").await;
    // As if all ids of the first partition were used up.
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
         select max(seq) + 1, max(fence), 'gone/1', clock_timestamp(), 'at-least-once', '{}', '{[1,1000001)}', '{[4,1000001)}'
         from outbox_checkpoints",
    )
    .execute(&stage.pool)
    .await
    .expect("a base");
    let mut conn = stage.connect().await;
    let mut droppable = async || {
        let everything_is_old = Utc::now() + TimeDelta::days(2);
        let dropped = partitions::drop_settled(&mut conn, everything_is_old, true).await;
        let with_rows = dropped.expect("a plan").into_iter().filter(|d| d.rows == 3);
        let mut tables: Vec<_> = with_rows
            .map(|d| d.partition.rsplit_once('_').expect("a name").0.to_owned())
            .collect();
        tables.sort_unstable();
        tables
    };
    assert_eq!(droppable().await, Vec::<String>::new());
    let id = all[0].to_string();
    let discarded = run(&stage, &["dead", "discard", &id, "--reason", "withdrawn", "--yes"]).await;
    assert_eq!(discarded.code, 0, "{discarded:?}");
    assert_eq!(droppable().await, ["jobs", "outbox_messages"]);
}
