//! `dispatcher completions`.

use std::io::Write;

use super::CliError;

/// Which shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell, such as bash: `dispatcher completions bash > /etc/bash_completion.d/dispatcher`
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command_line(), "dispatcher", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
