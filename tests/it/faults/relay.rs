//! The relay: several of them, kills at the worst moments, stops in every state, a long backlog.

use std::time::{Duration, Instant};

use super::Someone;
use crate::support::{
    App, PATIENCE, Stage, eventually,
    history::History,
    load::{Load, Manners},
};

async fn leader(stage: &Stage) -> String {
    eventually("somebody leads", PATIENCE, async || {
        let leader: Option<String> = sqlx::query_scalar("select leader from outbox_overview")
            .fetch_one(&stage.pool)
            .await
            .expect("the overview");
        leader.ok_or("nobody")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_of_four_replicas_one_leads_and_f20_order_is_kept_while_leaders_are_killed() {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let someone = Someone::new(&stage, 20).await;
    let mut apps = Vec::new();
    for _ in 0..4 {
        apps.push(stage.app().await);
    }
    let urls: Vec<&str> = apps.iter().map(|app| &*app.base_url).collect();
    let manners = Manners {
        pause: Duration::from_millis(5),
        keyed_every: 3,
    };
    let load = Load::start_with(&urls, &someone.token, &someone.drafts, 8, manners);
    for _ in 0..5 {
        let name = leader(&stage).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let nth = apps.iter().position(|app| app.name == name).expect("one of ours leads");
        apps[nth].kill();
        apps[nth] = stage.app().await;
        load.aim_nth_at(nth, &apps[nth].base_url);
        eventually("another one leads", PATIENCE, async || {
            let now = leader(&stage).await;
            if now == name { Err(now) } else { Ok(()) }
        })
        .await;
    }
    let requests = load.stop().await;
    stage.drained().await;
    let kept = History::gather(&stage, requests).await.kept();
    println!("{kept:?}");
    assert!(kept.rough_take_overs >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_requests_that_wait_in_the_kernel_of_a_killed_leader_are_repeated_within_the_window() {
    const WINDOW: usize = 50;
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("relay.lease", "1s")
        .set("relay.window", &WINDOW.to_string());
    let someone = Someone::new(&stage, 20).await;
    let api = stage.app_with(&["--role", "api"], &[]).await;
    let relay = stage.spawn_app(&["--role", "relay"], &[]);
    let mut requests = someone.accepted(&api, 5).await;
    stage.drained().await;
    stage.servers().kafka.freeze();
    requests.extend(someone.accepted(&api, 200).await);
    // Until it has handed over what it may.
    eventually("the window is full", PATIENCE, async || {
        let text = relay.metrics().await;
        let full = format!("\noutbox_unacknowledged_rows {WINDOW}\n");
        if text.contains(&full) { Ok(()) } else { Err(text) }
    })
    .await;
    relay.kill();
    stage.servers().kafka.thaw();
    let _next = stage.spawn_app(&["--role", "relay"], &[]);
    stage.drained().await;
    let kept = History::gather(&stage, requests).await.kept();
    println!("{} repeats of at most {WINDOW}", kept.repeats);
    assert_eq!(kept.rough_take_overs, 1);
}

/// What a leader says when it ends a term gracefully, or is not in one.
async fn stops_within(app: &App, bound: Duration) {
    let began = Instant::now();
    app.term();
    let status = app.wait_for_exit(PATIENCE).await;
    assert!(status.success(), "{status}: {}", app.log());
    assert!(began.elapsed() < bound, "{:?}: {}", began.elapsed(), app.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_stop_is_kept_to_its_budget_in_every_state() {
    // Six seconds, and what a busy machine takes to begin and to end.
    const BUDGET: Duration = Duration::from_secs(9);
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("shutdown.budget", "6s")
        .set("relay.lease", "2s");
    let someone = Someone::new(&stage, 20).await;
    let mut requests = Vec::new();
    // Waiting for PostgreSQL.
    stage.servers().postgres.freeze();
    let waiting = stage.spawn_app(&[], &[]);
    eventually("it listens", PATIENCE, async || {
        waiting
            .http
            .get(format!("{}/livez", waiting.admin_url))
            .send()
            .await
            .map(drop)
    })
    .await;
    stops_within(&waiting, BUDGET).await;
    stage.servers().postgres.thaw();
    // Leading, and standing by.
    let leading = stage.app().await;
    requests.extend(someone.accepted(&leading, 3).await);
    leader(&stage).await;
    let standby = stage.app().await;
    stops_within(&standby, BUDGET).await;
    // Leading, with records on their way that nobody acknowledges.
    stage.drained().await;
    stage.servers().kafka.freeze();
    requests.extend(someone.accepted(&leading, 20).await);
    stops_within(&leading, BUDGET).await;
    assert!(
        leading.log().contains("stopped before all was acknowledged"),
        "{}",
        leading.log()
    );
    // Waiting for Kafka, at the start of a term.
    let starting = stage.app().await;
    starting
        .shows(&[("outbox_leading", 1.0), ("outbox_breaker_open", 1.0)])
        .await;
    stops_within(&starting, BUDGET).await;
    // While PostgreSQL is away: what was handed over cannot be recorded.
    stage.servers().kafka.thaw();
    let last = stage.app().await;
    last.shows(&[("outbox_leading", 1.0), ("outbox_breaker_open", 0.0)])
        .await;
    stage.drained().await;
    stage.servers().kafka.freeze();
    requests.extend(someone.accepted(&last, 3).await);
    last.shows(&[("outbox_unacknowledged_rows", 3.0)]).await;
    stage.servers().postgres.freeze();
    stage.servers().kafka.thaw();
    stops_within(&last, BUDGET).await;
    stage.servers().postgres.thaw();
    let _next = stage.app().await;
    stage.drained().await;
    History::gather(&stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_lost_produce_response_loses_nothing_and_breaks_no_order() {
    use crate::support::proxy::Proxy;
    use image_job_dispatcher::dev_stack::{Beside, free_port};
    let port = free_port().expect("a free port");
    let proxy = Proxy::start(port).await;
    let stage = Stage::with_listeners(&Beside {
        proxied: vec![(port, proxy.port)],
        ..Beside::default()
    })
    .await
    .set("kafka.brokers", &format!("127.0.0.1:{}", proxy.port));
    let someone = Someone::new(&stage, 5).await;
    let app = stage.app().await;
    let load = someone.load(&app, 8);
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // In the middle of some response, this one or the next.
        proxy.cut_after_answered(rand::random_range(0..200));
    }
    let requests = load.stop().await;
    stage.drained().await;
    let kept = History::gather(&stage, requests).await.kept();
    println!("{kept:?}");
    // The idempotent producer sends again what got no answer, and the broker knows it.
    assert_eq!(kept.repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_long_backlog_drains_at_full_speed_in_constant_memory() {
    const SHORT: i64 = 5_000;
    const LONG: i64 = 100_000;
    let peak = async |backlog: i64| {
        let stage = Stage::new().await;
        let rows = sqlx::query(
            "with r as (
                 insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
                 select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), clock_timestamp(), clock_timestamp(),
                        convert_to(repeat('x', 500), 'utf8')
                 from generate_series(1, $1)
                 returning 1
             ) select count(*) from r",
        );
        rows.bind(backlog).execute(&stage.pool).await.expect("a backlog");
        let relay = stage.spawn_app(&["--role", "relay"], &[]);
        let began = Instant::now();
        stage.drained().await;
        let took = began.elapsed();
        let status = std::fs::read_to_string(format!("/proc/{}/status", relay.pid())).expect("its status");
        let peak: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|size| size.trim().trim_end_matches(" kB").parse().ok())
            .expect("a size");
        println!("{backlog} messages in {took:?}, at most {} MB", peak / 1024);
        (peak / 1024, took)
    };
    let (short, _) = peak(SHORT).await;
    let (long, took) = peak(LONG).await;
    // The window, and no more: 16,384 records of some 700 bytes in the client, and read ahead.
    assert!(long < short + 150, "{long} MB, of a short backlog {short} MB");
    assert!(took < Duration::from_mins(1), "{took:?}");
}

/// Reads the sources: whoever takes or keeps a lease by this machine's clock would be wrong by its skew.
#[test]
fn f24_no_statement_of_the_lease_is_given_a_time_of_this_machine() {
    for file in [
        "src/relay/standby.rs",
        "src/outbox/checkpoints.rs",
        "src/relay/leader/recording.rs",
    ] {
        let text =
            std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a source");
        for clock in ["Utc::now", "Local::now", "SystemTime"] {
            assert!(!text.contains(clock), "{file} reads {clock}");
        }
    }
}
