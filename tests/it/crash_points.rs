//! Every failpoint, hit by a crash in every role that reaches it: nothing is lost, nothing is out of order, and the
//! next start goes on. The list is complete: a test compares it with the sources.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use nix::sys::signal::Signal;
use sqlx::Executor as _;
use uuid::Uuid;

use crate::support::{
    App, PATIENCE, Stage, drafts,
    history::{History, Request},
    load::{Load, Manners},
    token_for,
};

/// Runs at the same time: most of their time they wait for a lease, a poll or a process.
const AT_ONCE: usize = 4;
/// For a failpoint to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(40);

/// What has to happen for a point to be reached, beside load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Load,
    /// Exactly-once mode.
    Transactions,
    /// An outbox id that is drawn and rolled back.
    Hole,
    /// Partitions that are not there.
    NoPartitions,
    /// More ids than half a partition's.
    NextPartition,
    /// Commits whose answers are lost, by another failpoint.
    LostAnswers,
    /// Requests with one key at the same time.
    SameKeys,
    /// `replay create`.
    Replay,
    /// SIGTERM.
    Stop,
}

const API: &[&str] = &["all", "api"];
const RELAY: &[&str] = &["all", "relay"];
/// Where another replica leads.
const ELSEWHERE: &[&str] = &["api"];

/// Name, roles that reach it, what that needs.
pub const POINTS: &[(&str, &[&str], Needs)] = &[
    ("intake.find", API, Needs::Load),
    ("intake.cache.before", API, Needs::Load),
    ("intake.cache.after", API, Needs::Load),
    ("intake.insert.before", API, Needs::Load),
    ("intake.insert.after", API, Needs::Load),
    ("intake.partition.before", API, Needs::NoPartitions),
    ("intake.partition.after", API, Needs::NoPartitions),
    ("intake.find_answer", API, Needs::SameKeys),
    ("intake.repeat.before", API, Needs::LostAnswers),
    ("intake.repeat.after", API, Needs::LostAnswers),
    ("intake.notify", ELSEWHERE, Needs::Load),
    ("relay.take_over.before", RELAY, Needs::Load),
    ("relay.take_over.after", RELAY, Needs::Load),
    ("relay.start.partitions", RELAY, Needs::Load),
    ("relay.start.position", RELAY, Needs::Load),
    ("relay.start.identity", RELAY, Needs::Load),
    ("relay.start.producer", RELAY, Needs::Load),
    ("relay.start.transactions.before", RELAY, Needs::Transactions),
    ("relay.start.transactions.after", RELAY, Needs::Transactions),
    ("relay.start.tail.before", RELAY, Needs::Load),
    ("relay.start.tail.after", RELAY, Needs::Load),
    ("relay.start.settle", RELAY, Needs::Load),
    ("relay.start.base.before", RELAY, Needs::Load),
    ("relay.start.base.after", RELAY, Needs::Load),
    ("relay.lead", RELAY, Needs::Load),
    ("relay.read.before", RELAY, Needs::Load),
    ("relay.read.after", RELAY, Needs::Load),
    ("relay.poll.before", RELAY, Needs::Load),
    ("relay.poll.after", RELAY, Needs::Load),
    ("relay.look", RELAY, Needs::Hole),
    ("relay.hand_over.before", RELAY, Needs::Load),
    ("relay.hand_over.after", RELAY, Needs::Load),
    ("relay.reports", RELAY, Needs::Load),
    ("relay.checkpoint.before", RELAY, Needs::Load),
    ("relay.checkpoint.after", RELAY, Needs::Load),
    ("relay.commit.before", RELAY, Needs::Transactions),
    ("relay.commit.after", RELAY, Needs::Transactions),
    ("relay.wind_down", RELAY, Needs::Stop),
    ("relay.give_back", RELAY, Needs::Stop),
    ("relay.partitions.before", RELAY, Needs::NextPartition),
    ("relay.partitions.after", RELAY, Needs::NextPartition),
    ("replay.commit.before", RELAY, Needs::Replay),
    ("replay.commit.after", RELAY, Needs::Replay),
];

