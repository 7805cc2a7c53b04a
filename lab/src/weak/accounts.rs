//! Logins: a count per address, a count per account, and as much work for nobody as for somebody.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::pbkdf2;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_sdk::inbound::Denial;
use countersign_wire::{api::users::Login, codes::Code};
use serde_json::{Value, json};

use super::{Weak, Weakness};

/// What was tried.
#[derive(Default)]
pub(super) struct Desk {
    by_address: Mutex<HashMap<String, u32>>,
    failures: Mutex<HashMap<String, u32>>,
}

impl Weak {
    /// The password of everybody who has an account.
    pub(crate) fn password(user: &str) -> String {
        format!("the right password of {user}")
    }

    /// From now on the access token of this id counts no longer.
    pub(crate) fn take_back(&self, jti: &str) {
        held(&self.house.taken_back).push(jti.to_owned());
    }

    /// Whether an access token still counts.
    pub(super) fn still_counts(&self, token: &str) -> Result<(), Denial> {
        let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Value = claims.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let jti = claims.get("jti").and_then(Value::as_str).unwrap_or_default();
        let is_gone = held(&self.house.taken_back).iter().any(|gone| gone == jti);
        match is_gone && !self.makes(Weakness::AccessTokensForEver) {
            true => Err(Denial::new(Code::TokenRevoked, "the token was taken back")),
            false => Ok(()),
        }
    }

    /// A body with an access token, for the right password.
    pub(super) fn log_in(&self, told: Option<&str>, from: IpAddr, body: &[u8]) -> Result<String, Denial> {
        let address = told.filter(|_| self.makes(Weakness::AddressByHeader));
        let address = address.map_or_else(|| from.to_string(), str::to_owned);
        let desk = &self.house.desk;
        let tried = count(&mut held(&desk.by_address), address);
        if tried > LOGINS_AT_ONCE && !self.makes(Weakness::AnyNumberOfLogins) {
            return Err(Denial::new(Code::TooManyRequests, "too many logins from this address"));
        }
        let login: Login = serde_json::from_slice(body)
            .map_err(|error| Denial::new(Code::BodyMalformed, error.to_string()))?;
        // However it is spelled, it is one account.
        let name = login.name.trim().to_lowercase();
        if !ACCOUNTS.contains(&name.as_str()) {
            if !self.makes(Weakness::UnknownUserIsQuick) {
                work(login.password.expose());
            }
            return Err(match self.makes(Weakness::UnknownUserIsTold) {
                true => Denial::new(Code::ObjectUnknown, format!("there is no {name}")),
                false => refused(),
            });
        }
        work(login.password.expose());
        let is_right = login.password.expose() == Self::password(&name);
        let failures = held(&desk.failures).get(&name).copied().unwrap_or_default();
        if is_right && (failures < FAILURES_MAX || self.makes(Weakness::NoLockout)) {
            let token =
                self.user_token(&name).map_err(|error| Denial::new(Code::Internal, error.to_string()))?;
            return Ok(json!({"access_token": token, "token_type": "Bearer", "expires_in": 600}).to_string());
        }
        count(&mut held(&desk.failures), name);
        Err(refused())
    }
}

fn refused() -> Denial {
    Denial::new(Code::LoginFailed, "login: wrong name or password")
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counts: &mut HashMap<String, u32>, key: String) -> u32 {
    if counts.len() >= COUNTED_MAX && !counts.contains_key(&key) {
        return u32::MAX;
    }
    let count = counts.entry(key).or_default();
    *count += 1;
    *count
}

/// What a hash of a password costs.
fn work(password: &str) {
    let mut hash = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, b"salt", password.as_bytes(), &mut hash);
    std::hint::black_box(hash);
}

const ACCOUNTS: [&str; 4] = ["alice", "bob", "eve", "mod"];
const LOGINS_AT_ONCE: u32 = 10;
/// SP 800-63B-4 section 3.2.2.
const FAILURES_MAX: u32 = 100;
/// It lives as long as one attack.
const COUNTED_MAX: usize = 1024;
const ROUNDS: NonZeroU32 = match NonZeroU32::new(100_000) {
    Some(rounds) => rounds,
    None => NonZeroU32::MIN,
};
