//! The operators' commands, each against real data: what it prints, what it changes, how it exits.

mod audit;
mod command_line;
mod dead_letters;
mod doctor;
mod json_shapes;
mod long_log;
mod pause;
mod psql;
mod reads;
mod replays;
mod restore;
mod retain;
mod streams;

use image_job_dispatcher::outbox::replays::{Pace, Which, advance};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::Stage;

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// The JSON on standard output, of a command that has to exit with 0.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        self.any_json()
    }

    /// The JSON on standard output, however the command exited.
    pub fn any_json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The rows of a list.
    pub fn rows(&self) -> Vec<Value> {
        self.json().as_array().expect("an array").clone()
    }

    /// Exited with `code`, and said `word` on standard error.
    pub fn failed(&self, code: i32, word: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains(word), "{word}: {self:?}");
    }
}

/// Runs a command with `--output json`.
pub async fn run(stage: &Stage, arguments: &[&str]) -> Ran {
    let output = stage.run(&[arguments, &["--output", "json"]].concat()).await;
    Ran {
        code: output.status.code().expect("it was not killed"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Writes `count` messages, one a minute up to now, of as many jobs and of `drafts` event drafts in turn.
/// Returns their ids, ascending.
pub async fn insert_messages(pool: &PgPool, count: i64, drafts: &[Uuid], user: Uuid) -> Vec<i64> {
    sqlx::query_scalar(
        "with n as materialized (
             select i, gen_random_uuid() as event, ($2::uuid[])[1 + i % cardinality($2::uuid[])] as draft,
                    clock_timestamp() - make_interval(mins => ($1 - i)::int) as at,
                    uuid7_floor(clock_timestamp()) as day, gen_random_uuid() as random
             from generate_series(1, $1) i
         ), drawn as materialized (
             -- A UUIDv7 of this moment, so that there is a partition for it.
             select n.*, overlay(random::text placing left(day::text, 14) from 1 for 14)::uuid as job from n
         ), m as (
             insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
             select event, job, draft, at, at, convert_to(json_build_object('jobId', job, 'n', i)::text, 'UTF8')
             from drawn order by i
             returning id, job_id, key, created_at
         ), j as (
             insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
             select job_id, $3, key, id, created_at from m
         )
         select id from m order by id",
    )
    .bind(count)
    .bind(drafts)
    .bind(user)
    .fetch_all(pool)
    .await
    .expect("messages")
}

/// Records messages as published, as a leader's checkpoint does: on partition 0, at the offset of their id.
pub async fn settle(pool: &PgPool, ids: &[i64]) {
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled,
                                         receipt_ids, receipt_partitions, receipt_offsets)
         select max(seq) + 1, max(fence) + 1, 'gone/1', clock_timestamp(), 'at-least-once', '{}',
                (select range_agg(int8range(id, id + 1)) from unnest($1) id), $1,
                array_fill(0, array[cardinality($1)]), $1
         from outbox_checkpoints",
    )
    .bind(ids)
    .execute(pool)
    .await
    .expect("a checkpoint");
}

/// Records messages as refused for good: settled, without a receipt, and a dead letter beside each.
pub async fn kill(pool: &PgPool, ids: &[i64], class: &str) {
    sqlx::query(
        "with c as (
             insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled)
             select max(seq) + 1, max(fence) + 1, 'gone/1', clock_timestamp(), 'at-least-once', '{}',
                    (select range_agg(int8range(id, id + 1)) from unnest($1) id)
             from outbox_checkpoints
         )
         insert into outbox_dead_letters (outbox_id, error_class, error)
         select id, $2, 'refused' from unnest($1) id",
    )
    .bind(ids)
    .bind(class)
    .execute(pool)
    .await
    .expect("dead letters");
}

/// Writes the next rows of the replay that is due, as a leader does.
pub async fn step(stage: &Stage) {
    let mut conn = stage.connect().await;
    advance(&mut conn, Which::Due, Pace::Now)
        .await
        .expect("a step")
        .expect("it runs");
}

/// The originals that replays repeat, in the order of the new rows.
pub async fn replayed(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar("select replay_of from outbox_messages where replay_of is not null order by id")
        .fetch_all(pool)
        .await
        .expect("rows")
}

/// The job of a message.
pub async fn job_of(pool: &PgPool, id: i64) -> Uuid {
    sqlx::query_scalar("select job_id from outbox_messages where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .expect("a message")
}
