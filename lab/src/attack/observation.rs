//! What an attack saw, and what that means: the only place where an observation becomes a verdict.

use countersign_wire::codes::{Code, Stage};
use rustls::AlertDescription;
use serde::Serialize;

use super::{Guard, Sign, hands::Why, wire::Reply};

/// What was sent, and what came back.
#[derive(Clone, Debug)]
pub struct Observation {
    /// In one line, without secrets.
    pub sent: String,
    /// What came back.
    pub received: Received,
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Received {
    /// An answer.
    Answer {
        /// The answer.
        reply: Reply,
        /// What the operator's side knows of it.
        why: Option<Why>,
    },
    /// The connection ended before there was an answer.
    Ended {
        /// The alert of TLS, if that is how.
        alert: Option<AlertDescription>,
        /// What this side saw.
        how: String,
        /// What the operator's side knows of it.
        why: Option<Why>,
    },
    /// The attack looked for itself whether its guard held.
    Looked {
        /// Did it?
        held: bool,
        /// What was seen.
        seen: String,
    },
}

/// What an observation means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// The guard that was named stopped it.
    Blocked {
        /// The sign by which that is known.
        sign: String,
    },
    /// It worked.
    Succeeded {
        /// What shows it.
        evidence: String,
    },
    /// Neither is shown: that counts as a failure.
    Inconclusive {
        /// Why.
        why: String,
    },
}

impl Observation {
    /// What the attack itself looked at.
    pub fn looked(sent: impl Into<String>, held: bool, seen: impl Into<String>) -> Self {
        Self { sent: sent.into(), received: Received::Looked { held, seen: seen.into() } }
    }

    /// Did `guard` stop it?
    #[must_use]
    pub fn judged(&self, guard: &Guard) -> Verdict {
        if let Some(sign) = guard.signs.iter().find_map(|sign| self.received.shows(*sign)) {
            return Verdict::Blocked { sign };
        }
        match &self.received {
            Received::Answer { .. } if self.is_believed() => Verdict::Succeeded { evidence: self.told() },
            Received::Looked { held: false, seen } => Verdict::Succeeded { evidence: seen.clone() },
            _ => {
                Verdict::Inconclusive { why: format!("nothing shows that the guard did it: {}", self.told()) }
            }
        }
    }

    /// Was whoever sent it taken for what it said it is? Served, or refused by nothing but the rules of who may do
    /// what.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        let Received::Answer { reply, why } = &self.received else { return false };
        match reply.status {
            200..=399 => true,
            400..=499 => why.as_ref().and_then(Why::stage) == Some(Stage::Policy),
            _ => false,
        }
    }

    /// Does the operator's side know of it?
    #[must_use]
    pub fn is_explained(&self) -> bool {
        self.received.why().is_some()
    }

    /// What came back, in one line.
    #[must_use]
    pub fn told(&self) -> String {
        match &self.received {
            Received::Answer { reply, why } => {
                let public = reply.public_code().map(|code| format!(" {code}")).unwrap_or_default();
                let why = why.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                format!("{}{public}{why}", reply.status)
            }
            Received::Ended { alert, how, why } => {
                let alert = alert.map(|alert| format!("tls alert {alert:?}"));
                let why = why.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                format!("{}{why}", alert.unwrap_or_else(|| how.clone()))
            }
            Received::Looked { seen, .. } => seen.clone(),
        }
    }
}

impl Received {
    /// The sign, in words, if it is there.
    fn shows(&self, sign: Sign) -> Option<String> {
        match (sign, self) {
            (Sign::Alert(wanted), Self::Ended { alert: Some(alert), why, .. }) => {
                let told = why.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                (*alert == wanted).then(|| format!("tls alert {alert:?}{told}"))
            }
            (Sign::Code(code), _) => self.why().filter(|why| why.code == Some(code)).map(ToString::to_string),
            (Sign::Said(code, text), _) => self
                .why()
                .filter(|why| why.code == Some(code) && why.reason.contains(text))
                .map(ToString::to_string),
            (Sign::Fact, Self::Looked { held: true, seen }) => Some(seen.clone()),
            _ => None,
        }
    }

    /// What the operator's side knows of it.
    pub(super) fn why(&self) -> Option<&Why> {
        match self {
            Self::Answer { why, .. } | Self::Ended { why, .. } => why.as_ref(),
            Self::Looked { .. } => None,
        }
    }
}

impl Verdict {
    /// One word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Blocked { .. } => "blocked",
            Self::Succeeded { .. } => "succeeded",
            Self::Inconclusive { .. } => "inconclusive",
        }
    }

    /// Sign, evidence or reason.
    #[must_use]
    pub fn because(&self) -> &str {
        match self {
            Self::Blocked { sign: text }
            | Self::Succeeded { evidence: text }
            | Self::Inconclusive { why: text } => text,
        }
    }
}

/// Stage of a code, as the registry has it.
pub(super) fn stage_of(code: Code) -> Stage {
    code.entry().stage
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::weak::Weakness;

    const GUARD: Guard = Guard {
        what: "audience",
        home: "here",
        signs: &[Sign::Code(Code::TokenAudience), Sign::Alert(AlertDescription::UnknownCA)],
        weakness: Weakness::AnyAudience,
    };

    fn answer(status: u16, code: Option<Code>) -> Observation {
        let why = code.map(|code| Why { code: Some(code), reason: "because".into(), decision: None });
        let reply = Reply { status, headers: Vec::new(), body: Vec::new() };
        Observation { sent: "a token".into(), received: Received::Answer { reply, why } }
    }

    fn ended(alert: Option<AlertDescription>) -> Observation {
        let received = Received::Ended { alert, how: "closed".into(), why: None };
        Observation { sent: "a handshake".into(), received }
    }

    #[test]
    fn blocked_is_only_what_shows_the_sign_of_the_guard_itself() {
        let blocked = |observation: Observation| observation.judged(&GUARD).as_str();
        assert_eq!(blocked(answer(401, Some(Code::TokenAudience))), "blocked");
        assert_eq!(blocked(ended(Some(AlertDescription::UnknownCA))), "blocked");
        assert_eq!(blocked(ended(Some(AlertDescription::CertificateExpired))), "inconclusive");
        assert_eq!(blocked(answer(401, Some(Code::TokenMalformed))), "inconclusive", "another guard");
    }

    #[test]
    fn a_404_a_5xx_a_closed_connection_and_an_unexplained_refusal_show_nothing() {
        for seen in [
            answer(404, None),
            answer(401, None),
            answer(403, None),
            answer(404, Some(Code::RouteUnknown)),
            answer(503, Some(Code::SnapshotStale)),
            answer(502, None),
            ended(None),
        ] {
            assert_eq!(seen.judged(&GUARD).as_str(), "inconclusive", "{}", seen.told());
        }
    }

    #[test]
    fn whoever_is_refused_only_by_the_rules_was_believed() {
        assert_eq!(answer(200, None).judged(&GUARD).as_str(), "succeeded");
        assert_eq!(answer(403, Some(Code::NotPermitted)).judged(&GUARD).as_str(), "succeeded");
    }

    #[test]
    fn what_the_attack_looked_at_itself_holds_or_does_not() {
        const FACT: Guard = Guard { signs: &[Sign::Fact], ..GUARD };
        assert_eq!(Observation::looked("x", true, "same").judged(&FACT).as_str(), "blocked");
        assert_eq!(Observation::looked("x", false, "differs").judged(&FACT).as_str(), "succeeded");
        assert_eq!(Observation::looked("x", true, "same").judged(&GUARD).as_str(), "inconclusive");
    }
}
