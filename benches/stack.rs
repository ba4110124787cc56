//! The servers, and what each measurement has for itself on them: a database, a topic, a service.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use image_job_dispatcher::{
    config::Delivery,
    dev_stack::{
        Home, KafkaBroker, KafkaLibs, Postgres, RedisServer, create_topic, end_with_this_process, forget_ended,
        free_port,
    },
};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::Mutex;

use crate::{
    backlog::{self, Kind},
    settings::root,
    usage::Mark,
};

/// Partitions of every topic.
pub const PARTITIONS: i32 = 6;
/// How the service's tokens are signed.
pub const SECRET: &str = "a secret of the benchmarks, of thirty-two bytes or more";
/// For a server or a service to do what it was asked for.
const PATIENCE: Duration = Duration::from_mins(1);

/// PostgreSQL's settings, beside its defaults, which are durable (`fsync`, `synchronous_commit`): room in memory
/// as on a server, and no checkpoint in the middle of a measurement, whose full-page images would be counted to
/// whichever side meets them.
pub const POSTGRES: &[(&str, &str)] = &[
    ("shared_buffers", "1GB"),
    ("min_wal_size", "2GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    // As many as the public benchmark of `cells.rs` allows, for its 300 idle ones.
    ("max_connections", "400"),
];

/// Segments of the write-ahead log that stand ready, empty, before a measurement: half of `min_wal_size`. A server
/// that has been running has them, because a checkpoint keeps those it is done with up to `min_wal_size`; a new one
/// makes each when it is needed, and everybody's commit waits for 16 MiB of zeros meanwhile (50 to 100 ms here).
const WAL_SEGMENTS: i64 = 64;

/// PostgreSQL, Redis and Kafka.
pub struct Stack {
    pub postgres: Postgres,
    pub redis: RedisServer,
    pub kafka: KafkaBroker,
    names: AtomicU32,
    /// Full tables, of which every drain gets a copy.
    backlogs: Mutex<BTreeMap<(Kind, i64), Database>>,
}

/// A database. `drop_database` ends it.
pub struct Database {
    pub name: String,
    pub url: String,
}

impl Database {
    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }
}

impl Stack {
    /// Starts the servers on data in `.dev/bench`. Kept data, and not temporary: temporary servers are set up to
    /// start soon (Kafka without its better compiler), these to be measured.
    pub async fn start() -> Result<Self> {
        let home = Home::kept(&directory())?;
        let libs = KafkaLibs::find(&root().join(".dev/kafka-libs")).await?;
        let (postgres, redis, kafka) = tokio::try_join!(
            Postgres::start(&home, POSTGRES),
            RedisServer::start(&home),
            KafkaBroker::start(&home, &libs)
        )?;
        let stack = Self {
            postgres,
            redis,
            kafka,
            names: AtomicU32::new(0),
            backlogs: Mutex::default(),
        };
        stack.clear().await?;
        let template = stack.create_database("bench_template", None).await?;
        migrate(&template).await?;
        Ok(stack)
    }

    /// Removes what an earlier run left.
    async fn clear(&self) -> Result<()> {
        let mut connection = self.admin().await?;
        let left: Vec<String> =
            sqlx::query_scalar("select datname::text from pg_database where datname like 'bench\\_%'")
                .fetch_all(&mut connection)
                .await?;
        for name in left {
            connection
                .execute(AssertSqlSafe(format!("drop database {name} with (force)")))
                .await?;
        }
        let consumer: BaseConsumer = self.kafka_client().create()?;
        let metadata = consumer.fetch_metadata(None, PATIENCE)?;
        for topic in metadata.topics() {
            if topic.name().starts_with("bench-") {
                self.delete_topic(topic.name()).await?;
            }
        }
        Ok(())
    }

    /// Ends the servers in good order, so that the next run starts them soon.
    pub async fn stop(self) -> Result<()> {
        self.clear().await?;
        tokio::try_join!(self.postgres.stop(), self.redis.stop(), self.kafka.stop())?;
        Ok(())
    }

