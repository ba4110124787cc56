//! The binary `content-worker`: the Content Service's side. Consumes image jobs, makes three pictures of each,
//! answers, and serves the pictures.

use std::{
    collections::BTreeMap, io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use image_job_dispatcher::{
    content::{
        gallery::{Gallery, Place},
        kafka::Names,
        logo::{Logos, Network},
        pages,
        worker::{Stop, Worker},
    },
    http::listener::{self, ListenerOptions},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// Serves librdkafka's C code too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Plays the Content Service: makes three pictures for each image job, and answers.
#[derive(Debug, Parser)]
#[command(name = "content-worker", version)]
struct Args {
    /// Bootstrap servers, HOST:PORT separated by commas
    #[arg(long, env = "KAFKA_BROKERS", default_value = "127.0.0.1:9092")]
    brokers: String,
    /// What is consumed
    #[arg(long, env = "CONTENT_TOPIC", default_value = "image-job-topic")]
    topic: String,
    /// Where the answers go
    #[arg(long, env = "CONTENT_RESULT_TOPIC", default_value = "image-job-result-topic")]
    result_topic: String,
    /// Where unreadable records go; it has to exist [default: the topic's name and .dlq]
    #[arg(long, env = "CONTENT_DEAD_LETTER_TOPIC")]
    dead_letter_topic: Option<String>,
    /// The consumer group
    #[arg(long, env = "CONTENT_GROUP", default_value = "content-worker")]
    group: String,
    /// group.instance.id: the same after a restart, different in each worker of the group [default: the host's name]
    #[arg(long, env = "CONTENT_INSTANCE")]
    instance: Option<String>,
    /// Any other setting of librdkafka, such as TLS; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = key_and_value)]
    properties: Vec<(String, String)>,
    /// Where the pictures are kept, unless in a bucket; workers of one group share it
    #[arg(long, env = "CONTENT_DIRECTORY", default_value = "pictures")]
    directory: PathBuf,
    /// Keep the pictures in this bucket of S3 instead, which has to exist. Keys, region and the like are in AWS's
    /// own variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
    #[arg(long, env = "CONTENT_S3_BUCKET", value_name = "BUCKET")]
    s3_bucket: Option<String>,
    /// Of S3-compatible storage, such as http://minio:9000; it has to know conditional writes (If-None-Match)
    #[arg(long, env = "CONTENT_S3_ENDPOINT", value_name = "URL", requires = "s3_bucket")]
    s3_endpoint: Option<String>,
    /// In front of all keys in the bucket
    #[arg(long, env = "CONTENT_S3_PREFIX", value_name = "PREFIX", default_value = "")]
    s3_prefix: String,
    /// A host that logoUrl may name, or *.DOMAIN for all below it; may be repeated, or a list with commas. No logo is
    /// fetched from elsewhere, and none from a private network [default: none]
    #[arg(
        long = "logo-host",
        env = "CONTENT_LOGO_HOSTS",
        value_name = "HOST",
        value_delimiter = ','
    )]
    logo_hosts: Vec<String>,
    /// Where the pictures are served
    #[arg(long, env = "CONTENT_LISTEN", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Show the newest jobs of all users at / to whoever can reach the listener; without it, a job to who knows its id
    #[arg(long, env = "CONTENT_LIST_JOBS")]
    list_jobs: bool,
    /// How clients reach what is served there [default: http:// and the address of the listener]
    #[arg(long, env = "CONTENT_PUBLIC_URL")]
    public_url: Option<String>,
    /// Jobs in work at the same time [default: one a core]
    #[arg(long, env = "CONTENT_CONCURRENCY")]
    concurrency: Option<usize>,
    /// From SIGTERM until jobs in work are left unfinished
    #[arg(long, env = "CONTENT_SHUTDOWN_BUDGET", default_value = "20s", value_parser = humantime::parse_duration)]
    shutdown_budget: Duration,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("give KEY=VALUE, such as security.protocol=SSL")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Nobody else has chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,librdkafka=error".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("content-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let public_url = args.public_url.unwrap_or_else(|| format!("http://{address}"));
    let place = match args.s3_bucket {
        None => Place::Directory(args.directory),
        Some(name) => Place::Bucket {
            name,
            prefix: args.s3_prefix,
            endpoint: args.s3_endpoint,
        },
    };
    let gallery = Gallery::open(&place, &public_url).with_context(|| format!("cannot keep pictures in {place}"))?;
    let logos = Logos::new(&args.logo_hosts, Network::public()).context("--logo-host")?;
    let names = Names {
        dead_letter_topic: args.dead_letter_topic.unwrap_or_else(|| format!("{}.dlq", args.topic)),
        brokers: args.brokers,
        topic: args.topic,
        result_topic: args.result_topic,
        group: args.group,
        instance: match args.instance {
            Some(name) => name,
            None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        },
        properties: args.properties.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let places = args
        .concurrency
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let worker = Worker::new(names, gallery.clone(), logos, places)?;
    let stop = Stop::default();

    // The dispatcher's own accept loop. Readers share a process with the work, and descriptors, too.
    let options = ListenerOptions {
        max_connections: pages::MOST_CONNECTIONS,
        header_timeout: pages::HEAD_TIMEOUT,
        max_header_bytes: pages::MOST_HEADER_BYTES,
        write_timeout: listener::WRITE_TIMEOUT,
        // While the worker ends, too.
        drain: args.shutdown_budget,
    };
    let pages = pages::router(gallery, args.list_jobs);
    let served = listener::serve(listener, move || pages.clone(), options, stop.softly.clone());
    let served = tokio::spawn(served);
    tokio::spawn(pass_on_signals(stop.clone(), args.shutdown_budget));
    tracing::info!(%public_url, %place, places, "ready");
    let ended = worker.run(stop.clone()).await;
    stop.softly.cancel();
    // A reader that takes its time is no reason to stay.
    if let Ok(served) = tokio::time::timeout(Duration::from_secs(2), served).await {
        served?;
    }
    ended?;
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM and Ctrl-C stop softly, and at once when the budget is spent.
async fn pass_on_signals(stop: Stop, budget: Duration) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: no more records are taken");
    stop.softly.cancel();
    sleep(budget).await;
    stop.at_once.cancel();
    Ok(())
}
