//! Kafka: leaders that change, too few replicas, topics that go, fatal errors, mass refusals.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use image_job_dispatcher::{
    config::{Config, Sources},
    dev_stack::{Home, KafkaBroker, create_topic},
    publish::visibility::Visibility,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
    metadata::MetadataPartition,
    producer::{BaseProducer, FutureProducer, FutureRecord, Producer},
};
use uuid::Uuid;

use super::Someone;
use crate::support::{
    App, PATIENCE, Record, Stage, eventually,
    history::{History, Request},
    rig::kafka_libs,
};

/// Three brokers, and a topic on all of them, beside a stage whose own broker is not used.
struct Cluster {
    stage: Stage,
    brokers: Vec<KafkaBroker>,
    bootstrap: String,
}

impl Cluster {
    async fn new() -> Self {
        let home = Home::temporary().expect("a home");
        let brokers = KafkaBroker::start_cluster(&home, &kafka_libs().await, 3)
            .await
            .expect("three brokers");
        let bootstrap = brokers.iter().map(KafkaBroker::bootstrap).collect::<Vec<_>>().join(",");
        let stage = Stage::new().await.set("kafka.brokers", &bootstrap);
        for topic in [&stage.topic, &stage.result_topic] {
            create_topic(&bootstrap, topic, 6, &[]).await.expect("a topic");
        }
        Self {
            stage,
            brokers,
            bootstrap,
        }
    }

    async fn history(&self, requests: Vec<Request>) -> History {
        History::gather_from(&self.bootstrap, &self.stage, requests).await
    }

    async fn published(&self) -> i64 {
        sqlx::query_scalar("select published from outbox_overview")
            .fetch_one(&self.stage.pool)
            .await
            .expect("the overview")
    }

