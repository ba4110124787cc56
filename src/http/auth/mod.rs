//! Who calls: bearer tokens (RFC 6750) that are signed JWTs.
//!
//! A token is verified once and then remembered, for a signature costs microseconds that the intake could use
//! better; its times are checked on every use. What was remembered goes when the keys change.

mod claims;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use jsonwebtoken::Validation;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use error::{AuthError, AuthSetupError};

use crate::config::{Auth, AuthKeys};
use claims::{Claims, Expected, Verified};
use keys::{Choice, KeySet};
use source::Source;

/// Tokens remembered at once; with [`MAX_REMEMBERED_BYTES`] this bounds the memory to 16 MiB.
const REMEMBERED_TOKENS: usize = 8192;
/// Longer tokens are verified each time.
const MAX_REMEMBERED_BYTES: usize = 2048;
/// An unknown key id causes a reading of the keys, but not more often than this: anybody can invent key ids.
const MIN_BETWEEN_READINGS: Duration = Duration::from_secs(10);
/// How long a request with an unknown key id waits for that reading.
const WAIT_FOR_READING: Duration = Duration::from_secs(2);

/// Who a token speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// `sub`.
    pub user_id: Uuid,
    /// `role`.
    pub role: Role,
}

/// The claim `role`: each one may do what the one before it may.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Own jobs; also when the claim is absent
    #[default]
    User,
    /// See what operators see
    Viewer,
    /// Pause, replay, retry
    Operator,
    /// Everything
    Admin,
}

impl Role {
    /// As in the claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Verifies tokens. Clones share keys and memory.
#[derive(Clone)]
pub struct Authenticator(Arc<Shared>);

struct Shared {
    expected: Expected,
    current: ArcSwap<Current>,
    /// `None`: a secret, which never changes.
    rotating: Option<Rotating>,
}

/// The keys, and what was verified with them.
struct Current {
    keys: KeySet,
    /// What the keys were read from; empty for a secret, and before the first reading.
    document: Bytes,
    remembered: Cache<Box<str>, Verified>,
}

struct Rotating {
    source: Source,
    refresh: Duration,
    /// A token named an unknown key.
    wanted: Notify,
    /// When the keys were last read again, or tried to be.
    last_reading: watch::Sender<Option<Instant>>,
}

impl Current {
    fn new(keys: KeySet, document: Bytes) -> Self {
        Self {
            keys,
            document,
            remembered: Cache::new(REMEMBERED_TOKENS),
        }
    }

    async fn read(source: &Source) -> Result<Self, String> {
        let document = source.read().await?;
        Ok(Self::new(KeySet::from_jwks(&document)?, document))
    }
}

impl Rotating {
    fn is_too_early(&self) -> bool {
        self.last_reading
            .borrow()
            .is_some_and(|at| at.elapsed() < MIN_BETWEEN_READINGS)
    }
}

impl Authenticator {
    /// Reads the keys once. Where they come from a file or an address, [`Authenticator::keep_fresh`] must run beside.
    ///
    /// # Errors
    /// Not exactly one source of keys is set, or the file has no usable key. An address that does not answer is not
    /// an error: the keys come when it does, and until then requests get [`AuthError::KeysUnavailable`].
    pub async fn from_config(auth: &Auth) -> Result<Self, AuthSetupError> {
        let (current, source) = match auth.keys()? {
            AuthKeys::Secret(secret) => (Current::new(KeySet::from_secret(&secret), Bytes::new()), None),
            AuthKeys::File(path) => {
                let source = Source::File(path);
                match Current::read(&source).await {
                    Ok(current) => (current, Some(source)),
                    Err(reason) => return Err(AuthSetupError::Source(source.to_string(), reason)),
                }
            }
            AuthKeys::Url(url) => {
                let source = Source::address(&url)?;
                let current = Current::read(&source).await.unwrap_or_else(|reason| {
                    tracing::error!(%source, %reason, "no keys for tokens yet: every request is refused until they come");
                    Current::new(KeySet::empty(), Bytes::new())
                });
                (current, Some(source))
            }
        };
        Ok(Self(Arc::new(Shared {
            expected: Expected {
                issuer: auth.issuer.clone(),
                audience: auth.audience.clone(),
            },
            current: ArcSwap::from_pointee(current),
            rotating: source.map(|source| Rotating {
                source,
                refresh: auth.jwks_refresh,
                wanted: Notify::new(),
                last_reading: watch::Sender::new(None),
            }),
        })))
    }

    /// Who calls, by the header `Authorization`. Waits only for an unknown key id, and then a bounded time.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, AuthError> {
        self.authenticate_token(bearer(headers)?).await
    }

    /// Who calls, as [`Authenticator::authenticate`] says, and for how long yet the token is good.
    pub async fn authenticate_for(&self, headers: &HeaderMap) -> Result<(Principal, Duration), AuthError> {
        let verified = self.verify_or_wait(bearer(headers)?).await?;
        Ok((verified.principal, verified.left(now())))
    }

