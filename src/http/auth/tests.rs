use std::{sync::LazyLock, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{AuthError, AuthSetupError, Authenticator, Principal, Role, now};
use crate::config::{Auth, Config, Sources};

const SECRET: &str = "12345678901234567890123456789012";
const USER: Uuid = Uuid::from_u128(0x7d44_4840_9dc0_11d1_b245_5ffd_ce74_fad2);

/// A private key, and the public one as a JWK.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    id: &'static str,
}

impl Pair {
    fn rsa(id: &'static str) -> Self {
        // Generating one takes up to seconds, and no test needs two different ones.
        static DER: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
            key.to_pkcs1_der().unwrap().as_bytes().to_vec()
        });
        Self {
            algorithm: Algorithm::RS256,
            private: EncodingKey::from_rsa_der(&DER),
            id,
        }
    }

    fn p256(id: &'static str) -> Self {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self {
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(der.as_ref()),
            id,
        }
    }

    fn ed25519(id: &'static str) -> Self {
        let seed: [u8; 32] = rand::random();
        // RFC 8410: the fixed head of a PKCS#8 document without the public key.
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        der.extend_from_slice(&seed);
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            private: EncodingKey::from_ed_der(&der),
            id,
        }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }

    fn sign_without_id(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.private).unwrap()
    }
}

fn jwks(pairs: &[&Pair]) -> String {
    json!({ "keys": pairs.iter().map(|pair| pair.jwk()).collect::<Vec<_>>() }).to_string()
}

fn claims() -> Value {
    json!({ "sub": USER, "exp": now() + 60.0 })
}

fn with(changes: &Value) -> Value {
    changed(claims(), changes)
}

fn changed(mut claims: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn hs256(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A token of parts as they are.
fn raw(head: &str, body: &str, signature: &str) -> String {
    format!(
        "{}.{}.{signature}",
        URL_SAFE_NO_PAD.encode(head),
        URL_SAFE_NO_PAD.encode(body)
    )
}

fn settings(changes: &[(&str, &str)]) -> Auth {
    let sources = changes
        .iter()
        .fold(Sources::default(), |sources, (key, value)| sources.with(key, *value));
    Config::load(&sources).unwrap().auth
}

async fn by_secret(changes: &[(&str, &str)]) -> Authenticator {
    let mut all = vec![("auth.jwt_secret", SECRET)];
    all.extend_from_slice(changes);
    Authenticator::from_config(&settings(&all)).await.unwrap()
}

async fn by_file(document: &str) -> Result<Authenticator, AuthSetupError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, document).unwrap();
    Authenticator::from_config(&settings(&[("auth.jwks_file", file.path().to_str().unwrap())])).await
}

fn headers(values: &[&str]) -> HeaderMap {
    values
        .iter()
        .map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap()))
        .collect()
}

async fn ask(authenticator: &Authenticator, token: &str) -> Result<Principal, AuthError> {
    authenticator
        .authenticate(&headers(&[&format!("Bearer {token}")]))
        .await
}

fn user(role: Role) -> Principal {
    Principal { user_id: USER, role }
}

#[tokio::test]
async fn a_token_of_the_secret_is_accepted_again_and_again() {
    let authenticator = by_secret(&[]).await;
    let token = hs256(&claims());
    for _ in 0..2 {
        assert_eq!(ask(&authenticator, &token).await, Ok(user(Role::User)));
    }
}

