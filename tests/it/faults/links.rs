//! Links: half-open, stopped in one direction, throttled.

use std::time::{Duration, Instant};

use image_job_dispatcher::dev_stack::{Beside, free_port};

use super::Someone;
use crate::support::{
    App, PATIENCE, Stage, eventually,
    history::{History, Outcome, Request},
    load::send,
    proxy::{Cut, Flow, Proxy, Weather},
};

/// Above every time-out of the program.
const MENDS_ITSELF_WITHIN: Duration = Duration::from_mins(1);

/// A stage whose services reach each server by a link of their own.
struct Linked {
    stage: Stage,
    postgres: Proxy,
    redis: Proxy,
    kafka: Proxy,
}

impl Linked {
    async fn new() -> Self {
        Self::with_postgres(async |port| Proxy::start(port).await).await
    }

    async fn with_postgres(postgres: impl AsyncFnOnce(u16) -> Proxy) -> Self {
        let port = free_port().expect("a free port");
        let kafka = Proxy::start(port).await;
        let stage = Stage::with_listeners(&Beside {
            proxied: vec![(port, kafka.port)],
            ..Beside::default()
        })
        .await;
        let postgres = postgres(stage.servers().postgres.port()).await;
        let redis = Proxy::start(stage.servers().redis.port()).await;
        let mut database = url::Url::parse(&stage.database_url).expect("a URL");
        database.set_port(Some(postgres.port)).expect("a port");
        let stage = stage
            .set("relay.lease", "2s")
            .set("database.url", database.as_str())
            .set("redis.url", &format!("redis://127.0.0.1:{}/", redis.port))
            .set("kafka.brokers", &format!("127.0.0.1:{}", kafka.port));
        Self {
            stage,
            postgres,
            redis,
            kafka,
        }
    }
}

