//! `dispatcher serve`: the composition root. It alone builds pools, clients and tasks.
//!
//! Stopping goes against the stream: first no more requests, then the intake finishes what it has, then the
//! relay settles what it has handed over and gives the lease back. A task that ends by itself is a defect
//! and ends the program.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use axum::Router;
use secrecy::ExposeSecret as _;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{CliError, Context};
use crate::{
    config::{Config, Redis},
    console::{
        self, ConsoleState,
        monitor::{self, Monitor, Probe, Sampler},
    },
    http::{
        self, AdminState, ApiState,
        auth::Authenticator,
        body::BodyLimits,
        health::Readiness,
        listener::{self, ListenerOptions},
        rate_limit::RateLimit,
    },
    jobs::{
        cache::JobCache,
        intake::{self, IntakeOptions},
        results::{self, Results},
        status::{self, StatusReader},
        watch::{
            Watch,
            elsewhere::{self, Origin},
        },
    },
    outbox::{
        installation::{self, Installation},
        notifier::Notifier,
        record::RecordLimit,
        schema::{self, SchemaError},
        session,
        wake::Wake,
    },
    publish::{client::base_config, probe::BrokerProbe, topic::TopicInspector},
    relay::{self, Relay, replayer},
    telemetry::{self, Metrics},
};

/// For PostgreSQL's answer at the start; a server, or a link, that stands still is tried again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// While PostgreSQL cannot be reached at the start.
const CONNECT_RETRY: Duration = Duration::from_secs(1);
/// Of `shutdown.budget`, kept for what comes after the relay has drained.
const LAST_STEPS: Duration = Duration::from_millis(500);

/// What this replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Both.
    All,
    /// Takes requests; another replica relays.
    Api,
    /// Relays; takes no requests. The admin listener is there all the same.
    Relay,
}

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What this replica does
    #[arg(long, value_enum, default_value_t = Role::All)]
    pub role: Role,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    telemetry::init_logs(&context.config.log);
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    serve(&context.config, args.role, stop).await
}

