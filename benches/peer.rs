//! PEER, a part of G4: Debezium Server's outbox event router, on the same rows and the same broker.
//!
//! Its distribution is fetched from Maven Central the first time (780 MB). It reads the WAL, so it has a PostgreSQL
//! of its own that differs in `wal_level = logical` alone; the slot is there before the rows are committed, as in
//! life. What it sends has the service's keys and values; of the headers, those that its router makes of columns
//! (ce_id as `id`, ce_subject, ce_time, outbox-id), and not the constant ones, which is to its advantage.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use image_job_dispatcher::dev_stack::{Home, Postgres, end_with_this_process, forget_ended};
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    backlog::{Topic, insert, make_textbook, payload},
    drain,
    report::Sample,
    settings::root,
    stack::{POSTGRES, Stack},
    usage::{Mark, own},
};

const VERSION: &str = "3.6.0.Final";
const OLDEST_JAVA: u32 = 21;
/// Rows that were committed together: decoding begins with a transaction's commit.
const COMMITTED: i64 = 1000;
/// Beside what connects the two ends. Tuned as its documentation advises for throughput: batches and queue of the
/// connector larger than the defaults (2,048 and 8,192), a producer that may gather, and no snapshot. What is not
/// here is its default: `acks=all` with idempotence, all cores for the records' transformation, order kept.
const TUNED: &str = "\
debezium.source.max.batch.size=10240
debezium.source.max.queue.size=40960
debezium.source.poll.interval.ms=10
debezium.sink.kafka.producer.batch.size=262144
debezium.sink.kafka.producer.linger.ms=5
debezium.sink.kafka.producer.buffer.memory=67108864
";

/// Debezium Server and the PostgreSQL that it reads.
pub struct Peer {
    postgres: Postgres,
    java: Java,
    jars: PathBuf,
}

impl Peer {
    pub async fn start() -> Result<Self> {
        let (java, jars) = (find_java()?, fetch().await?);
        let home = Home::kept(&root().join(".dev/bench-logical"))?;
        let settings: Vec<_> = POSTGRES.iter().copied().chain([("wal_level", "logical")]).collect();
        let postgres = Postgres::start(&home, &settings).await?;
        Ok(Self { postgres, java, jars })
    }

    pub async fn stop(self) -> Result<()> {
        self.postgres.stop().await
    }

    /// What was set, for the page.
    pub fn tuned(&self) -> String {
        let set = TUNED.lines().map(|line| line.strip_prefix("debezium.").unwrap_or(line));
        let set: Vec<_> = set.collect();
        format!("Debezium Server {VERSION} on {}: {}", self.java.version, set.join(", "))
    }

    /// Drains a backlog that was committed after its slot was made.
    pub async fn drain(&self, stack: &Stack, count: i64) -> Result<Sample> {
        let (topic, mut admin) = (
            stack.topic().await?,
            PgConnection::connect(&self.postgres.url("postgres")).await?,
        );
        self.forget(&mut admin).await?;
        admin.execute("create database peer").await?;
        let mut connection = PgConnection::connect(&self.postgres.url("peer")).await?;
        make_textbook(&mut connection).await?;
        connection
            .execute("create publication peer for table textbook_outbox with (publish = 'insert')")
            .await?;
        connection
            .execute("select pg_create_logical_replication_slot('peer', 'pgoutput')")
            .await?;
        let mut before = 0;
        while before < count {
            insert(
                &mut connection,
                "textbook_outbox",
                (before, COMMITTED.min(count - before)),
            )
            .await?;
            before += COMMITTED;
        }
        connection.execute("checkpoint").await?;

        let look = Topic::new(stack, &topic)?;
        let before = Mark::now(wal(&mut connection).await?)?;
        let mut server = start(&self.java.program, &self.jars, &self.settings(stack, &topic))?;
        drain::wait_for(&look, count, || server.check()).await?;
        let of_server = own(server.pid())?;
        let mut used = Mark::now(wal(&mut connection).await?)?.since(before);
        drop(server);
        // Both are Java: it is counted as Kafka's.
        used.cpu.service += of_server;
        used.cpu.kafka -= of_server;
        let sample = drain::sample(&look, (0, count), false, used)?;
        let (value, headers) = look.one()?;
        if value != payload().as_bytes()
            || !["id", "ce_subject"]
                .iter()
                .all(|name| headers.contains(&(*name).into()))
        {
            bail!(
                "Debezium Server sends something else: {}, {headers:?}",
                String::from_utf8_lossy(&value)
            );
        }
        connection.close().await?;
        self.forget(&mut admin).await?;
        stack.delete_topic(&topic).await?;
        Ok(sample)
    }

