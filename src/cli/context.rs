//! What a command is given.

use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use super::{CliError, Format};
use crate::{config::Config, outbox::query::without_compiler};

/// The configuration, and how to print.
#[derive(Debug, Clone)]
pub struct Context {
    /// Checked.
    pub config: Config,
    /// `--output`.
    pub output: Format,
}

impl Context {
    pub(super) fn new(config: Config, output: Format) -> Self {
        Self { config, output }
    }

    /// A connection of the command's own, within `database.connect_timeout`.
    ///
    /// # Errors
    /// [`CliError::Unreachable`] with what to do: nobody answers, no such database, the login is refused.
    pub async fn database(&self) -> Result<PgConnection, CliError> {
        let budget = self.config.database.connect_timeout;
        let options = self.database_options();
        match tokio::time::timeout(budget, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(match CliError::from(error) {
                // Whatever keeps us from connecting, the way out is the same exit code.
                CliError::Failed(error) => CliError::Unreachable(format!(
                    "PostgreSQL at {} cannot be used: {error:#}; check database.url",
                    self.database_name()
                )),
                CliError::Unreachable(message) => {
                    CliError::Unreachable(format!("{message} ({})", self.database_name()))
                }
                other => other,
            }),
            Err(_) => Err(CliError::Unreachable(format!(
                "PostgreSQL at {} did not answer within {}; check database.url and database.connect_timeout",
                self.database_name(),
                humantime::format_duration(budget)
            ))),
        }
    }

    /// Host, port and name of the database, for messages: what a command is about to change. No password.
    pub fn database_name(&self) -> String {
        let options = self.database_options();
        let name = options.get_database().unwrap_or(options.get_username());
        match options.get_socket() {
            Some(socket) => format!("{}/{name}", socket.display()),
            None => format!("{}:{}/{name}", options.get_host(), options.get_port()),
        }
    }

    /// Where the database is: a host's name or address, or the directory of a socket.
    pub fn database_host(&self) -> String {
        let options = self.database_options();
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        }
    }

    fn database_options(&self) -> PgConnectOptions {
        let url = self.config.database.url.expose_secret();
        let options: PgConnectOptions = url.parse().expect("Config::load parsed it");
        without_compiler(options.application_name("dispatcher"))
    }
}
