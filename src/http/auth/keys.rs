//! The keys that verify tokens.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// What a key set may sign with. Never HS256: who knows a public key could sign with it as if it were a secret.
const PUBLIC_ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// The shortest modulus in bytes; RFC 7518, 3.3.
const MIN_RSA_BYTES: usize = 256;

/// Keys, each for one algorithm.
pub(super) struct KeySet {
    allowed: &'static [Algorithm],
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    /// The key's, so that a token cannot choose how its signature is read.
    algorithm: Algorithm,
    verifier: DecodingKey,
}

/// Which key a token is to be verified with.
pub(super) enum Choice<'a> {
    Key(&'a DecodingKey, Algorithm),
    AlgorithmNotAllowed,
    Unknown,
}

impl KeySet {
    /// Before the first reading.
    pub(super) fn empty() -> Self {
        Self {
            allowed: &PUBLIC_ALGORITHMS,
            keys: Vec::new(),
        }
    }

    pub(super) fn from_secret(secret: &SecretString) -> Self {
        Self {
            allowed: &[Algorithm::HS256],
            keys: vec![Key {
                id: None,
                algorithm: Algorithm::HS256,
                verifier: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
            }],
        }
    }

    /// Reads a JSON Web Key Set (RFC 7517). Keys for other purposes or algorithms are passed over, as the RFC asks.
    ///
    /// # Errors
    /// It is not one, or none of its keys can be used: such a set would lock everybody out.
    pub(super) fn from_jwks(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let mut keys = Vec::new();
        for (position, jwk) in set.keys.into_iter().enumerate() {
            match usable(jwk) {
                Ok(key) => keys.push(key),
                Err(reason) => tracing::debug!(position, reason, "a key of the set is not used"),
            }
        }
        if keys.is_empty() {
            return Err("the set has no key for RS256, ES256 or EdDSA signatures".to_owned());
        }
        Ok(Self {
            allowed: &PUBLIC_ALGORITHMS,
            keys,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key of this id; without an id, the only one of this algorithm. A secret has no id, and any will do.
    pub(super) fn choose(&self, algorithm: &str, id: Option<&str>) -> Choice<'_> {
        let Some(algorithm) = algorithm
            .parse::<Algorithm>()
            .ok()
            .filter(|algorithm| self.allowed.contains(algorithm))
        else {
            return Choice::AlgorithmNotAllowed;
        };
        if algorithm == Algorithm::HS256 {
            return self
                .keys
                .first()
                .map_or(Choice::Unknown, |key| Choice::Key(&key.verifier, key.algorithm));
        }
        let mut candidates = self
            .keys
            .iter()
            .filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id));
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => Choice::Key(&key.verifier, key.algorithm),
            (None, _) if id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id) => {
                Choice::AlgorithmNotAllowed
            }
            // None, or more than one: which of them was meant would be a guess.
            _ => Choice::Unknown,
        }
    }
}

fn usable(jwk: Value) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|_| "it is not a JSON Web Key")?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err("its use is not sig");
    }
    if let Some(operations) = &jwk.common.key_operations
        && !operations.contains(&KeyOperations::Verify)
    {
        return Err("its key_ops lack verify");
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return Err("its type or curve is not for RS256, ES256 or EdDSA"),
    };
    if jwk.common.key_algorithm.is_some_and(|alg| alg != named) {
        return Err("its alg is another one");
    }
    let verifier = DecodingKey::from_jwk(&jwk).map_err(|_| "its numbers cannot be read")?;
    if let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } = verifier.kind()
        && n.len() < MIN_RSA_BYTES
    {
        return Err("it is shorter than 2048 bits");
    }
    Ok(Key {
        id: jwk.common.key_id,
        algorithm,
        verifier,
    })
}
