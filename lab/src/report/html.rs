//! The chapter as one file that asks nobody for anything: no script, no font, no picture from elsewhere.

use askama::Template;

use super::{
    figure::Fit,
    page::{Block, Page},
};

/// The page. Everything that is put into it is escaped, but for figures, which escape what is put into them.
pub(super) fn html(page: &Page) -> String {
    // A template of strings is written to a string: nothing in it can fail.
    Html { page }.render().unwrap_or_default()
}

#[derive(Template)]
#[template(path = "chapter.html")]
struct Html<'a> {
    page: &'a Page,
}