    pub async fn admin(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.postgres.url("postgres")).await?)
    }

    fn name(&self) -> u32 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    /// A new database with the schema of `dispatcher migrate`.
    pub async fn database(&self) -> Result<Database> {
        let name = format!("bench_{}", self.name());
        self.create_database(&name, Some("bench_template")).await
    }

    /// A new database with a committed backlog of `count` messages and nothing drained.
    pub async fn database_with_backlog(&self, kind: Kind, count: i64) -> Result<Database> {
        let mut backlogs = self.backlogs.lock().await;
        if let Entry::Vacant(missing) = backlogs.entry((kind, count)) {
            let database = self.database().await?;
            let mut connection = database.connect().await?;
            backlog::fill(&mut connection, kind, count).await?;
            connection.close().await?;
            missing.insert(database);
        }
        // PostgreSQL's checkpoint, so that none falls into the measurement: the copy is written to the WAL whole,
        // and a page that was written since the checkpoint is not written whole again.
        self.admin().await?.execute("checkpoint").await?;
        let name = format!("bench_{}", self.name());
        self.create_database(&name, Some(&backlogs[&(kind, count)].name)).await
    }

    async fn create_database(&self, name: &str, template: Option<&str>) -> Result<Database> {
        let template = template
            .map(|template| format!(" template {template}"))
            .unwrap_or_default();
        let statement = AssertSqlSafe(format!("create database {name}{template}"));
        self.admin().await?.execute(statement).await?;
        Ok(Database {
            name: name.to_owned(),
            url: self.postgres.url(name),
        })
    }

    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let statement = AssertSqlSafe(format!("drop database {name} with (force)"));
        self.admin().await?.execute(statement).await?;
        Ok(())
    }

    /// A new topic, whose records carry the time at which the broker appended them: read afterwards, it tells
    /// how fast they came without anybody watching meanwhile.
    pub async fn topic(&self) -> Result<String> {
        let name = format!("bench-{}-{}", std::process::id(), self.name());
        let settings = [("message.timestamp.type", "LogAppendTime")];
        create_topic(&self.kafka.bootstrap(), &name, PARTITIONS, &settings).await?;
        // Empty; a relay also looks here for answers.
        create_topic(&self.kafka.bootstrap(), &results_of(&name), 1, &[]).await?;
        Ok(name)
    }

    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.kafka_client().create()?;
        admin
            .delete_topics(&[name, &results_of(name)], &AdminOptions::new())
            .await?;
        Ok(())
    }

    /// The settings that every Kafka client of the benchmarks starts from.
    pub fn kafka_client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.kafka.bootstrap());
        config
    }

    /// Sees to it that [`WAL_SEGMENTS`] are ready, 1 GiB: else writes as much, and has a checkpoint keep it. A
    /// measurement that writes more pays for the rest as it goes, whichever side has its turn.
    pub async fn wal_ready(&self) -> Result<()> {
        let mut connection = self.admin().await?;
        let ready = "select count(*) from pg_ls_waldir()
                     where name ~ '^[0-9A-F]{24}$' and name > pg_walfile_name(pg_current_wal_insert_lsn())";
        let now: i64 = sqlx::query_scalar(ready).fetch_one(&mut connection).await?;
        if now < WAL_SEGMENTS {
            // Not of a transaction: written at once, and read by nobody.
            let write = "select count(pg_logical_emit_message(false, 'bench', repeat('x', 1 << 24)))
                         from generate_series(1, $1)";
            sqlx::query(write)
                .bind(WAL_SEGMENTS + 1)
                .execute(&mut connection)
                .await?;
            connection.execute("checkpoint").await?;
        }
        let now: i64 = sqlx::query_scalar(ready).fetch_one(&mut connection).await?;
        if now < WAL_SEGMENTS {
            bail!("PostgreSQL has {now} segments of WAL ready after a checkpoint, and should have {WAL_SEGMENTS}");
        }
        Ok(())
    }

    /// Bytes of WAL written so far.
    pub async fn wal(&self) -> Result<f64> {
        let bytes = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";
        Ok(sqlx::query_scalar(bytes).fetch_one(&mut self.admin().await?).await?)
    }

    /// What was used up to now.
    pub async fn mark(&self) -> Result<Mark> {
        Mark::now(self.wal().await?)
    }

    /// Starts `dispatcher serve` with its default settings on this database and topic. It is not waited for.
    pub fn service(&self, database: &Database, topic: &str, role: &str, delivery: Delivery) -> Result<Service> {
        let address = || Ok::<_, anyhow::Error>(format!("127.0.0.1:{}", free_port()?));
        let (listen, admin) = (address()?, address()?);
        let settings = [
            // Who leads is told by it.
            ("REPLICA__NAME", listen.clone()),
            ("DATABASE__URL", database.url.clone()),
            ("REDIS__URL", self.redis.url()),
            ("KAFKA__BROKERS", self.kafka.bootstrap()),
            ("KAFKA__TOPIC", topic.to_owned()),
            ("KAFKA__RESULT_TOPIC", results_of(topic)),
            ("RELAY__DELIVERY", delivery.as_str().to_owned()),
            ("AUTH__JWT_SECRET", SECRET.to_owned()),
            ("HTTP__LISTEN", listen.clone()),
            ("ADMIN__LISTEN", admin.clone()),
        ];
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory().join("service.log"))?;
        let mut command = dispatcher(&settings.map(|(key, value)| (key, value)).into());
        command
            .args(["serve", "--role", role])
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Service {
            child: spawn(&mut command)?,
            command,
            listen,
            admin,
        })
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    let child = command.spawn().context("cannot start the dispatcher")?;
    end_with_this_process(&child)?;
    Ok(child)
}