    /// Who calls, by a token that came another way, such as a cookie. Waits as [`Authenticator::authenticate`] does.
    pub async fn authenticate_token(&self, token: &str) -> Result<Principal, AuthError> {
        Ok(self.verify_or_wait(token).await?.principal)
    }

    async fn verify_or_wait(&self, token: &str) -> Result<Verified, AuthError> {
        match self.verify(token, now()) {
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {
                self.wait_for_reading().await;
                self.verify(token, now())
            }
            decided => decided,
        }
    }

    fn verify(&self, token: &str, now: f64) -> Result<Verified, AuthError> {
        let current = self.0.current.load();
        let verified = match current.remembered.get(token) {
            Some(verified) => verified,
            None => self.verify_signature(&current, token, now)?,
        };
        verified.check_times(now)?;
        Ok(verified)
    }

    fn verify_signature(&self, current: &Current, token: &str, now: f64) -> Result<Verified, AuthError> {
        let head = Head::of(token)?;
        let (key, algorithm) = match current.keys.choose(&head.alg, head.kid.as_deref()) {
            Choice::Key(key, algorithm) => (key, algorithm),
            Choice::AlgorithmNotAllowed => return Err(AuthError::AlgorithmNotAllowed),
            Choice::Unknown if current.keys.is_empty() => return Err(AuthError::KeysUnavailable),
            Choice::Unknown => return Err(AuthError::UnknownKey),
        };
        // Ours to check: times on each use and not only here, the rest with reasons of its own.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)?.claims;
        let verified = claims.check(&self.0.expected)?;
        // An expired one is not worth a place.
        if token.len() <= MAX_REMEMBERED_BYTES && verified.check_times(now).is_ok() {
            current.remembered.insert(token.into(), verified);
        }
        Ok(verified)
    }

    /// Asks for a reading of the keys, if one is due, and waits a bounded time for it.
    async fn wait_for_reading(&self) {
        let Some(rotating) = &self.0.rotating else { return };
        let mut readings = rotating.last_reading.subscribe();
        if !rotating.is_too_early() {
            rotating.wanted.notify_one();
            // Whether it came in time shows when the token is verified again.
            let _ = tokio::time::timeout(WAIT_FOR_READING, readings.changed()).await;
        }
    }

    /// Reads the keys again every `auth.jwks_refresh`, and at once when a token names an unknown key; until
    /// cancelled. A reading that fails keeps the old keys.
    pub async fn keep_fresh(self, cancel: CancellationToken) {
        let Some(rotating) = &self.0.rotating else {
            return cancel.cancelled().await;
        };
        let source = &rotating.source;
        let mut next = Instant::now() + self.pause(rotating);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
                // A wish of the last burst may come late: what it wanted was read meanwhile.
                () = rotating.wanted.notified() => if rotating.is_too_early() { continue },
            }
            let read = tokio::select! {
                () = cancel.cancelled() => return,
                read = Current::read(source) => read,
            };
            next = Instant::now() + self.pause(rotating);
            match read {
                Ok(read) if read.document == self.0.current.load().document => {}
                Ok(read) => {
                    tracing::info!(%source, keys = read.keys.len(), "the keys for tokens changed");
                    self.0.current.store(Arc::new(read));
                }
                Err(reason) => {
                    next = next.min(Instant::now() + MIN_BETWEEN_READINGS);
                    tracing::warn!(%source, %reason, "the keys for tokens cannot be read: the old ones stay");
                }
            }
            rotating.last_reading.send_replace(Some(Instant::now()));
        }
    }

    /// Until the next reading that nobody asks for: soon, while there are no keys at all.
    fn pause(&self, rotating: &Rotating) -> Duration {
        if self.0.current.load().keys.is_empty() {
            rotating.refresh.min(MIN_BETWEEN_READINGS)
        } else {
            rotating.refresh
        }
    }
}

/// What a token says of itself before anything is believed.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

impl Head {
    fn of(token: &str) -> Result<Self, AuthError> {
        let mut parts = token.split('.');
        let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(AuthError::Malformed("it must have three parts"));
        };
        let head: Self = URL_SAFE_NO_PAD
            .decode(head)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or(AuthError::Malformed("its header cannot be read"))?;
        // RFC 7515, 4.1.11: who does not understand an extension that is marked as critical must refuse.
        if head.crit.is_some() {
            return Err(AuthError::Malformed("its header has critical extensions"));
        }
        Ok(head)
    }
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::SeveralHeaders);
    }
    let value = value
        .to_str()
        .map_err(|_| AuthError::Malformed("it has characters outside ASCII"))?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(AuthError::NotBearer);
    }
    match token.trim_matches(' ') {
        "" => Err(AuthError::Malformed("it is empty")),
        token => Ok(token),
    }
}

/// Seconds since 1970, as claims count them. A clock before that is as good as 1970: everything is too early.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
