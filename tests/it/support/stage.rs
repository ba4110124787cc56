//! What one test has for itself: a database, a pair of topics, and services on them.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use image_job_dispatcher::dev_stack::{Beside, create_topic};
use rdkafka::{
    admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, ResourceSpecifier},
    client::DefaultClientContext,
    config::ClientConfig,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::{
    App, PATIENCE, Record,
    app::dispatcher,
    eventually,
    records::{end_of_topic, read_topic},
    rig::{Servers, kafka_libs, shared},
};

/// Partitions of each test's topics.
pub const PARTITIONS: i32 = 6;

/// The servers of a stage.
#[derive(Debug)]
enum Which {
    Shared(&'static Servers),
    Own(Box<Servers>),
    /// One test's, which it gives to one stage after the other.
    Lent(Arc<Servers>),
}

impl Deref for Which {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        match self {
            Self::Shared(servers) => servers,
            Self::Own(servers) => servers,
            Self::Lent(servers) => servers,
        }
    }
}

/// A migrated database, two topics, and what is needed to run services on them.
#[derive(Debug)]
pub struct Stage {
    servers: Which,
    /// URL of the database.
    pub database_url: String,
    /// A few connections to the database, as its owner.
    pub pool: PgPool,
    /// `kafka.topic`.
    pub topic: String,
    /// `kafka.result_topic`.
    pub result_topic: String,
    settings: BTreeMap<String, String>,
    threads: Option<u32>,
    apps: AtomicU32,
}

impl Stage {
    /// On the shared servers.
    pub async fn new() -> Self {
        Self::on(Which::Shared(shared().await), &[]).await
    }

    /// On the shared servers, with settings of the topic such as `("max.message.bytes", "2000")`.
    pub async fn with_topic(topic_settings: &[(&str, &str)]) -> Self {
        Self::on(Which::Shared(shared().await), topic_settings).await
    }

    /// On servers that nobody else uses: the test may stop, kill and freeze them, see [`Stage::servers`].
    pub async fn with_servers_of_its_own() -> Self {
        Self::on(Which::Own(Box::new(Servers::start().await)), &[]).await
    }

    /// On servers of its own whose broker has more listeners.
    pub async fn with_listeners(beside: &Beside) -> Self {
        Self::on(Which::Own(Box::new(Servers::start_with(beside).await)), &[]).await
    }

    /// On servers that the test has for itself, and for more than one stage.
    pub async fn on_servers(servers: Arc<Servers>) -> Self {
        Self::on(Which::Lent(servers), &[]).await
    }

    async fn on(servers: Which, topic_settings: &[(&str, &str)]) -> Self {
        let name = Uuid::new_v4().simple().to_string();
        let database_url = match &servers {
            Which::Shared(_) | Which::Lent(_) => {
                let template = template(&servers).await;
                create_database(&servers, &format!("t_{name}"), Some(template)).await
            }
            Which::Own(servers) => {
                let url = create_database(servers, "dispatcher", None).await;
                migrate(&url).await;
                url
            }
        };
        let pool = PgPoolOptions::new()
            .max_connections(5)
            .connect(&database_url)
            .await
            .expect("the test's pool");
        let (topic, result_topic) = (format!("jobs-{name}"), format!("results-{name}"));
        let bootstrap = servers.kafka.bootstrap();
        for (topic, settings) in [(&topic, topic_settings), (&result_topic, &[])] {
            create_topic(&bootstrap, topic, PARTITIONS, settings)
                .await
                .expect("the test's topic");
        }
        Self {
            servers,
            database_url,
            pool,
            topic,
            result_topic,
            settings: BTreeMap::new(),
            threads: None,
            apps: AtomicU32::new(0),
        }
    }

    /// The servers. Those of [`Stage::new`] are everybody's: leave them running.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Sets a key of the configuration, such as `relay.lease`, for the services that start from now on.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Its services' runtimes have one thread: whatever blocks it is seen by everything else.
    pub fn on_one_thread(mut self) -> Self {
        self.threads = Some(1);
        self
    }

    /// Starts a service (`serve --role all`) and waits until it is ready.
    pub async fn app(&self) -> App {
        self.app_with(&[], &[]).await
    }

    /// Starts a service with more arguments (`&["--role", "api"]`) and settings (`&[("relay.lease", "1s")]`),
    /// and waits until it is ready.
    pub async fn app_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> App {
        let app = self.spawn_app(arguments, settings);
        app.ready().await;
        app
    }

