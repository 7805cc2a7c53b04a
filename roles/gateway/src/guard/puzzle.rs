//! A puzzle for guessers: after too many failed logins from one address each further one has to cost some work, which
//! needs no third party, no picture and no cookie.
//!
//! The challenge is `PAYLOAD.MAC`, both base64url: 1 byte format, 1 byte bits, 8 bytes expiry (ms since 1970, big
//! endian), 16 random bytes; the MAC (HMAC-SHA256) is also over the address and the path, so it is solved for these
//! alone. The answer is `CHALLENGE:COUNTER` where SHA-256 of that whole text begins with so many zero bits. It counts
//! once. Nothing is remembered of a challenge before it is answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::UnixTime;
use countersign_keys::{MacKey, RandomError, SecureRandom, constant_time_eq, random_bytes, sha256};
use countersign_policy::address_key;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

/// `[gateway.puzzle]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PuzzleSettings {
    /// Failed logins of one address (IPv6: one /64) before the next one has to bring a solution.
    pub after_failures: NonZeroU32,
    /// How long a failed login counts, in seconds.
    pub failures_count_s: NonZeroU32,
    /// Leading zero bits of the hash, at most 30: each bit doubles the work. 18 take a browser about a second.
    pub difficulty_bits: u8,
    /// How long a puzzle may take, in seconds.
    pub valid_s: NonZeroU32,
    /// Addresses with failed logins, and solutions, that are remembered. While all places are taken, everybody solves.
    pub addresses_max: usize,
}

impl Default for PuzzleSettings {
    fn default() -> Self {
        let n = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        PuzzleSettings {
            after_failures: n(5),
            failures_count_s: n(900),
            difficulty_bits: 18,
            valid_s: n(120),
            addresses_max: 65_536,
        }
    }
}

/// Why a puzzle cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PuzzleSettingsError {
    /// Nobody would solve it, or everybody at once.
    #[error("difficulty_bits = {bits} must be from 1 to 30")]
    Difficulty {
        /// As configured.
        bits: u8,
    },
}

/// Why a login has to wait for a solution. The caller gets a new challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PuzzleError {
    #[error("{failures} logins from this address failed, and no solution of a puzzle came")]
    Missing { failures: u32 },
    #[error("the solution is of no challenge for this address and path")]
    NotOurs,
    #[error("the solution came {by_seconds} s too late")]
    Late { by_seconds: u64 },
    #[error("the solution is none: its hash has {got} leading zero bits, not {want}")]
    Unsolved { got: u32, want: u32 },
    #[error("the solution was used before")]
    Used,
    #[error("no place is left to remember solutions")]
    Full,
}

/// Who has to solve, and what was solved.
pub(crate) struct Puzzles {
    key: MacKey,
    settings: PuzzleSettings,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    solved: Mutex<HashMap<[u8; RANDOM_BYTES], UnixTime>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    until: UnixTime,
}

impl Puzzles {
    /// Challenges of this process alone: its key is nowhere else.
    pub(crate) fn new(
        settings: PuzzleSettings,
        rng: &dyn SecureRandom,
    ) -> Result<Result<Self, PuzzleSettingsError>, RandomError> {
        let bits = settings.difficulty_bits;
        if !(1..=BITS_MAX).contains(&bits) {
            return Ok(Err(PuzzleSettingsError::Difficulty { bits }));
        }
        let key = MacKey::new(&random_bytes::<32>(rng)?);
        Ok(Ok(Puzzles { key, settings, failures: Mutex::default(), solved: Mutex::default() }))
    }

    /// Remembers that a login failed.
    pub(crate) fn failed(&self, address: IpAddr, now: UnixTime) {
        let until = now.saturating_add(Duration::from_secs(self.settings.failures_count_s.get().into()));
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let key = address_key(address);
        if failures.len() >= self.settings.addresses_max && !failures.contains_key(&key) {
            failures.retain(|_, other| other.until > now);
            if failures.len() >= self.settings.addresses_max {
                return;
            }
        }
        let entry = failures.entry(key).or_insert(Failures { count: 0, until });
        let count = if entry.until > now { entry.count.saturating_add(1) } else { 1 };
        *entry = Failures { count, until };
    }

    /// Lets a login try, if its address may or it brings a solution.
    pub(crate) fn admit(
        &self,
        address: IpAddr,
        path: &str,
        answer: Option<&str>,
        now: UnixTime,
    ) -> Result<(), PuzzleError> {
        let failures = self.failures_of(address, now);
        if failures < self.settings.after_failures.get() {
            return Ok(());
        }
        let answer = answer.ok_or(PuzzleError::Missing { failures })?;
        let (random, expires) = self.judge(answer, address, path, now)?;
        let mut solved = self.solved.lock().unwrap_or_else(PoisonError::into_inner);
        if solved.contains_key(&random) {
            return Err(PuzzleError::Used);
        }
        if solved.len() >= self.settings.addresses_max {
            solved.retain(|_, until| *until > now);
        }
        if solved.len() >= self.settings.addresses_max {
            return Err(PuzzleError::Full);
        }
        solved.insert(random, expires);
        Ok(())
    }

