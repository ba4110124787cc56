//! The service killed and stopped under load, again and again.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{App, Stage, drafts, eventually, history::History, load::Load, token_for};

/// `relay.window`: what one kill can repeat. Less than what is accepted between two kills.
const WINDOW: usize = 64;

/// Of kills and of stops; `TIMES=1000` in the environment for a night.
fn times() -> usize {
    std::env::var("TIMES").map_or(20, |times| times.parse().expect("a number"))
}

/// At most so many on one installation: all that is checked of it is held in memory, 5,000 requests for each kill and as
/// many records. A thousand at once took 20 GB.
const OF_ONE: usize = 200;

/// [`times`] on as many installations as that takes, one after the other, each with servers of its own.
async fn on_installations(settings: &[(&str, &str)], run: impl AsyncFn(&Stage, usize)) {
    let mut left = times();
    while left > 0 {
        let times = left.min(OF_ONE);
        let mut stage = Stage::with_servers_of_its_own().await;
        for (key, value) in settings {
            stage = stage.set(key, value);
        }
        run(&stage, times).await;
        left -= times;
    }
}

/// The number behind `field` in the newest "leading" line of the log.
fn in_leading_line(app: &App, field: &str) -> Option<u64> {
    let log = app.log();
    let line = log.lines().rev().find(|line| line.contains(field))?;
    let digits = line.split(field).nth(1)?;
    digits
        .trim_start_matches(['"', ':', '=', ' '])
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

async fn leads(app: &App) -> u64 {
    eventually("the service leads", Duration::from_secs(30), async || {
        in_leading_line(app, "found_unrecorded").ok_or("no line in its log")
    })
    .await
}

/// Until this leader has published something of its own.
async fn traffic_flows(stage: &Stage) {
    eventually("the leader publishes", Duration::from_secs(30), async || {
        let receipts: i64 = sqlx::query_scalar(
            "select count(*) from (select * from outbox_checkpoints order by seq desc limit 100) c,
                    (select fence from outbox_checkpoints order by seq desc limit 1) newest
             where c.fence = newest.fence and c.base_passed is null and not isempty(c.settled)",
        )
        .fetch_one(&stage.pool)
        .await
        .expect("checkpoints");
        if receipts >= 2 { Ok(()) } else { Err(receipts) }
    })
    .await;
}

/// Kills the service so many times under load. Nothing is lost. Gives the repeats of all, and how many of the kills
/// left records in the topic that were in no checkpoint.
async fn kill_again_and_again(stage: &Stage, times: usize) -> (usize, usize) {
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 500).await;
    let mut app = stage.app().await;
    leads(&app).await;
    let load = Load::start(&app.base_url, &token, &drafts, 64);
    let began = std::time::Instant::now();
    let mut up = Duration::ZERO;
    let mut with_unrecorded = 0;
    for n in 0..times {
        let since = std::time::Instant::now();
        traffic_flows(stage).await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(50..800))).await;
        app.kill();
        up += since.elapsed();
        app = stage.app().await;
        load.aim_at(&app.base_url);
        let found = leads(&app).await;
        with_unrecorded += usize::from(found > 0);
        println!("kill {}: {found} records were in the topic and in no checkpoint", n + 1);
    }
    let requests = load.stop().await;
    stage.drained().await;
    let history = History::gather(stage, requests).await;
    let delivered = history.kept();
    println!(
        "{} accepted in {:.1} s ({:.1} s of it up under load before a kill), {} records, {} repeats, {} kills found unrecorded ones",
        delivered.accepted,
        began.elapsed().as_secs_f64(),
        up.as_secs_f64(),
        delivered.records,
        delivered.repeats,
        with_unrecorded
    );
    let per_job = delivered.records - history.jobs.len();
    assert_eq!(per_job, delivered.repeats, "every job is in the topic");
    (delivered.repeats, with_unrecorded)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_nothing_and_repeat_no_more_than_the_window_each() {
    let settings = [("relay.lease", "1s"), ("relay.window", &WINDOW.to_string())];
    on_installations(&settings, async |stage, times| {
        let (repeats, with_unrecorded) = kill_again_and_again(stage, times).await;
        assert!(repeats <= times * WINDOW);
        assert!(
            with_unrecorded * 2 >= times,
            "only {with_unrecorded} of the kills hit records on their way"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_and_repeat_nothing_in_exactly_once_mode() {
    let settings = [("relay.lease", "1s"), ("relay.delivery", "exactly-once")];
    on_installations(&settings, async |stage, times| {
        let (repeats, _) = kill_again_and_again(stage, times).await;
        assert_eq!(repeats, 0);
        // And another client says so too.
        let mut seen = stage.outbox_ids_seen_by_java().await;
        seen.sort_unstable();
        let rows: Vec<i64> = sqlx::query_scalar("select id from outbox_messages order by id")
            .fetch_all(&stage.pool)
            .await
            .expect("ids");
        assert!(seen == rows, "{} records, {} rows", seen.len(), rows.len());
    })
    .await;
}

/// Stops the service twenty times under load, each time gracefully: nothing is lost, and nothing repeated.
async fn stop_again_and_again(stage: &Stage, times: usize) {
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 500).await;
    let mut app = stage.app().await;
    leads(&app).await;
    let load = Load::start(&app.base_url, &token, &drafts, 64);
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(rand::random_range(50..500))).await;
        let status = app.term_and_wait().await;
        assert!(status.success(), "{status}");
        app = stage.app().await;
        load.aim_at(&app.base_url);
        // At once: the lease was given back.
        assert_eq!(leads(&app).await, 0, "all that was sent was also recorded");
    }
    let requests = load.stop().await;
    stage.drained().await;
    let delivered = History::gather(stage, requests).await.kept();
    println!("{} accepted, {} records", delivered.accepted, delivered.records);
    assert_eq!(delivered.repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_graceful_stops_under_load_repeat_nothing() {
    on_installations(&[], stop_again_and_again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_graceful_stops_under_load_repeat_nothing_in_exactly_once_mode() {
    on_installations(&[("relay.delivery", "exactly-once")], stop_again_and_again).await;
}