    /// Until so many more are published.
    async fn goes_on(&self, more: i64) {
        let before = self.published().await;
        eventually("the relay goes on", Duration::from_mins(2), async || {
            let now = self.published().await;
            if now >= before + more {
                Ok(())
            } else {
                Err(format!("{now}, {before} before"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f29_brokers_killed_and_restarted_one_after_the_other_lose_nothing_and_keep_the_order() {
    let cluster = Cluster::new().await;
    let someone = Someone::new(&cluster.stage, 20).await;
    let app = cluster.stage.app().await;
    let load = someone.load(&app, 8);
    cluster.goes_on(100).await;
    // Each of them leads some partitions.
    for broker in &cluster.brokers {
        broker.kill();
        cluster.goes_on(200).await;
        broker.restart().await.expect("it starts again");
    }
    assert!(app.term_and_wait().await.success());
    let mut requests = load.stop().await;

    // And a rolling restart, as an upgrade does it, under transactions.
    let app = cluster.stage.app_with(&[], &[("relay.delivery", "exactly-once")]).await;
    cluster.stage.drained().await;
    let before = cluster.history(requests.clone()).await.kept();
    let load = someone.load(&app, 8);
    for broker in &cluster.brokers {
        broker.stop().await.expect("it stops");
        broker.restart().await.expect("it starts again");
        cluster.goes_on(200).await;
    }
    requests.extend(load.stop().await);
    cluster.stage.drained().await;
    let kept = cluster.history(requests).await.kept();
    println!("{before:?}, then {kept:?}");
    assert_eq!(kept.repeats, before.repeats);
}

/// Which of the brokers leads the topic's first partition.
async fn leader(bootstrap: &str, topic: &str) -> usize {
    eventually("a leader", PATIENCE, async || {
        let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
        let ask = move || {
            let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
            let seen = client.fetch_metadata(Some(&topic), Duration::from_secs(5))?;
            let partitions = seen.topics()[0].partitions();
            let first = partitions.iter().find(|partition| partition.id() == 0);
            Ok(first.map_or(-1, MetadataPartition::leader))
        };
        let answer: KafkaResult<i32> = tokio::task::spawn_blocking(ask).await.expect("a task");
        // Brokers are numbered from 1.
        usize::try_from(answer.map_err(|e| e.to_string())? - 1).map_err(|_| "no leader".to_owned())
    })
    .await
}

/// Which of the brokers coordinates all transactions: the leader of their log's one partition.
async fn coordinator(bootstrap: &str) -> usize {
    leader(bootstrap, "__transaction_state").await
}

#[tokio::test(flavor = "multi_thread")]
async fn f29_how_far_readers_get_is_asked_of_a_partitions_new_leader() {
    let cluster = Cluster::new().await;
    let topic = cluster.stage.topic.clone();
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &cluster.bootstrap)
        .set("acks", "all")
        .create()
        .expect("a producer");
    let record = FutureRecord::<str, str>::to(&topic).partition(0).payload("{}");
    let placed = producer.send(record, PATIENCE).await.expect("it is taken");
    let last = BTreeMap::from([(0, placed.offset)]);

    let sources = Sources::default()
        .with("kafka.brokers", &cluster.bootstrap)
        .with("kafka.topic", &topic);
    let config = Config::load(&sources).expect("a configuration");
    let visibility = Visibility::new(&config.kafka).expect("a client");
    let (visibility, last) = tokio::task::spawn_blocking(move || {
        visibility.wait_for(&last).expect("it is seen");
        (visibility, last)
    })
    .await
    .expect("a task");

    let led = leader(&cluster.bootstrap, &topic).await;
    cluster.brokers[led].stop().await.expect("it stops");
    eventually("another broker leads", PATIENCE, async || {
        let leads = leader(&cluster.bootstrap, &topic).await;
        if leads == led { Err(leads) } else { Ok(()) }
    })
    .await;
    tokio::task::spawn_blocking(move || visibility.wait_for(&last).expect("it is still seen"))
        .await
        .expect("a task");
}

#[tokio::test(flavor = "multi_thread")]
async fn f29_the_transaction_coordinator_killed_and_stopped_under_load_makes_no_consumer_see_a_repeat() {
    let cluster = Cluster::new().await;
    let someone = Someone::new(&cluster.stage, 20).await;
    let app = cluster.stage.app_with(&[], &[("relay.delivery", "exactly-once")]).await;
    let load = someone.load(&app, 8);
    cluster.goes_on(100).await;
    for n in 0..4 {
        let broker = &cluster.brokers[coordinator(&cluster.bootstrap).await];
        if n % 2 == 0 {
            broker.kill();
        } else {
            broker.stop().await.expect("it stops");
        }
        // With two of three, which is enough.
        cluster.goes_on(100).await;
        broker.restart().await.expect("it starts again");
    }
    let requests = load.stop().await;
    cluster.stage.drained().await;
    let history = cluster.history(requests).await;
    let kept = history.kept();
    println!(
        "{kept:?}; {} times begun again",
        app.log().matches("the relay begins again").count()
    );
    assert_eq!(kept.repeats, 0);
    // And another client says so too.
    let mut seen = cluster.stage.outbox_ids_seen_by_java().await;
    seen.sort_unstable();
    let rows: Vec<i64> = sqlx::query_scalar("select id from outbox_messages order by id")
        .fetch_all(&cluster.stage.pool)
        .await
        .expect("ids");
    assert!(seen == rows, "{} records in Java, {} rows", seen.len(), rows.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn f30_too_few_replicas_are_waited_for_and_kill_no_message() {
    let cluster = Cluster::new().await;
    let someone = Someone::new(&cluster.stage, 20).await;
    let app = cluster.stage.app().await;
    let mut requests = someone.accepted(&app, 20).await;
    cluster.stage.drained().await;
    // Two of three: what is left takes no record that has to be on two.
    for broker in &cluster.brokers[1..] {
        broker.freeze();
    }
    requests.extend(someone.accepted(&app, 100).await);
    is_an_outage(&app).await;
    let dead: i64 = sqlx::query_scalar("select dead from outbox_overview")
        .fetch_one(&cluster.stage.pool)
        .await
        .expect("the overview");
    assert_eq!(dead, 0);
    for broker in &cluster.brokers[1..] {
        broker.thaw();
    }
    cluster.stage.drained().await;
    let history = cluster.history(requests).await;
    assert!(history.dead.is_empty());
    println!("{:?}", history.kept());
}

/// Until the service itself says that Kafka takes nothing.
async fn is_an_outage(app: &App) {
    eventually("the outage is shown", PATIENCE, async || {
        let open = app.metric("outbox_breaker_open").await;
        if open > 0.5 { Ok(()) } else { Err(app.log()) }
    })
    .await;
}

fn admin(stage: &Stage) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", stage.servers().kafka.bootstrap())
        .create()
        .expect("an admin client")
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_a_topic_that_is_deleted_kills_no_message_and_goes_on_once_it_is_made_again() {
    let stage = Stage::new().await.set("relay.lease", "2s");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let before = someone.accepted(&app, 20).await;
    stage.drained().await;
    let deleted = admin(&stage)
        .delete_topics(&[&stage.topic], &AdminOptions::new())
        .await
        .expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    // What its partitions acknowledge until then goes with them, and the broker says that it does not know the topic
    // before they are gone: what counts is that the leader gets rid of nothing, of any draft, for a while. Once may be a
    // broker that is slow.
    let mut times = 0;
    eventually(
        "no partition takes anything, four times in a row",
        PATIENCE,
        async || {
            let pending = async || -> i64 {
                sqlx::query_scalar("select pending from outbox_overview")
                    .fetch_one(&stage.pool)
                    .await
                    .expect("the overview")
            };
            let before = pending().await;
            let asked = someone.accepted(&app, 20).await.len() as i64;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let more = pending().await - before;
            times = if more == asked { times + 1 } else { 0 };
            if times == 4 { Ok(()) } else { Err(more) }
        },
    )
    .await;
    let after = someone.accepted(&app, 50).await;
    is_an_outage(&app).await;
    let dead: i64 = sqlx::query_scalar("select dead from outbox_overview")
        .fetch_one(&stage.pool)
        .await
        .expect("the overview");
    assert_eq!(dead, 0, "{}", app.log());
    create_topic(&stage.servers().kafka.bootstrap(), &stage.topic, 6, &[])
        .await
        .expect("the topic");
    stage.drained().await;
    // What was in the old topic went with it: `audit` is for that.
    let history = History::gather(&stage, after).await;
    let published: Vec<Uuid> = history.accepted().into_iter().collect();
    let in_topic: HashSet<String> = history.records.iter().map(Record::job_id).collect();
    assert!(history.dead.is_empty());
    for job in published {
        assert!(in_topic.contains(&job.to_string()), "{job} is lost; {}", app.log());
    }
    drop(before);
}

async fn newest_fence(stage: &Stage) -> i64 {
    sqlx::query_scalar("select max(fence) from outbox_checkpoints where base_passed is not null")
        .fetch_one(&stage.pool)
        .await
        .expect("checkpoints")
}

#[tokio::test(flavor = "multi_thread")]
async fn f34_a_producer_that_met_a_fatal_error_is_built_again_and_repeats_nothing() {
    let stage = Stage::new()
        .await
        .set("relay.delivery", "exactly-once")
        .set("relay.lease", "2s");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let mut requests = someone.accepted(&app, 1).await;
    // Its producer is there.
    stage.drained().await;
    let load = someone.load(&app, 4);
    let installation: Uuid = sqlx::query_scalar("select installation_id from installation")
        .fetch_one(&stage.pool)
        .await
        .expect("the installation");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = newest_fence(&stage).await;
        // Somebody with our transactional id fences our producer: that is fatal for it.
        let (brokers, id) = (
            stage.servers().kafka.bootstrap(),
            format!("{}.{installation}", stage.topic),
        );
        let fence = tokio::task::spawn_blocking(move || {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .set("transactional.id", id)
                .create()
                .expect("a producer");
            producer.init_transactions(PATIENCE).expect("transactions");
        });
        fence.await.expect("a task");
        eventually("another term begins", PATIENCE, async || {
            let now = newest_fence(&stage).await;
            if now > before {
                Ok(())
            } else {
                Err(format!("{now}: {}", app.log()))
            }
        })
        .await;
    }
    requests.extend(load.stop().await);
    stage.drained().await;
    let kept = History::gather(&stage, requests).await.kept();
    println!("{kept:?}");
    assert!(kept.rough_take_overs >= 3, "{kept:?}: {}", app.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn f37_mass_refusals_open_the_breaker_after_half_a_hundred_and_an_operator_loses_no_more() {
    let stage = Stage::with_topic(&[("max.message.bytes", "1000000")]).await;
    let someone = Someone::new(&stage, 20).await;
    sqlx::query("update event_drafts set prize = repeat('x', 5000)")
        .execute(&stage.pool)
        .await
        .expect("large drafts");
    let app = stage.app().await;
    someone.accepted(&app, 1).await;
    stage.drained().await;
    // Accepted while the limit was high, and waiting when it is lowered.
    assert!(stage.run(&["pause", "--reason", "a test"]).await.status.success());
    // The leader hears of it by its poll, and what is accepted before is sent.
    eventually("the leader has paused", PATIENCE, async || {
        let paused = app.metric("outbox_paused").await;
        if paused >= 1.0 { Ok(()) } else { Err(paused) }
    })
    .await;
    someone.accepted(&app, 300).await;
    stage.limit_topic("2000").await;
    assert!(stage.run(&["resume", "--yes"]).await.status.success());
    let dead = async || -> i64 {
        sqlx::query_scalar("select dead from outbox_overview")
            .fetch_one(&stage.pool)
            .await
            .expect("the overview")
    };
    eventually("the breaker opens", Duration::from_mins(1), async || {
        let metrics = app.metrics().await;
        let open = metrics.contains("\noutbox_breaker_open 1\n");
        let dead = dead().await;
        if open && dead >= 40 {
            Ok(())
        } else {
            Err(format!("{dead} dead"))
        }
    })
    .await;
    // A second probe may be refused, and no more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let dead = dead().await;
    assert!(dead <= 53, "{dead} of 300 are dead");
    println!("{dead} of 300 are dead");
}
