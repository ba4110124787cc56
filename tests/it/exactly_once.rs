//! Exactly once: what a consumer sees that reads committed records only.

use std::time::{Duration, Instant};

use image_job_dispatcher::dev_stack::{Beside, KafkaBroker, free_port};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer},
};
use uuid::Uuid;

use crate::support::{
    PATIENCE, Stage, drafts, eventually,
    history::History,
    load::{Load, accept},
    proxy::{Cut, Proxy},
    records::{Record, publish},
    token_for,
};

/// The transactional ids of the installation's leaders, which take turns.
async fn transactional_ids(stage: &Stage) -> [String; 2] {
    let installation: Uuid = sqlx::query_scalar("select installation_id from installation")
        .fetch_one(&stage.pool)
        .await
        .expect("the installation");
    let first = format!("{}.{installation}", stage.topic);
    [first.clone(), format!("{first}.2")]
}

/// A row's id, its `ce_id` and its key.
type Row = (i64, Uuid, Uuid);

async fn newest_row(stage: &Stage) -> Row {
    sqlx::query_as("select id, event_id, key from outbox_messages order by id desc limit 1")
        .fetch_one(&stage.pool)
        .await
        .expect("a row")
}

/// One of the newest rows of these keys in a transaction of each id, both open: so a leader leaves them that is killed
/// while it commits.
async fn leave_both_open(stage: &Stage, keys: [Uuid; 2]) {
    for (id, key) in transactional_ids(stage).await.into_iter().zip(keys) {
        let newest = "select id, event_id, key from outbox_messages where key = $1 order by id desc limit 1";
        let row: Row = sqlx::query_as(newest)
            .bind(key)
            .fetch_one(&stage.pool)
            .await
            .expect("a row");
        leave_open(stage, id, row).await;
    }
}

/// Puts a row into a transaction and leaves it open, as a leader does that is killed.
async fn leave_open(stage: &Stage, transactional_id: String, (id, event, key): Row) {
    let (brokers, topic) = (stage.servers().kafka.bootstrap(), stage.topic.clone());
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("transactional.id", transactional_id)
            // In the partition of the key, before what the next leader sends.
            .set("partitioner", "murmur2_random")
            // Longer than anybody here waits for the broker to end it.
            .set("transaction.timeout.ms", "600000")
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        let (id, event, key) = (id.to_string(), event.to_string(), key.to_string());
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        let headers = OwnedHeaders::new()
            .insert(header("outbox-id", &id))
            .insert(header("ce_id", &event));
        let record = BaseRecord::to(&topic).key(&key).payload("{}").headers(headers);
        producer.send(record).map_err(|(e, _)| e).expect("a record");
        producer.flush(PATIENCE).expect("it is in the log");
        // Nothing is said to the broker.
        drop(producer);
    })
    .await
    .expect("a task");
}

/// Ends whatever is open under a transactional id.
async fn end_transactions(stage: &Stage, transactional_id: String) {
    let brokers = stage.servers().kafka.bootstrap();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("transactional.id", transactional_id)
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("transactions");
    })
    .await
    .expect("a task");
}

