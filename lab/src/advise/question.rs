//! What is asked about an edge. Each question has a careful answer that is assumed, and told, where nobody gives one.

use serde::Serialize;

/// One thing that has to be known about an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Is there anything to protect?
    Harm,
    /// Who else is on the way?
    Network,
    /// What can be changed about the caller?
    Caller,
    /// Does TLS end between the two?
    Proxy,
    /// Must a third party be convinced later?
    Dispute,
    /// On whose behalf?
    User,
    /// Are rights handed on?
    Delegate,
    /// Does a request say more than who and what?
    Claims,
}

/// One answer that a question takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As it is typed.
    pub word: &'static str,
    /// What it means.
    pub means: &'static str,
}

/// Every question answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Would a stranger who calls gain or break anything?
    pub harm: bool,
    /// Who else is on the network between the two.
    pub network: Network,
    /// What can be changed about the caller.
    pub caller: Caller,
    /// Does something between the two end TLS?
    pub proxy: bool,
    /// Must somebody else be shown later that the caller asked for exactly this?
    pub dispute: bool,
    /// On whose behalf is called.
    pub user: User,
    /// Must the caller hand a part of its right on, without asking anybody?
    pub delegate: bool,
    /// Must requests carry claims of the caller's own, which routes can demand?
    pub claims: bool,
}

/// Who else is on the network between caller and callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Both run on one machine.
    Nobody,
    /// A network of our own.
    Ours,
    /// Somebody else's machines too.
    Others,
}

/// What can be changed about the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Its code.
    Code,
    /// Not its code, but a process may run beside it.
    Sidecar,
    /// It can send a header.
    Header,
}

/// On whose behalf is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The caller's own.
    Nobody,
    /// A user's.
    Carried,
    /// A user's, and whoever breaks into the callee must not act for that user elsewhere.
    Confined,
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// None of the choices.
    #[error("{given} answers no question about {}; say one of: {}", question.as_str(), question.words())]
    Unknown {
        /// About what.
        question: Question,
        /// What was said.
        given: String,
    },
}

/// Answers as far as they are known; the others are assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sheet {
    answers: Answers,
    open: Vec<Question>,
}

/// Nobody said anything yet.
impl Default for Sheet {
    fn default() -> Self {
        Self {
            answers: Answers {
                harm: true,
                network: Network::Ours,
                caller: Caller::Code,
                proxy: false,
                dispute: false,
                user: User::Nobody,
                delegate: false,
                claims: false,
            },
            open: Question::ALL.to_vec(),
        }
    }
}

impl Sheet {
    /// Takes an answer by its word.
    ///
    /// # Errors
    /// The word is none of the question's [`Question::choices`].
    pub fn answer(&mut self, question: Question, word: &str) -> Result<(), AnswerError> {
        let a = &mut self.answers;
        match (question, word) {
            (Question::Harm, "no" | "yes") => a.harm = word == "yes",
            (Question::Network, "nobody") => a.network = Network::Nobody,
            (Question::Network, "ours") => a.network = Network::Ours,
            (Question::Network, "others") => a.network = Network::Others,
            (Question::Caller, "code") => a.caller = Caller::Code,
            (Question::Caller, "sidecar") => a.caller = Caller::Sidecar,
            (Question::Caller, "header") => a.caller = Caller::Header,
            (Question::Proxy, "no" | "yes") => a.proxy = word == "yes",
            (Question::Dispute, "no" | "yes") => a.dispute = word == "yes",
            (Question::User, "nobody") => a.user = User::Nobody,
            (Question::User, "carried") => a.user = User::Carried,
            (Question::User, "confined") => a.user = User::Confined,
            (Question::Delegate, "no" | "yes") => a.delegate = word == "yes",
            (Question::Claims, "no" | "yes") => a.claims = word == "yes",
            _ => return Err(AnswerError::Unknown { question, given: word.to_owned() }),
        }
        self.open.retain(|open| *open != question);
        Ok(())
    }

    /// All answers, the assumed ones among them.
    #[must_use]
    pub const fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Questions that nobody answered.
    #[must_use]
    pub fn open(&self) -> &[Question] {
        &self.open
    }
}

