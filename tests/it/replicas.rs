//! Two replicas: both accept, one relays.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{
    App, Stage, drafts, eventually,
    history::History,
    load::{Load, accept},
    token_for,
};

const LEASE: Duration = Duration::from_secs(3);

async fn leader(stage: &Stage) -> String {
    eventually("somebody leads", Duration::from_secs(30), async || {
        let leader: Option<String> = sqlx::query_scalar("select leader from outbox_overview")
            .fetch_one(&stage.pool)
            .await
            .expect("overview");
        leader.ok_or("nobody")
    })
    .await
}

async fn two(stage: &Stage) -> (App, App) {
    let (a, b) = (stage.app().await, stage.app().await);
    if leader(stage).await == a.name { (a, b) } else { (b, a) }
}

/// What of a take-over PostgreSQL's clock says, in seconds.
struct TakenOver {
    /// Between the last sign of life of the former leader and the first of the next.
    lease: f64,
    /// From there to the first receipt of the next.
    receipt: f64,
}

/// Waits until another leader than that of `fence` has published.
async fn taken_over(stage: &Stage, fence: i64) -> TakenOver {
    eventually(
        "the other one has taken over and published",
        Duration::from_secs(30),
        async || {
            let seen: (Option<f64>, Option<f64>) = sqlx::query_as(
                "select extract(epoch from min(created_at) filter (where fence > $1)
                                         - max(created_at) filter (where fence = $1))::float8,
                        extract(epoch from min(created_at) filter (where fence > $1 and cardinality(receipt_ids) > 0)
                                         - min(created_at) filter (where fence > $1))::float8
                 from outbox_checkpoints",
            )
            .bind(fence)
            .fetch_one(&stage.pool)
            .await
            .expect("checkpoints");
            match seen {
                (Some(lease), Some(receipt)) => Ok(TakenOver { lease, receipt }),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await
}

async fn newest_fence(stage: &Stage) -> i64 {
    sqlx::query_scalar("select max(fence) from outbox_checkpoints")
        .fetch_one(&stage.pool)
        .await
        .expect("checkpoints")
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_the_other_leads_within_the_lease_and_a_second() {
    let stage = Stage::new().await.set("relay.lease", "3s");
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 50).await;
    let (leading, standby) = two(&stage).await;
    // Both accept; what the standby accepts the leader publishes.
    let mut requests = Vec::new();
    for app in [&leading, &standby] {
        requests.push(accept(app, drafts[0], &token).await);
    }
    stage.records(2).await;

    let load = Load::start(&standby.base_url, &token, &drafts, 8);
    let fence = newest_fence(&stage).await;
    leading.kill();
    let TakenOver { lease, receipt } = taken_over(&stage, fence).await;
    println!("lease taken after {lease:.3} s, first receipt {receipt:.3} s later, of a lease of {LEASE:?}");
    assert!(lease <= (LEASE + Duration::from_secs(1)).as_secs_f64(), "{lease} s");
    requests.extend(load.stop().await);
    stage.drained().await;
    History::gather(&stage, requests).await.kept();
    assert_eq!(leader(&stage).await, standby.name);
}

/// What a leader says that finds its checkpoint's number taken.
const LOST: &str = "another replica has taken the lease over";

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_past_its_lease_stops_at_its_first_checkpoint_and_nothing_is_lost() {
    // Less than what is accepted meanwhile.
    const WINDOW: usize = 64;
    let stage = Stage::new().await.set("relay.window", &WINDOW.to_string());
    let repeats = freeze_the_leader(stage, &[LOST]).await;
    assert!(repeats <= WINDOW, "{repeats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_past_its_lease_repeats_nothing_in_exactly_once_mode() {
    let stage = Stage::new().await.set("relay.delivery", "exactly-once");
    // By its checkpoint or by Kafka; or it doubts a commit that was on its way, and then finds who leads.
    let repeats = freeze_the_leader(stage, &[LOST, "the relay begins again"]).await;
    assert_eq!(repeats, 0);
}

/// Freezes the leader under load until the other one leads, and wakes it: its log has one of `noticed` then.
/// Nothing is lost; gives the repeats.
async fn freeze_the_leader(stage: Stage, noticed: &[&str]) -> usize {
    let stage = stage.set("relay.lease", "1s");
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 50).await;
    let (leading, standby) = two(&stage).await;
    let load = Load::start(&standby.base_url, &token, &drafts, 16);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let fence = newest_fence(&stage).await;
    leading.freeze();
    taken_over(&stage, fence).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    leading.thaw();
    eventually("the woken one notices", Duration::from_secs(30), async || {
        let log = leading.log();
        if noticed.iter().any(|line| log.contains(*line)) {
            Ok(())
        } else {
            Err(log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
        }
    })
    .await;
    let log = leading.log();
    let said = log.lines().rfind(|line| noticed.iter().any(|n| line.contains(*n)));
    println!("{}", said.unwrap_or_default());
    let requests = load.stop().await;
    stage.drained().await;
    // Of the log's numbers and fences too: the woken one wrote nothing.
    let delivered = History::gather(&stage, requests).await.kept();
    println!("{} jobs, {} repeats", delivered.accepted, delivered.repeats);
    assert_eq!(leader(&stage).await, standby.name);
    delivered.repeats
}
