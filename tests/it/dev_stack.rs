//! The servers that the other tests stand on.

use std::time::Duration;

use image_job_dispatcher::dev_stack::{Home, KafkaBroker, create_topic};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use redis::AsyncCommands;
use sqlx::{Connection, PgConnection};

use crate::support::{
    PATIENCE, eventually,
    records::read_topic,
    rig::{Servers, kafka_libs, shared},
    stage::empty_database,
};

fn produce(bootstrap: &str, topic: &str, value: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .create()
        .expect("a producer");
    producer
        .send(BaseRecord::to(topic).key("k").payload(value))
        .expect("room in the queue");
    // A cluster that lost its leader takes half a minute to elect another, on a busy machine.
    producer.flush(PATIENCE * 4).expect("the record is acknowledged");
}

#[tokio::test]
async fn the_shared_servers_answer() {
    let database = empty_database().await;
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let fsync: String = sqlx::query_scalar("show fsync")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(fsync, "on", "tests commit as production does");

    let mut redis = redis::Client::open(shared().await.redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let () = redis.set("a", "b").await.unwrap();
    assert_eq!(redis.get::<_, String>("a").await.unwrap(), "b");

    let bootstrap = shared().await.kafka.bootstrap();
    create_topic(&bootstrap, "answers", 6, &[("max.message.bytes", "2000")])
        .await
        .unwrap();
    create_topic(&bootstrap, "answers", 6, &[])
        .await
        .expect("a topic that is there is no error");
    produce(&bootstrap, "answers", "hello");
    let records = read_topic(&bootstrap, "answers").await;
    assert_eq!(
        records.iter().map(|record| &*record.value).collect::<Vec<_>>(),
        [b"hello"]
    );
}

#[tokio::test]
async fn killed_servers_come_back_on_their_ports_with_what_was_committed() {
    let servers = Servers::start().await;
    let url = servers.postgres.url("postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("create table t (i int); insert into t values (7)")
        .execute(&mut connection)
        .await
        .unwrap();
    let bootstrap = servers.kafka.bootstrap();
    create_topic(&bootstrap, "kept", 1, &[]).await.unwrap();
    produce(&bootstrap, "kept", "before");

    servers.postgres.kill();
    servers.redis.kill();
    servers.kafka.kill();
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "a killed server does not answer"
    );

    let (postgres, redis, kafka) = tokio::join!(
        servers.postgres.restart(),
        servers.redis.restart(),
        servers.kafka.restart()
    );
    postgres.unwrap();
    redis.unwrap();
    kafka.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let kept: i32 = sqlx::query_scalar("select i from t")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(kept, 7);
    assert_eq!(read_topic(&bootstrap, "kept").await.len(), 1);

    servers.kafka.stop().await.unwrap();
    servers.kafka.restart().await.unwrap();
    produce(&bootstrap, "kept", "after");
    assert_eq!(read_topic(&bootstrap, "kept").await.len(), 2);
}

#[tokio::test]
async fn a_frozen_server_says_nothing_until_it_is_thawed() {
    let servers = Servers::start().await;
    let url = servers.postgres.url("postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    servers.postgres.freeze();
    let waits = tokio::time::timeout(
        Duration::from_millis(300),
        sqlx::query("select 1").execute(&mut connection),
    );
    assert!(waits.await.is_err(), "an open connection of a frozen server waits");
    servers.postgres.thaw();
    eventually("PostgreSQL answers again", PATIENCE, async || {
        PgConnection::connect(&url).await
    })
    .await;
}

#[tokio::test]
async fn three_brokers_are_one_cluster() {
    let home = Home::temporary().unwrap();
    let brokers = KafkaBroker::start_cluster(&home, &kafka_libs().await, 3).await.unwrap();
    let bootstrap: Vec<_> = brokers.iter().map(KafkaBroker::bootstrap).collect();
    let bootstrap = bootstrap.join(",");
    create_topic(&bootstrap, "replicated", 3, &[]).await.unwrap();
    brokers[0].kill();
    produce(&bootstrap, "replicated", "two of three are enough");
    assert_eq!(read_topic(&bootstrap, "replicated").await.len(), 1);
}
