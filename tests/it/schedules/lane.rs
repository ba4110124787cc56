//! Servers, links and replicas on which one plan after the other is run.

use std::{
    fmt::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::future::join_all;
use image_job_dispatcher::dev_stack::{Beside, free_port};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::json;
use uuid::Uuid;

use super::plan::{Act, Event, Failpoint, Plan, Server};
use crate::support::{
    App, Stage, drafts,
    history::{History, Kept, LogSeen, OperatorAct, StatusSeen, Violation, show},
    http_client,
    load::{Load, Manners},
    proxy::{Proxy, Weather},
    rig::Servers,
    token_for,
};

/// Replicas of a lane, at most: each has its own links.
const REPLICAS: usize = 2;
const CLIENTS: usize = 6;
const DRAFTS: usize = 12;
/// Of each client, between two requests.
const PAUSE: Duration = Duration::from_millis(8);
/// Load goes on for so long after the last fault has been healed.
const FAIR_WEATHER: Duration = Duration::from_millis(300);
/// For each replica to be ready once all is healed.
const READY_BOUND: Duration = Duration::from_mins(1);
/// From then until nothing is pending.
const DRAIN_BOUND: Duration = Duration::from_secs(90);
/// For a replica to end after SIGTERM: far above its `shutdown.budget`.
const STOP_BOUND: Duration = Duration::from_secs(20);
const SHUTDOWN_BUDGET: &str = "5s";
/// A record may be handed over for so long after a pause on an undisturbed, busy machine: one poll and a read.
const PAUSE_GRACE: Duration = Duration::from_secs(2);

/// Between a replica and each server.
struct Links {
    postgres: Proxy,
    redis: Proxy,
    kafka: Proxy,
}

impl Links {
    fn to(&self, server: Server) -> &Proxy {
        match server {
            Server::Postgres => &self.postgres,
            Server::Redis => &self.redis,
            Server::Kafka => &self.kafka,
        }
    }
}

pub struct Lane {
    servers: Arc<Servers>,
    links: Arc<Vec<Links>>,
}

/// What became of a plan.
pub struct Ran {
    pub kept: Kept,
    pub violations: Vec<Violation>,
    /// What is wrong beside the promises: a replica that ended by itself, a panic.
    pub other: Vec<String>,
    pub faults: usize,
    log: String,
}

impl Ran {
    pub fn failed(&self) -> bool {
        !self.violations.is_empty() || !self.other.is_empty()
    }

    pub fn title(&self) -> String {
        let Kept { accepted, repeats, .. } = self.kept;
        let verdict = if self.failed() { "FAILED" } else { "kept" };
        format!("{accepted} jobs, {repeats} repeats: {verdict}")
    }

    pub fn report(&self) -> String {
        format!(
            "{}\n{}\nlogs: {}",
            show(&self.violations),
            self.other.join("\n"),
            self.log
        )
    }
}

impl Lane {
    pub async fn start() -> Self {
        let mut ports = Vec::new();
        let mut proxies = Vec::new();
        for _ in 0..REPLICAS {
            let port = free_port().expect("a free port");
            let proxy = Proxy::start(port).await;
            ports.push((port, proxy.port));
            proxies.push(proxy);
        }
        let servers = Servers::start_with(&Beside {
            proxied: ports,
            ..Beside::default()
        })
        .await;
        let mut links = Vec::new();
        for kafka in proxies {
            links.push(Links {
                postgres: Proxy::start(servers.postgres.port()).await,
                redis: Proxy::start(servers.redis.port()).await,
                kafka,
            });
        }
        Self {
            servers: Arc::new(servers),
            links: Arc::new(links),
        }
    }

    /// Do all servers answer?
    pub async fn is_sound(&self) -> bool {
        let looks = async {
            let database = sqlx::postgres::PgPoolOptions::new()
                .connect(&self.servers.postgres.url("postgres"))
                .await;
            let redis = tokio::net::TcpStream::connect(("127.0.0.1", self.servers.redis.port())).await;
            database.is_ok() && redis.is_ok()
        };
        tokio::time::timeout(Duration::from_secs(10), looks)
            .await
            .unwrap_or(false)
    }

    /// Runs the plan on a fresh database and fresh topics. Servers and links are whole again afterwards, unless
    /// the plan failed.
    pub async fn run(&self, plan: &Plan) -> Ran {
        let (servers, links, of_run) = (Arc::clone(&self.servers), Arc::clone(&self.links), plan.clone());
        let logs = Arc::new(Mutex::new(String::new()));
        let of_task = Arc::clone(&logs);
        // A thread of its own: a panic of it is caught, and what it awaits need not be `Send`.
        let runtime = tokio::runtime::Handle::current();
        let ran = tokio::task::spawn_blocking(move || runtime.block_on(run(servers, links, of_run, of_task))).await;
        let mut ran = ran.unwrap_or_else(|panic| Ran {
            kept: Kept::default(),
            violations: Vec::new(),
            other: vec![panic.to_string()],
            faults: plan.events.len(),
            log: String::new(),
        });
        if ran.failed() {
            let file = format!("{}/schedule-{}.log", env!("CARGO_TARGET_TMPDIR"), plan.seed);
            std::fs::write(&file, &*logs.lock()).expect("the logs are written");
            ran.log = file;
        }
        ran
    }
}

struct Replica {
    app: Arc<App>,
    /// It has a failpoint that may say so.
    may_crash: bool,
}

/// What the tasks of one run share.
struct Run {
    servers: Arc<Servers>,
    links: Arc<Vec<Links>>,
    stage: Stage,
    plan: Plan,
    load: Load,
    apps: Vec<Mutex<Replica>>,
    acts: Mutex<Vec<OperatorAct>>,
    other: Mutex<Vec<String>>,
    logs: Arc<Mutex<String>>,
    began: Instant,
}

async fn run(servers: Arc<Servers>, links: Arc<Vec<Links>>, plan: Plan, logs: Arc<Mutex<String>>) -> Ran {
    let stage = Stage::on_servers(Arc::clone(&servers)).await;
    let delivery = if plan.exactly_once {
        "exactly-once"
    } else {
        "at-least-once"
    };
    let stage = stage
        .set("relay.delivery", delivery)
        .set("relay.window", &plan.window.to_string())
        .set("relay.lease", &format!("{}ms", plan.lease.as_millis()))
        .set("shutdown.budget", SHUTDOWN_BUDGET);
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, DRAFTS).await;
    let apps: Vec<_> = (0..plan.replicas)
        .map(|r| Arc::new(spawn(&stage, &links[r], None)))
        .collect();
    join_all(apps.iter().map(|app| app.ready())).await;
    let urls: Vec<&str> = apps.iter().map(|app| &*app.base_url).collect();
    let manners = Manners {
        pause: PAUSE,
        keyed_every: 3,
    };
    let load = Load::start_with(&urls, &token, &drafts, CLIENTS, manners);
    let stop = Arc::new(AtomicBool::new(false));
    let observers = (
        tokio::spawn(watch_statuses(
            load.targets(),
            load.accepted(),
            token,
            Arc::clone(&stop),
        )),
        tokio::spawn(watch_log(stage.pool.clone(), Arc::clone(&stop))),
    );
    let (brokers, results) = (servers.kafka.bootstrap(), stage.result_topic.clone());
    let (accepted, until) = (load.accepted(), Arc::clone(&stop));
    let content = std::thread::spawn(move || answer_jobs(&brokers, &results, &accepted, &until));

    let run = Run {
        servers,
        links,
        stage,
        load,
        apps: apps
            .into_iter()
            .map(|app| Mutex::new(Replica { app, may_crash: false }))
            .collect(),
        acts: Mutex::default(),
        other: Mutex::default(),
        logs,
        began: Instant::now(),
        plan,
    };
    let of_targets = run.plan.by_target();
    join_all(of_targets.into_values().map(|events| run.perform(events))).await;
    run.heal().await;
    stop.store(true, Ordering::Relaxed);
    let (statuses, log_seen) = (
        observers.0.await.expect("statuses"),
        observers.1.await.expect("the log"),
    );
    tokio::task::spawn_blocking(move || content.join())
        .await
        .expect("a task")
        .expect("the answers");
    run.finish(statuses, log_seen).await
}

