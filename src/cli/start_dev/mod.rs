//! `dispatcher start-dev`: everything on one machine. Starts PostgreSQL, Redis and Kafka, migrates, makes the
//! topics and sample drafts, runs the service, sends one job through it and shows where it went. Ctrl-C stops
//! all of it, in order.

mod config;
mod content;
mod progress;
mod samples;
mod servers;
mod story;

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{content::ContentWorker, progress::Progress, servers::Servers};
use super::{
    CliError,
    serve::{self, Role},
};
use crate::{dev_stack::Home, outbox::schema, telemetry};

/// Where to keep the data.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the servers' data and of the configuration that is written for them
    #[arg(long, default_value = ".dev", value_name = "DIR")]
    dir: PathBuf,
}

/// Runs until SIGINT or SIGTERM. The environment is not read, so that a `DATABASE_URL` of another project is
/// left alone.
pub async fn run(args: &Args, file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<(), CliError> {
    if file.is_some() {
        let message = "start-dev writes its own configuration: give single keys with --set";
        return Err(CliError::Usage(message.to_owned()));
    }
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let home = Home::kept(&args.dir)?;
    let progress = Progress::new();
    let Some(servers) = stop
        .run_until_cancelled(Servers::start(&home, &args.dir, &progress))
        .await
    else {
        return Ok(());
    };
    let servers = servers?;
    let ran = Box::pin(with_servers(&servers, &args.dir, flags, &progress, &stop)).await;
    let stopped = servers.stop(&progress).await;
    ran?;
    Ok(stopped?)
}

async fn with_servers(
    servers: &Servers,
    dir: &Path,
    flags: Vec<(String, String)>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let preparing = progress.step("schema, topics and sample drafts");
    let database_url = servers.database().await?;
    let (config, file) = config::write(dir, servers, &database_url, flags)?;
    telemetry::init_logs(&config.log);
    let context = super::Context::new(config.clone(), super::Format::default());
    let mut conn = context.database().await?;
    schema::migrate(&mut conn, config.outbox.partition_rows).await?;
    servers.create_topics(&config.kafka).await?;
    samples::insert(&mut conn).await?;
    preparing.done("schema, topics and sample drafts are there");

    let worker = ContentWorker::start(&config, servers, dir)?;

    // Cancelled by a signal, by a service that ends by itself, and when there is nothing to show.
    let over = stop.child_token();
    let service = async {
        let served = serve::serve(&config, Role::All, over.clone()).await;
        over.cancel();
        served
    };
    let story = async {
        let starting = progress.step("the service");
        story::wait_until_ready(&config).await?;
        let (public, operators) = (config.http.listen, config.admin.listen);
        starting.done(&format!(
            "the service on http://{public}, for operators on http://{operators}"
        ));
        story::tell(&config, &file, servers, worker.as_ref(), &mut conn).await
    };
    let shown = async {
        let told = over.run_until_cancelled(story).await.unwrap_or(Ok(()));
        if told.is_err() {
            over.cancel();
        }
        over.cancelled().await;
        (told, progress.step("stopping the service"))
    };
    let (served, (told, stopping)) = tokio::join!(service, shown);
    stopping.done("the service has stopped");
    if let Some(worker) = worker {
        worker.stop().await?;
    }
    told.and(served)
}

/// The second signal ends the process at once; its servers end with it.
fn stop_on_signals(stop: CancellationToken) -> Result<(), CliError> {
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<Result<Vec<_>, _>>()?;
    tokio::spawn(async move {
        loop {
            futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
            if stop.is_cancelled() {
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}
