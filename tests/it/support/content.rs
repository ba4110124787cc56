//! The real `content-worker` as a child process, and records of its topics by hand.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use image_job_dispatcher::dev_stack::{create_topic, end_with_this_process, forget_ended, free_port};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::{PATIENCE, Record, Stage, eventually, records::read_topic};

/// The Content Service of a stage: its directory, its dead-letter topic, and the worker while it runs.
#[derive(Debug)]
pub struct ContentService {
    brokers: String,
    topic: String,
    result_topic: String,
    directory: Arc<TempDir>,
    listen: String,
    instance: String,
    /// More of its command line and of its environment.
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Files that it may have open; `None`: as many as this process may.
    descriptors: Option<usize>,
    log: TempDir,
    child: Option<Child>,
}

impl ContentService {
    /// Makes its topic; starts nothing yet.
    pub async fn on(stage: &Stage) -> Self {
        let this = Self {
            brokers: stage.servers().kafka.bootstrap(),
            topic: stage.topic.clone(),
            result_topic: stage.result_topic.clone(),
            directory: Arc::new(tempfile::tempdir().expect("a directory")),
            listen: format!("127.0.0.1:{}", free_port().expect("a free port")),
            instance: "one".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
            log: tempfile::tempdir().expect("a directory"),
            child: None,
        };
        create_topic(&this.brokers, &this.dead_letter_topic(), 1, &[])
            .await
            .expect("the dead-letter topic");
        this
    }

    /// Another worker of the same group, of which nothing is started yet.
    pub fn beside(&self, instance: &str) -> Self {
        Self {
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            result_topic: self.result_topic.clone(),
            directory: Arc::clone(&self.directory),
            listen: format!("127.0.0.1:{}", free_port().expect("a free port")),
            instance: instance.to_owned(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            descriptors: self.descriptors,
            log: tempfile::tempdir().expect("a directory"),
            child: None,
        }
    }

    /// More arguments for the starts from now on.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|text| (*text).to_owned()));
        self
    }

    /// More of the environment for the starts from now on.
    #[must_use]
    pub fn with_environment(mut self, variables: &[(&str, &str)]) -> Self {
        let owned = variables
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.environment.extend(owned);
        self
    }

    /// So many open files for the starts from now on.
    #[must_use]
    pub fn with_descriptors(mut self, most: usize) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// The consumer group.
    pub fn group(&self) -> String {
        format!("content-{}", self.topic)
    }

    /// What the worker has logged, all starts together.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }

    /// Where unreadable records go.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    /// Where its pictures are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Of its listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Starts the worker; always the same member of the group.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log.path().join("log"))
            .expect("a log");
        let program = env!("CARGO_BIN_EXE_content-worker");
        let mut command = match self.descriptors {
            None => Command::new(program),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n $0 && exec \"$@\"", &most.to_string(), program]);
                shell
            }
        };
        let child = command
            .args([
                "--brokers",
                &self.brokers,
                "--topic",
                &self.topic,
                "--result-topic",
                &self.result_topic,
            ])
            .args([
                "--group",
                &self.group(),
                "--instance",
                &self.instance,
                "--listen",
                &self.listen,
            ])
            .arg("--directory")
            .arg(self.directory.path())
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("content-worker starts");
        end_with_this_process(&child).expect("the guard listens");
        self.child = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("a status");
            forget_ended(&child);
        }
    }

    /// SIGTERM, and waits until it ended.
    pub async fn term(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        signal::kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
        let status = eventually("content-worker ends", PATIENCE, async || {
            child.try_wait().expect("a status").ok_or("it runs")
        })
        .await;
        forget_ended(&child);
        status
    }

    /// Sends a request for a job as the dispatcher does, and gives the job's id.
    pub async fn request(&self, event_id: Uuid, job_id: Uuid, title: &str) {
        self.request_with(event_id, job_id, json!({"title": title})).await;
    }

    /// The same, with any of the value's members.
    pub async fn request_with(&self, event_id: Uuid, job_id: Uuid, members: Value) {
        let draft = Uuid::new_v4();
        let mut value = json!({"jobId": job_id, "eventDraftId": draft, "title": "여름", "prize": null,
            "brandColor": "#00704a", "logoUrl": null, "storeInfo": {"name": "카페"}});
        let Value::Object(members) = members else {
            panic!("members of an object")
        };
        value.as_object_mut().expect("an object").extend(members);
        let event_id = event_id.to_string();
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", event_id.as_str()),
            ("ce_type", "image-job.requested.v1"),
        ];
        self.send(&self.topic, &draft.to_string(), &value.to_string(), &headers)
            .await;
    }

    /// Sends a record of the result topic.
    pub async fn result(&self, job_id: impl std::fmt::Display, value: &Value) {
        self.send(&self.result_topic, &job_id.to_string(), &value.to_string(), &[])
            .await;
    }

    /// Sends any record.
    pub async fn send(&self, topic: &str, key: &str, value: &str, headers: &[(&str, &str)]) {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()
            .expect("a producer");
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let record = FutureRecord::to(topic).key(key).payload(value).headers(headers);
        producer.send(record, PATIENCE).await.expect("kafka takes the record");
    }

    /// All answers, once `enough` says so.
    pub async fn results(&self, what: &str, bound: Duration, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        self.read(&self.result_topic, what, bound, enough).await
    }

    /// The first `count` dead letters.
    pub async fn dead_letters(&self, count: usize) -> Vec<Record> {
        self.read(&self.dead_letter_topic(), "dead letters", PATIENCE, |records| {
            records.len() >= count
        })
        .await
    }

    async fn read(&self, topic: &str, what: &str, bound: Duration, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        eventually(what, bound, async || {
            let records = read_topic(&self.brokers, topic).await;
            if enough(&records) {
                Ok(records)
            } else {
                Err(format!("{} records", records.len()))
            }
        })
        .await
    }
}

impl Drop for ContentService {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The status that an answer names.
pub fn status_of(record: &Record) -> String {
    record.json()["status"].as_str().expect("status is text").to_owned()
}
