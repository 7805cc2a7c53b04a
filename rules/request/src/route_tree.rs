//! Templates by their segments: a path is walked once, past those templates alone that still fit.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::route::Segment;

/// Leads from a path to the place of its template in a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteTree {
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The hash is not keyed: only our own configuration fills the table.
    literals: HashMap<Box<[u8]>, Node, FixedState>,
    hole: Option<Box<Node>>,
    /// The template that ends here with `*`.
    rest: Option<usize>,
    /// The template that ends here.
    end: Option<usize>,
}

impl RouteTree {
    /// Adds the template that has this place.
    pub(crate) fn insert(&mut self, segments: &[Segment], place: usize) {
        let mut node = &mut self.root;
        for segment in segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.as_bytes().into()).or_default(),
                Segment::Hole => node.hole.get_or_insert_default(),
                Segment::Rest => return node.rest = Some(place),
            };
        }
        node.end = Some(place);
    }

    /// The place of the most exact template that matches a canonical path.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        let found = self.root.find(Some(path.strip_prefix('/').unwrap_or(path).as_bytes()));
        // What ends in a slash is below nothing, but for the root: `/*` is every path.
        if path == "/" { found.or(self.root.rest) } else { found }
    }
}

impl Node {
    /// `path`: what follows a slash, if there was one more.
    ///
    /// Each node is visited at most once, so that no path costs more than all templates; and never deeper than a template.
    fn find(&self, path: Option<&[u8]>) -> Option<usize> {
        let Some(path) = path else { return self.end };
        // Segments are too short for anything cleverer.
        let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
        let (segment, rest) = path.split_at_checked(end)?;
        let rest = rest.split_first().map(|(_, rest)| rest);
        let literal = self.literals.get(segment).and_then(|node| node.find(rest));
        if literal.is_some() || segment.is_empty() {
            return literal;
        }
        self.hole.as_ref().and_then(|node| node.find(rest)).or(self.rest)
    }
}
