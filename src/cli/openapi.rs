//! `dispatcher openapi`.

use std::io::Write;

use super::CliError;
use crate::http::openapi;

/// Prints the OpenAPI 3.1 document, byte for byte as it is committed.
pub(super) fn run() -> Result<(), CliError> {
    Ok(std::io::stdout().write_all(openapi::text().as_bytes())?)
}
