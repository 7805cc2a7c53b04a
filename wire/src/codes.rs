//! The one registry of error codes.
//!
//! Two sides that never mix (HP-1): the **public code** is all that a caller learns, it alone fixes status and
//! title, and many codes share one; the **code** CSnnnn is for the operator, in logs, in the ledger, in
//! `explain` and on the command line, with the reason and the remedy.
//!
//! CS1nnn request · CS2nnn identity and transport · CS3nnn token · CS4nnn policy · CS5nnn upstream and
//! availability · CS6nnn control plane · CS7nnn store and keys · CS8nnn configuration.
//!
//! ```
//! use countersign_wire::codes::{Code, Exit};
//! let entry = Code::parse("CS3005").map(Code::entry);
//! assert_eq!(entry.map(|entry| (entry.code, entry.exit)), Ok((Code::TokenExpired, Exit::Denied)));
//! ```

#[macro_use]
mod rows;
mod public;
mod table;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use public::Public;
pub use table::{Code, TABLE};

/// Everything that is known about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// Its number, 1000 to 8999.
    pub number: u16,
    /// Where a request ends with it.
    pub stage: Stage,
    /// What the caller is told.
    pub public: Public,
    /// May the same request succeed later?
    pub retryable: bool,
    /// What a command that meets it returns.
    pub exit: Exit,
    /// What happened; lower case, no full stop.
    pub title: &'static str,
    /// Why that is an error.
    pub why: &'static str,
    /// What to try.
    pub fix: &'static str,
}

/// Where a request ends, in the order of the stages.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// TLS handshake.
    Transport,
    /// The canonical request.
    Request,
    /// How many per second.
    Quota,
    /// Who the workload is.
    Identity,
    /// Who the user is.
    Token,
    /// May it?
    Policy,
    /// The callee.
    Upstream,
    /// Not about a request: the system itself.
    System,
}

/// Exit codes of the command line (DESIGN section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// As asked.
    Ok = 0,
    /// A check failed.
    CheckFailed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// The authority cannot be reached.
    Unreachable = 3,
    /// Denied.
    Denied = 4,
}

/// What is not a code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such error code: codes look like CS1001, `countersign explain CS1001` tells about one")]
pub struct UnknownCode;

impl Code {
    /// Everything about this code.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        self.row()
    }

    /// `CSnnnn`, in any case.
    ///
    /// # Errors
    /// [`UnknownCode`].
    pub fn parse(text: &str) -> Result<Code, UnknownCode> {
        let upper = text.to_ascii_uppercase();
        let number = upper
            .strip_prefix("CS")
            .filter(|digits| digits.len() == 4)
            .and_then(|digits| digits.parse().ok());
        TABLE.iter().copied().find(|code| Some(code.entry().number) == number).ok_or(UnknownCode)
    }

    /// HTTP status of the public code.
    #[must_use]
    pub fn status(self) -> u16 {
        self.entry().public.status()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "CS{:04}", self.entry().number)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
        Code::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Stage {
    /// As it stands in a decision record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Transport => "transport",
            Stage::Request => "request",
            Stage::Quota => "quota",
            Stage::Identity => "identity",
            Stage::Token => "token",
            Stage::Policy => "policy",
            Stage::Upstream => "upstream",
            Stage::System => "system",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> std::process::ExitCode {
        std::process::ExitCode::from(exit as u8)
    }
}
