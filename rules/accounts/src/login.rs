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
