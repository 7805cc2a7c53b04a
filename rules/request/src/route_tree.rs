//! Templates by their segments: a path is walked once, past those templates alone that still fit.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::path;
use crate::route::Segment;

/// Leads from a path to the place of its template in a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteTree {
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The hash is not keyed: only our own configuration fills the table.
    literals: HashMap<Box<str>, Node, FixedState>,
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
                Segment::Literal(text) => node.literals.entry(text.as_str().into()).or_default(),
                Segment::Hole => node.hole.get_or_insert_default(),
                Segment::Rest => return node.rest = Some(place),
            };
        }
        node.end = Some(place);
    }

    /// The place of the most exact template that matches a canonical path.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        self.root.find(path::segments(path))
    }
}

impl Node {
    /// Each node is visited at most once, so that no path costs more than all templates; and never deeper than a template.
    fn find<'a>(&self, mut path: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
        let Some(segment) = path.next() else { return self.end };
        let literal = self.literals.get(segment).and_then(|node| node.find(path.clone()));
        if literal.is_some() || segment.is_empty() {
            return literal;
        }
        self.hole.as_ref().and_then(|node| node.find(path)).or(self.rest)
    }
}
