//! One attempt to log in, one verdict.

use crate::{
    lockout,
    password::{self, Password, Peppers, StoredHashError, Verification},
};

/// Everything that one attempt consists of.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// As it was typed.
    pub password: &'a str,
    /// The stored hash of the account, if there is such an account.
    pub stored: Option<&'a str>,
    /// How many attempts there have been since the last success, this one included. The store counts it up
    /// atomically *before* the password is looked at, so that parallel guesses are all counted.
    pub number: u64,
}

impl std::fmt::Debug for Attempt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Judges an attempt. Whatever the verdict, exactly one Argon2id computation is done, so neither the answer
/// nor its time tells a stranger whether the account exists or is locked.
///
/// Blocking, some 20 ms and 19 MiB: run it behind a bounded queue.
pub fn judge(attempt: &Attempt<'_>, peppers: &Peppers) -> LoginVerdict {
    // Judged without a look at the account: the same for everybody.
    let Ok(password) = Password::read(attempt.password) else {
        password::verify_nobody(&Password::blank(), peppers);
        return LoginVerdict::WrongPassword;
    };
    let Some(stored) = attempt.stored else {
        password::verify_nobody(&password, peppers);
        return LoginVerdict::UnknownUser;
    };
    if lockout::is_locked(attempt.number) {
        password::verify_nobody(&password, peppers);
        return LoginVerdict::Locked;
    }
    match password::verify(&password, stored, peppers) {
        Ok(Verification::Match { outdated }) => LoginVerdict::Accepted { rehash: outdated },
        Ok(Verification::NoMatch) => LoginVerdict::WrongPassword,
        Err(problem) => {
            password::verify_nobody(&password, peppers);
            LoginVerdict::UnusableHash(problem)
        }
    }
}

/// How an attempt ended. Only the ledger learns which refusal it was: the person hears the same for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginVerdict {
    /// The password is right. With `rehash`, store a new hash: parameters or pepper have changed.
    Accepted {
        /// The stored hash is out of date.
        rehash: bool,
    },
    /// The password is wrong.
    WrongPassword,
    /// There is no such account.
    UnknownUser,
    /// Too many consecutive failures; an administrator must set a new password.
    Locked,
    /// The stored hash is of a kind that is never verified; an administrator must set a new password.
    UnusableHash(StoredHashError),
}

impl LoginVerdict {
    /// All that the person may learn.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::{argon::tests::RUNS, password::tests::peppers};

    const GOOD: &str = "wet stones sing at noon";

    #[test]
    fn accepts_the_right_password() {
        assert_eq!(judged(GOOD, Some(&stored()), 1), LoginVerdict::Accepted { rehash: false });
        assert!(judged(GOOD, Some(&stored()), 1).is_accepted());
    }

    #[test]
    fn rejects_a_wrong_password() {
        assert_eq!(judged("wet stones sing at dusk", Some(&stored()), 1), LoginVerdict::WrongPassword);
    }

    #[test]
    fn rejects_an_unknown_user() {
        assert_eq!(judged(GOOD, None, 1), LoginVerdict::UnknownUser);
    }

    #[test]
    fn the_hundredth_attempt_still_counts_and_the_next_is_refused_even_with_the_right_password() {
        assert!(judged(GOOD, Some(&stored()), 100).is_accepted());
        assert_eq!(judged(GOOD, Some(&stored()), 101), LoginVerdict::Locked);
    }

    #[test]
    fn rejects_a_hash_that_must_not_be_verified_and_says_so_to_operators_only() {
        let verdict = judged("password", Some("5f4dcc3b5aa765d61d8327deb882cf99"), 1);
        assert_eq!(verdict, LoginVerdict::UnusableHash(StoredHashError::FastHash));
        assert!(!verdict.is_accepted());
    }

    #[test]
    fn every_verdict_costs_exactly_one_argon2_computation() {
        let (known, too_long) = (stored(), "x".repeat(5000));
        let attempts = [
            (GOOD, Some(known.as_str()), 1),
            ("wet stones sing at dusk", Some(&known), 1),
            (GOOD, None, 1),
            (GOOD, Some(&known), 101),
            (GOOD, Some("$1$salt$hash"), 1),
            (&too_long, Some(&known), 1),
            (&too_long, None, 1),
            ("", Some(&known), 1),
        ];
        for (password, stored, number) in attempts {
            let before = RUNS.get();
            let verdict = judged(password, stored, number);
            assert_eq!(RUNS.get() - before, 1, "{verdict:?}");
        }
    }

    #[test]
    fn an_attempt_never_prints_its_password() {
        let attempt = Attempt { password: GOOD, stored: Some(&stored()), number: 7 };
        assert_eq!(format!("{attempt:?}"), "Attempt { number: 7, .. }");
    }

    fn judged(password: &str, stored: Option<&str>, number: u64) -> LoginVerdict {
        judge(&Attempt { password, stored, number }, &peppers())
    }

    fn stored() -> String {
        password::hash(&Password::read(GOOD).unwrap(), peppers().current(), [1; 16]).unwrap()
    }
}
