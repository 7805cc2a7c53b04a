//! Sequence diagrams: who tells whom what, in which order. One description, drawn as SVG and as Mermaid, so that a page
//! and a repository show the same.
//!
//! ```
//! use countersign_lab::sequence::{Sequence, mermaid};
//! let mut figure = Sequence::new("1.1", "A question");
//! figure.tells("ads", "users", "GET /users/7", "decision d_1");
//! assert!(mermaid(&figure).contains("p1->>p2: 1. GET /users/7"));
//! ```

mod mermaid;
mod svg;

pub use mermaid::mermaid;
pub use svg::svg;

/// One diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Number of the figure that it redraws: `4.2`.
    pub number: String,
    /// What it shows.
    pub title: String,
    participants: Vec<String>,
    messages: Vec<Message>,
}

/// One arrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Place of the sender among the participants.
    pub from: usize,
    /// Place of the receiver; the sender's own where it tells itself.
    pub to: usize,
    /// What stands at the arrow.
    pub label: String,
    /// Where this was taken from, so that it can be looked up.
    pub source: String,
    /// Set apart from the others: drawn bold, with a star.
    pub marked: bool,
}

impl Sequence {
    /// An empty one.
    pub fn new(number: &str, title: impl Into<String>) -> Self {
        Self {
            number: number.to_owned(),
            title: title.into(),
            participants: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// Adds an arrow. Whoever is new to the diagram gets a line of its own, to the right of all others.
    pub fn tells(&mut self, from: &str, to: &str, label: impl Into<String>, source: impl Into<String>) {
        let (from, to) = (self.place(from), self.place(to));
        self.messages.push(Message { from, to, label: label.into(), source: source.into(), marked: false });
    }

    /// Adds an arrow that is set apart.
    pub fn tells_marked(
        &mut self,
        from: &str,
        to: &str,
        label: impl Into<String>,
        source: impl Into<String>,
    ) {
        self.tells(from, to, label, source);
        if let Some(last) = self.messages.last_mut() {
            last.marked = true;
        }
    }

    /// Gives somebody a line before any arrow does.
    pub fn place(&mut self, name: &str) -> usize {
        let known = self.participants.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.participants.push(name.to_owned());
            self.participants.len() - 1
        })
    }

    /// Names, from left to right.
    #[must_use]
    pub fn participants(&self) -> &[String] {
        &self.participants
    }

    /// Arrows, from top to bottom.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }
}

impl Message {
    /// As it stands at the arrow, with its number.
    fn told(&self, number: usize) -> String {
        let star = if self.marked { "★ " } else { "" };
        format!("{number}. {star}{}", self.label)
    }
}
