//! How a command ends when it does not end well.

use std::{io, process::ExitCode};

use super::output;
use crate::config::ConfigError;

/// Why a command ended: the kind is the exit code, the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// 1: it was tried and did not work.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// 2: arguments that do not fit each other.
    #[error("{0}")]
    Usage(String),
    /// 2: the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// 3: PostgreSQL, Redis, Kafka or the service does not answer, or lets nobody in.
    #[error("{0}")]
    Unreachable(String),
    /// 4: what was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// 5: the check itself worked, and found something wrong (`doctor`, `audit`).
    #[error("{0}")]
    FoundWrong(String),
    /// 0: nobody reads the output any more (`dispatcher outbox list | head`).
    #[error("standard output was closed")]
    OutputClosed,
}

impl CliError {
    /// The exit code, as `dispatcher --help` lists them.
    pub fn code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Unreachable(_) => 3,
            Self::NotFound(_) => 4,
            Self::FoundWrong(_) => 5,
        }
    }

    /// Prints the message on standard error and answers with the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if !matches!(self, Self::OutputClosed) {
            // The lines are ours, as those of a TOML file's errors are; what stands in them can be anybody's.
            for line in format!("error: {self}").lines() {
                output::tell(line);
            }
        }
        ExitCode::from(self.code())
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(error.into())
        }
    }
}

impl From<sqlx::Error> for CliError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed => {
                Self::Unreachable(format!("PostgreSQL cannot be reached: {error}; check database.url"))
            }
            E::RowNotFound => Self::NotFound("no such row".to_owned()),
            E::Database(reported) => {
                let said = reported.message();
                // https://www.postgresql.org/docs/current/errcodes-appendix.html
                match reported.code().as_deref().unwrap_or_default() {
                    "28P01" | "28000" => Self::Unreachable(format!(
                        "PostgreSQL refuses the login ({said}): check user and password of database.url"
                    )),
                    "3D000" => Self::Unreachable(format!(
                        "PostgreSQL has no such database ({said}): create it, or check database.url"
                    )),
                    "53300" => Self::Unreachable(format!("PostgreSQL has no connection left ({said})")),
                    code if code.starts_with("08") || code.starts_with("57P") => {
                        Self::Unreachable(format!("PostgreSQL ended the connection ({said}): try again"))
                    }
                    // A table, column or function that this version expects.
                    "42P01" | "42703" | "42883" | "3F000" => Self::Failed(anyhow::anyhow!(
                        "the schema is not this version's ({said}): run `dispatcher migrate`"
                    )),
                    "42501" => Self::Failed(anyhow::anyhow!(
                        "the user of database.url may not do this ({said}): grant it, or use another user"
                    )),
                    _ => Self::Failed(error.into()),
                }
            }
            _ => Self::Failed(error.into()),
        }
    }
}
