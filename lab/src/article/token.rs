//! `jsonwebtoken` as the listings use it: HS256 with the secret from the environment, and the defaults.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{constant_time_eq, hmac_sha256};
use serde_json::{Value, json};

/// `jwt.sign({ user, roles }, process.env.JWT_SECRET, { expiresIn: '24h' })`; `now` in seconds since 1970.
#[must_use]
pub fn generate_token(user: &str, roles: &[String], secret: &[u8], now: i64) -> String {
    sign(json!({ "user": user, "roles": roles }), secret, now)
}

/// `const user = jwt.verify(oldToken, process.env.JWT_SECRET); return jwt.sign({ user }, …)`: what is put into `user` is
/// all of what the old token said.
#[must_use]
pub fn refresh_token(old_token: &str, secret: &[u8], now: i64) -> Option<String> {
    let user = verify(old_token, secret, now)?;
    Some(sign(json!({ "user": user }), secret, now))
}

/// `jwt.verify(token, process.env.JWT_SECRET)`: with a secret that is text, the library accepts HMAC alone.
#[must_use]
pub fn verify(token: &str, secret: &[u8], now: i64) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let is_good = header.get("alg")? == "HS256"
        && constant_time_eq(
            &URL_SAFE_NO_PAD.decode(signature).ok()?,
            &hmac_sha256(secret, signed.as_bytes()),
        );
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let expires = claims.get("exp").and_then(Value::as_i64)?;
    (is_good && now < expires).then_some(claims)
}

fn sign(mut claims: Value, secret: &[u8], now: i64) -> String {
    if let Some(members) = claims.as_object_mut() {
        members.insert("iat".to_owned(), now.into());
        members.insert("exp".to_owned(), (now + DAY_SECONDS).into());
    }
    let encoded = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", encoded(json!({"alg": "HS256", "typ": "JWT"})), encoded(claims));
    let signature = hmac_sha256(secret, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// `expiresIn: '24h'`
const DAY_SECONDS: i64 = 24 * 3600;
