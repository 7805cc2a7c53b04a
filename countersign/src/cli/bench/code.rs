//! What each mode takes of code and configuration: counted by `build.rs`, and of commands here.

use countersign_lab::experiment::data::{CodeCount, CodeKind, LabMode};

/// Every place with its lines, once for each mode that it is there for.
pub(super) fn counts() -> Vec<CodeCount> {
    let counted = COUNTED.iter().flat_map(|(modes, kind, place, lines)| {
        let of_mode = move |mode: &&str| {
            Some(CodeCount {
                mode: LabMode::parse(mode)?,
                kind: match *kind {
                    "service" => CodeKind::Service,
                    "policy" => CodeKind::Policy,
                    _ => CodeKind::Sdk,
                },
                place: (*place).to_owned(),
                lines: *lines,
            })
        };
        modes.iter().filter_map(of_mode)
    });
    let commands = COMMANDS.iter().map(|(mode, command)| CodeCount {
        mode: *mode,
        kind: CodeKind::Configuration,
        place: (*command).to_owned(),
        lines: 1,
    });
    counted.chain(commands).collect()
}

/// Modes, kind, place and lines.
type Counted = (&'static [&'static str], &'static str, &'static str, u32);

const COUNTED: &[Counted] = include!(concat!(env!("OUT_DIR"), "/code_counts.rs"));

/// What brings all services of a new deployment from `mtls`, which takes nothing, into another mode.
const COMMANDS: [(LabMode, &str); 6] = [
    (LabMode::None, "countersign demo mode none"),
    (LabMode::Bearer, "countersign demo mode bearer"),
    (LabMode::Macaroon, "countersign demo mode macaroon"),
    (LabMode::Jwt, "countersign demo mode jwt"),
    (LabMode::Wimse, "countersign demo mode wimse"),
    (LabMode::MtlsJwt, "countersign demo mode mtls+jwt"),
];

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn sum(mode: LabMode, kind: CodeKind) -> u32 {
        let of_mode = |count: &CodeCount| count.mode == mode && count.kind == kind;
        counts().into_iter().filter(of_mode).map(|count| count.lines).sum()
    }

    #[test]
    fn services_and_policies_take_as_many_lines_in_every_mode_and_the_sdk_does_not() {
        for mode in LabMode::ALL.into_iter().filter(|mode| *mode != LabMode::Tls) {
            for kind in [CodeKind::Service, CodeKind::Policy] {
                assert!(sum(mode, kind) > 0);
                assert_eq!(sum(mode, kind), sum(LabMode::Mtls, kind), "{mode}");
            }
        }
        assert!(sum(LabMode::Jwt, CodeKind::Sdk) > sum(LabMode::Mtls, CodeKind::Sdk));
        assert_eq!(sum(LabMode::None, CodeKind::Sdk), 0);
    }

    /// A line of the flea market that named a mode would have to be counted for that mode.
    #[test]
    fn no_service_of_the_flea_market_names_a_mode() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let services = counts().into_iter().filter(|count| count.kind == CodeKind::Service);
        for place in services.map(|count| count.place) {
            let text = std::fs::read_to_string(root.join(&place)).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            assert!(!text.contains("Mode::"), "{place}");
        }
    }

    #[test]
    fn commands_that_are_counted_can_be_typed() {
        for (_, command) in COMMANDS {
            assert!(Cli::try_parse_from(command.split(' ')).is_ok(), "{command}");
        }
    }
}