    /// A challenge for this address and path, for the header [`PUZZLE`].
    pub(crate) fn challenge(
        &self,
        address: IpAddr,
        path: &str,
        rng: &dyn SecureRandom,
        now: UnixTime,
    ) -> Option<HeaderValue> {
        let random: [u8; RANDOM_BYTES] = random_bytes(rng).ok()?;
        let expires = now.saturating_add(Duration::from_secs(self.settings.valid_s.get().into()));
        let mut payload = vec![FORMAT, self.settings.difficulty_bits];
        payload.extend_from_slice(&expires.millis().to_be_bytes());
        payload.extend_from_slice(&random);
        let mac = self.mac(&payload, address, path);
        HeaderValue::from_str(&format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(&payload),
            URL_SAFE_NO_PAD.encode(mac)
        ))
        .ok()
    }

    /// While no more addresses can be remembered, all count as guessers.
    fn failures_of(&self, address: IpAddr, now: UnixTime) -> u32 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(&address_key(address)) {
            Some(known) if known.until > now => known.count,
            Some(_) => 0,
            None if failures.len() < self.settings.addresses_max => 0,
            None => self.settings.after_failures.get(),
        }
    }

    fn judge(
        &self,
        answer: &str,
        address: IpAddr,
        path: &str,
        now: UnixTime,
    ) -> Result<([u8; RANDOM_BYTES], UnixTime), PuzzleError> {
        let challenge = answer.split_once(':').map(|(challenge, _)| challenge);
        let parts =
            challenge.filter(|_| answer.len() <= ANSWER_BYTES_MAX).and_then(|text| text.split_once('.'));
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| PuzzleError::NotOurs);
        let (payload, mac) = parts.ok_or(PuzzleError::NotOurs)?;
        let (payload, mac) = (decode(payload)?, decode(mac)?);
        if !constant_time_eq(&mac, &self.mac(&payload, address, path)) {
            return Err(PuzzleError::NotOurs);
        }
        // What we signed has the form that we gave it.
        let Some(([_, bits], rest)) = payload.split_first_chunk::<2>() else {
            return Err(PuzzleError::NotOurs);
        };
        let Some((expires, random)) = rest.split_first_chunk::<8>() else { return Err(PuzzleError::NotOurs) };
        let random = random.try_into().map_err(|_| PuzzleError::NotOurs)?;
        let expires = UnixTime::from_millis(i64::from_be_bytes(*expires));
        if now >= expires {
            return Err(PuzzleError::Late { by_seconds: now.since(expires).as_secs() });
        }
        let (got, want) = (leading_zero_bits(&sha256(answer.as_bytes())), u32::from(*bits));
        if got < want {
            return Err(PuzzleError::Unsolved { got, want });
        }
        Ok((random, expires))
    }

    fn mac(&self, payload: &[u8], address: IpAddr, path: &str) -> [u8; 32] {
        let address = address_key(address).to_string();
        let mut message = Vec::with_capacity(payload.len() + address.len() + path.len() + 24);
        for part in [payload, address.as_bytes(), path.as_bytes()] {
            message.extend_from_slice(&(part.len() as u64).to_be_bytes());
            message.extend_from_slice(part);
        }
        self.key.mac_for("login-puzzle", &message)
    }
}

fn leading_zero_bits(hash: &[u8; 32]) -> u32 {
    let whole = hash.iter().take_while(|byte| **byte == 0).count();
    let rest = hash.get(whole).map_or(0, |byte| byte.leading_zeros());
    u32::try_from(whole).unwrap_or(0) * 8 + rest
}

