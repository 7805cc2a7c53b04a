//! The registry of error codes as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use countersign_wire::codes::{Code, Exit, Public, Stage, TABLE, UnknownCode};
use countersign_wire::problem::Problem;

#[test]
fn every_code_has_text_for_what_why_and_what_to_try() {
    for code in TABLE {
        let entry = code.entry();
        assert_eq!(entry.code, *code);
        for (name, text) in [("title", entry.title), ("why", entry.why), ("fix", entry.fix)] {
            assert!(text.len() >= 15, "{code} {name}: {text:?} says too little");
            assert!(!text.ends_with('.'), "{code} {name}: no full stop");
            assert_eq!(text, text.trim(), "{code} {name}");
        }
        let first = entry.title.split(' ').next().unwrap();
        let acronym = first.chars().all(char::is_uppercase);
        assert!(acronym || first.starts_with(char::is_lowercase), "{code}: lower case: {}", entry.title);
        assert_ne!(entry.exit, Exit::Ok, "{code}: an error is never a success");
    }
}

#[test]
fn numbers_are_unique_grow_and_say_their_column() {
    let numbers: Vec<u16> = TABLE.iter().map(|code| code.entry().number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, none twice");
    assert!(numbers.iter().all(|number| (1000..9000).contains(number)));
    let names: BTreeSet<String> = TABLE.iter().map(|code| format!("{code:?}")).collect();
    assert_eq!(names.len(), TABLE.len());
    for code in TABLE {
        let expected: &[Stage] = match code.entry().number / 1000 {
            1 => &[Stage::Request, Stage::Quota],
            2 => &[Stage::Transport, Stage::Identity, Stage::Request, Stage::System],
            3 => &[Stage::Token],
            4 => &[Stage::Policy, Stage::System],
            5 => &[Stage::Upstream],
            _ => &[Stage::System],
        };
        assert!(expected.contains(&code.entry().stage), "{code}");
    }
}

#[test]
fn a_code_is_read_back_from_its_text_and_nothing_else_is() {
    for code in TABLE {
        assert_eq!(Code::parse(&code.to_string()), Ok(*code));
        assert_eq!(Code::parse(&code.to_string().to_lowercase()), Ok(*code));
        let json = serde_json::to_string(code).unwrap();
        assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
    }
    for bad in ["", "CS", "CS1", "CS01001", "CS+001", "1001", "CS9999", "CS0000", "XX1001", "CS1001 "] {
        assert_eq!(Code::parse(bad), Err(UnknownCode), "{bad:?}");
    }
}

#[test]
fn public_codes_follow_their_status_and_are_unique() {
    let slugs: BTreeSet<&str> = Public::ALL.iter().map(|public| public.as_str()).collect();
    assert_eq!(slugs.len(), Public::ALL.len());
    for public in Public::ALL {
        assert!((400..600).contains(&public.status()), "{public:?}");
        assert!(public.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        assert_eq!(Public::parse(public.as_str()), Some(*public));
        assert_eq!(public.type_uri().split_once('#').map(|parts| parts.1), Some(public.as_str()));
        // RFC 6749 section 5.2 and RFC 6750 section 3.1 allow these characters in an error code.
        assert!(
            public.oauth().bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\')
        );
        assert_ne!(public.grpc(), tonic::Code::Ok);
    }
    assert_eq!(Public::parse("no_such_code"), None);
}

#[test]
fn what_a_caller_sees_tells_nothing_that_only_the_operator_may_know() {
    // Each group is one answer from outside, although there are many reasons inside.
    let alike: [&[Code]; 6] = [
        &[Code::LoginFailed, Code::AccountLocked],
        &[Code::NotPermitted, Code::Forbidden, Code::PolicyError, Code::NoPolicies, Code::AdminNotPermitted],
        &[
            Code::TokenMalformed,
            Code::TokenSignature,
            Code::TokenKeyUnknown,
            Code::TokenNotYetValid,
            Code::TokenAudience,
            Code::TokenIssuer,
            Code::TokenKind,
            Code::TokenLifetime,
            Code::TokenClaims,
            Code::TokenRequester,
        ],
        &[Code::JoinTokenInvalid, Code::JoinTokenExpired, Code::JoinTokenSpent],
        &[
            Code::CertificateUsage,
            Code::CertificateUntrusted,
            Code::CertificateRevoked,
            Code::CertificateIdentity,
            Code::TrustDomainForeign,
        ],
        &[
            Code::UpstreamUnreachable,
            Code::UpstreamProtocol,
            Code::UpstreamIdentity,
            Code::UpstreamUnknown,
            Code::AnswerUnproven,
        ],
    ];
    for group in alike {
        let answers: BTreeSet<Vec<u8>> =
            group.iter().map(|code| Problem::new(*code, Some("d_same".into())).to_json()).collect();
        assert_eq!(answers.len(), 1, "{group:?}");
    }
    // No answer names the inner code, its reason, or its remedy.
    for code in TABLE {
        let answer = String::from_utf8(Problem::new(*code, None).to_json()).unwrap();
        let entry = code.entry();
        for inside in [code.to_string().as_str(), entry.why, entry.fix] {
            assert!(!answer.contains(inside), "{code}: {answer}");
        }
    }
}

#[test]
fn a_401_is_given_only_where_presenting_something_could_help() {
    for code in TABLE {
        let entry = code.entry();
        if entry.stage == Stage::Policy {
            // At a token endpoint RFC 6749 section 5.2 says 400.
            let oauth = matches!(entry.public, Public::InvalidTarget | Public::UnauthorizedClient);
            assert_eq!(entry.public.status(), if oauth { 400 } else { 403 }, "{code}: known and not allowed");
        }
        if entry.public.status() == 401 {
            assert!(matches!(entry.stage, Stage::Identity | Stage::Token | Stage::Transport), "{code}");
        }
    }
}

#[test]
fn every_public_code_is_used_and_explained_in_the_documentation() {
    let mut codes_of: BTreeMap<Public, Vec<Code>> = BTreeMap::new();
    for code in TABLE {
        codes_of.entry(code.entry().public).or_default().push(*code);
    }
    let unused: Vec<_> = Public::ALL.iter().filter(|public| !codes_of.contains_key(public)).collect();
    assert!(unused.is_empty(), "{unused:?}");

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let expected = documentation(&codes_of);
    if std::env::var_os("COUNTERSIGN_WRITE_DOCS").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/errors.md is not what the registry says: COUNTERSIGN_WRITE_DOCS=1 cargo test -p countersign-wire --test codes"
    );
}

/// `docs/errors.md`: a heading per public code, which is the fragment of a problem's `type`.
fn documentation(codes_of: &BTreeMap<Public, Vec<Code>>) -> String {
    let mut text = String::from(
        "# Errors\n\nMade from the registry (`wire/src/codes`); do not edit. A caller sees the public code, which is \
         the heading here and\nthe fragment of the problem's `type`. The codes CSnnnn are for operators: `countersign \
         explain CSnnnn` says the same.\n",
    );
    for (public, codes) in codes_of {
        text += &format!(
            "\n## {}\n{}. HTTP {}, OAuth `{}`, gRPC `{:?}`.\n\n| code | what | why | what to try | stage | again? | exit |\n|---|---|---|---|---|---|---|\n",
            public.as_str(),
            public.title(),
            public.status(),
            public.oauth(),
            public.grpc(),
        );
        for code in codes {
            let entry = code.entry();
            text += &format!(
                "| {code} | {} | {} | {} | {} | {} | {} |\n",
                entry.title,
                entry.why,
                entry.fix,
                entry.stage.as_str(),
                if entry.retryable { "later" } else { "no" },
                entry.exit as u8,
            );
        }
    }
    text
}
