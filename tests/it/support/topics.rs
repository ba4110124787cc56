//! What an operator can do to a topic, and should not.

use std::time::Duration;

use image_job_dispatcher::dev_stack::create_topic;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use super::{PATIENCE, Stage, eventually, stage::PARTITIONS};

fn admin(stage: &Stage) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", stage.servers().kafka.bootstrap())
        .create()
        .expect("a client")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE))
}

/// Deletes the stage's topic and makes it again under its name: empty, and acknowledged records are lost.
pub async fn make_again(stage: &Stage) {
    let admin = admin(stage);
    let deleted = admin
        .delete_topics(&[&stage.topic], &options())
        .await
        .expect("an answer");
    deleted[0].as_ref().expect("it is deleted");
    eventually("the topic is there again, and empty", PATIENCE, async || {
        // While the old one is still being deleted, the new one is refused as being there.
        create_topic(&stage.servers().kafka.bootstrap(), &stage.topic, PARTITIONS, &[])
            .await
            .map_err(|error| error.to_string())?;
        let consumer: rdkafka::consumer::BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", stage.servers().kafka.bootstrap())
            .create()
            .map_err(|error| error.to_string())?;
        for partition in 0..PARTITIONS {
            let (_, high) = rdkafka::consumer::Consumer::fetch_watermarks(
                &consumer,
                &stage.topic,
                partition,
                Duration::from_secs(5),
            )
            .map_err(|error| error.to_string())?;
            if high != 0 {
                return Err(format!("{high} in partition {partition}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Deletes the records of a partition below an offset: its log begins there.
pub async fn delete_records_below(stage: &Stage, partition: i32, offset: i64) {
    let mut below = TopicPartitionList::new();
    below
        .add_partition_offset(&stage.topic, partition, Offset::Offset(offset))
        .expect("an offset");
    let deleted = admin(stage)
        .delete_records(&below, &options())
        .await
        .expect("an answer");
    for element in deleted.elements() {
        element.error().expect("records are deleted");
    }
}