/// Carries a challenge to the client.
pub(crate) const PUZZLE: HeaderName = HeaderName::from_static("countersign-puzzle");
/// Carries a solution back.
pub(crate) const PUZZLE_ANSWER: HeaderName = HeaderName::from_static("countersign-puzzle-answer");
const FORMAT: u8 = 1;
const RANDOM_BYTES: usize = 16;
const BITS_MAX: u8 = 30;
const ANSWER_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_keys::SystemRandom;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);
    const GUESSER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn puzzles(toml: &str) -> Puzzles {
        let settings = toml::from_str(&format!("after_failures = 2\ndifficulty_bits = 8\n{toml}")).unwrap();
        Puzzles::new(settings, &SystemRandom::new()).unwrap().unwrap()
    }

    fn after(seconds: u64) -> UnixTime {
        NOW.saturating_add(Duration::from_secs(seconds))
    }

    fn failing(puzzles: &Puzzles) {
        puzzles.failed(GUESSER, NOW);
        puzzles.failed(GUESSER, NOW);
    }

    fn challenge(puzzles: &Puzzles) -> String {
        let challenge = puzzles.challenge(GUESSER, "/login", &SystemRandom::new(), NOW).unwrap();
        challenge.to_str().unwrap().to_owned()
    }

    fn solve(challenge: &str, solved: bool) -> String {
        let answers = (0..).map(|counter| format!("{challenge}:{counter}"));
        answers.into_iter().find(|answer| (sha256(answer.as_bytes()).first() == Some(&0)) == solved).unwrap()
    }

    #[test]
    fn only_an_address_of_many_failures_has_to_solve_and_only_for_a_while() {
        let puzzles = puzzles("");
        assert_eq!(puzzles.admit(GUESSER, "/login", None, NOW), Ok(()));
        puzzles.failed(GUESSER, NOW);
        assert_eq!(puzzles.admit(GUESSER, "/login", None, NOW), Ok(()));
        puzzles.failed(GUESSER, NOW);
        assert_eq!(puzzles.admit(GUESSER, "/login", None, NOW), Err(PuzzleError::Missing { failures: 2 }));
        assert_eq!(puzzles.admit([192, 0, 2, 8].into(), "/login", None, NOW), Ok(()));
        assert_eq!(puzzles.admit(GUESSER, "/login", None, after(900)), Ok(()));
    }

    #[test]
    fn a_solution_counts_once() {
        let puzzles = puzzles("");
        failing(&puzzles);
        let answer = solve(&challenge(&puzzles), true);
        assert_eq!(puzzles.admit(GUESSER, "/login", Some(&answer), NOW), Ok(()));
        assert_eq!(puzzles.admit(GUESSER, "/login", Some(&answer), NOW), Err(PuzzleError::Used));
    }

    #[test]
    fn a_solution_counts_for_its_address_its_path_and_its_time() {
        let puzzles = puzzles("");
        failing(&puzzles);
        let other = [192, 0, 2, 8].into();
        puzzles.failed(other, NOW);
        puzzles.failed(other, NOW);
        let answer = solve(&challenge(&puzzles), true);
        assert_eq!(puzzles.admit(other, "/login", Some(&answer), NOW), Err(PuzzleError::NotOurs));
        assert_eq!(puzzles.admit(GUESSER, "/logout", Some(&answer), NOW), Err(PuzzleError::NotOurs));
        let late = puzzles.admit(GUESSER, "/login", Some(&answer), after(120));
        assert_eq!(late, Err(PuzzleError::Late { by_seconds: 0 }));
        assert_eq!(puzzles.admit(GUESSER, "/login", Some(&answer), after(119)), Ok(()));
    }

    #[test]
    fn what_is_no_solution_of_ours_counts_for_nothing() {
        let (puzzles, others) = (puzzles(""), self::puzzles(""));
        failing(&puzzles);
        let unsolved = puzzles.admit(GUESSER, "/login", Some(&solve(&challenge(&puzzles), false)), NOW);
        assert!(matches!(unsolved, Err(PuzzleError::Unsolved { want: 8, .. })), "{unsolved:?}");
        let long = format!("{}:{}", challenge(&puzzles), "1".repeat(ANSWER_BYTES_MAX));
        for answer in [&solve(&challenge(&others), true), "", ":", ".:", "a.b:1", &long] {
            assert_eq!(
                puzzles.admit(GUESSER, "/login", Some(answer), NOW),
                Err(PuzzleError::NotOurs),
                "{answer}"
            );
        }
    }

    #[test]
    fn full_tables_make_everybody_solve_and_then_nobody_pass() {
        let puzzles = puzzles("addresses_max = 1");
        failing(&puzzles);
        let stranger = [192, 0, 2, 8].into();
        assert_eq!(puzzles.admit(stranger, "/login", None, NOW), Err(PuzzleError::Missing { failures: 2 }));
        let (one, two) = (solve(&challenge(&puzzles), true), solve(&challenge(&puzzles), true));
        assert_eq!(puzzles.admit(GUESSER, "/login", Some(&one), NOW), Ok(()));
        assert_eq!(puzzles.admit(GUESSER, "/login", Some(&two), NOW), Err(PuzzleError::Full));
    }

    #[test]
    fn rejects_a_puzzle_that_is_none_or_that_nobody_solves() {
        for bits in [0, 31] {
            let settings = PuzzleSettings { difficulty_bits: bits, ..PuzzleSettings::default() };
            let refused = Puzzles::new(settings, &SystemRandom::new()).unwrap().err();
            assert_eq!(refused, Some(PuzzleSettingsError::Difficulty { bits }));
        }
    }

    #[test]
    fn zero_bits_are_counted_across_bytes() {
        let hash = |first: u8, second: u8| {
            let mut hash = [0; 32];
            (hash[0], hash[1]) = (first, second);
            leading_zero_bits(&hash)
        };
        assert_eq!((hash(0x80, 0), hash(1, 0), hash(0, 0x10), leading_zero_bits(&[0; 32])), (0, 7, 11, 256));
    }
}