    /// What the last drain left: its slot keeps the WAL.
    async fn forget(&self, admin: &mut PgConnection) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = admin
            .execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
            .await
        {
            if Instant::now() > deadline {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        admin.execute("drop database if exists peer with (force)").await?;
        Ok(())
    }

    fn settings(&self, stack: &Stack, topic: &str) -> String {
        let url: url::Url = self.postgres.url("peer").parse().expect("a URL of ours");
        format!(
            "debezium.sink.type=kafka
debezium.sink.kafka.producer.bootstrap.servers={bootstrap}
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.ByteArraySerializer
debezium.format.key=simplestring
debezium.format.value=binary
debezium.format.header=json
debezium.format.header.schemas.enable=false
debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.offset.storage=org.apache.kafka.connect.storage.MemoryOffsetBackingStore
debezium.source.database.hostname=127.0.0.1
debezium.source.database.port={port}
debezium.source.database.user={user}
debezium.source.database.password={password}
debezium.source.database.dbname=peer
debezium.source.topic.prefix=peer
debezium.source.plugin.name=pgoutput
debezium.source.slot.name=peer
debezium.source.publication.name=peer
debezium.source.publication.autocreate.mode=disabled
debezium.source.table.include.list=public.textbook_outbox
debezium.source.snapshot.mode=no_data
debezium.source.tombstones.on.delete=false
debezium.source.binary.handling.mode=bytes
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.table.field.event.id=event_id
debezium.transforms.outbox.table.field.event.key=key
debezium.transforms.outbox.table.field.event.payload=payload
debezium.transforms.outbox.table.fields.additional.placement=job_id:header:ce_subject,event_time:header:ce_time,id:header:outbox-id
debezium.transforms.outbox.route.by.field=key
debezium.transforms.outbox.route.topic.replacement={topic}
quarkus.log.level=WARN
quarkus.http.port=0
{TUNED}",
            bootstrap = stack.kafka.bootstrap(),
            port = self.postgres.port(),
            user = url.username(),
            password = url.password().unwrap_or_default(),
        )
    }
}

async fn wal(connection: &mut PgConnection) -> Result<f64> {
    let bytes = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";
    Ok(sqlx::query_scalar(bytes).fetch_one(connection).await?)
}

/// A peer that runs. Dropping kills it.
pub struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    /// What it prints is in `.dev/bench/NAME.log`.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let log = File::create(root().join(format!(".dev/bench/{name}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        end_with_this_process(&child)?;
        Ok(Self { name, child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{0} ended ({status}): see .dev/bench/{0}.log", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already: that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget_ended(&self.child);
    }
}

fn start(java: &Path, jars: &Path, settings: &str) -> Result<Running> {
    let directory = root().join(".dev/bench/debezium");
    fs::create_dir_all(directory.join("config"))?;
    fs::write(directory.join("config/application.properties"), settings)?;
    let runner = format!("debezium-server-dist-{VERSION}-runner.jar");
    let path = [runner.as_str(), "config/lib", "lib/*"].map(|part| jars.join(part).display().to_string());
    Running::start(
        "debezium",
        Command::new(java)
            .arg("-cp")
            .arg(path.join(":"))
            .arg("io.debezium.server.Main")
            .current_dir(&directory),
    )
}

/// A Java that it runs on; newer than the one that Kafka needs.
struct Java {
    program: PathBuf,
    /// As it says itself: `openjdk 21.0.7 2025-04-15`.
    version: String,
}

fn find_java() -> Result<Java> {
    let of_home = env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let mut installed: Vec<_> = fs::read_dir("/usr/lib/jvm")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/java"))
        .collect();
    installed.sort();
    let new_enough = |program: PathBuf| {
        let printed = Command::new(&program).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&printed.stdout).lines().next()?.to_owned();
        let major: u32 = version.split([' ', '.']).nth(1)?.parse().ok()?;
        (major >= OLDEST_JAVA).then_some(Java { program, version })
    };
    of_home
        .into_iter()
        .chain(["java".into()])
        .chain(installed)
        .find_map(new_enough)
        .with_context(|| format!("Debezium Server {VERSION} needs Java {OLDEST_JAVA} or newer: set JAVA_HOME"))
}

/// Where its jars are; from Maven Central, the first time.
async fn fetch() -> Result<PathBuf> {
    let cache = root().join(".dev/debezium");
    let jars = cache.join(VERSION);
    if jars.is_dir() {
        return Ok(jars);
    }
    println!("fetching Debezium Server {VERSION} (780 MB)");
    fs::create_dir_all(&cache)?;
    let archive = format!("debezium-server-dist-{VERSION}.tar.gz");
    let mut maven = tokio::process::Command::new("mvn");
    maven
        .current_dir(&cache)
        .args(["-q", "-B", "dependency:copy", "-DoutputDirectory=."])
        .arg(format!("-Dartifact=io.debezium:debezium-server-dist:{VERSION}:tar.gz"));
    let status = maven.status().await.context("Maven fetches Debezium Server")?;
    if !status.success() {
        bail!("Maven cannot fetch Debezium Server: {status}");
    }
    let mut tar = tokio::process::Command::new("tar");
    // Connectors to other databases are in directories of their own.
    tar.current_dir(&cache)
        .args(["xzf", &archive, "--exclude=*/connectors/*", "--exclude=*/lib_opt/*"]);
    let status = tar.status().await?;
    if !status.success() {
        bail!("tar cannot unpack {archive}: {status}");
    }
    fs::remove_file(cache.join(archive))?;
    fs::rename(cache.join("debezium-server"), &jars)?;
    Ok(jars)
}