#[tokio::test]
async fn the_header_is_one_and_its_scheme_bearer_in_any_case() {
    let authenticator = by_secret(&[]).await;
    let token = hs256(&claims());
    let ask = async |values: &[String]| {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        authenticator.authenticate(&headers(&values)).await
    };
    for scheme in ["Bearer ", "bearer ", "BEARER  "] {
        assert_eq!(ask(&[format!("{scheme}{token}")]).await, Ok(user(Role::User)));
    }
    assert_eq!(ask(&[]).await, Err(AuthError::Missing));
    let good = format!("Bearer {token}");
    assert_eq!(ask(&[good.clone(), good]).await, Err(AuthError::SeveralHeaders));
    for other in [
        "Basic dTpw".to_owned(),
        token.clone(),
        String::new(),
        format!("Bearer{token}"),
    ] {
        assert_eq!(ask(&[other]).await, Err(AuthError::NotBearer));
    }
    for bad in [
        "Bearer",
        "Bearer  ",
        "Bearer a",
        "Bearer a.b",
        "Bearer a.b.c",
        "Bearer a.b.c.d",
        "Bearer ..",
        "Bearer a b",
    ] {
        assert!(
            matches!(ask(&[bad.to_owned()]).await, Err(AuthError::Malformed(_))),
            "{bad}"
        );
    }
    let mut bytes = HeaderMap::new();
    bytes.insert(header::AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
    assert!(matches!(
        authenticator.authenticate(&bytes).await,
        Err(AuthError::Malformed(_))
    ));
}

#[tokio::test]
async fn each_claim_has_its_own_reason() {
    let authenticator = by_secret(&[("auth.issuer", "https://issuer"), ("auth.audience", "dispatcher")]).await;
    let good = with(&json!({ "iss": "https://issuer", "aud": "dispatcher" }));
    for accepted in [
        json!({}),
        json!({ "aud": ["other", "dispatcher"] }),
        json!({ "exp": now() - 2.0 }),
        json!({ "nbf": now() + 2.0 }),
        json!({ "nbf": null, "role": null }),
    ] {
        let found = ask(&authenticator, &hs256(&changed(good.clone(), &accepted))).await;
        assert_eq!(found, Ok(user(Role::User)), "{accepted}");
    }
    for (changes, reason) in [
        (json!({ "exp": now() - 10.0 }), AuthError::Expired),
        (json!({ "exp": 0 }), AuthError::Expired),
        (json!({ "nbf": now() + 10.0 }), AuthError::NotYetValid),
        (json!({ "iss": "https://other" }), AuthError::WrongIssuer),
        (json!({ "iss": ["https://issuer"] }), AuthError::WrongIssuer),
        (json!({ "iss": null }), AuthError::WrongIssuer),
        (json!({ "aud": "other" }), AuthError::WrongAudience),
        (json!({ "aud": [] }), AuthError::WrongAudience),
        (json!({ "aud": 7 }), AuthError::WrongAudience),
        (json!({ "aud": null }), AuthError::WrongAudience),
        (json!({ "sub": "somebody" }), AuthError::Subject),
        (json!({ "sub": 7 }), AuthError::Subject),
        (json!({ "sub": null }), AuthError::Subject),
        (json!({ "role": "root" }), AuthError::Role),
        (json!({ "role": ["admin"] }), AuthError::Role),
    ] {
        let found = ask(&authenticator, &hs256(&changed(good.clone(), &changes))).await;
        assert_eq!(found, Err(reason), "{changes}");
    }
    // A wrong type never counts as absent (CVE-2026-25537 was that).
    for changes in [
        json!({ "exp": null }),
        json!({ "exp": "9999999999" }),
        json!({ "exp": [9_999_999_999_u64] }),
        json!({ "exp": -1 }),
        json!({ "nbf": "0" }),
        json!({ "nbf": true }),
    ] {
        let found = ask(&authenticator, &hs256(&changed(good.clone(), &changes))).await;
        assert!(matches!(found, Err(AuthError::Malformed(_))), "{changes}: {found:?}");
    }
    for name in ["exp", "sub"] {
        let found = ask(&by_secret(&[]).await, &hs256(&without(name))).await;
        assert!(found.is_err(), "without {name}: {found:?}");
    }
}

#[tokio::test]
async fn issuer_and_audience_do_not_matter_unless_configured() {
    let authenticator = by_secret(&[]).await;
    let token = hs256(&with(&json!({ "iss": "anybody", "aud": ["anything"] })));
    assert_eq!(ask(&authenticator, &token).await, Ok(user(Role::User)));
}

#[tokio::test]
async fn roles_are_read() {
    let authenticator = by_secret(&[]).await;
    for (name, role) in [
        ("user", Role::User),
        ("viewer", Role::Viewer),
        ("operator", Role::Operator),
        ("admin", Role::Admin),
    ] {
        let token = hs256(&with(&json!({ "role": name })));
        assert_eq!(ask(&authenticator, &token).await, Ok(user(role)));
    }
    assert!(Role::User < Role::Viewer && Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
}

#[tokio::test]
async fn a_remembered_token_still_expires_and_still_waits_for_its_time() {
    let authenticator = by_secret(&[]).await;
    let at = now();
    let token = hs256(&with(&json!({ "exp": at + 60.0, "nbf": at - 60.0 })));
    let verify = |at| authenticator.verify(&token, at).map(|verified| verified.principal);
    assert_eq!(verify(at), Ok(user(Role::User)));
    assert_eq!(authenticator.0.current.load().remembered.len(), 1);
    assert_eq!(verify(at + 66.0), Err(AuthError::Expired));
    assert_eq!(verify(at - 66.0), Err(AuthError::NotYetValid));
    assert_eq!(verify(at + 64.0), Ok(user(Role::User)));
}

#[tokio::test]
async fn a_token_is_good_for_as_long_as_it_is_said_to_be() {
    let authenticator = by_secret(&[]).await;
    let at = now();
    let token = hs256(&with(&json!({ "exp": at + 60.0 })));
    let left = authenticator.verify(&token, at).unwrap().left(at).as_secs_f64();
    assert!(authenticator.verify(&token, at + left - 0.1).is_ok());
    assert_eq!(
        authenticator.verify(&token, at + left + 0.1).unwrap_err(),
        AuthError::Expired
    );

    let forever = hs256(&with(&json!({ "exp": 1e300 })));
    assert_eq!(authenticator.verify(&forever, at).unwrap().left(at), Duration::MAX);
}

#[tokio::test]
async fn only_good_tokens_of_a_bounded_length_are_remembered() {
    let authenticator = by_secret(&[]).await;
    let long = hs256(&with(&json!({ "more": "x".repeat(4096) })));
    assert_eq!(ask(&authenticator, &long).await, Ok(user(Role::User)));
    assert_eq!(
        ask(&authenticator, &hs256(&with(&json!({ "exp": 1 })))).await,
        Err(AuthError::Expired)
    );
    let mut forged = hs256(&claims());
    forged.replace_range(forged.len() - 4.., "AAAA");
    assert_eq!(ask(&authenticator, &forged).await, Err(AuthError::BadSignature));
    assert_eq!(authenticator.0.current.load().remembered.len(), 0);
}

#[tokio::test]
async fn unsigned_and_foreign_algorithms_are_refused() {
    let authenticator = by_secret(&[]).await;
    let body = claims().to_string();
    for alg in [
        "none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "EdDSA", "XX",
    ] {
        for signature in ["", "AAAA"] {
            let token = raw(&json!({ "alg": alg, "typ": "JWT" }).to_string(), &body, signature);
            assert_eq!(
                ask(&authenticator, &token).await,
                Err(AuthError::AlgorithmNotAllowed),
                "{alg}"
            );
        }
    }
    let unsigned = raw(r#"{"alg":"HS256"}"#, &body, "");
    assert_eq!(ask(&authenticator, &unsigned).await, Err(AuthError::BadSignature));
    let critical = raw(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, &body, "AAAA");
    assert!(matches!(
        ask(&authenticator, &critical).await,
        Err(AuthError::Malformed(_))
    ));
    for head in ["", "{}", "[]", r#"{"alg":7}"#] {
        let token = raw(head, &body, "AAAA");
        assert!(
            matches!(ask(&authenticator, &token).await, Err(AuthError::Malformed(_))),
            "{head}"
        );
    }
}

#[tokio::test]
async fn tokens_of_all_three_public_algorithms_are_accepted_by_key_id() {
    let pairs = [Pair::rsa("r"), Pair::p256("e"), Pair::ed25519("d")];
    let authenticator = by_file(&jwks(&[&pairs[0], &pairs[1], &pairs[2]])).await.unwrap();
    for pair in &pairs {
        for token in [pair.sign(&claims()), pair.sign_without_id(&claims())] {
            assert_eq!(
                ask(&authenticator, &token).await,
                Ok(user(Role::User)),
                "{:?}",
                pair.algorithm
            );
        }
    }
    let stranger = Pair::p256("e");
    assert_eq!(
        ask(&authenticator, &stranger.sign(&claims())).await,
        Err(AuthError::BadSignature)
    );
    let crossed = Pair {
        id: "r",
        ..Pair::p256("x")
    };
    assert_eq!(
        ask(&authenticator, &crossed.sign(&claims())).await,
        Err(AuthError::AlgorithmNotAllowed)
    );
}

#[tokio::test]
async fn a_token_without_a_key_id_needs_the_only_key_of_its_algorithm() {
    let pairs = [Pair::p256("a"), Pair::p256("b")];
    let authenticator = by_file(&jwks(&[&pairs[0], &pairs[1]])).await.unwrap();
    assert_eq!(
        ask(&authenticator, &pairs[0].sign(&claims())).await,
        Ok(user(Role::User))
    );
    assert_eq!(
        ask(&authenticator, &pairs[0].sign_without_id(&claims())).await,
        Err(AuthError::UnknownKey)
    );
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    // The classic confusion: HS256 with the bytes of the RSA public key, in each form an attacker can know.
    let pair = Pair::rsa("r");
    let document = jwks(&[&pair]);
    let authenticator = by_file(&document).await.unwrap();
    let jwk = pair.jwk();
    let modulus = jwk["n"].as_str().unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("r".to_owned());
    for secret in [
        document.as_bytes().to_vec(),
        modulus.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(modulus).unwrap(),
    ] {
        let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(ask(&authenticator, &token).await, Err(AuthError::AlgorithmNotAllowed));
    }
}

#[tokio::test]
async fn keys_for_other_purposes_are_passed_over() {
    let good = Pair::p256("good");
    let other = |name: &str, value: Value| {
        let mut jwk = Pair::p256("other").jwk();
        jwk[name] = value;
        jwk
    };
    let others = [
        other("use", json!("enc")),
        other("key_ops", json!(["sign"])),
        other("alg", json!("ES384")),
        other("kty", json!("unheard-of")),
        other("crv", json!("P-384")),
        json!({ "kty": "oct", "kid": "other", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256" }),
        json!({ "kty": "RSA", "kid": "other", "n": URL_SAFE_NO_PAD.encode([7; 128]), "e": "AQAB" }),
        json!("no key at all"),
    ];
    let mut all = others.to_vec();
    all.push(good.jwk());
    let authenticator = by_file(&json!({ "keys": all }).to_string()).await.unwrap();
    assert_eq!(authenticator.0.current.load().keys.len(), 1);
    assert_eq!(ask(&authenticator, &good.sign(&claims())).await, Ok(user(Role::User)));
    for document in [
        json!({ "keys": others }).to_string(),
        json!({ "keys": [] }).to_string(),
        json!([]).to_string(),
        "not json".to_owned(),
    ] {
        assert!(
            matches!(by_file(&document).await, Err(AuthSetupError::Source(..))),
            "{document}"
        );
    }
}

#[tokio::test]
async fn exactly_one_source_of_keys_is_needed() {
    let none = Authenticator::from_config(&settings(&[])).await;
    assert!(matches!(none, Err(AuthSetupError::Keys(_))));
    let two = settings(&[("auth.jwt_secret", SECRET), ("auth.jwks_file", "/nowhere")]);
    assert!(matches!(
        Authenticator::from_config(&two).await,
        Err(AuthSetupError::Keys(_))
    ));
    let missing = settings(&[("auth.jwks_file", "/nowhere")]);
    assert!(matches!(
        Authenticator::from_config(&missing).await,
        Err(AuthSetupError::Source(..))
    ));
}

/// A key server whose document the test changes.
struct KeyServer {
    url: String,
    document: tokio::sync::watch::Sender<(StatusCode, String)>,
    readings: tokio::sync::watch::Receiver<usize>,
    _server: AbortOnDropHandle<()>,
}

impl KeyServer {
    async fn start(status: StatusCode, document: String) -> Self {
        let (document, shown) = tokio::sync::watch::channel((status, document));
        let (count, readings) = tokio::sync::watch::channel(0);
        let answer = get(async move || {
            count.send_modify(|n| *n += 1);
            shown.borrow().clone()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let router = Router::new().route("/jwks", answer);
        Self {
            url,
            document,
            readings,
            _server: AbortOnDropHandle::new(tokio::spawn(async { axum::serve(listener, router).await.unwrap() })),
        }
    }

    /// An authenticator of this server, kept fresh until the guard is dropped.
    async fn authenticator(&self, refresh: &str) -> (Authenticator, tokio_util::sync::DropGuard) {
        // Whoever comes first installs it, and the others find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let auth = settings(&[("auth.jwks_url", &self.url), ("auth.jwks_refresh", refresh)]);
        let authenticator = Authenticator::from_config(&auth).await.unwrap();
        let cancel = CancellationToken::new();
        tokio::spawn(authenticator.clone().keep_fresh(cancel.clone()));
        (authenticator, cancel.drop_guard())
    }

    async fn wait_for_readings(&mut self, count: usize) {
        let seen = tokio::time::timeout(Duration::from_secs(20), self.readings.wait_for(|n| *n >= count)).await;
        assert!(seen.is_ok(), "fewer than {count} readings within 20 s");
    }
}

#[tokio::test]
async fn an_unknown_key_id_is_looked_up_at_once_but_not_again_and_again() {
    let (old, new) = (Pair::p256("old"), Pair::p256("new"));
    let server = KeyServer::start(StatusCode::OK, jwks(&[&old])).await;
    let (authenticator, _guard) = server.authenticator("1h").await;
    let (old_token, new_token) = (old.sign(&claims()), new.sign(&claims()));
    assert_eq!(ask(&authenticator, &old_token).await, Ok(user(Role::User)));

    server.document.send_replace((StatusCode::OK, jwks(&[&new])));
    assert_eq!(ask(&authenticator, &new_token).await, Ok(user(Role::User)));
    assert_eq!(*server.readings.borrow(), 2);
    // The old key is gone, and with it what was remembered; asking for it reads nothing again so soon.
    for _ in 0..100 {
        assert_eq!(ask(&authenticator, &old_token).await, Err(AuthError::UnknownKey));
    }
    assert_eq!(*server.readings.borrow(), 2);
}

#[tokio::test]
async fn requests_that_name_an_unknown_key_together_share_one_reading() {
    let (old, new) = (Pair::p256("old"), Pair::p256("new"));
    let server = KeyServer::start(StatusCode::OK, jwks(&[&old])).await;
    let (authenticator, _guard) = server.authenticator("1h").await;
    server.document.send_replace((StatusCode::OK, jwks(&[&old, &new])));
    let token = new.sign(&claims());
    let all = futures_util::future::join_all((0..50).map(|_| ask(&authenticator, &token))).await;
    assert!(all.iter().all(|found| *found == Ok(user(Role::User))), "{all:?}");
    assert_eq!(*server.readings.borrow(), 2);
}

#[tokio::test]
async fn keys_change_in_time_and_a_failed_reading_keeps_the_old_ones() {
    let (old, new) = (Pair::p256("old"), Pair::p256("new"));
    let mut server = KeyServer::start(StatusCode::OK, jwks(&[&old])).await;
    let (authenticator, _guard) = server.authenticator("1s").await;
    let old_token = old.sign(&claims());
    assert_eq!(ask(&authenticator, &old_token).await, Ok(user(Role::User)));
    for (status, document) in [
        (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (StatusCode::OK, "no json".to_owned()),
        (StatusCode::OK, json!({ "keys": [] }).to_string()),
    ] {
        server.document.send_replace((status, document));
        let seen = *server.readings.borrow();
        // Two: the first may have been answered before the change.
        server.wait_for_readings(seen + 2).await;
        assert_eq!(ask(&authenticator, &old_token).await, Ok(user(Role::User)));
    }
    server.document.send_replace((StatusCode::OK, jwks(&[&new])));
    let seen = *server.readings.borrow();
    server.wait_for_readings(seen + 3).await;
    assert_eq!(ask(&authenticator, &new.sign(&claims())).await, Ok(user(Role::User)));
    assert_eq!(ask(&authenticator, &old_token).await, Err(AuthError::UnknownKey));
}

#[tokio::test]
async fn an_address_that_does_not_answer_at_the_start_is_asked_again() {
    let pair = Pair::p256("k");
    let server = KeyServer::start(StatusCode::SERVICE_UNAVAILABLE, String::new()).await;
    let (authenticator, _guard) = server.authenticator("1h").await;
    server.document.send_replace((StatusCode::OK, jwks(&[&pair])));
    // The first request's wish is heard at once.
    assert_eq!(ask(&authenticator, &pair.sign(&claims())).await, Ok(user(Role::User)));
}

#[tokio::test]
async fn without_keys_the_caller_is_not_blamed() {
    let server = KeyServer::start(StatusCode::SERVICE_UNAVAILABLE, String::new()).await;
    let (authenticator, _guard) = server.authenticator("1h").await;
    let found = ask(&authenticator, &Pair::p256("k").sign(&claims())).await;
    assert_eq!(found, Err(AuthError::KeysUnavailable));
}

#[test]
fn every_challenge_says_what_is_wrong() {
    for error in [
        AuthError::Missing,
        AuthError::SeveralHeaders,
        AuthError::SeveralCookies("__Host-dispatcher_session"),
        AuthError::NotBearer,
        AuthError::Malformed("exp is not a time in seconds"),
        AuthError::AlgorithmNotAllowed,
        AuthError::UnknownKey,
        AuthError::BadSignature,
        AuthError::Expired,
        AuthError::NotYetValid,
        AuthError::WrongIssuer,
        AuthError::WrongAudience,
        AuthError::Subject,
        AuthError::Role,
        AuthError::KeysUnavailable,
    ] {
        let challenge = error.challenge();
        let text = challenge.to_str().unwrap();
        assert!(text.starts_with("Bearer"), "{text}");
        if matches!(error, AuthError::Missing | AuthError::NotBearer) {
            assert_eq!(text, "Bearer");
        } else {
            assert!(text.contains(&format!("error_description=\"{error}\"")), "{text}");
            assert_eq!(text.matches('"').count(), 4, "{text}");
        }
    }
}
