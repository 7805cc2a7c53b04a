//! People: their accounts, their passwords, and what happens to those who guess.
//!
//! Passwords live in one place only. A login ends in one verdict ([`login::judge`]), every verdict costs the
//! same one Argon2id computation, and from then on everybody else sees tokens.
//!
//! - [`user`]: accounts, and the one canonical form of a name, so that no spelling escapes a counter.
//! - [`password`]: what a good password is, and how it is kept (Argon2id, salted, peppered).
//! - [`lockout`]: how a guess is punished, per account and per address.
//! - [`login`]: one attempt, one verdict.
//!
//! ```
//! use countersign_accounts::{login, password::{self, Password, Pepper, Peppers}};
//!
//! let peppers = Peppers::new(Pepper::new(1, [7; 32]));
//! let chosen = Password::choose("a very long password", &["alice", "fleamarket.test"])?;
//! let stored = password::hash(&chosen, peppers.current(), [1; 16])?;
//!
//! let attempt = login::Attempt { password: "a very long password", stored: Some(&stored), number: 1 };
//! assert_eq!(login::judge(&attempt, &peppers), login::LoginVerdict::Accepted { rehash: false });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod argon;
mod blocklist;
pub mod lockout;
pub mod login;
pub mod password;
pub mod user;

pub use lockout::Throttle;
pub use login::LoginVerdict;
pub use password::{Password, Pepper, Peppers};
pub use user::{Account, AccountName, UserId};
