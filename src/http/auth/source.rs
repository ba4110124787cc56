//! Where key sets are read.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Url, redirect};

use super::AuthSetupError;

/// A set of a hundred keys has about 50 kB; more than this is not read.
const MAX_BYTES: usize = 1 << 20;
/// For the whole answer of `auth.jwks_url`.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// `auth.jwks_file` or `auth.jwks_url`.
pub(super) enum Source {
    File(PathBuf),
    Address(reqwest::Client, Url),
}

impl Source {
    /// Redirects are not followed: keys come from where the operator said, and from nowhere else.
    pub(super) fn address(url: &str) -> Result<Self, AuthSetupError> {
        let url =
            Url::parse(url).map_err(|error| AuthSetupError::Source("auth.jwks_url".to_owned(), error.to_string()))?;
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self::Address(client, url))
    }

    /// What stands there now.
    pub(super) async fn read(&self) -> Result<Bytes, String> {
        match self {
            Self::File(path) => tokio::fs::read(path)
                .await
                .map(Bytes::from)
                .map_err(|error| error.to_string()),
            Self::Address(client, url) => fetch(client, url.clone()).await,
        }
    }
}

async fn fetch(client: &reqwest::Client, url: Url) -> Result<Bytes, String> {
    // The address may carry credentials.
    let plain = |error: reqwest::Error| {
        let error = error.without_url();
        match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }
    };
    let mut answer = client.get(url).send().await.map_err(plain)?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(format!("the answer was {}", answer.status()));
    }
    let mut document = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(plain)? {
        if document.len() + chunk.len() > MAX_BYTES {
            return Err(format!("the answer has more than {MAX_BYTES} bytes"));
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document.freeze())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "auth.jwks_file {}", path.display()),
            Self::Address(_, url) => write!(f, "auth.jwks_url at {}", url.host_str().unwrap_or("?")),
        }
    }
}