/// Runs the service until `stop` is cancelled, and then stops it within `shutdown.budget`.
///
/// # Errors
/// When it cannot begin (an address is taken, the schema does not fit), or a task of it has died.
pub async fn serve(config: &Config, role: Role, stop: CancellationToken) -> Result<(), CliError> {
    let metrics = Metrics::new();
    let database: PgConnectOptions = config.database.url.expose_secret().parse().context("database.url")?;
    let database = session::of_service(database);
    let readiness = Readiness::new(database.clone(), stop.clone());

    // One after the other, from the outside to the inside.
    let (stop_intake, stop_relay, stop_notices) = (
        CancellationToken::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let mut tasks = Tasks::default();
    let listener_options = ListenerOptions {
        max_connections: config.http.max_connections,
        header_timeout: config.http.header_timeout,
        max_header_bytes: config.http.max_header_bytes,
        write_timeout: listener::WRITE_TIMEOUT,
        drain: config.shutdown.budget / 3,
    };

    let admin = bind("admin.listen", config.admin.listen).await?;
    let public = match role {
        Role::All | Role::Api => Some(bind("http.listen", config.http.listen).await?),
        Role::Relay => None,
    };
    let admin_state = AdminState {
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
        max_header_bytes: config.http.max_header_bytes,
    };
    // A connection that is taken is answered: liveness while the database is waited for, and 503.
    let accepting: Arc<OnceLock<Router>> = Arc::default();
    if let Some(public) = public {
        let (accepting, waiting) = (Arc::clone(&accepting), http::waiting_router(admin_state.clone()));
        let router = move || accepting.get().unwrap_or(&waiting).clone();
        tasks.spawn(
            "public listener",
            listener::serve(public, router, listener_options.clone(), stop.clone()),
        );
    }
    let authenticator = authenticator(config, role).await?;
    if let Some(authenticator) = &authenticator {
        tasks.spawn("token keys", authenticator.clone().keep_fresh(stop_relay.clone()));
    }
    // So are metrics, and the console's log-in.
    let (monitor, sampler) = monitor(config, &database, &metrics)?;
    let console = authenticator.clone().map_or_else(Router::new, |authenticator| {
        console::router(ConsoleState {
            counting: Arc::new(Semaphore::new(1)),
            pool: console::pool(&database, config.database.connect_timeout),
            authenticator,
            config: Arc::new(config.clone()),
            metrics: Arc::clone(&metrics),
            monitor: monitor.clone(),
            stop: stop.clone(),
        })
    });
    let admin_routes = http::admin_router(admin_state, &console::document(), console);
    let stop_admin = CancellationToken::new();
    tasks.spawn("console monitor", sampler.run(stop_admin.clone()));
    tasks.spawn(
        "admin listener",
        listener::serve(
            admin,
            move || admin_routes.clone(),
            listener_options,
            stop_admin.clone(),
        ),
    );

    let Some(checked) = stop.run_until_cancelled(wait_for_schema(&database)).await else {
        return Ok(());
    };
    let known = checked?;

    let wake = Wake::default();
    let (notifier, origin) = (Notifier::default(), Origin::new());
    let limit = RecordLimit::new(config.kafka.max_message_bytes);
    if let Some(bytes) = known.record_limit_of(&config.kafka.topic) {
        limit.set_of_topic(bytes);
    }
    let (leading, leads) = watch::channel(false);
    let inspector = TopicInspector::new(&config.kafka).context("kafka.properties")?;
    tasks.spawn(
        "topic inspector",
        inspector.keep_limit_fresh(limit.clone(), stop_relay.clone()),
    );

    let intake_tasks = TaskTracker::new();
    if role != Role::Relay {
        let cache = cache(config, &metrics)?;
        let intake = intake::spawn(
            IntakeOptions {
                database: database.clone(),
                connect_timeout: config.database.connect_timeout,
                queue: config.intake.queue,
                batch: config.intake.batch,
                partition_rows: config.outbox.partition_rows,
                record_limit: limit.clone(),
                cache: cache.clone(),
                wake: wake.clone(),
                leading: leads,
                metrics: Arc::clone(&metrics),
            },
            &intake_tasks,
            stop_intake.clone(),
        );
        let reads = pool(
            config,
            &database,
            "dispatcher reads",
            config.database.max_connections,
            status::STATEMENT_TIMEOUT,
        );
        let status = StatusReader::new(reads, cache, &config.kafka.topic);
        let watch = Watch::spawn(status.clone(), &notifier, &intake_tasks, stop.clone());
        let (of_others, stop_listening) = (elsewhere::listen(database.clone(), watch.clone(), origin), stop.clone());
        intake_tasks.spawn(async move {
            _ = stop_listening.run_until_cancelled(of_others).await;
        });
        let state = ApiState {
            authenticator: authenticator.expect("a replica that takes requests does not start without"),
            rate_limit: Arc::new(RateLimit::new(config.http.rate_limit)),
            body: BodyLimits {
                max_bytes: config.http.max_body_bytes,
                timeout: config.http.body_timeout,
            },
            intake,
            watch,
            status,
            readiness: readiness.clone(),
            metrics: Arc::clone(&metrics),
            max_header_bytes: config.http.max_header_bytes,
        };
        accepting.get_or_init(|| http::public_router(state));
    }
    if role != Role::Api {
        let changes = elsewhere::announce(database.clone(), notifier.subscribe(), origin, stop_notices.clone());
        tasks.spawn("notices", changes);
        let results = results(config, &database, &notifier, &metrics)?;
        let replays = pool(config, &database, "dispatcher replays", 1, relay::DATABASE_TIMEOUT);
        tasks.spawn("results", results.run(stop_intake.clone()));
        let relay = Relay {
            database,
            kafka: config.kafka.clone(),
            options: config.relay.clone(),
            partition_rows: config.outbox.partition_rows,
            kept: config.into(),
            first_round: relay::FIRST_ROUND,
            leader: Relay::leader_name(&config.replica.name),
            metrics: Arc::clone(&metrics),
            wake,
            notifier,
            replays: Wake::default(),
            limit,
            leading,
            drain: config.shutdown.budget / 2,
        };
        let replays = replayer::run(
            replays,
            config.outbox.partition_rows,
            relay.replays.clone(),
            relay.wake.clone(),
            stop_intake.clone(),
        );
        tasks.spawn("replayer", replays);
        tasks.spawn("relay", relay::run(relay, stop_relay.clone()));
    }
    readiness.begin();
    tracing::info!(
        replica = config.replica.name,
        ?role,
        http = %config.http.listen,
        admin = %config.admin.listen,
        "serving"
    );

    // Asked first: a listener that ended because of `stop` has not died.
    let died = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        name = tasks.first_to_end() => Some(name),
    };
    stop.cancel();
    let deadline = Instant::now() + config.shutdown.budget.saturating_sub(LAST_STEPS);
    let by = |part: u32| Instant::now() + deadline.saturating_duration_since(Instant::now()) / part;
    tasks.end_of("public listener", by(2)).await;
    stop_intake.cancel();
    intake_tasks.close();
    let _ = tokio::time::timeout_at(by(2).into(), intake_tasks.wait()).await;
    // Together with the results, whose consumer cannot leave its group while Kafka says nothing: the relay needs the time.
    let results_by = by(2);
    stop_relay.cancel();
    tasks.end_of("relay", deadline).await;
    tasks.end_of("results", results_by).await;
    stop_notices.cancel();
    tasks.end_of("notices", deadline).await;
    stop_admin.cancel();
    tasks.end_of("admin listener", deadline).await;
    match died {
        None => {
            tracing::info!("stopped");
            Ok(())
        }
        Some(name) => Err(anyhow!("{name} ended by itself; the log says why").into()),
    }
}

