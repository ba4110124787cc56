//! What commands that change something have in common: who does it, and whether he means it.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{CliError, Context};
use crate::outbox::acts::{Actor, Via};

/// Who gives the command.
#[derive(Debug, clap::Args)]
pub struct Operator {
    /// Who you are, for the record; default user@host
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Operator {
    /// Who acts, for the operators' log.
    pub fn actor(&self) -> Actor {
        Actor {
            name: self.name(),
            role: None,
            via: Via::Cli,
        }
    }

    fn name(&self) -> String {
        if let Some(by) = &self.by {
            return by.clone();
        }
        let user = ["USER", "LOGNAME"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
            .unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()));
        let host =
            nix::unistd::gethostname().map_or_else(|_| "unknown".into(), |host| host.to_string_lossy().into_owned());
        format!("{user}@{host}")
    }
}

/// `--reason`: what is recorded and shown, without space around it.
///
/// # Errors
/// Nothing is left.
pub fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty: say why".to_owned()),
        reason => Ok(reason.to_owned()),
    }
}

/// How a command asks.
#[derive(Debug, clap::Args)]
pub struct Confirmation {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Says what is about to happen to which database, and asks for `word`. Where nobody can answer, only
    /// `--yes` goes on.
    ///
    /// # Errors
    /// [`CliError::Usage`] without a terminal and without `--yes`; [`CliError::Failed`] when another word
    /// is typed.
    pub fn ask(&self, context: &Context, what: &str, word: &str) -> Result<(), CliError> {
        eprintln!("about to {what} in the database {}", context.database_name());
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(CliError::Usage(
                "nothing was changed: there is no terminal to ask at; give --yes to go ahead".to_owned(),
            ));
        }
        typed(word)
    }

    /// The same for what is undone as easily as it is done: without a terminal it goes ahead.
    pub fn ask_on_terminal(&self, context: &Context, what: &str) -> Result<(), CliError> {
        if io::stdin().is_terminal() {
            self.ask(context, what, "yes")
        } else {
            eprintln!("about to {what} in the database {}", context.database_name());
            Ok(())
        }
    }
}

fn typed(word: &str) -> Result<(), CliError> {
    eprint!("type {word} to go ahead: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == word {
        Ok(())
    } else {
        Err(CliError::Failed(anyhow::anyhow!(
            "nothing was changed: that was not {word}"
        )))
    }
}
