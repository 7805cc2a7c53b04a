use countersign_lab::attack::{
    self,
    specimen::{Specimen, examine},
};

#[tokio::test]
async fn the_literal_thesis_lets_through_what_d1_to_d5_say_and_stops_what_its_signature_stops() {
    let found = examine(Specimen::Thesis).await.unwrap();
    let verdicts = |defect: &str| {
        let of = found.tried.iter().filter(move |tried| tried.defect == defect);
        of.map(|tried| tried.verdict.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(verdicts("D1"), ["succeeded"]);
    assert_eq!(verdicts("D2"), ["succeeded"]);
    assert_eq!(verdicts("D3"), ["succeeded"; 2]);
    assert_eq!(verdicts("D5"), ["succeeded"; 4]);
    assert_eq!(verdicts("JB-1"), ["blocked"; 2]);
    assert_eq!(found.faults, 8);
    for tried in &found.tried {
        assert!(attack::named(tried.name).is_some(), "{} is no attack on a deployment", tried.name);
    }
}

#[tokio::test]
async fn services_written_after_the_article_let_through_what_its_listings_leave_open() {
    let found = examine(Specimen::Article).await.unwrap();
    let verdict = |defect: &str| {
        let of = found.tried.iter().filter(move |tried| tried.defect == defect);
        of.map(|tried| tried.verdict.as_str()).collect::<Vec<_>>()
    };
    for fault in [
        "shared secret",
        "no audience",
        "24 hours",
        "refresh from the access token",
        "roles frozen in the token",
        "log injection",
        "no throttle",
    ] {
        assert_eq!(verdict(fault), ["succeeded"], "{fault}");
    }
    assert_eq!(verdict("bearer"), ["succeeded"; 2]);
    // What a library does for everybody who uses it holds.
    assert_eq!(verdict("JB-1"), ["blocked"; 3]);
    assert_eq!(found.faults, 9);
    for tried in &found.tried {
        assert!(attack::named(tried.name).is_some(), "{} is no attack on a deployment", tried.name);
    }
}
