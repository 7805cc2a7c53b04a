//! What a failed command says: what happened, why, and what to try; and the exit code that goes with it.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a check failed |
//! | 2 | usage or configuration |
//! | 3 | the authority cannot be reached |
//! | 4 | denied |
//! | 130 | interrupted |

use std::fmt;
use std::process::ExitCode;

/// Why a command stopped. The variant decides the exit code, the text is for the person at the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CliError {
    /// A check, a test or a verification did not hold (exit 1).
    Failed(Explained),
    /// The command line, the configuration or the machine is not as the command needs it (exit 2).
    Usage(Explained),
    /// The authority does not answer (exit 3).
    Unreachable(Explained),
    /// The authority answered, and said no (exit 4).
    Denied(Explained),
    /// Somebody stopped it; what it had started has ended (exit 130, as for a program that SIGINT ends).
    Interrupted(Explained),
}

/// The three lines under every error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What happened, one line.
    pub what: String,
    /// Why, as far as is known; empty where the first line says it all.
    pub why: String,
    /// What to try next.
    pub try_next: String,
}

impl CliError {
    /// A failed check.
    pub fn failed(what: impl fmt::Display, why: impl fmt::Display, try_next: impl fmt::Display) -> Self {
        Self::Failed(Explained::new(what, why, try_next))
    }

    /// Wrong usage or configuration.
    pub fn usage(what: impl fmt::Display, why: impl fmt::Display, try_next: impl fmt::Display) -> Self {
        Self::Usage(Explained::new(what, why, try_next))
    }

    /// Nobody answered.
    pub fn unreachable(what: impl fmt::Display, why: impl fmt::Display, try_next: impl fmt::Display) -> Self {
        Self::Unreachable(Explained::new(what, why, try_next))
    }

    /// The answer was no.
    pub fn denied(what: impl fmt::Display, why: impl fmt::Display, try_next: impl fmt::Display) -> Self {
        Self::Denied(Explained::new(what, why, try_next))
    }

    /// Stopped from outside.
    pub fn interrupted(what: impl fmt::Display, why: impl fmt::Display, try_next: impl fmt::Display) -> Self {
        Self::Interrupted(Explained::new(what, why, try_next))
    }

    /// The process's exit code for this error.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Denied(_) => 4,
            Self::Interrupted(_) => 130,
        }
    }

    /// As [`CliError::code`], for `main`.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn explained(&self) -> &Explained {
        match self {
            Self::Failed(e)
            | Self::Usage(e)
            | Self::Unreachable(e)
            | Self::Denied(e)
            | Self::Interrupted(e) => e,
        }
    }
}

impl Explained {
    fn new(what: impl fmt::Display, why: impl fmt::Display, try_next: impl fmt::Display) -> Self {
        Self { what: what.to_string(), why: why.to_string(), try_next: try_next.to_string() }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explained { what, why, try_next } = self.explained();
        write!(f, "error: {what}")?;
        if !why.is_empty() {
            write!(f, "\n  why: {why}")?;
        }
        if !try_next.is_empty() {
            write!(f, "\n  try: {try_next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_exit_code() {
        assert_eq!(CliError::failed("a", "", "").code(), 1);
        assert_eq!(CliError::usage("a", "", "").code(), 2);
        assert_eq!(CliError::unreachable("a", "", "").code(), 3);
        assert_eq!(CliError::denied("a", "", "").code(), 4);
        assert_eq!(CliError::interrupted("a", "", "").code(), 130);
        assert!(matches!(CliError::failed("a", "", ""), CliError::Failed(_)));
        assert!(matches!(CliError::usage("a", "", ""), CliError::Usage(_)));
        assert!(matches!(CliError::unreachable("a", "", ""), CliError::Unreachable(_)));
        assert!(matches!(CliError::denied("a", "", ""), CliError::Denied(_)));
        assert!(matches!(CliError::interrupted("a", "", ""), CliError::Interrupted(_)));
    }

    #[test]
    fn an_error_says_what_why_and_what_to_try() {
        let text =
            CliError::usage("port 7443 is busy", "another process listens on it", "stop it").to_string();
        assert_eq!(text, "error: port 7443 is busy\n  why: another process listens on it\n  try: stop it");
    }
}