/// By `abort`, which a failpoint does.
fn has_crashed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGABRT as i32)
}

fn spawn(stage: &Stage, links: &Links, failpoint: Option<&Failpoint>) -> App {
    let database = stage.database_url.clone();
    let (before, after) = database.rsplit_once('@').expect("a password");
    let name = after.rsplit_once('/').expect("a database").1;
    let database = format!("{before}@127.0.0.1:{}/{name}", links.postgres.port);
    let redis = format!("redis://127.0.0.1:{}/", links.redis.port);
    let kafka = format!("127.0.0.1:{}", links.kafka.port);
    let settings = [
        ("database.url", &*database),
        ("redis.url", &redis),
        ("kafka.brokers", &kafka),
    ];
    let failpoints = failpoint.map(ToString::to_string).unwrap_or_default();
    stage.spawn(&[], &settings, &failpoints)
}

impl Run {
    /// The acts on one target, one after the other.
    async fn perform(&self, events: Vec<Event>) {
        for Event { at, act } in events {
            tokio::time::sleep(at.saturating_sub(self.began.elapsed())).await;
            self.act(act).await;
        }
    }

    async fn act(&self, act: Act) {
        match act {
            Act::KillReplica { replica, down, then } => {
                self.app(replica).kill();
                tokio::time::sleep(down).await;
                self.start_again(replica, then.as_ref());
            }
            Act::FreezeReplica { replica, lasts } => {
                let app = self.app(replica);
                app.freeze();
                tokio::time::sleep(lasts).await;
                app.thaw();
            }
            Act::StopReplica { replica } => {
                let app = self.app(replica);
                app.term();
                self.has_stopped(&app).await;
                self.start_again(replica, None);
            }
            Act::KillServer { server, down } => {
                match server {
                    Server::Postgres => self.servers.postgres.kill(),
                    Server::Redis => self.servers.redis.kill(),
                    Server::Kafka => self.servers.kafka.kill(),
                }
                self.restart_after(server, down).await;
            }
            Act::StopServer { server, down } => {
                let stopped = match server {
                    Server::Postgres => self.servers.postgres.stop().await,
                    Server::Redis => self.servers.redis.stop().await,
                    Server::Kafka => self.servers.kafka.stop().await,
                };
                stopped.expect("the server stops");
                self.restart_after(server, down).await;
            }
            Act::FreezeServer { server, lasts } => {
                self.freeze(server, true);
                tokio::time::sleep(lasts).await;
                self.freeze(server, false);
            }
            Act::TerminateBackends => self.terminate_backends().await,
            Act::Link {
                replica,
                server,
                weather,
                lasts,
            } => {
                let link = self.links[replica].to(server);
                link.set(weather);
                tokio::time::sleep(lasts).await;
                link.set(Weather::default());
            }
            Act::HangUp { replica, server } => self.links[replica].to(server).hang_up(),
            Act::CutReply {
                replica,
                server,
                after_bytes,
            } => self.links[replica].to(server).cut_after_answered(after_bytes),
            Act::Pause { lasts } => self.pause(lasts).await,
            Act::Replay { messages } => self.replay(messages).await,
        }
    }

