//! What a reason points to.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::attack;

/// Where the chapter that `bench` writes has its figures: ids of its sections.
pub const FIGURES: [&str; 8] =
    ["ways", "connections", "binding", "users", "chain", "payload", "key-exchange", "code"];

/// An observation behind a reason: nobody has to believe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Name of an attack: `countersign attack NAME` shows it.
    Attack(&'static str),
    /// Id of a section of the chapter, with its figures: `countersign bench` measures it.
    Figure(&'static str),
}

impl Link {
    /// Does it lead anywhere?
    #[must_use]
    pub fn is_known(self) -> bool {
        match self {
            Self::Attack(name) => attack::named(name).is_some(),
            Self::Figure(id) => FIGURES.contains(&id),
        }
    }
}

/// `attack replay`, `figure connections`.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attack(name) => write!(f, "attack {name}"),
            Self::Figure(id) => write!(f, "figure {id}"),
        }
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