#[test]
fn the_list_of_failpoints_is_that_of_the_sources() {
    let mut in_sources = BTreeSet::new();
    for (file, text) in crate::house::files("src", "rs") {
        if file.ends_with("failpoint.rs") {
            continue;
        }
        for (at, call) in text.match_indices("failpoint!(") {
            // On a line of its own where the call is long.
            let Some(name) = text[at + call.len()..].trim_start().strip_prefix('"') else {
                continue;
            };
            let name = name.split('"').next().expect("a name").to_owned();
            assert!(in_sources.insert(name.clone()), "{name} is there twice");
        }
    }
    let listed: BTreeSet<String> = POINTS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(in_sources, listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_each_failpoint_that_is_reached_in_every_role_loses_nothing() {
    // `POINT=relay.start`: those only.
    let wanted = std::env::var("POINT").unwrap_or_default();
    let cases: Vec<_> = POINTS
        .iter()
        .filter(|(name, ..)| name.starts_with(&wanted))
        .flat_map(|(name, roles, needs)| roles.iter().map(move |role| (*name, *role, *needs)))
        .collect();
    let total = cases.len();
    let mut done = stream::iter(cases)
        .map(|(name, role, needs)| async move { (name, role, crash_at(name, role, needs).await) })
        .buffer_unordered(AT_ONCE);
    let mut reached = 0;
    while let Some((name, role, jobs)) = done.next().await {
        reached += 1;
        println!("{reached}/{total} {name}, role {role}: crashed there, {jobs} jobs, none lost");
    }
    assert_eq!(reached, total);
}

/// Crashes a replica of the role at the point, under load; another one goes on. Gives the jobs accepted.
async fn crash_at(point: &str, role: &str, needs: Needs) -> usize {
    let stage = stage_for(needs).await;
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 10).await;
    // Accepts, or relays, in the place of a role that does not.
    let beside = match role {
        // It has no public listener to be ready.
        "api" => Some(stage.spawn_app(&["--role", "relay"], &[])),
        "relay" => Some(stage.app_with(&["--role", "api"], &[]).await),
        _ => None,
    };
    let faults = match needs {
        Needs::LostAnswers => format!("intake.insert.after=return(error);{point}=return(crash)"),
        _ => format!("{point}=return(crash)"),
    };
    let crashing = stage.spawn_app_with_failpoints(&["--role", role], &faults);
    let accepts = if role == "relay" { beside.as_ref() } else { None }.unwrap_or(&crashing);
    if needs == Needs::NoPartitions {
        drop_partitions(&stage).await;
    }
    let manners = Manners {
        pause: Duration::from_millis(5),
        keyed_every: 2,
    };
    let load = Load::start_with(&[&accepts.base_url], &token, &drafts, 4, manners);
    let same_keys = bring_about(needs, &stage, &crashing, (&token, drafts[0])).await;
    has_crashed(&crashing, point).await;

    let next = stage.app().await;
    load.aim_at(&next.base_url);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut requests = load.stop().await;
    requests.extend(same_keys);
    stage.drained().await;
    let history = History::gather(&stage, requests).await;
    let (kept, violations) = history.check();
    assert!(
        violations.is_empty(),
        "{point}, role {role}: {}",
        crate::support::history::show(&violations)
    );
    kept.accepted
}

async fn stage_for(needs: Needs) -> Stage {
    let stage = Stage::new().await.set("relay.lease", "1s").set("shutdown.budget", "6s");
    match needs {
        Needs::Transactions => stage.set("relay.delivery", "exactly-once"),
        Needs::NextPartition => {
            // Where what `migrate` has made ends, less than half a partition of this replica's size is left.
            let near_the_end = "do $$ declare near bigint; begin
                select max(substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \\(''(\\d+)''\\)')::bigint) - 1100 into near
                from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'outbox_messages'::regclass;
                perform setval('outbox_messages_id_seq', near);
                insert into outbox_checkpoints
                    (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
                select 1, 0, 'nobody/', '-infinity', 'at-least-once', '{}', settled, settled
                from (select int8multirange(int8range(1, near + 1)) as settled) passed;
                end $$";
            stage.pool.execute(near_the_end).await.expect("a base");
            stage.set("outbox.partition_rows", "1000")
        }
        _ => stage,
    }
}

/// Does what the point needs beside load. Gives the requests that it sent for that.
async fn bring_about(needs: Needs, stage: &Stage, app: &App, (token, draft): (&str, Uuid)) -> Vec<Request> {
    match needs {
        Needs::Load | Needs::Transactions | Needs::LostAnswers | Needs::NoPartitions => {}
        Needs::NextPartition => {
            stage.led().await;
            // As if so many ids had been drawn and rolled back: past every partition that a start makes ahead.
            let near_the_end = "select setval('outbox_messages_id_seq', last_value + 3000) from outbox_messages_id_seq";
            stage.pool.execute(near_the_end).await.expect("set");
        }
        Needs::Hole => {
            let mut slow = stage.connect().await;
            // The leader looks only at holes that outlive a few reads.
            slow.execute("begin; select nextval('outbox_messages_id_seq')")
                .await
                .expect("an id");
            let give_up = Instant::now() + REACHED_WITHIN;
            while app.exit_status().is_none() && Instant::now() < give_up {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            slow.execute("rollback").await.expect("rolled back");
        }
        Needs::SameKeys => return same_keys(app, token, draft).await,
        Needs::Replay => {
            published(stage).await;
            let id: i64 = sqlx::query_scalar("select min(id) from outbox_messages")
                .fetch_one(&stage.pool)
                .await
                .expect("an id");
            let done = stage
                .run(&["replay", "create", "--id", &id.to_string(), "--reason", "x", "--yes"])
                .await;
            assert!(done.status.success(), "{done:?}");
        }
        Needs::Stop => {
            published(stage).await;
            app.term();
        }
    }
    Vec::new()
}

/// Drops the partitions of jobs, once a leader has made them: it looks after them again in ten minutes.
async fn drop_partitions(stage: &Stage) {
    stage.led().await;
    let drop_all = "do $$ declare p regclass; begin
        for p in select inhrelid::regclass from pg_inherits where inhparent = 'jobs'::regclass loop
            execute format('drop table %s', p);
        end loop; end $$";
    stage.pool.execute(drop_all).await.expect("dropped");
}

/// Until the relay has published something.
async fn published(stage: &Stage) {
    crate::support::eventually("something is published", PATIENCE, async || {
        let published: i64 = sqlx::query_scalar("select published from outbox_overview")
            .fetch_one(&stage.pool)
            .await
            .expect("the overview");
        if published > 5 { Ok(()) } else { Err(published) }
    })
    .await;
}

/// Bursts of requests with one key each, until the service is gone: those in one batch meet in its statement.
async fn same_keys(app: &App, token: &str, draft: Uuid) -> Vec<Request> {
    let mut requests = Vec::new();
    let give_up = Instant::now() + REACHED_WITHIN;
    while app.exit_status().is_none() && Instant::now() < give_up {
        let key = Uuid::new_v4().to_string();
        let burst = (0..8).map(|_| crate::support::load::send(&app.http, &app.base_url, token, draft, Some(&key)));
        requests.extend(futures_util::future::join_all(burst).await);
    }
    requests
}

async fn has_crashed(app: &App, point: &str) {
    let status = app.wait_for_exit(REACHED_WITHIN).await;
    assert_eq!(
        status.signal(),
        Some(Signal::SIGABRT as i32),
        "{point} was not reached: {status}; {}",
        app.log()
    );
}
