//! Figures: SVG that says what it shows to those who do not see it, and that fits both a desk and a hand.
//!
//! Colours are fixed in the drawing, so that it can stand alone; the page's style sheet gives them others where it is
//! dark. Series differ in their marks as well.

mod axis;
mod canvas;
mod intervals;
mod lines;

use askama::Template;

use crate::experiment::data::Interval;
use canvas::DrawError;

/// Something to look at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    /// Unique within the page; the stem of its file.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) title: String,
    /// What it shows, for those who do not see it.
    pub(super) description: String,
    pub(super) plot: Plot,
}

/// How it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plot {
    Intervals(Intervals),
    Lines(Lines),
}

/// A row for each thing, with an interval for each series that has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Intervals {
    pub(super) axis: String,
    /// Where there would be no difference.
    pub(super) reference: Option<f64>,
    pub(super) logarithmic: bool,
    pub(super) series: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// One thing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    /// As many as there are series.
    pub(super) values: Vec<Option<Interval>>,
}

/// A line for each series over a quantity.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lines {
    pub(super) horizontal: String,
    pub(super) vertical: String,
    pub(super) horizontal_logarithmic: bool,
    pub(super) vertical_logarithmic: bool,
    pub(super) series: Vec<Line>,
}

/// One of them: its points from left to right.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, Interval)>,
}

/// For what it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Desk,
    Hand,
}

impl Fit {
    const fn width(self) -> u32 {
        match self {
            Self::Desk => 760,
            Self::Hand => 350,
        }
    }
}

impl Figure {
    /// As part of a page.
    pub(super) fn inline(&self, fit: Fit) -> String {
        self.in_frame(fit, "", "")
    }

    /// As a file of its own, on a ground of its own.
    pub(super) fn file(&self) -> String {
        let ground = r##"<rect width="100%" height="100%" fill="#FFFFFF"/>"##;
        self.in_frame(Fit::Desk, r#" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif""#, ground)
    }

    fn in_frame(&self, fit: Fit, attributes: &str, ground: &str) -> String {
        let drawn = match &self.plot {
            Plot::Intervals(plot) => intervals::draw(plot, fit),
            Plot::Lines(plot) => lines::draw(plot, fit),
        };
        let (height, body, trouble) = match &drawn {
            Ok(drawn) => (drawn.height, drawn.body.as_str(), None),
            Err(why) => (40, "", Some(why)),
        };
        let (name, title, description) = (self.name, &self.title, &self.description);
        let width = fit.width();
        let frame = Frame {
            id: format!("{name}-{width}"),
            title,
            description,
            width,
            height,
            attributes,
            ground,
            body,
            trouble,
        };
        // A template of strings and numbers is written to a string: nothing in it can fail.
        frame.render().unwrap_or_default()
    }
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<svg viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" height="{{ height }}" role="img" aria-labelledby="{{ id }}-title {{ id }}-desc"{{ attributes|safe }}><title id="{{ id }}-title">{{ title }}</title><desc id="{{ id }}-desc">{{ description }}</desc>{{ ground|safe }}{{ body|safe }}{% if let Some(why) = trouble %}<text x="8" y="24">cannot be drawn: {{ why }}</text>{% endif %}</svg>"#
)]
struct Frame<'a> {
    id: String,
    title: &'a str,
    description: &'a str,
    width: u32,
    height: u32,
    attributes: &'a str,
    ground: &'a str,
    body: &'a str,
    trouble: Option<&'a DrawError>,
}