async fn end_what_was_left_open(first: &str, next: &str) {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 2).await;
    let before = stage.app_with(&[], &[("relay.delivery", first)]).await;
    before.accept(drafts[0], &token).await;
    stage.records(1).await;
    stage.drained().await;
    before.kill();

    let api = stage.app_with(&["--role", "api"], &[]).await;
    api.accept(drafts[0], &token).await;
    api.accept(drafts[1], &token).await;
    leave_both_open(&stage, [drafts[0], drafts[1]]).await;
    let _after = stage.app_with(&[], &[("relay.delivery", next)]).await;
    // Would wait behind an open transaction, or find more.
    let records = stage.records(3).await;
    assert_eq!(records.len(), 3, "{records:?}");
    stage.drained().await;
    assert_eq!(stage.records_now().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_left_open_are_ended_by_the_next_leader() {
    end_what_was_left_open("exactly-once", "exactly-once").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_left_open_are_ended_by_a_leader_that_uses_none_itself() {
    end_what_was_left_open("exactly-once", "at-least-once").await;
}

/// The producer id and epoch that the coordinator has for a transactional id.
async fn producer_of(stage: &Stage, transactional_id: &str) -> (i64, i16) {
    let described = stage
        .of_transactions(&["describe", "--transactional-id", transactional_id])
        .await;
    let numbers: Vec<i64> = described
        .lines()
        .rfind(|line| line.contains(transactional_id))
        .unwrap_or_else(|| panic!("{described}"))
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // CoordinatorId, TransactionalId, ProducerId, ProducerEpoch, TransactionState, ...
    (numbers[1], numbers[2] as i16)
}

/// Leaves what is open under a transactional id hanging, as a coordinator does that skips a marker: its newest word on it
/// is that nothing is open, as `TransactionLogValue.json` of Kafka writes it. It believes that when it starts again.
async fn leave_hanging(stage: &Stage, transactional_id: &str) {
    const EMPTY: u8 = 0;
    let (producer_id, epoch) = producer_of(stage, transactional_id).await;
    let mut key = 0_i16.to_be_bytes().to_vec();
    key.extend((transactional_id.len() as i16).to_be_bytes());
    key.extend(transactional_id.as_bytes());
    let mut value = 0_i16.to_be_bytes().to_vec();
    value.extend(producer_id.to_be_bytes());
    value.extend(epoch.to_be_bytes());
    value.extend(60_000_i32.to_be_bytes());
    value.push(EMPTY);
    // No partitions; updated now; no transaction has begun.
    value.extend((-1_i32).to_be_bytes());
    value.extend(chrono::Utc::now().timestamp_millis().to_be_bytes());
    value.extend((-1_i64).to_be_bytes());
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", stage.servers().kafka.bootstrap())
        // The only one that may write to an internal topic.
        .set("client.id", "__admin_client")
        .create()
        .expect("a producer");
    let record = FutureRecord::to("__transaction_state").key(&key).payload(&value);
    producer.send(record, PATIENCE).await.expect("it is written");
}

/// By a leader of the mode `next`.
async fn end_what_hangs(next: &str) {
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("relay.delivery", "exactly-once");
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 10).await;
    let before = stage.app().await;
    for draft in &drafts {
        before.accept(*draft, &token).await;
    }
    stage.drained().await;
    before.kill();
    // Two whose partitions differ.
    let records = stage.records_now().await;
    let key = |record: &Record| record.key.parse::<Uuid>().expect("a key");
    let other = records.iter().find(|r| r.partition != records[0].partition);
    let keys = [key(&records[0]), key(other.expect("several partitions"))];
    let api = stage.app_with(&["--role", "api"], &[]).await;
    for key in keys {
        api.accept(key, &token).await;
    }
    leave_both_open(&stage, keys).await;
    for id in transactional_ids(&stage).await {
        leave_hanging(&stage, &id).await;
    }
    let kafka = &stage.servers().kafka;
    kafka.stop().await.expect("Kafka stops");
    kafka.restart().await.expect("Kafka starts again");

    let after = stage.app_with(&[], &[("relay.delivery", next)]).await;
    stage.drained().await;
    let records = stage.records_now().await;
    assert_eq!(records.len(), 12, "{records:?}; {}", after.log());
    // Both at once: each look before waits for what may be decided yet.
    let ended = after.log().matches("does not know as ours").count();
    assert_eq!(ended, 1, "{}", after.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_transactions_are_ended_and_their_records_are_sent_again() {
    end_what_hangs("exactly-once").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_transactions_are_ended_by_a_leader_that_uses_none_itself() {
    end_what_hangs("at-least-once").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_behind_an_open_transaction_of_somebody_else_is_not_repeated() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let api = stage.app_with(&["--role", "api"], &[]).await;
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    api.accept(draft, &token_for(user)).await;
    let row = newest_row(&stage).await;
    let somebody_else = format!("{}.foreign", stage.topic);
    leave_open(&stage, somebody_else.clone(), (i64::MAX, Uuid::new_v4(), row.2)).await;
    // Behind it, as an earlier leader that was killed before it recorded it.
    let brokers = stage.servers().kafka.bootstrap();
    publish(&brokers, &stage.topic, &row, row.1).await;

    let relay = stage.spawn_app(&[], &[]);
    eventually("the log says what is waited for", Duration::from_secs(45), async || {
        let log = relay.log();
        let said = log
            .lines()
            .any(|line| line.contains("kafka cannot be used") && line.contains("has an open transaction"));
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    end_transactions(&stage, somebody_else).await;
    stage.drained().await;
    let ours = stage.records_now().await.len();
    assert_eq!(ours, 1, "the one that was published before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_of_somebody_else_is_tried_to_be_ended_once_and_then_waited_for() {
    let stage = Stage::new().await.set("relay.delivery", "exactly-once");
    let user = Uuid::new_v4();
    let api = stage.app_with(&["--role", "api"], &[]).await;
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    api.accept(draft, &token_for(user)).await;
    let somebody_else = format!("{}.foreign", stage.topic);
    let row = (i64::MAX, Uuid::new_v4(), newest_row(&stage).await.2);
    leave_open(&stage, somebody_else.clone(), row).await;
    let relay = stage.spawn_app(&[], &[]);
    eventually("the log names the tool", Duration::from_mins(1), async || {
        let log = relay.log();
        if log.contains("find-hanging") { Ok(()) } else { Err(log) }
    })
    .await;
    let [ours, _] = transactional_ids(&stage).await;
    let (end, epoch) = (stage.end_of_log().await, producer_of(&stage, &ours).await.1);
    // Each try begins with an epoch of its own; one that sent something would append it and its marker.
    eventually("it is tried again", Duration::from_mins(1), async || {
        let now = producer_of(&stage, &ours).await.1;
        if now >= epoch + 2 { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(stage.end_of_log().await, end, "{}", relay.log());
    let tried = relay.log().matches("does not know as ours").count();
    assert_eq!(tried, 1, "{}", relay.log());
    end_transactions(&stage, somebody_else).await;
    stage.drained().await;
    assert_eq!(stage.records_now().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_not_settled_while_its_readers_do_not_see_it() {
    let stage = Stage::new().await.set("relay.delivery", "exactly-once");
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let app = stage.app().await;
    app.accept(draft, &token_for(user)).await;
    stage.drained().await;
    let somebody_else = format!("{}.foreign", stage.topic);
    let (_, _, key) = newest_row(&stage).await;
    leave_open(&stage, somebody_else.clone(), (i64::MAX, Uuid::new_v4(), key)).await;

    // In the same partition, behind what is open.
    app.accept(draft, &token_for(user)).await;
    let ours = transactional_ids(&stage).await;
    eventually("the coordinator has committed both", PATIENCE, async || {
        let states = stage.of_transactions(&["list"]).await;
        let committed = |id: &String| {
            let of_it = states.lines().find(|line| line.split_whitespace().next() == Some(id));
            of_it.is_some_and(|line| line.contains("CompleteCommit"))
        };
        if ours.iter().all(committed) {
            Ok(())
        } else {
            Err(states)
        }
    })
    .await;
    let (id, ..) = newest_row(&stage).await;
    let shown: String = sqlx::query_scalar("select state from outbox_status where id = $1")
        .bind(id)
        .fetch_one(&stage.pool)
        .await
        .expect("a state");
    assert_eq!(shown, "pending", "{}", app.log());
    end_transactions(&stage, somebody_else).await;
    stage.drained().await;
    assert_eq!(stage.records_now().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_has_lost_its_lease_ends_nobodys_transaction() {
    let stage = Stage::new()
        .await
        .set("relay.delivery", "exactly-once")
        // It is prolonged every twenty seconds: not while the open transaction is waited for.
        .set("relay.lease", "60s");
    let user = Uuid::new_v4();
    let api = stage.app_with(&["--role", "api"], &[]).await;
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    api.accept(draft, &token_for(user)).await;
    let somebody_else = format!("{}.foreign", stage.topic);
    let (_, _, key) = newest_row(&stage).await;
    leave_open(&stage, somebody_else, (i64::MAX, Uuid::new_v4(), key)).await;
    let end = stage.end_of_log().await;
    let relay = stage.spawn_app(&["--role", "relay"], &[]);
    let first = format!("{}/%", relay.name);
    eventually("it has the lease", PATIENCE, async || {
        // As another replica takes it over, when it has ended.
        let taken = sqlx::query(
            "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets)
             select seq + 1, fence + 1, 'another/', lease_until, delivery, next_offsets from outbox_checkpoints
             where leader like $1 order by seq desc limit 1",
        )
        .bind(&first)
        .execute(&stage.pool)
        .await
        .expect("a row");
        if taken.rows_affected() == 1 {
            Ok(())
        } else {
            Err("it has not")
        }
    })
    .await;
    eventually("it notices", PATIENCE, async || {
        let log = relay.log();
        if log.contains("another replica has taken the lease over") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    assert_eq!(stage.end_of_log().await, end, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_the_mode_again_and_again_under_load_loses_and_repeats_nothing() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 200).await;
    let api = stage.app_with(&["--role", "api"], &[]).await;
    let load = Load::start(&api.base_url, &token, &drafts, 16);
    for n in 0..6 {
        let mode = ["exactly-once", "at-least-once"][n % 2];
        let leader = stage.app_with(&[], &[("relay.delivery", mode)]).await;
        eventually(&format!("{mode} publishes"), PATIENCE, async || {
            let receipts: i64 = sqlx::query_scalar(
                "select count(*) from outbox_checkpoints where delivery = $1 and leader like $2 and cardinality(receipt_ids) > 0",
            )
            .bind(mode)
            .bind(format!("{}/%", leader.name))
            .fetch_one(&stage.pool)
            .await
            .expect("checkpoints");
            if receipts >= 3 { Ok(()) } else { Err(receipts) }
        })
        .await;
        assert!(leader.term_and_wait().await.success());
    }
    let requests = load.stop().await;
    let _last = stage.app_with(&[], &[("relay.delivery", "exactly-once")]).await;
    stage.drained().await;
    let delivered = History::gather(&stage, requests).await.kept();
    assert_eq!(delivered.repeats, 0);
}

/// Disturbs the broker so many times under load, each time once it has published again.
async fn disturb(times: usize, disturbance: impl AsyncFn(&KafkaBroker, usize)) {
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("relay.delivery", "exactly-once");
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 200).await;
    let app = stage.app().await;
    let mut requests = vec![accept(&app, drafts[0], &token).await];
    stage.records(1).await;
    let load = Load::start(&app.base_url, &token, &drafts, 16);
    for n in 0..times {
        let before = stage.records_now().await.len();
        disturbance(&stage.servers().kafka, n).await;
        let deadline = Instant::now() + Duration::from_mins(1);
        while stage.records_now().await.len() < before + 500 {
            if Instant::now() > deadline {
                println!("{}", stage.transactions_as_kafka_sees_them().await);
                panic!("after disturbance {n} nothing was published: {}", app.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    requests.extend(load.stop().await);
    stage.drained().await;
    let delivered = History::gather(&stage, requests).await.kept();
    println!(
        "{} records; {} times a commit was looked up in the topic",
        delivered.records,
        app.log().matches("the relay begins again").count()
    );
    assert_eq!(delivered.repeats, 0);
    let dead: i64 = sqlx::query_scalar("select dead from outbox_overview")
        .fetch_one(&stage.pool)
        .await
        .expect("the overview");
    assert_eq!(dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_and_frozen_under_load_makes_no_consumer_see_a_repeat() {
    disturb(6, async |kafka, n| {
        if n.is_multiple_of(2) {
            kafka.kill();
            kafka.restart().await.expect("Kafka starts again");
        } else {
            // Longer than a commit's answer is believed: requests wait in the kernel, and are answered in the end.
            kafka.freeze();
            tokio::time::sleep(Duration::from_secs(2)).await;
            kafka.thaw();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_stopped_and_started_under_load_makes_no_consumer_see_a_repeat() {
    // `TIMES=40` for longer.
    let times = std::env::var("TIMES").map_or(3, |times| times.parse().expect("a number"));
    disturb(times, async |kafka, _| {
        kafka.stop().await.expect("Kafka stops");
        kafka.restart().await.expect("Kafka starts again");
    })
    .await;
}

/// The head of a request EndTxn, version 1: <https://kafka.apache.org/protocol#The_Messages_EndTxn>.
const END_TXN: &[u8] = &[0, 26, 0, 1];

async fn cut_commits(cut: Cut) {
    const CUTS: usize = 5;
    let port = free_port().expect("a free port");
    let proxy = Proxy::cutting(port, END_TXN, cut).await;
    let beside = Beside {
        proxied: vec![(port, proxy.port)],
        ..Beside::default()
    };
    let stage = Stage::with_listeners(&beside)
        .await
        .set("relay.delivery", "exactly-once")
        .set("kafka.brokers", &format!("127.0.0.1:{}", proxy.port));
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 200).await;
    let app = stage.app().await;
    let mut requests = vec![accept(&app, drafts[0], &token).await];
    stage.records(1).await;
    let load = Load::start(&app.base_url, &token, &drafts, 8);
    for n in 0..CUTS {
        let before = stage.records_now().await.len();
        proxy.cut_next(1);
        eventually("a commit was cut", PATIENCE, async || match proxy.cuts_left() {
            0 => Ok(()),
            left => Err(left),
        })
        .await;
        // Until then the client may still repeat the request, and the next cut would hit the same commit.
        eventually("the commit is doubted", PATIENCE, async || {
            let log = app.log();
            if log.matches("the relay begins again").count() > n {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
        stage.records_within(before + 200, Duration::from_mins(1)).await;
    }
    requests.extend(load.stop().await);
    stage.drained().await;
    let delivered = History::gather(&stage, requests).await.kept();
    assert_eq!(delivered.repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_looked_up_and_nothing_is_repeated() {
    cut_commits(Cut::AfterTheAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_connection_is_cut_at_once_is_looked_up_and_nothing_is_repeated() {
    cut_commits(Cut::BeforeTheAnswer).await;
}

/// How many of the stage's transactions are open, and what was said.
async fn open_transactions(stage: &Stage) -> (usize, String) {
    let states = stage.of_transactions(&["list"]).await;
    let ours = transactional_ids(stage).await;
    let is_open = |line: &&str| {
        let id = line.split_whitespace().next();
        id.is_some_and(|id| ours.iter().any(|our| our == id)) && line.contains("Ongoing")
    };
    (states.lines().filter(is_open).count(), states)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_commit_hangs_records_enter_the_other_transaction() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let exactly_once = [("relay.delivery", "exactly-once")];
    // The second commit, for longer than Kafka's tool takes to be started twice.
    let app = stage.spawn(&[], &exactly_once, "relay.commit.before=1*off->1*sleep(15000)");
    app.ready().await;
    app.accept(draft, &token_for(user)).await;
    stage.drained().await;
    for open in 1..=2 {
        app.accept(draft, &token_for(user)).await;
        // The first of them is sealed by then.
        eventually(&format!("{open} transactions are open"), PATIENCE, async || {
            let (seen, states) = open_transactions(&stage).await;
            if seen >= open { Ok(()) } else { Err(states) }
        })
        .await;
    }
    assert_eq!(stage.records_now().await.len(), 1, "none of both is committed");
    stage.drained().await;
    assert_eq!(stage.records(1).await.len(), 3);
}
