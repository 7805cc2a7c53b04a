//! How much somebody has to write for each mode (thesis, sections 4.1.3 and 4.2.3).

use super::{
    super::{
        format::counted,
        numbers::Numbers,
        page::{Block, Section, Table},
    },
    unless_empty,
};
use crate::experiment::data::{CodeKind, LabMode};

pub(super) fn section(numbers: Numbers<'_>) -> Option<Section> {
    if numbers.experiment.code.is_empty() {
        return None;
    }
    let lines = |mode, kind| counted(sum(numbers, mode, kind));
    let totals = Table::new(
        "Lines that are neither empty nor comment nor test",
        ["Mode", "Services", "Policies", "Commands and settings", "SDK, for this mode alone"],
        modes(numbers).into_iter().map(|mode| {
            [
                mode.as_str().to_owned(),
                lines(mode, CodeKind::Service),
                lines(mode, CodeKind::Policy),
                lines(mode, CodeKind::Configuration),
                lines(mode, CodeKind::Sdk),
            ]
        }),
    );
    let mut blocks = vec![
        Block::text(
            "Counted when the program was built, in the flea market: lines of its six services that name the SDK, its policies, and what \
             an operator types to bring all services from a new deployment into the mode. The last column is what the SDK \
             contains for this mode and no other, or for this one among a few: what each service would have to contain if there were no SDK. Code \
             that all modes share is in none of the columns.",
        ),
        Block::Table(totals),
    ];
    blocks.extend(Block::findings(findings(numbers)));
    blocks.push(Block::Heading("Where the lines are".to_owned()));
    blocks.push(Block::Table(places(numbers)));
    unless_empty("code", "Code and configuration", blocks)
}

fn places(numbers: Numbers<'_>) -> Table {
    let mut places: Vec<(&str, CodeKind, u32, Vec<&str>)> = Vec::new();
    for count in &numbers.experiment.code {
        match places.iter_mut().find(|(place, kind, ..)| *place == count.place && *kind == count.kind) {
            Some((.., modes)) => modes.push(count.mode.as_str()),
            None => places.push((&count.place, count.kind, count.lines, vec![count.mode.as_str()])),
        }
    }
    let all = modes(numbers).len();
    Table::new(
        "Each place, and for which modes it is there",
        ["Place", "Kind", "Modes", "Lines"],
        places.into_iter().map(|(place, kind, lines, modes)| {
            let modes = if modes.len() == all { "all".to_owned() } else { modes.join(", ") };
            [place.to_owned(), kind_name(kind).to_owned(), modes, counted(lines)]
        }),
    )
}

fn findings(numbers: Numbers<'_>) -> Vec<String> {
    let of = |kind| [LabMode::Mtls, LabMode::Jwt].map(|mode| sum(numbers, mode, kind));
    let service = match of(CodeKind::Service) {
        [mtls, jwt] if mtls == jwt => format!(
            "In the services themselves mtls and jwt take the same {} lines: a service does not say how it proves who it is.",
            counted(mtls)
        ),
        [mtls, jwt] => {
            let (of_mtls, of_jwt) = (counted(mtls), counted(jwt));
            format!(
                "In the services themselves mtls takes {of_mtls} lines and jwt {of_jwt}: {}.",
                more(mtls, jwt)
            )
        }
    };
    let [mtls, jwt] = of(CodeKind::Sdk);
    let sdk = format!(
        "In the SDK mtls takes {} lines of its own and jwt {}: {}.",
        counted(mtls),
        counted(jwt),
        more(mtls, jwt)
    );
    vec![service, sdk]
}

fn more(mtls: u32, jwt: u32) -> String {
    match mtls.cmp(&jwt) {
        std::cmp::Ordering::Less => "jwt requires more code, as the thesis expects".to_owned(),
        std::cmp::Ordering::Equal => "neither requires more code".to_owned(),
        std::cmp::Ordering::Greater => "mtls requires more code, against what the thesis expects".to_owned(),
    }
}

fn sum(numbers: Numbers<'_>, mode: LabMode, kind: CodeKind) -> u32 {
    let counts = numbers.experiment.code.iter().filter(|count| count.mode == mode && count.kind == kind);
    counts.map(|count| count.lines).sum()
}

fn modes(numbers: Numbers<'_>) -> Vec<LabMode> {
    let is_counted = |mode: &LabMode| numbers.experiment.code.iter().any(|count| count.mode == *mode);
    LabMode::ALL.into_iter().filter(is_counted).collect()
}

const fn kind_name(kind: CodeKind) -> &'static str {
    match kind {
        CodeKind::Service => "service",
        CodeKind::Configuration => "commands and settings",
        CodeKind::Policy => "policy",
        CodeKind::Sdk => "SDK",
    }
}
