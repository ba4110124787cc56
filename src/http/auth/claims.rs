//! What a token claims, once its signature holds.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{AuthError, Principal, Role};

/// By how much other machines' clocks may differ from ours, in seconds.
const LEEWAY_SECONDS: f64 = 5.0;

/// What the configuration asks of every token.
pub(super) struct Expected {
    /// `auth.issuer`.
    pub(super) issuer: Option<String>,
    /// `auth.audience`.
    pub(super) audience: Option<String>,
}

/// The claims that are looked at. Of any type here: a wrong type is a reason of its own, and never an absence.
#[derive(Deserialize)]
pub(super) struct Claims {
    sub: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    role: Option<Value>,
}

/// What holds for as long as the keys do, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified {
    pub(super) principal: Principal,
    /// Seconds since 1970.
    expires: f64,
    /// Seconds since 1970.
    not_before: f64,
}

impl Claims {
    /// Everything but the times.
    pub(super) fn check(&self, expected: &Expected) -> Result<Verified, AuthError> {
        let expires = match &self.exp {
            Some(exp) => seconds(exp).ok_or(AuthError::Malformed("exp is not a time in seconds"))?,
            None => return Err(AuthError::Malformed("exp is missing")),
        };
        let not_before = match &self.nbf {
            Some(nbf) => seconds(nbf).ok_or(AuthError::Malformed("nbf is not a time in seconds"))?,
            None => 0.0,
        };
        if let Some(issuer) = &expected.issuer
            && self.iss.as_ref().and_then(Value::as_str) != Some(issuer)
        {
            return Err(AuthError::WrongIssuer);
        }
        if let Some(audience) = &expected.audience
            && !self.aud.as_ref().is_some_and(|aud| names(aud, audience))
        {
            return Err(AuthError::WrongAudience);
        }
        let user_id = self.sub.as_ref().and_then(Value::as_str).ok_or(AuthError::Subject)?;
        let role = match &self.role {
            Some(role) => Role::deserialize(role).map_err(|_| AuthError::Role)?,
            None => Role::User,
        };
        Ok(Verified {
            principal: Principal {
                user_id: Uuid::try_parse(user_id).map_err(|_| AuthError::Subject)?,
                role,
            },
            expires,
            not_before,
        })
    }
}

impl Verified {
    /// Whether the token is good at `now`, in seconds since 1970.
    pub(super) fn check_times(&self, now: f64) -> Result<(), AuthError> {
        if now >= self.expires + LEEWAY_SECONDS {
            Err(AuthError::Expired)
        } else if now < self.not_before - LEEWAY_SECONDS {
            Err(AuthError::NotYetValid)
        } else {
            Ok(())
        }
    }

    /// For how long after `now` the token is good, as [`check_times`](Self::check_times) sees it.
    pub(super) fn left(&self, now: f64) -> Duration {
        Duration::try_from_secs_f64((self.expires + LEEWAY_SECONDS - now).max(0.0)).unwrap_or(Duration::MAX)
    }
}

/// NumericDate of RFC 7519: seconds since 1970, fractions allowed.
fn seconds(value: &Value) -> Option<f64> {
    value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
}

/// `aud` is one name, or an array of names.
fn names(aud: &Value, audience: &str) -> bool {
    match aud {
        Value::String(name) => name == audience,
        Value::Array(several) => several.iter().any(|name| name.as_str() == Some(audience)),
        _ => false,
    }
}
