//! Workers that share the topic: static members, and an assignment that moves no more than it must.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::support::{
    PATIENCE, Stage,
    content::{ContentService, status_of},
    eventually,
    rig::kafka_libs,
};

/// What Kafka's own tool says of the group.
async fn describe(stage: &Stage, group: &str, what: &[&str]) -> String {
    let mut tool = kafka_libs()
        .await
        .tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand");
    tool.args(["--bootstrap-server", &stage.servers().kafka.bootstrap(), "--describe"])
        .args(["--group", group])
        .args(what);
    let output = tokio::task::spawn_blocking(move || tool.output())
        .await
        .expect("a task")
        .expect("Java runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The partitions of each instance.
fn assignments(described: &str, instances: &[&str]) -> BTreeMap<String, String> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let instance = instances.iter().find(|name| words.contains(name))?;
        let (_, partitions) = words.iter().find_map(|word| word.split_once(':'))?;
        Some(((*instance).to_owned(), partitions.to_owned()))
    };
    described.lines().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_restarts_takes_up_its_partitions_and_the_other_keeps_its_own() {
    const INSTANCES: [&str; 2] = ["instance-one", "instance-two"];
    let stage = Stage::new().await;
    let content = ContentService::on(&stage).await;
    let [mut one, mut two] = INSTANCES.map(|instance| content.beside(instance));
    one.start();
    two.start();
    let members = ["--members", "--verbose"];
    let before = eventually("both have partitions", 2 * PATIENCE, async || {
        let described = describe(&stage, &content.group(), &members).await;
        let assigned = assignments(&described, &INSTANCES);
        if assigned.len() == 2 {
            Ok(assigned)
        } else {
            Err(described)
        }
    })
    .await;
    let described = describe(&stage, &content.group(), &["--state"]).await;
    assert!(described.contains("cooperative-sticky"), "{described}");

    // Killed, not stopped: the group waits for the same instance, and nobody else's work stops.
    one.kill();
    let job_ids: Vec<_> = (0..12).map(|_| Uuid::now_v7()).collect();
    for job_id in &job_ids {
        content.request(Uuid::now_v7(), *job_id, "둘이서").await;
    }
    one.start();
    content
        .results("all are completed", 2 * PATIENCE, |records| {
            let done = records.iter().filter(|record| status_of(record) == "COMPLETED");
            done.map(|record| &record.key)
                .collect::<std::collections::HashSet<_>>()
                .len()
                == job_ids.len()
        })
        .await;
    let after = describe(&stage, &content.group(), &members).await;
    assert_eq!(assignments(&after, &INSTANCES), before, "{after}");
    for worker in [&mut one, &mut two] {
        assert!(worker.term().await.success(), "{}", worker.log());
    }
}
