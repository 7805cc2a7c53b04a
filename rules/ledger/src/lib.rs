//! What happened, so that nobody can change the story afterwards.
//!
//! Every process that decides something is a *writer*: it chains its own events by SHA-256 over their exact
//! bytes ([`chain`]), so a record that is flipped, dropped, reordered or swapped is named. The authority
//! appends the records of all writers to one log ([`log`]) and signs its head ([`head`]); who keeps an
//! older head outside can prove that the log was never rolled back, cut or rewritten. Without an outside
//! head a log can only be called internally consistent, and [`log::Assurance`] says just that.
//!
//! Allowed calls are many: they share a record ([`calls`]), and each is found in it by its decision id.
//! Strangers cannot fill a disk: their refusals are counted per address and minute ([`refusals`]). Users
//! appear as keyed pseudonyms ([`pseudonym()`]), paths as route templates.
//!
//! ```
//! use countersign_identity::{SpiffeId, UnixTime};
//! use countersign_ledger::{chain::{BootId, Writer, WriterVerifier}, event::Event};
//!
//! let ads: SpiffeId = "spiffe://fleamarket.test/svc/ads".parse()?;
//! let mut writer = Writer::start(ads.clone(), BootId::from_random([7; 16]));
//! let record = writer.append(&Event::ClockSteppedBack { by_ms: 4_000 }, UnixTime::from_secs(1_800_000_000))?;
//!
//! let mut verifier = WriterVerifier::start(ads, BootId::from_random([7; 16]));
//! verifier.accept(&record)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod calls;
pub mod chain;
mod connection;
pub mod digest;
pub mod event;
pub mod head;
pub mod log;
mod pseudonym;
pub mod refusals;

pub use calls::{Call, CallBatch, CallBatcher, CallConnection, CallEdge, NewCall};
pub use chain::{BootId, Record, Writer, WriterVerifier};
pub use connection::ConnectionId;
pub use digest::Digest;
pub use event::{CheckRecord, CheckResult, Decision, Entry, Event, Stage, Verdict};
pub use head::{Head, SignedHead};
pub use log::LogState;
pub use pseudonym::{Pseudonym, PseudonymKey, pseudonym};
pub use refusals::{KINDS_MAX, Refusals};