    /// Starts a service without waiting for it.
    pub fn spawn_app(&self, arguments: &[&str], settings: &[(&str, &str)]) -> App {
        self.spawn(arguments, settings, "")
    }

    /// Starts a service that crashes, fails or stands still where `failpoints` says (`src/failpoint.rs`), without
    /// waiting for it.
    pub fn spawn_app_with_failpoints(&self, arguments: &[&str], failpoints: &str) -> App {
        self.spawn(arguments, &[], failpoints)
    }

    /// [`Stage::spawn_app_with_failpoints`] with settings.
    pub fn spawn(&self, arguments: &[&str], settings: &[(&str, &str)], failpoints: &str) -> App {
        let name = format!("replica-{}", self.apps.fetch_add(1, Ordering::Relaxed) + 1);
        let mut all = self.environment();
        all.insert("replica.name".to_owned(), name.clone());
        all.extend(
            settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        App::spawn(&name, arguments, &all, failpoints, self.threads)
    }

    /// The configuration, by key, of a service or a command on this stage.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<_, _> = [
            ("database.url", self.database_url.clone()),
            ("redis.url", self.servers.redis.url()),
            ("kafka.brokers", self.servers.kafka.bootstrap()),
            ("kafka.topic", self.topic.clone()),
            ("kafka.result_topic", self.result_topic.clone()),
            ("auth.jwt_secret", super::token::SECRET.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        all.extend(self.settings.clone());
        all
    }

    /// Runs a command of the program on this stage, to its end.
    pub async fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.run_with(arguments, &[]).await
    }

