//! `dispatcher token`.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header};
use secrecy::ExposeSecret;
use serde::Serialize;
use uuid::Uuid;

use super::{CliError, Context, Format, output};
use crate::{
    config::{Auth, AuthKeys},
    http::auth::Role,
};

/// Whose token, for how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The user's id: `sub`
    #[arg(long, value_name = "UUID")]
    user: Uuid,
    /// How long the token is good, such as 15m
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = ttl)]
    ttl: Duration,
    /// What the user may do
    #[arg(long, value_enum, default_value_t)]
    role: Role,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl < Duration::from_secs(1) {
        return Err("give at least 1s".to_owned());
    }
    Ok(ttl)
}

/// What is printed for programs.
#[derive(Serialize)]
struct Signed {
    token: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: Uuid,
    role: Role,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let token = sign(&context.config.auth, args.user, args.role, args.ttl)?;
    match context.output {
        Format::Table => Ok(writeln!(std::io::stdout(), "{token}")?),
        format => output::one(format, &[], &Signed { token }),
    }
}

/// Signs a token with `auth.jwt_secret`, that the service of the same configuration takes.
pub(super) fn sign(auth: &Auth, user: Uuid, role: Role, ttl: Duration) -> Result<String, CliError> {
    let secret = match auth.keys() {
        Ok(AuthKeys::Secret(secret)) => secret,
        Ok(AuthKeys::File(_) | AuthKeys::Url(_)) => {
            return Err(CliError::Usage(
                "tokens of auth.jwks_file and auth.jwks_url are signed elsewhere: `token` needs auth.jwt_secret"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(CliError::Usage(error.to_string())),
    };
    let iat = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| CliError::Failed(anyhow::anyhow!("the clock of this machine stands before 1970")))?
        .as_secs();
    let claims = Claims {
        sub: user,
        role,
        iat,
        exp: iat.saturating_add(ttl.as_secs()),
        iss: auth.issuer.as_deref(),
        aud: auth.audience.as_deref(),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key)
        .map_err(|error| CliError::Failed(anyhow::Error::new(error).context("the token cannot be signed")))
}
