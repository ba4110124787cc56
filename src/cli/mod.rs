//! What operators type. One file a command, each with its `Args` and its `run`; [`serve`] is the one place that
//! builds pools, clients and tasks. The commands work straight on the database, so also while the service is
//! down. Data goes to standard output, messages to standard error.

pub mod acts;
mod asyncapi;
pub mod audit;
mod completions;
pub mod config;
mod context;
pub mod dead;
pub mod doctor;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod migrate;
mod openapi;
pub mod operator;
pub mod outbox;
pub mod output;
pub mod pause;
pub mod replay;
pub mod retain;
pub mod serve;
pub mod start_dev;
pub mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub use context::Context;
pub use error::CliError;
pub use output::Format;

use crate::config::{Config, Sources};

/// Accepts image jobs over HTTP and hands every one of them to Kafka.
#[derive(Debug, Parser)]
#[command(
    name = "dispatcher",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 a dependency cannot be \
reached, 4 not found, 5 found something wrong."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Given before or after any command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Configuration in TOML; the keys are those of `dispatcher config show`
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Use the settings of [contexts.NAME] of the file, over file and environment: production, staging
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Set one key, over file and environment; may be repeated (other users of the machine can see it: no secrets)
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// How rows are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: PostgreSQL, Redis, Kafka, the service, and one job through all of it
    StartDev(start_dev::Args),
    /// Bring the schema up to date
    Migrate,
    /// Run the service
    Serve(serve::Args),
    /// Sign a token with the configured secret, for development
    Token(token::Args),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Args),
    /// Look into the log of messages
    #[command(subcommand)]
    Outbox(outbox::Args),
    /// Send messages again
    #[command(subcommand)]
    Replay(replay::Args),
    /// Look after messages that Kafka refuses for good
    #[command(subcommand)]
    Dead(dead::Args),
    /// Compare the topic with the receipts: what is missing, repeated or foreign
    Audit(audit::Args),
    /// Stop handing messages to Kafka, within a second; jobs are still accepted
    Pause(pause::PauseArgs),
    /// Hand messages to Kafka again
    Resume(pause::ResumeArgs),
    /// List who did what, when and why: the operators' log, newest first
    Acts(acts::Args),
    /// Check PostgreSQL, Redis, Kafka and the outbox; change nothing
    Doctor(doctor::Args),
    /// Drop what is settled and old: partitions of messages, of jobs, idempotency keys
    Retain(retain::Args),
    /// Print the OpenAPI document of the HTTP interface
    Openapi,
    /// Print the AsyncAPI document of the two topics, or the JSON Schema of one
    Asyncapi(asyncapi::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, such as relay.lease=10s")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command line and answers with the exit code; bad usage ends the process with 2.
pub fn run() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    // reqwest, redis and sqlx take the process's default. That somebody else was first is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::from(error).report(),
    };
    let done = runtime.block_on(dispatch(command, global));
    // A call to a broker that hangs, in a thread of its own, must not outlive the budget for stopping.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

async fn dispatch(command: Command, global: Global) -> Result<(), CliError> {
    if let Command::StartDev(args) = command {
        if global.context.is_some() {
            return Err(CliError::Usage(
                "start-dev runs on servers of its own: it knows no --context".to_owned(),
            ));
        }
        return Box::pin(start_dev::run(&args, global.config, global.set)).await;
    }
    let sources = Sources::of_process(global.config, global.context, global.set);
    // Commands that need no configuration must not fail over it.
    let context = || Config::load(&sources).map(|config| Context::new(config, global.output));
    match command {
        Command::StartDev(_) => unreachable!("it has its own configuration, see above"),
        Command::Migrate => migrate::run(&context()?).await,
        Command::Serve(args) => serve::run(&args, &context()?).await,
        Command::Token(args) => token::run(&args, &context()?),
        Command::Config(args) => config::run(&args, &sources, global.output),
        Command::Outbox(args) => outbox::run(&args, &context()?).await,
        Command::Replay(args) => replay::run(&args, &context()?).await,
        Command::Dead(args) => dead::run(&args, &context()?).await,
        Command::Audit(args) => Box::pin(audit::run(&args, &context()?)).await,
        Command::Acts(args) => acts::run(&args, &context()?).await,
        Command::Pause(args) => pause::pause(&args, &context()?).await,
        Command::Resume(args) => pause::resume(&args, &context()?).await,
        Command::Doctor(args) => Box::pin(doctor::run(&args, &context()?)).await,
        Command::Retain(args) => retain::run(&args, &context()?).await,
        Command::Openapi => openapi::run(),
        Command::Asyncapi(args) => asyncapi::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// The whole command line, for completions and documents.
fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}