    /// [`Stage::run`] with more settings.
    pub async fn run_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> std::process::Output {
        let mut all = self.environment();
        all.extend(
            settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let mut command = dispatcher(&all);
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("a task")
            .expect("dispatcher runs")
    }

    /// All records of the topic, once there are `count` or more; each partition's in order of offset.
    pub async fn records(&self, count: usize) -> Vec<Record> {
        self.records_within(count, PATIENCE).await
    }

    /// [`Stage::records`] with a bound of its own.
    pub async fn records_within(&self, count: usize, bound: Duration) -> Vec<Record> {
        eventually(&format!("{count} records in {}", self.topic), bound, async || {
            let records = self.records_now().await;
            if records.len() >= count {
                Ok(records)
            } else {
                Err(format!("{} records", records.len()))
            }
        })
        .await
    }

    /// All records that are in the topic at this moment.
    pub async fn records_now(&self) -> Vec<Record> {
        read_topic(&self.servers.kafka.bootstrap(), &self.topic).await
    }

    /// The high watermarks of all partitions, added up: whatever is appended, committed or not, moves it.
    pub async fn end_of_log(&self) -> i64 {
        end_of_topic(&self.servers.kafka.bootstrap(), &self.topic, PARTITIONS).await
    }

    /// Waits until a term has begun: the first base of a leader is the end of its start.
    pub async fn led(&self) {
        eventually("somebody leads", PATIENCE, async || {
            let bases: i64 = sqlx::query_scalar(
                "select count(*) from outbox_checkpoints where base_passed is not null and fence > 0",
            )
            .fetch_one(&self.pool)
            .await
            .expect("checkpoints");
            if bases > 0 { Ok(()) } else { Err(bases) }
        })
        .await;
    }

    /// Of the newest checkpoint.
    pub async fn seq_and_fence(&self) -> (i64, i64) {
        sqlx::query_as("select max(seq), max(fence) from outbox_checkpoints")
            .fetch_one(&self.pool)
            .await
            .expect("checkpoints")
    }

    /// Waits until nothing is pending.
    pub async fn drained(&self) {
        eventually("the outbox is drained", Duration::from_mins(2), async || {
            let pending: i64 = sqlx::query_scalar("select pending from outbox_overview")
                .fetch_one(&self.pool)
                .await
                .map_err(|error| error.to_string())?;
            if pending == 0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
    }

    /// What Kafka's own tool says of transactions, and of the producers of each partition: for the report of a failure.
    pub async fn transactions_as_kafka_sees_them(&self) -> String {
        let mut said = self.of_transactions(&["list"]).await;
        for partition in 0..PARTITIONS {
            let partition = partition.to_string();
            let of_partition = ["describe-producers", "--topic", &self.topic, "--partition", &partition];
            said += &self.of_transactions(&of_partition).await;
        }
        said
    }

    /// What `kafka-transactions.sh` prints.
    pub async fn of_transactions(&self, arguments: &[&str]) -> String {
        let mut tool = kafka_libs().await.tool("org.apache.kafka.tools.TransactionsCommand");
        tool.args(["--bootstrap-server", &self.servers.kafka.bootstrap()])
            .args(arguments);
        let output = tokio::task::spawn_blocking(move || tool.output())
            .await
            .expect("a task")
            .expect("Java runs");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        format!("{arguments:?}\n{out}{err}")
    }

    /// The header `outbox-id` of every committed record, as Kafka's own consumer in Java sees them.
    pub async fn outbox_ids_seen_by_java(&self) -> Vec<i64> {
        let mut consumer = kafka_libs()
            .await
            .tool("org.apache.kafka.tools.consumer.ConsoleConsumer");
        consumer
            .args(["--bootstrap-server", &self.environment()["kafka.brokers"]])
            .args(["--topic", &self.topic, "--from-beginning", "--timeout-ms", "10000"])
            .args(["--command-property", "isolation.level=read_committed"])
            .args(["--formatter-property", "print.headers=true"])
            .args(["--formatter-property", "print.value=false"]);
        let output = tokio::task::spawn_blocking(move || consumer.output())
            .await
            .expect("a task")
            .expect("Java runs");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        printed
            .lines()
            .map(|line| {
                let id = line.split(',').find_map(|header| header.strip_prefix("outbox-id:"));
                id.and_then(|id| id.parse().ok())
                    .unwrap_or_else(|| panic!("no outbox-id in {line:?}; {}", String::from_utf8_lossy(&output.stderr)))
            })
            .collect()
    }

    /// Sets the topic's `max.message.bytes` while everything runs.
    pub async fn limit_topic(&self, bytes: &str) {
        self.set_topic(&self.topic, &[("max.message.bytes", bytes)]).await;
    }

    /// Sets a topic's settings while everything runs; those not named go back to their defaults. Returns when the broker goes by
    /// them: its answer to the change says only that the controller has it.
    pub async fn set_topic(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers().kafka.bootstrap());
        let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client");
        let of = ResourceSpecifier::Topic(topic);
        let change = settings
            .iter()
            .fold(AlterConfig::new(of), |change, (key, value)| change.set(key, value));
        let done = admin
            .alter_configs(&[change], &AdminOptions::new())
            .await
            .expect("an answer");
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        eventually("the broker goes by the topic's new settings", PATIENCE, async || {
            let described = admin.describe_configs(&[of], &AdminOptions::new()).await;
            let described = described.expect("an answer").remove(0).expect("the topic's settings");
            let set: BTreeMap<_, _> = described
                .entries
                .into_iter()
                .filter(|entry| entry.source == ConfigSource::DynamicTopic)
                .filter_map(|entry| Some((entry.name, entry.value?)))
                .collect();
            let wanted: BTreeMap<_, _> = settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            if set == wanted { Ok(()) } else { Err(format!("{set:?}")) }
        })
        .await;
    }

    /// A connection of its own to the database.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database_url)
            .await
            .expect("a connection to the test's database")
    }
}

/// Makes an empty database and gives its URL.
pub async fn empty_database() -> String {
    create_database(shared().await, &format!("e_{}", Uuid::new_v4().simple()), None).await
}

async fn create_database(servers: &Servers, name: &str, template: Option<&str>) -> String {
    let mut connection = PgConnection::connect(&servers.postgres.url("postgres"))
        .await
        .expect("a connection to PostgreSQL");
    let template = template
        .map(|template| format!(" template {template}"))
        .unwrap_or_default();
    let statement = AssertSqlSafe(format!("create database {name}{template}"));
    connection.execute(statement).await.expect("a database");
    servers.postgres.url(name)
}

/// The name of a migrated database that is copied for each test: tens of milliseconds instead of a migration.
async fn template(servers: &Servers) -> &'static str {
    let make = async || {
        migrate(&create_database(servers, "migrated", None).await).await;
        "migrated"
    };
    servers.template.get_or_init(make).await
}

/// `dispatcher migrate`.
async fn migrate(database_url: &str) {
    let mut command = dispatcher(&[("database.url".to_owned(), database_url.to_owned())].into());
    command.arg("migrate");
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("a task")
        .expect("migrate runs");
    assert!(
        output.status.success(),
        "dispatcher migrate: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
