//! As Mermaid, which forges and editors draw.

use std::fmt::Write as _;

use super::Sequence;

/// The text of a `sequenceDiagram`.
#[must_use]
pub fn mermaid(figure: &Sequence) -> String {
    let mut out = String::from("sequenceDiagram\n");
    for (at, name) in (1..).zip(figure.participants()) {
        let _ = writeln!(out, "    participant p{at} as {}", escaped(name));
    }
    for (number, message) in (1..).zip(figure.messages()) {
        let (from, to) = (message.from + 1, message.to + 1);
        let _ = writeln!(out, "    p{from}->>p{to}: {}", escaped(&message.told(number)));
    }
    out
}

/// Characters that end a statement or begin another one are written as Mermaid's entities.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '#' => out.push_str("#35;"),
            ';' => out.push_str("#59;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_begin_a_statement_of_its_own() {
        let mut figure = Sequence::new("1", "");
        figure.tells("a\nb", "c", "x; y\n    p2->>p1: <forged> #1", "");
        let drawn = mermaid(&figure);
        assert_eq!(drawn.lines().count(), 4, "{drawn}");
        assert!(drawn.ends_with("p1->>p2: 1. x#59; y     p2-#gt;#gt;p1: #lt;forged#gt; #35;1\n"), "{drawn}");
    }
}