/// A running `dispatcher serve`. Dropping kills it.
pub struct Service {
    child: Child,
    command: Command,
    /// Of the public listener; also the replica's name.
    pub listen: String,
    /// Of the operators' listener.
    pub admin: String,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it leads; `connection` is to its database.
    pub async fn leads(&mut self, connection: &mut PgConnection) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while sqlx::query_scalar::<_, Option<String>>("select leader from outbox_overview")
            .fetch_one(&mut *connection)
            .await?
            .is_none_or(|leader| leader != self.listen)
        {
            self.check()?;
            if Instant::now() > deadline {
                bail!("the service does not lead: see {}", log_path().display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let url = format!("http://{}/readyz", self.listen);
        while Instant::now() < deadline {
            if let Ok(answer) = reqwest::get(&url).await
                && answer.status().is_success()
            {
                return Ok(());
            }
            self.check()?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!(
            "the service is not ready after {PATIENCE:?}: see {}",
            log_path().display()
        )
    }

    /// An error when it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the service ended ({status}): see {}", log_path().display()),
            None => Ok(()),
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        // Ended already: that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget_ended(&self.child);
    }

    /// Starts it again after [`Self::kill`], at the same address. It is not waited for.
    pub fn start(&mut self) -> Result<()> {
        self.child = spawn(&mut self.command)?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> Result<()> {
        signal::kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the service does not stop: see {}", log_path().display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The topic of a topic's answers.
pub fn results_of(topic: &str) -> String {
    format!("{topic}-results")
}

/// Where the servers keep their data and the services their log.
fn directory() -> PathBuf {
    root().join(".dev/bench")
}

fn log_path() -> PathBuf {
    directory().join("service.log")
}

/// The program of the profile that is measured (Cargo builds it with the tests' failpoints, all off: one look at a
/// table for each batch and each turn of the relay), with nothing of the caller's environment that could change it.
pub fn dispatcher(settings: &BTreeMap<&str, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("DISPATCHER_") || ["DATABASE_URL", "REDIS_URL", "KAFKA_BROKERS"].contains(&&*shown) {
            command.env_remove(name);
        }
    }
    for (key, value) in settings {
        command.env(format!("DISPATCHER_{key}"), value);
    }
    // Not the repository: a configuration file lying there is not the benchmarks'.
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

async fn migrate(database: &Database) -> Result<()> {
    let mut command = dispatcher(&[("DATABASE__URL", database.url.clone())].into());
    command.arg("migrate");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        bail!("dispatcher migrate: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// PostgreSQL's programs: beside the newest server, else on PATH.
pub fn pgbench() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/pgbench"))
        .filter(|program| program.is_file())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| "pgbench".into())
}