impl Answers {
    /// The word that stands for the answer to `question`.
    #[must_use]
    pub const fn word(&self, question: Question) -> &'static str {
        match question {
            Question::Harm => yes(self.harm),
            Question::Network => match self.network {
                Network::Nobody => "nobody",
                Network::Ours => "ours",
                Network::Others => "others",
            },
            Question::Caller => match self.caller {
                Caller::Code => "code",
                Caller::Sidecar => "sidecar",
                Caller::Header => "header",
            },
            Question::Proxy => yes(self.proxy),
            Question::Dispute => yes(self.dispute),
            Question::User => match self.user {
                User::Nobody => "nobody",
                User::Carried => "carried",
                User::Confined => "confined",
            },
            Question::Delegate => yes(self.delegate),
            Question::Claims => yes(self.claims),
        }
    }
}

const fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

impl Question {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 8] = [
        Self::Harm,
        Self::Network,
        Self::Caller,
        Self::Proxy,
        Self::Dispute,
        Self::User,
        Self::Delegate,
        Self::Claims,
    ];

    /// Its name, which is that of its flag too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Harm => "harm",
            Self::Network => "network",
            Self::Caller => "caller",
            Self::Proxy => "proxy",
            Self::Dispute => "dispute",
            Self::User => "user",
            Self::Delegate => "delegate",
            Self::Claims => "claims",
        }
    }

    /// As it is put to a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Harm => "Would a stranger who calls it learn, change or break anything that matters?",
            Self::Network => "Who else is on the network between the two?",
            Self::Caller => "What can you change about the caller?",
            Self::Proxy => "Does something between the two end TLS: a load balancer, a mesh, a CDN?",
            Self::Dispute => {
                "Will somebody else have to be shown later that the caller asked for exactly this?"
            }
            Self::User => "On whose behalf does it call?",
            Self::Delegate => {
                "Must the caller hand a part of its right on to others, without asking anybody?"
            }
            Self::Claims => {
                "Must requests say more than who and what, such as a tenant, and routes demand it?"
            }
        }
    }

    /// What it can be answered with.
    #[must_use]
    pub const fn choices(self) -> &'static [Choice] {
        match self {
            Self::Network => &[
                Choice { word: "nobody", means: "both run on one machine" },
                Choice { word: "ours", means: "only machines of our own" },
                Choice { word: "others", means: "machines of other people, or the internet" },
            ],
            Self::Caller => &[
                Choice { word: "code", means: "its code" },
                Choice { word: "sidecar", means: "not its code, but a process may run beside it" },
                Choice { word: "header", means: "nothing: it can send a header (a script, a product)" },
            ],
            Self::User => &[
                Choice { word: "nobody", means: "its own" },
                Choice { word: "carried", means: "a user's" },
                Choice {
                    word: "confined",
                    means: "a user's, for whom whoever breaks into the callee must not act elsewhere",
                },
            ],
            _ => &[Choice { word: "no", means: "" }, Choice { word: "yes", means: "" }],
        }
    }

    fn words(self) -> String {
        self.choices().iter().map(|choice| choice.word).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_taken_and_read_back_and_closes_its_question_alone() {
        for question in Question::ALL {
            for choice in question.choices() {
                let mut sheet = Sheet::default();
                sheet.answer(question, choice.word).unwrap();
                assert_eq!(sheet.answers().word(question), choice.word);
                assert_eq!(sheet.open().len(), Question::ALL.len() - 1);
                assert!(!sheet.open().contains(&question));
            }
        }
    }

    #[test]
    fn rejects_a_word_that_is_no_choice_and_names_those_that_are() {
        let mut sheet = Sheet::default();
        for question in Question::ALL {
            let error = sheet.answer(question, "perhaps").unwrap_err();
            assert_eq!(error, AnswerError::Unknown { question, given: "perhaps".to_owned() });
            assert!(error.to_string().contains(question.choices()[0].word), "{error}");
        }
        assert_eq!(sheet, Sheet::default());
    }
}
