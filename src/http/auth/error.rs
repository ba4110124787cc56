//! Why nobody is let in. None of it repeats anything of the token.

use axum::http::HeaderValue;
use jsonwebtoken::errors::ErrorKind;

use crate::config::AuthKeysError;

/// Why a request has no principal: 401 with [`AuthError::challenge`], but for
/// [`AuthError::KeysUnavailable`], which is 503, for the caller can do nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization`.
    #[error("the header Authorization is missing")]
    Missing,
    /// More than one `Authorization`: which of them counts would be a guess.
    #[error("the header Authorization is given more than once")]
    SeveralHeaders,
    /// More than one cookie of this name: a sibling domain may have set one.
    #[error("there are two cookies {0}: delete both")]
    SeveralCookies(&'static str),
    /// Another scheme.
    #[error("the scheme of Authorization is not Bearer")]
    NotBearer,
    /// Not a token that can be read; why.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// `alg` is none of the configured ones, or not that of the key.
    #[error("the token's algorithm is not allowed")]
    AlgorithmNotAllowed,
    /// `kid` is none of ours, or there is none and more than one key fits, or no key.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature does not hold.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is not `auth.issuer`.
    #[error("the token is from another issuer")]
    WrongIssuer,
    /// `aud` does not name `auth.audience`.
    #[error("the token is for another audience")]
    WrongAudience,
    /// `sub` is absent or no UUID.
    #[error("the token's sub is not a UUID")]
    Subject,
    /// `role` is none of user, viewer, operator, admin.
    #[error("the token's role is not known")]
    Role,
    /// `auth.jwks_url` has not answered since the start.
    #[error("the keys that verify tokens are not available")]
    KeysUnavailable,
}

impl AuthError {
    /// The header `WWW-Authenticate`. RFC 6750, 3.1: a request without a token is told the scheme and no error.
    pub fn challenge(&self) -> HeaderValue {
        match self {
            Self::Missing | Self::NotBearer => HeaderValue::from_static("Bearer"),
            Self::SeveralHeaders | Self::SeveralCookies(_) => described("invalid_request", self),
            _ => described("invalid_token", self),
        }
    }
}

fn described(error: &str, description: &AuthError) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer error=\"{error}\", error_description=\"{description}\""))
        .expect("the descriptions are ASCII without quotes: a test reads them")
}

impl From<jsonwebtoken::errors::Error> for AuthError {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
                Self::AlgorithmNotAllowed
            }
            ErrorKind::Base64(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken => {
                Self::Malformed("it is not base64url in all parts")
            }
            ErrorKind::Json(_) => Self::Malformed("its claims cannot be read"),
            // The signature's bytes, or a key that is none: either way nothing was proven.
            _ => Self::BadSignature,
        }
    }
}

/// Why tokens cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// Not exactly one source of keys.
    #[error(transparent)]
    Keys(#[from] AuthKeysError),
    /// The source, and why it has no keys.
    #[error("no keys for tokens from {0}: {1}")]
    Source(String, String),
    /// TLS cannot be set up.
    #[error("auth.jwks_url cannot be read")]
    Client(#[from] reqwest::Error),
}
