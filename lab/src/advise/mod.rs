//! `advise`: which way to prove who is calling fits one edge, and why the others do not.
//!
//! A few questions about the edge ([`Question`]) are answered, or taken from what the deployment saw ([`observed`]). Each
//! way then says for itself what it lacks for these answers ([`lacks`]); the simplest one that lacks nothing is taken,
//! *nothing yet* and *just a bearer token* before anything else. There is no score: every way that was not taken is told
//! with its reason, and every reason points to an attack that can be run or a figure that can be measured ([`Link`]).
//!
//! ```
//! use countersign_lab::advise::{Question, Scheme, Sheet, advise};
//! let mut sheet = Sheet::default();
//! sheet.answer(Question::Dispute, "yes")?;
//! let advice = advise("payment", "orders", &sheet);
//! assert_eq!(advice.take, Scheme::SignedToken);
//! # Ok::<(), countersign_lab::advise::AnswerError>(())
//! ```

mod catalogue;
mod links;
pub mod observed;
mod question;
mod rules;

pub use catalogue::{Entry, Gain, Here, Scheme, catalogue};
pub use links::{FIGURES, Link};
pub use question::{AnswerError, Answers, Caller, Choice, Network, Question, Sheet, User};
pub use rules::{Advice, Declined, Reason, advise, lacks};