    /// One that runs: a crash that was asked for has been seen, and another one started.
    fn app(&self, replica: usize) -> Arc<App> {
        let (app, may_crash) = {
            let replica = self.apps[replica].lock();
            (Arc::clone(&replica.app), replica.may_crash)
        };
        let Some(status) = app.exit_status() else { return app };
        if !(may_crash && has_crashed(status)) {
            let what = format!("{} ended by itself: {status}", app.name);
            self.other.lock().push(what);
        }
        self.start_again(replica, None);
        Arc::clone(&self.apps[replica].lock().app)
    }

    fn start_again(&self, replica: usize, failpoint: Option<&Failpoint>) {
        let app = Arc::new(spawn(&self.stage, &self.links[replica], failpoint));
        self.load.aim_nth_at(replica, &app.base_url);
        let next = Replica {
            app,
            may_crash: failpoint.is_some(),
        };
        let former = std::mem::replace(&mut *self.apps[replica].lock(), next);
        self.keep_log(&former.app);
    }

    fn keep_log(&self, app: &App) {
        let _ = write!(self.logs.lock(), "---- {} ----\n{}", app.name, app.log());
    }

    async fn has_stopped(&self, app: &App) {
        let give_up = Instant::now() + STOP_BOUND;
        loop {
            match app.exit_status() {
                Some(status) if status.success() || has_crashed(status) => return,
                // It had just been started: nobody listened to signals yet, and nothing was accepted.
                Some(status) if status.signal() == Some(Signal::SIGTERM as i32) && !app.log().contains("serving") => {
                    return;
                }
                Some(status) => return self.other.lock().push(format!("{} stopped with {status}", app.name)),
                None if Instant::now() > give_up => {
                    app.kill();
                    return self
                        .other
                        .lock()
                        .push(format!("{} did not stop in {STOP_BOUND:?}", app.name));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn restart_after(&self, server: Server, down: Duration) {
        tokio::time::sleep(down).await;
        let started = match server {
            Server::Postgres => self.servers.postgres.restart().await,
            Server::Redis => self.servers.redis.restart().await,
            Server::Kafka => self.servers.kafka.restart().await,
        };
        started.expect("the server starts again");
    }

    fn freeze(&self, server: Server, frozen: bool) {
        let Servers {
            postgres, redis, kafka, ..
        } = &*self.servers;
        match (server, frozen) {
            (Server::Postgres, true) => postgres.freeze(),
            (Server::Postgres, false) => postgres.thaw(),
            (Server::Redis, true) => redis.freeze(),
            (Server::Redis, false) => redis.thaw(),
            (Server::Kafka, true) => kafka.freeze(),
            (Server::Kafka, false) => kafka.thaw(),
        }
    }

    async fn terminate_backends(&self) {
        let all = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name like 'dispatcher %'",
        );
        // A server that is down has no backends.
        let _ = all.execute(&self.stage.pool).await;
    }

    async fn pause(&self, lasts: Duration) {
        let paused = self.stage.run(&["pause", "--reason", "a schedule"]).await;
        let from = Utc::now();
        tokio::time::sleep(lasts).await;
        let to = Utc::now();
        if paused.status.success() {
            self.acts.lock().push(OperatorAct::Paused { from, to });
        }
        // PostgreSQL may be away, and the pause may be there all the same.
        let give_up = Instant::now() + DRAIN_BOUND;
        while !self.stage.run(&["resume", "--yes"]).await.status.success() {
            assert!(Instant::now() < give_up, "the relay cannot be resumed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn replay(&self, messages: usize) {
        let published = sqlx::query_scalar::<_, i64>(
            "select id from outbox_messages where id <@ (select outbox_settled()) and replay_of is null
             order by id desc limit $1",
        )
        .bind(messages as i64)
        .fetch_all(&self.stage.pool)
        .await;
        let Ok(ids) = published else { return };
        if ids.is_empty() {
            return;
        }
        let operation = Uuid::new_v4().to_string();
        let mut arguments = vec!["replay", "create", "--reason", "a schedule", "--rate", "1000", "--yes"];
        arguments.extend(["--operation-id", &operation]);
        let named: Vec<String> = ids.iter().map(ToString::to_string).collect();
        for id in &named {
            arguments.extend(["--id", id]);
        }
        if self.stage.run(&arguments).await.status.success() {
            self.acts.lock().push(OperatorAct::Replay { operation, ids });
        }
    }

    /// Every act has ended. Waits until each replica serves, and until nothing is left to do.
    async fn heal(&self) {
        for links in &*self.links {
            for server in [Server::Postgres, Server::Redis, Server::Kafka] {
                links.to(server).set(Weather::default());
            }
        }
        for replica in 0..self.apps.len() {
            self.is_ready(replica).await;
        }
        tokio::time::sleep(FAIR_WEATHER).await;
        self.load.end().await;
        let give_up = Instant::now() + DRAIN_BOUND;
        loop {
            for replica in 0..self.apps.len() {
                self.app(replica);
            }
            let waiting: Result<i64, _> = sqlx::query_scalar(
                "select (select pending from outbox_overview)
                      + (select count(*) from outbox_replays where state = 'running')",
            )
            .fetch_one(&self.stage.pool)
            .await;
            if matches!(waiting, Ok(0)) || Instant::now() > give_up {
                // What still waits is counted as a violation.
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_ready(&self, replica: usize) {
        let give_up = Instant::now() + READY_BOUND;
        loop {
            let app = self.app(replica);
            let answer = app.http.get(format!("{}/readyz", app.base_url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            if Instant::now() > give_up {
                let what = format!("{} is not ready after {READY_BOUND:?}", app.name);
                return self.other.lock().push(what);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn finish(self, statuses: Vec<StatusSeen>, log_seen: Vec<LogSeen>) -> Ran {
        let requests = self.load.stop().await;
        let mut history = History::gather(&self.stage, requests).await;
        history.statuses = statuses;
        history.log_seen = log_seen;
        history.acts = self.acts.into_inner();
        history.pause_grace = PAUSE_GRACE + self.plan.disturbance();
        let (kept, violations) = history.check();
        let mut other = self.other.into_inner();
        if !history.dead.is_empty() {
            other.push(format!(
                "{} dead letters, and nothing was wrong with a message",
                history.dead.len()
            ));
        }
        for replica in &self.apps {
            let app = Arc::clone(&replica.lock().app);
            if let Some(status) = app.exit_status() {
                other.push(format!("{} ended by itself: {status}", app.name));
            }
            let _ = write!(self.logs.lock(), "---- {} ----\n{}", app.name, app.log());
        }
        if self.plan.exactly_once && !violations.is_empty() {
            let transactions = self.stage.transactions_as_kafka_sees_them().await;
            self.logs.lock().push_str(&transactions);
        }
        Ran {
            kept,
            violations,
            other,
            faults: self.plan.events.len(),
            log: String::new(),
        }
    }
}

fn result(job: Uuid, status: &str) -> serde_json::Value {
    let image = |style: &str| json!({"style": style, "url": format!("http://pictures.example/{job}/{style}.png")});
    let images = match status {
        "COMPLETED" => vec![image("SIMPLE"), image("FANCY"), image("TRENDY")],
        _ => Vec::new(),
    };
    let error = (status == "FAILED").then_some("no ink");
    json!({"jobId": job, "status": status, "images": images, "error": error})
}

/// Asks for the status of accepted jobs, one after the other, wherever the load goes.
async fn watch_statuses(
    targets: Arc<parking_lot::RwLock<Vec<String>>>,
    accepted: Arc<Mutex<Vec<Uuid>>>,
    token: String,
    stop: Arc<AtomicBool>,
) -> Vec<StatusSeen> {
    let http = http_client();
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let url = {
            let targets = targets.read();
            targets[rand::random_range(0..targets.len())].clone()
        };
        // Few of them, so that each is seen again and again.
        let job = {
            let accepted = accepted.lock();
            let Some(n) = accepted.len().min(20).checked_sub(1) else {
                continue;
            };
            accepted[rand::random_range(0..=n)]
        };
        let asked = Instant::now();
        let answer = http
            .get(format!("{url}/api/jobs/{job}"))
            .bearer_auth(&token)
            .timeout(Duration::from_secs(5))
            .send()
            .await;
        let Ok(answer) = answer else { continue };
        let (status, message) = match answer.status().as_u16() {
            404 => ("NOT FOUND".to_owned(), String::new()),
            200 => {
                let Ok(body) = answer.json::<serde_json::Value>().await else {
                    continue;
                };
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                (text(&body["status"]), text(&body["message"]["state"]))
            }
            _ => continue,
        };
        seen.push(StatusSeen {
            job,
            asked,
            answered: Instant::now(),
            status,
            message,
        });
    }
    seen
}

/// Looks at the newest checkpoint, again and again.
async fn watch_log(pool: sqlx::PgPool, stop: Arc<AtomicBool>) -> Vec<LogSeen> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let newest: Result<(i64, i64), _> =
            sqlx::query_as("select seq, fence from outbox_checkpoints order by seq desc limit 1")
                .fetch_one(&pool)
                .await;
        if let Ok((seq, fence)) = newest {
            seen.push(LogSeen { seq, fence });
        }
    }
    seen
}

/// The Content Service: answers the jobs whose status is watched, in order and too late.
fn answer_jobs(brokers: &str, topic: &str, accepted: &Mutex<Vec<Uuid>>, stop: &AtomicBool) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .expect("a producer");
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        producer.poll(Duration::ZERO);
        let job = accepted.lock().get(answered).copied();
        let Some(job) = job.filter(|_| answered < 20) else {
            continue;
        };
        let last = if answered % 3 == 0 { "FAILED" } else { "COMPLETED" };
        answered += 1;
        for status in ["PROCESSING", last, "PROCESSING", "COMPLETED"] {
            let value = result(job, status).to_string();
            let key = job.to_string();
            // A full queue of a broker that is away: that answer is not given.
            let _ = producer.send(BaseRecord::to(topic).key(&key).payload(&value));
        }
    }
    let _ = producer.flush(Duration::from_secs(5));
}
