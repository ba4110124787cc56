//! `dispatcher openapi`.

use std::io::Write;

use super::CliError;
use crate::console;

/// Prints the OpenAPI 3.1 document, byte for byte as it is committed.
pub(super) fn run() -> Result<(), CliError> {
    Ok(std::io::stdout().write_all(console::document_text().as_bytes())?)
}
