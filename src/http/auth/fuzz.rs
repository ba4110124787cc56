//! Tokens, claims and key sets of anybody.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;
use uuid::Uuid;

use super::{Authenticator, Role, bearer, claims::Verified, keys::Choice, keys::KeySet};
use crate::config::Auth;

const SECRET: &str = "12345678901234567890123456789012";
const ISSUER: &str = "us";
const AUDIENCE: &str = "them";
/// When the tokens are looked at: 2033, so that those of the corpus stay good.
const NOW: f64 = 2_000_000_000.0;

static OURS: LazyLock<Authenticator> = LazyLock::new(|| {
    let auth = Auth {
        jwt_secret: Some(SECRET.into()),
        jwks_file: None,
        jwks_url: None,
        jwks_refresh: std::time::Duration::from_hours(1),
        issuer: Some(ISSUER.to_owned()),
        audience: Some(AUDIENCE.to_owned()),
    };
    let made = Authenticator::from_config(&auth).now_or_never();
    made.expect("a secret is not waited for").expect("it is one source")
});

/// The value of `Authorization`: whoever is let in has a token that we signed, and that is good now.
pub fn token(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let Ok(token) = bearer(&headers) else { return };
    if let Ok(Verified { principal, .. }) = OURS.verify(token, NOW) {
        let (signed, signature) = token.rsplit_once('.').expect("it has three parts");
        assert_eq!(signature, sign(signed), "a signature that is not ours");
        let claims = signed.split_once('.').expect("it has three parts").1;
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("they were read");
        hold(&claims, principal.user_id, principal.role);
    }
}

/// Claims that we sign, whatever they say: what is let in claims it in so many words, and any other letter anywhere
/// in the token keeps it out.
pub fn claims(data: &[u8]) {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(data));
    let token = format!("{signed}.{}", sign(&signed));
    let Ok(Verified { principal, .. }) = OURS.verify(&token, NOW) else {
        return;
    };
    hold(data, principal.user_id, principal.role);

    let at = data
        .iter()
        .fold(data.len(), |sum, byte| sum * 31 % 65_536 + usize::from(*byte))
        % token.len();
    let mut changed = token.into_bytes();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("one ASCII letter for another");
    assert!(
        OURS.verify(&changed, NOW).is_err(),
        "let in with another letter at {at}"
    );
}

/// A JSON Web Key Set: one that is taken has keys, and none of them makes a public key a secret.
pub fn key_set(data: &[u8]) {
    let Ok(keys) = KeySet::from_jwks(data) else { return };
    assert!(!keys.is_empty(), "a set without keys locks everybody out");
    for algorithm in ["HS256", "HS384", "HS512", "none", "RS512", ""] {
        let choice = keys.choose(algorithm, None);
        assert!(matches!(choice, Choice::AlgorithmNotAllowed), "{algorithm} is allowed");
    }
}

fn sign(signed: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("HS256 signs anything")
}

/// That the claims say what was understood, read in another way.
fn hold(claims: &[u8], user_id: Uuid, role: Role) {
    // A claim that nobody reads may be no text at all, which a whole value may not have.
    let Ok(claims) = serde_json::from_slice::<Value>(claims) else {
        return;
    };
    let expires = claims["exp"].as_f64().expect("exp is a number");
    assert!(expires + 5.0 > NOW, "it has expired");
    assert!(claims["nbf"].as_f64().unwrap_or(0.0) - 5.0 <= NOW, "it is not good yet");
    assert_eq!(claims["iss"], ISSUER);
    let audience = &claims["aud"];
    let several = audience
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one == AUDIENCE));
    assert!(audience == AUDIENCE || several, "for somebody else: {audience}");
    let subject = claims["sub"].as_str().map(Uuid::try_parse);
    assert_eq!(subject, Some(Ok(user_id)));
    let claimed = claims.get("role").filter(|role| !role.is_null());
    let claimed = claimed.map_or("user", |role| role.as_str().expect("a role is text"));
    assert_eq!(claimed, role.as_str());
}
