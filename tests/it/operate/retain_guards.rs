//! What retention keeps because nothing says yet that it was published.

use chrono::{TimeDelta, Utc};
use image_job_dispatcher::outbox::partitions;
use uuid::Uuid;

use super::{insert_messages, settle};
use crate::support::Stage;

/// The partitions with so many rows that a round would drop, by the names of their tables.
async fn droppable(stage: &Stage, rows: i64) -> Vec<String> {
    let everything_is_old = partitions::Before {
        messages: Utc::now() + TimeDelta::days(2),
        jobs: Utc::now() + TimeDelta::days(2),
    };
    let mut conn = stage.connect().await;
    let dropped = partitions::drop_settled(&mut conn, everything_is_old, true).await;
    let with_rows = dropped.expect("a plan").into_iter().filter(|d| d.rows == rows);
    let mut tables: Vec<_> = with_rows
        .map(|d| d.partition.rsplit_once('_').expect("a name").0.to_owned())
        .collect();
    tables.sort_unstable();
    tables
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stays_until_its_message_is_settled_and_a_message_until_its_receipt_is_there() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[..2]).await;
    assert_eq!(droppable(&stage, 3).await, [""; 0], "one waits");
    // All ids of the partition are used up, and of the third nobody says where it is.
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
         select max(seq) + 1, max(fence), 'gone/1', clock_timestamp(), 'at-least-once', '{}', '{[1,1000001)}',
                int8multirange(int8range($1, 1000001))
         from outbox_checkpoints",
    )
    .bind(all[2] + 1)
    .execute(&stage.pool)
    .await
    .expect("a base");
    assert_eq!(droppable(&stage, 3).await, ["jobs"], "a receipt is missing");
    settle(&stage.pool, &all[2..]).await;
    assert_eq!(droppable(&stage, 3).await, ["jobs", "outbox_messages"]);
}