/// What verifies tokens. A replica that only relays goes on without it, and then has no console: nothing that the
/// relay does depends on who may look.
async fn authenticator(config: &Config, role: Role) -> Result<Option<Authenticator>, CliError> {
    match Authenticator::from_config(&config.auth).await {
        Ok(authenticator) => Ok(Some(authenticator)),
        Err(reason) if role == Role::Relay => {
            tracing::info!(%reason, "no console and no admin API on this replica");
            Ok(None)
        }
        Err(error) => Err(CliError::Usage(error.to_string())),
    }
}

/// Redis.
fn cache(config: &Config, metrics: &Arc<Metrics>) -> Result<JobCache, CliError> {
    let Redis { url, budget } = &config.redis;
    let cache = JobCache::new(url.expose_secret(), *budget, config.jobs.ttl, Arc::clone(metrics));
    Ok(cache.context("redis.url")?)
}

/// Connections of this name, none of which is opened before it is needed. PostgreSQL ends a statement after `timeout`.
fn pool(config: &Config, database: &PgConnectOptions, name: &str, connections: u32, timeout: Duration) -> PgPool {
    let options = session::with_stable_plans(database.clone()).application_name(name);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(config.database.connect_timeout)
        .connect_lazy_with(session::with_statement_timeout(options, timeout))
}

/// What the console's overview is made of. Probes have clients of their own: what they meet disturbs nobody.
fn monitor(
    config: &Config,
    database: &PgConnectOptions,
    metrics: &Arc<Metrics>,
) -> Result<(Monitor, Sampler), CliError> {
    let kafka = BrokerProbe::new(&config.kafka).context("kafka.properties")?;
    let redis = cache(config, metrics)?;
    let pool = pool(config, database, "dispatcher monitor", 1, monitor::DATABASE_TIMEOUT);
    Ok(monitor::monitor(
        pool,
        Arc::clone(metrics),
        Probe::new(move || {
            let kafka = kafka.clone();
            async move { kafka.ask().await }
        }),
        Probe::new(move || {
            let redis = redis.clone();
            async move { redis.ping().await }
        }),
    ))
}

/// The task that applies what the Content Service answers, on a pool of its own.
fn results(
    config: &Config,
    database: &PgConnectOptions,
    notifier: &Notifier,
    metrics: &Arc<Metrics>,
) -> Result<Results, CliError> {
    let pool = pool(config, database, "dispatcher results", 1, results::STATEMENT_TIMEOUT);
    Ok(Results {
        client: base_config(&config.kafka),
        topic: config.kafka.result_topic.clone(),
        job_topic: config.kafka.topic.clone(),
        pool,
        cache: cache(config, metrics)?,
        notifier: notifier.clone(),
        metrics: Arc::clone(metrics),
    })
}

/// The tasks that live as long as the program.
#[derive(Default)]
struct Tasks {
    handles: JoinSet<&'static str>,
    /// Those that have not ended.
    running: BTreeSet<&'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.running.insert(name);
        self.handles.spawn(async move {
            task.await;
            name
        });
    }

    /// Never while all is well.
    async fn first_to_end(&mut self) -> &'static str {
        match self.handles.join_next().await {
            Some(Ok(name)) => {
                self.running.remove(name);
                name
            }
            Some(Err(panic)) => {
                tracing::error!(%panic, "a task has panicked");
                "a task"
            }
            None => std::future::pending().await,
        }
    }

    /// Waits until the named task has ended, until `deadline` at most. At once when this role has no such task.
    async fn end_of(&mut self, name: &'static str, deadline: Instant) {
        while self.running.contains(name) {
            if tokio::time::timeout_at(deadline.into(), self.first_to_end())
                .await
                .is_err()
            {
                tracing::warn!(task = name, "did not end in its time");
                return;
            }
        }
    }
}

async fn bind(key: &str, address: std::net::SocketAddr) -> Result<TcpListener, CliError> {
    Ok(TcpListener::bind(address)
        .await
        .with_context(|| format!("{key} = {address} cannot be listened on"))?)
}

/// Waits until PostgreSQL answers, and refuses a schema that does not fit. What has to be mended is said once.
async fn wait_for_schema(database: &PgConnectOptions) -> Result<Installation, CliError> {
    let mut complained = String::new();
    loop {
        let checked = async {
            let mut conn = PgConnection::connect_with(database).await?;
            schema::check(&mut conn).await?;
            Ok(installation::read(&mut conn).await?)
        };
        match session::answered_within(ANSWER_TIMEOUT, checked).await {
            Ok(known) => return Ok(known),
            Err(SchemaError::Database(error)) => {
                let reason = CliError::from(error).to_string();
                if reason != complained {
                    tracing::warn!(reason, "PostgreSQL cannot be used; waiting for it");
                    complained = reason;
                }
            }
            Err(error) => return Err(anyhow!(error).into()),
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
}

fn stop_on_signals(stop: CancellationToken) -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        stop.cancel();
    });
    Ok(())
}