/// Asks until a job is accepted again, and waits until all is published.
async fn all_is_well(linked: &Linked, someone: &Someone, app: &App, requests: &mut Vec<Request>) {
    eventually("jobs are accepted again", MENDS_ITSELF_WITHIN, async || {
        let request = send(&app.http, &app.base_url, &someone.token, someone.drafts[0], None).await;
        let outcome = request.outcome;
        requests.push(request);
        match outcome {
            Outcome::Accepted(_) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    linked.stage.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_connections_that_are_half_open_are_given_up_and_made_again() {
    let linked = Linked::new().await;
    let someone = Someone::new(&linked.stage, 20).await;
    let app = linked.stage.app().await;
    let mut requests = Vec::new();
    for link in [&linked.postgres, &linked.redis, &linked.kafka] {
        let load = someone.load(&app, 4);
        tokio::time::sleep(Duration::from_millis(300)).await;
        link.strand();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
        requests.extend(load.stop().await);
        all_is_well(&linked, &someone, &app, &mut requests).await;
        println!("well again after {:?}", began.elapsed());
    }
    History::gather(&linked.stage, requests).await.kept();
}

/// Waits until what another replica accepts is published when it is accepted, and not at the next poll.
async fn hears_at_once(linked: &Linked, leader: &App, someone: &Someone, api: &App) {
    const JOBS: u32 = 10;
    eventually(
        "each is published when it is accepted, and not at the next poll",
        MENDS_ITSELF_WITHIN,
        async || {
            someone.accepted(api, 1).await;
            linked.stage.drained().await;
            let began = Instant::now();
            for _ in 0..JOBS {
                someone.accepted(api, 1).await;
                linked.stage.drained().await;
            }
            // The poll is every two thirds of a second with this lease: a third of one on average.
            let each = began.elapsed() / JOBS;
            if each < Duration::from_millis(200) {
                Ok(())
            } else {
                Err(format!("{each:?} each; {}", leader.log()))
            }
        },
    )
    .await;
}

/// A leader, and another replica that accepts and has links of its own.
async fn leader_and_api(linked: &Linked) -> (App, App) {
    let leader = linked.stage.spawn_app(&["--role", "relay"], &[]);
    let direct = linked.stage.database_url.clone();
    let api = linked
        .stage
        .app_with(&["--role", "api"], &[("database.url", &direct)])
        .await;
    (leader, api)
}

/// The leader's connection that listens for other replicas is silent for hours at night, and is forgotten by what lies
/// between: nobody would notice.
#[tokio::test(flavor = "multi_thread")]
async fn f42_a_leader_hears_of_what_others_accept_after_its_listening_connection_was_half_open() {
    let linked =
        Linked::with_postgres(async |port| Proxy::cutting(port, b"LISTEN ", Cut::StrandedWhenTold).await).await;
    let someone = Someone::new(&linked.stage, 5).await;
    let (leader, api) = leader_and_api(&linked).await;
    someone.accepted(&api, 1).await;
    linked.stage.drained().await;
    hears_at_once(&linked, &leader, &someone, &api).await;
    linked.postgres.strand();
    hears_at_once(&linked, &leader, &someone, &api).await;
    // A new term would have listened anew.
    let fence: i64 = sqlx::query_scalar("select max(fence) from outbox_checkpoints")
        .fetch_one(&linked.stage.pool)
        .await
        .expect("checkpoints");
    assert_eq!(fence, 1, "{}", leader.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_leader_hears_of_what_others_accept_though_it_was_not_answered_when_it_began_to_listen() {
    let linked = Linked::with_postgres(async |port| Proxy::cutting(port, b"LISTEN ", Cut::Stranded).await).await;
    linked.postgres.cut_next(1);
    let someone = Someone::new(&linked.stage, 5).await;
    let (leader, api) = leader_and_api(&linked).await;
    someone.accepted(&api, 1).await;
    linked.stage.drained().await;
    eventually(
        "its LISTEN is not answered",
        MENDS_ITSELF_WITHIN,
        async || match linked.postgres.cuts_left() {
            0 => Ok(()),
            left => Err(left),
        },
    )
    .await;
    hears_at_once(&linked, &leader, &someone, &api).await;
}

/// Starts a replay of all messages, fifty a second.
async fn replay_all(stage: &Stage) {
    let user: uuid::Uuid = sqlx::query_scalar("select user_id from jobs limit 1")
        .fetch_one(&stage.pool)
        .await
        .expect("a job");
    let user = user.to_string();
    let create = [
        "replay", "create", "--user", &user, "--rate", "50", "--reason", "a test", "--yes",
    ];
    let created = stage.run(&create).await;
    assert!(created.status.success(), "{created:?}");
}

async fn replayed(stage: &Stage) -> i64 {
    sqlx::query_scalar("select count(*) from outbox_messages where replay_id is not null")
        .fetch_one(&stage.pool)
        .await
        .expect("rows")
}

/// Of the statement that ends a step of a replay, as it is first prepared on a connection.
const ENDS_A_STEP: &[u8] = b"set cursor = $3, replayed = replayed + $4";

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_replay_goes_on_after_its_connection_was_half_open_in_the_middle_of_a_step() {
    let linked = Linked::with_postgres(async |port| Proxy::cutting(port, ENDS_A_STEP, Cut::Stranded).await).await;
    let someone = Someone::new(&linked.stage, 5).await;
    let app = linked.stage.app().await;
    let requests = someone.accepted(&app, 20).await;
    linked.stage.drained().await;
    linked.postgres.cut_next(1);
    replay_all(&linked.stage).await;
    eventually("it is done", MENDS_ITSELF_WITHIN, async || {
        match replayed(&linked.stage).await {
            20 => Ok(()),
            fewer => Err(format!("{fewer}; {}", app.log())),
        }
    })
    .await;
    assert_eq!(linked.postgres.cuts_left(), 0, "no step was stranded");
    linked.stage.drained().await;
    History::gather(&linked.stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_replay_goes_on_after_its_connection_was_half_open() {
    let linked = Linked::new().await;
    let someone = Someone::new(&linked.stage, 5).await;
    let app = linked.stage.app().await;
    let requests = someone.accepted(&app, 100).await;
    linked.stage.drained().await;
    replay_all(&linked.stage).await;
    eventually("it has begun", MENDS_ITSELF_WITHIN, async || {
        match replayed(&linked.stage).await {
            20.. => Ok(()),
            fewer => Err(fewer),
        }
    })
    .await;
    linked.postgres.strand();
    eventually("it is done", MENDS_ITSELF_WITHIN, async || {
        match replayed(&linked.stage).await {
            100 => Ok(()),
            fewer => Err(format!("{fewer}; {}", app.log())),
        }
    })
    .await;
    linked.stage.drained().await;
    History::gather(&linked.stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_start_whose_first_connection_is_half_open_tries_again() {
    let linked = Linked::new().await;
    linked.postgres.set(Weather {
        down: Flow::Stopped,
        ..Weather::default()
    });
    let app = linked.stage.spawn_app(&[], &[]);
    eventually("it has begun", MENDS_ITSELF_WITHIN, async || {
        app.http.get(format!("{}/livez", app.admin_url)).send().await.map(drop)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    linked.postgres.strand();
    linked.postgres.set(Weather::default());
    app.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_link_that_is_stopped_in_one_direction_is_an_error_in_bounded_time_and_loses_nothing() {
    let linked = Linked::new().await;
    let someone = Someone::new(&linked.stage, 20).await;
    let app = linked.stage.app().await;
    let mut requests = someone.accepted(&app, 5).await;
    let up = Weather {
        up: Flow::Stopped,
        ..Weather::default()
    };
    let down = Weather {
        down: Flow::Stopped,
        ..Weather::default()
    };
    for weather in [up, down] {
        linked.postgres.set(weather);
        // Nobody waits for longer than the time-outs add up to.
        let began = Instant::now();
        let request = send(&app.http, &app.base_url, &someone.token, someone.drafts[0], None).await;
        let waited = began.elapsed();
        assert!(request.job().is_none(), "{weather:?}: {request:?}");
        assert!(waited < Duration::from_secs(18), "{weather:?}: {waited:?}");
        requests.push(request);
        linked.postgres.set(Weather::default());
        all_is_well(&linked, &someone, &app, &mut requests).await;
        // Kafka: nobody who accepts notices.
        linked.kafka.set(weather);
        requests.extend(someone.accepted(&app, 5).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        linked.kafka.set(Weather::default());
        // Redis: it costs a budget.
        linked.redis.set(weather);
        requests.extend(someone.accepted(&app, 5).await);
        linked.redis.set(Weather::default());
    }
    linked.stage.drained().await;
    History::gather(&linked.stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_link_of_a_kilobyte_a_second_slows_down_and_loses_nothing() {
    let linked = Linked::new().await;
    let someone = Someone::new(&linked.stage, 20).await;
    let app = linked.stage.app().await;
    let mut requests = someone.accepted(&app, 2).await;
    let slow = Weather {
        up: Flow::Slow(1_000),
        down: Flow::Slow(1_000),
    };
    for link in [&linked.kafka, &linked.redis] {
        link.set(slow);
        // None of them is needed to accept.
        requests.extend(someone.accepted(&app, 10).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        link.set(Weather::default());
    }
    linked.postgres.set(slow);
    let load = someone.load(&app, 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    linked.postgres.set(Weather::default());
    requests.extend(load.stop().await);
    linked.stage.drained().await;
    History::gather(&linked.stage, requests).await.kept();
}

/// Writes so many rows of so many bytes.
async fn write_rows(stage: &Stage, count: u32, bytes: u32) {
    sqlx::query(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), clock_timestamp(), clock_timestamp(),
                convert_to(repeat('x', $2::int), 'utf8')
         from generate_series(1, $1)",
    )
    .bind(i64::from(count))
    .bind(i64::from(bytes))
    .execute(&stage.pool)
    .await
    .expect("rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_of_a_backlog_in_exactly_once_mode_more_than_a_read_and_no_more_than_a_bound_waits_for_a_link() {
    const BYTES: u32 = 100_000;
    // 8,192 records of more than 2,048 to a read; 8 MiB.
    let phases = [(20_000, 100, 8192), (200, BYTES, (8_u32 << 20).div_ceil(BYTES))];
    let linked = Linked::new().await;
    let relay = linked
        .stage
        .spawn_app(&["--role", "relay"], &[("relay.delivery", "exactly-once")]);
    let mut written = 1;
    write_rows(&linked.stage, written, 10).await;
    linked.stage.drained().await;
    for (count, bytes, on_their_way) in phases {
        linked.kafka.set(Weather {
            up: Flow::Stopped,
            down: Flow::Stopped,
        });
        write_rows(&linked.stage, count, bytes).await;
        written += count;
        eventually("as much is on its way as may be", PATIENCE, async || {
            let seen = relay.metric("outbox_unacknowledged_rows").await;
            if (seen - f64::from(on_their_way)).abs() < 0.5 {
                Ok(())
            } else {
                Err(format!("{seen} of {on_their_way}"))
            }
        })
        .await;
        linked.kafka.set(Weather::default());
        linked.stage.drained().await;
    }
    assert_eq!(
        linked.stage.records(written as usize).await.len(),
        written as usize,
        "each once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_transaction_that_a_slow_link_carries_for_longer_than_an_outage_takes_to_show_is_none() {
    let linked = Linked::new().await;
    let relay = linked
        .stage
        .spawn_app(&["--role", "relay"], &[("relay.delivery", "exactly-once")]);
    write_rows(&linked.stage, 1, 10).await;
    linked.stage.drained().await;
    // Eight seconds for one transaction, and an acknowledgement each second.
    linked.kafka.set(Weather {
        up: Flow::Slow(1_000_000),
        ..Weather::default()
    });
    write_rows(&linked.stage, 80, 100_000).await;
    let began = Instant::now();
    eventually("it is drained", MENDS_ITSELF_WITHIN, async || {
        assert!(relay.metric("outbox_breaker_open").await < 0.5, "{}", relay.log());
        let pending: i64 = sqlx::query_scalar("select pending from outbox_overview")
            .fetch_one(&linked.stage.pool)
            .await
            .map_err(|error| error.to_string())?;
        if pending == 0 { Ok(()) } else { Err(pending.to_string()) }
    })
    .await;
    assert!(
        began.elapsed() > Duration::from_secs(6),
        "the link was not slow: {:?}",
        began.elapsed()
    );
    assert_eq!(linked.stage.records(81).await.len(), 81, "each once");
}

/// Of the statement that records a dead letter, as it is first prepared on a connection.
const BURIES: &[u8] = b"insert into outbox_dead_letters";

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_leader_whose_connection_is_half_open_in_the_middle_of_a_checkpoint_gets_its_number_back() {
    let linked = Linked::with_postgres(async |port| Proxy::cutting(port, BURIES, Cut::Stranded).await).await;
    linked.stage.limit_topic("3000").await;
    write_rows(&linked.stage, 1, 5000).await;
    write_rows(&linked.stage, 1, 10).await;
    linked.postgres.cut_next(1);
    let relay = linked.stage.spawn_app(&["--role", "relay"], &[]);
    // The checkpoint's row is in a transaction that nobody goes on with: only the server can end it.
    eventually(
        "one is published and one is dead",
        2 * MENDS_ITSELF_WITHIN,
        async || {
            let seen: (i64, i64, i64) = sqlx::query_as("select pending, published, dead from outbox_overview")
                .fetch_one(&linked.stage.pool)
                .await
                .expect("the overview");
            if seen == (0, 1, 1) {
                Ok(())
            } else {
                Err(format!("{seen:?}; {}", relay.log()))
            }
        },
    )
    .await;
    assert_eq!(linked.postgres.cuts_left(), 0, "no checkpoint was stranded");
}

/// Waits for so many checkpoints more.
async fn prolonged(stage: &Stage, times: i64) {
    let newest = async || {
        sqlx::query_scalar::<_, i64>("select max(seq) from outbox_checkpoints")
            .fetch_one(&stage.pool)
            .await
            .expect("checkpoints")
    };
    let before = newest().await;
    eventually(&format!("{times} checkpoints"), MENDS_ITSELF_WITHIN, async || {
        let more = newest().await - before;
        if more >= times { Ok(()) } else { Err(more) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_answers_that_come_later_than_the_lease_lasts_let_no_record_go() {
    const ROWS: u32 = 8;
    let linked = Linked::new().await;
    let relay = linked.stage.spawn_app(&["--role", "relay"], &[("relay.lease", "1s")]);
    write_rows(&linked.stage, 1, 10).await;
    linked.stage.drained().await;
    linked.kafka.set(Weather {
        up: Flow::Stopped,
        down: Flow::Stopped,
    });
    write_rows(&linked.stage, ROWS, 10).await;
    let on_their_way = async || relay.metric("outbox_unacknowledged_rows").await;
    eventually("they are on their way", PATIENCE, async || {
        let seen = on_their_way().await;
        if seen >= f64::from(ROWS) { Ok(()) } else { Err(seen) }
    })
    .await;
    linked.postgres.set(Weather {
        down: Flow::Delayed(Duration::from_millis(1500)),
        ..Weather::default()
    });
    // When the second of these is sent, the lease has ended that the first one brought, and each is over when it is told.
    prolonged(&linked.stage, 2).await;
    write_rows(&linked.stage, ROWS, 10).await;
    // One on its way, one that tells of the rows, and one after they were read.
    prolonged(&linked.stage, 3).await;
    assert!(on_their_way().await <= f64::from(ROWS), "{}", relay.log());
    // A checkpoint of receipts comes no sooner than a poll.
    linked.kafka.set(Weather::default());
    let published = i64::from(1 + ROWS);
    eventually("the former ones are recorded", MENDS_ITSELF_WITHIN, async || {
        let seen: i64 = sqlx::query_scalar("select published from outbox_overview")
            .fetch_one(&linked.stage.pool)
            .await
            .expect("the overview");
        if seen >= published { Ok(()) } else { Err(seen) }
    })
    .await;
    prolonged(&linked.stage, 2).await;
    let records = linked.stage.records_now().await.len();
    assert_eq!(records as i64, published, "{}", relay.log());
    linked.postgres.set(Weather::default());
    linked.stage.drained().await;
    assert_eq!(linked.stage.records(1).await.len(), 1 + 2 * ROWS as usize, "each once");
}
