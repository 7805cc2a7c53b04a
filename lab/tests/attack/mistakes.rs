//! The table of attacks and `docs/mistakes.md`, held against each other.

use std::{collections::BTreeMap, path::Path};

use countersign_lab::attack::{self, Position};

/// Sections by their heading.
fn sections() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/mistakes.md")).unwrap();
    let mut sections = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        let (heading, body) = section.split_once('\n').unwrap();
        let before =
            sections.insert(heading.to_owned(), body.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(before.is_none(), "{heading} is told twice");
    }
    sections
}

#[test]
fn every_attack_is_told_with_what_its_attacker_holds_and_which_guard_stops_it() {
    let sections = sections();
    let mut wrong = Vec::new();
    for attack in attack::all() {
        let Some(told) = sections.get(attack.name) else {
            wrong.push(format!("{} is not told", attack.name));
            continue;
        };
        let said = |words: &str| told.contains(&words.split_whitespace().collect::<Vec<_>>().join(" "));
        let parts = [
            format!("**Holds** {}", holds(attack.position)),
            "**Sends** ".to_owned(),
            "**With the mistake** ".to_owned(),
            format!("**Stopped by** {} (`{}`)", attack.guard.what, attack.guard.home),
        ];
        wrong.extend(parts.iter().filter(|part| !said(part)).map(|part| format!("{}: {part}", attack.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_told_that_no_attack_tries() {
    for heading in sections().keys() {
        assert!(attack::named(heading).is_some(), "{heading} is no attack");
    }
}

#[test]
fn the_mistakes_are_forty_and_more() {
    assert!(attack::all().count() >= 40);
}

fn holds(position: Position) -> &'static str {
    match position {
        Position::Stranger => "nothing",
        Position::User => "an account",
        Position::Service => "a service",
        Position::Thief => "a copy of what another one sent",
        Position::Proxy => "a place between two services",
        Position::Former => "what was good once",
        Position::Neighbour => "a process on the same machine",
        Position::Insider => "a part of the deployment",
    }
}
