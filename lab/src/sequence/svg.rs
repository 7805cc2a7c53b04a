//! As SVG that stands by itself: no script, no font and no picture from elsewhere, light or dark as its reader likes it.
//!
//! However many take part, the picture is as wide as a phone, and labels use all of that width: nobody has to zoom to
//! read it, in the hand or at a desk.

use std::fmt::Write as _;

use super::{Message, Sequence};

/// Distances in units of the picture, of which it has `WIDTH` across.
const WIDTH: usize = 420;
/// Drawn a little larger than life where there is room.
const WIDTH_PX: usize = 560;
const MARGIN: usize = 56;
const TITLE_LINE: usize = 19;
const LABEL_LINE: usize = 15;
/// Between a label's last line and its arrow, and between an arrow and the next label.
const ABOVE_ARROW: usize = 6;
const BELOW_ARROW: usize = 20;
/// Lines of a label and of the title are cut after so many characters, of which each is at most so wide.
const LABEL_CHARS: usize = 58;
const TITLE_CHARS: usize = 42;
const LABEL_CHAR: usize = 7;

/// The whole picture, with what it shows in words for those who do not see it.
#[must_use]
pub fn svg(figure: &Sequence) -> String {
    let name = format!("Figure {}: {}", figure.number, figure.title);
    let title = lines(&name, TITLE_CHARS);
    let names = 20 + title.len() * TITLE_LINE + 12;
    let labels: Vec<Vec<String>> =
        figure.messages().iter().zip(1..).map(|(m, n)| lines(&m.told(n), LABEL_CHARS)).collect();
    let bottom = names + 16 + labels.iter().map(|label| height(label)).sum::<usize>();
    let mut out = String::new();
    let (whole, whole_px) = (bottom + 12, (bottom + 12) * WIDTH_PX / WIDTH);
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {whole}\" width=\"{WIDTH_PX}\" \
         height=\"{whole_px}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         markerUnits=\"userSpaceOnUse\" orient=\"auto-start-reverse\"><path class=\"ink\" d=\"M0 0 8 4 0 8z\"/></marker></defs>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
        escaped(&name),
    );
    for (at, line) in title.iter().enumerate() {
        text(&mut out, 12, 20 + at * TITLE_LINE, "start", "title", line);
    }
    for (at, name) in figure.participants().iter().enumerate() {
        let x = column(at, figure);
        let _ = writeln!(
            out,
            "<line class=\"life\" x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\"/>",
            names + 8
        );
        text(&mut out, x, names, "middle", "name", name);
    }
    let mut y = names + 16;
    for (message, label) in figure.messages().iter().zip(&labels) {
        y += height(label);
        arrow(&mut out, figure, message, label, y - BELOW_ARROW);
    }
    out.push_str("</svg>\n");
    out
}

/// An arrow at `y`, below its label.
fn arrow(out: &mut String, figure: &Sequence, message: &Message, label: &[String], y: usize) {
    let (from, to) = (column(message.from, figure), column(message.to, figure));
    let class = if message.marked { "label marked" } else { "label" };
    let wide = LABEL_CHAR * label.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    // Around the middle of its arrow, as far as the picture reaches.
    let left = from.midpoint(to).saturating_sub(wide / 2).min(WIDTH.saturating_sub(wide + 8)).max(8);
    let first = y.saturating_sub(ABOVE_ARROW + LABEL_LINE * label.len().saturating_sub(1));
    for (at, line) in label.iter().enumerate() {
        text(out, left, first + at * LABEL_LINE, "start", class, line);
    }
    let class = if message.marked { "arrow marked" } else { "arrow" };
    let path = if from == to { format!("M{from} {y} h26 v9 h-25") } else { format!("M{from} {y} L{to} {y}") };
    let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#head)\"/>");
}

fn text(out: &mut String, x: usize, y: usize, anchor: &str, class: &str, words: &str) {
    let words = escaped(words);
    let _ =
        writeln!(out, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>");
}

/// Evenly, from margin to margin; one alone stands in the middle.
fn column(at: usize, figure: &Sequence) -> usize {
    let gaps = figure.participants().len().saturating_sub(1);
    (at * (WIDTH - 2 * MARGIN)).checked_div(gaps).map_or(WIDTH / 2, |x| MARGIN + x)
}

/// Of a label with its arrow.
fn height(label: &[String]) -> usize {
    LABEL_LINE * label.len() + ABOVE_ARROW + BELOW_ARROW
}

/// Words, in as many lines as they need; a word that is longer than a line has one of its own.
fn lines(words: &str, chars: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < chars => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// For text and attributes alike; what XML cannot say is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = ".ground{fill:#fff}.ink{fill:#222}text{fill:#222}.title{font-size:15px;font-weight:600}\
    .name{font-weight:600}.life{stroke:#bbb;stroke-dasharray:4 4}.arrow{stroke:#222;fill:none;stroke-width:1.2}\
    .arrow.marked{stroke-width:2.6}.label{font-size:12px;paint-order:stroke;stroke:#fff;stroke-width:4px}\
    .label.marked{font-weight:700}@media (prefers-color-scheme:dark){.ground{fill:#16181c}.ink,text{fill:#e8e8e8}\
    .life{stroke:#555}.arrow{stroke:#e8e8e8}.label{stroke:#16181c}}";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_line_and_every_arrow_is_drawn_and_no_label_becomes_markup() {
        let mut figure = Sequence::new("4.2", "<b>& more");
        figure.tells("ads", "users", "GET /users?x=\"1\"&y=<script>", "");
        figure.tells_marked(
            "users",
            "users",
            "checks itself, in so many words that one line of the whole picture does not hold them",
            "",
        );
        let drawn = svg(&figure);
        assert!(!drawn.contains("<script>") && !drawn.contains("<b>"), "{drawn}");
        assert_eq!(drawn.matches("class=\"life\"").count(), 2);
        assert_eq!(drawn.matches("marker-end").count(), 2);
        assert_eq!(drawn.matches("class=\"label marked\"").count(), 2, "two lines of one label");
        assert!(drawn.contains(">2. ★ checks itself,"), "{drawn}");
        assert_eq!(drawn.matches("http").count(), 1, "only the name of SVG's namespace");
    }

    #[test]
    fn whoever_takes_part_and_whatever_is_said_stays_within_the_picture() {
        let mut figure = Sequence::new("1", "One");
        for (from, to) in [("a", "a"), ("a", "b"), ("b", "c"), ("d", "e"), ("e", "e"), ("e", "a")] {
            figure.tells(from, to, "wide words, ".repeat(12), "");
        }
        let drawn = svg(&figure);
        let labels = drawn.lines().filter(|line| line.starts_with("<text class=\"label"));
        let mut seen = 0;
        for label in labels {
            let x: usize = label.split(" x=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
            let words = label.split('>').nth(1).unwrap().split('<').next().unwrap().chars().count();
            assert!(x >= 8 && x + words * LABEL_CHAR <= WIDTH, "{label}");
            seen += 1;
        }
        assert!(seen >= 12, "{seen} lines");
    }
}
