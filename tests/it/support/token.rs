//! Tokens of users, signed with the secret that the tests' services are configured with.

use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

/// `auth.jwt_secret`.
pub const SECRET: &str = "a secret of the tests, thirty-two bytes or more";

/// A token of the user, good for an hour.
pub fn token_for(user: Uuid) -> String {
    token_with(&json!({"sub": user, "exp": Utc::now().timestamp() + 3600}))
}

/// A token with just these claims, rightly signed.
pub fn token_with(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

/// A token with this role, of nobody in particular; `sub` comes with it.
pub fn token_of(role: &str) -> (Uuid, String) {
    let user = Uuid::new_v4();
    let claims = json!({"sub": user, "role": role, "exp": Utc::now().timestamp() + 3600});
    (user, token_with(&claims))
}
