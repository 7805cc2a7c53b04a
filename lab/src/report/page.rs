//! What a chapter is made of, whatever it is read in: HTML and Markdown say the same.

use super::figure::Figure;

/// A chapter, ready to be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Page {
    pub(super) title: String,
    pub(super) subtitle: String,
    pub(super) sections: Vec<Section>,
}

/// What has a heading of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    /// Unique within the page; what links name.
    pub(super) id: &'static str,
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

impl Section {
    pub(super) fn new(id: &'static str, title: &str, blocks: Vec<Block>) -> Self {
        Self { id, title: title.to_owned(), blocks }
    }
}

/// One thing below the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Block {
    Heading(String),
    Paragraph(String),
    /// What the numbers say, in words that they chose.
    Finding(String),
    /// Without which no figure of the page may be read.
    Warning(String),
    List(Vec<String>),
    Table(Table),
    Figure(Figure),
    /// Files beside the page: name, and what is in it.
    Files(Vec<(&'static str, &'static str)>),
}

impl Block {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Paragraph(text.into())
    }

    pub(super) fn findings(sentences: impl IntoIterator<Item = String>) -> Vec<Self> {
        sentences.into_iter().map(Self::Finding).collect()
    }
}

/// The first column names, the others count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(
        caption: impl Into<String>,
        head: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        Self {
            caption: caption.into(),
            head: head.iter().map(|column| (*column).to_owned()).collect(),
            rows: rows.into_iter().map(Vec::from).collect(),
        }
    }

    /// Is it something to look things up in rather than to read? A page shows it to those who unfold it.
    pub(super) fn is_long(&self) -> bool {
        self.rows.len() > 24
    }
}
