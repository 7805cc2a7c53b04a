//! Properties of every parser of this crate.
#![allow(clippy::unwrap_used, missing_docs)]

use countersign_identity::{DecisionId, IdKind, Mode, ServiceName, SpiffeId, TrustDomain};
use proptest::prelude::*;

/// Text that comes close to an id, so that most of the parser is reached.
fn nearly_an_id() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("spiffe://".to_owned()),
        Just("/".to_owned()),
        Just("..".to_owned()),
        Just("countersign".to_owned()),
        "[a-zA-Z0-9._-]{0,12}",
        any::<char>().prop_map(String::from),
    ];
    let tail = prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat());
    (prop::bool::weighted(0.9), tail).prop_map(
        |(scheme, tail)| {
            if scheme { format!("spiffe://td{tail}") } else { tail }
        },
    )
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>()) {
        let _ = SpiffeId::parse(&text);
        let _ = TrustDomain::parse(&text);
        let _ = ServiceName::parse(&text);
        let _ = DecisionId::parse(&text);
        let _ = Mode::parse(&text);
    }

    #[test]
    fn whatever_is_accepted_has_one_spelling_and_reads_back(text in nearly_an_id()) {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id.clone());
            let whole = format!("spiffe://{}{}", id.trust_domain(), id.path());
            prop_assert_eq!(id.as_str(), whole);
            prop_assert!(id.path().is_empty() || id.path().starts_with('/'));
            let clean = id.path().split('/').skip(1).all(|s| !matches!(s, "" | "." | ".."));
            prop_assert!(clean, "{}", id);
            prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_graphic() && b != b'%'));
        }
    }

    #[test]
    fn a_service_is_never_reserved_and_reads_back_its_name(name in "[a-z0-9-]{1,63}") {
        let td = TrustDomain::parse("td").unwrap();
        let id = SpiffeId::service(&td, &name).unwrap();
        prop_assert!(!id.is_reserved());
        prop_assert_eq!(id.kind(), IdKind::Service(&name));
        prop_assert!(SpiffeId::agent(&td, &name).unwrap().is_reserved());
        prop_assert!(SpiffeId::gateway(&td, &name).unwrap().is_reserved());
    }

    #[test]
    fn decision_ids_read_back(bits in any::<[u8; 10]>()) {
        let id = DecisionId::from_random(bits);
        prop_assert_eq!(DecisionId::parse(&id.to_string()).unwrap(), id);
        prop_assert_eq!(id.to_string().len(), 18);
    }
}
