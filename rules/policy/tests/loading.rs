//! Policy files: one `accepts_…`, then one `rejects_…` per error.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use countersign_policy::{
    AdminPolicies, POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX, PolicyError, PolicySet, RULES_PER_FILE_MAX,
};

const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

fn error(text: &str) -> PolicyError {
    PolicySet::load([("ads", text)]).unwrap_err()
}

fn rule(id: &str) -> String {
    format!("@id({id:?}) permit (principal, action, resource);\n")
}

#[test]
fn accepts_rules_and_names_them_by_their_annotation() {
    let text = rule("second") + &rule("first");
    let policies = PolicySet::load([("ads", text.as_str()), ("users", ALL)]).unwrap();
    assert_eq!(policies.targets().collect::<Vec<_>>(), ["ads", "users"]);
    let mut names: Vec<_> = policies.rules("ads").collect();
    names.sort_unstable();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(policies.rules("chat").count(), 0);
}

#[test]
fn rejects_what_is_not_cedar() {
    assert!(matches!(error("permit everything"), PolicyError::Syntax { file, .. } if file == "ads"));
}

#[test]
fn rejects_a_rule_without_a_name() {
    let text = rule("named") + "permit (principal, action, resource);";
    assert_eq!(error(&text), PolicyError::Unnamed { file: "ads".into(), position: 2 });
    let empty = r#"@id("") permit (principal, action, resource);"#;
    assert_eq!(error(empty), PolicyError::Unnamed { file: "ads".into(), position: 1 });
}

#[test]
fn rejects_a_name_that_would_garble_a_log_line() {
    let refused = error(&rule("a\nb"));
    assert_eq!(refused, PolicyError::RuleName { file: "ads".into(), id: "a\nb".into() });
}

#[test]
fn rejects_two_rules_of_the_same_name() {
    let refused = error(&(rule("twice") + &rule("twice")));
    assert_eq!(refused, PolicyError::DuplicateRule { file: "ads".into(), id: "twice".into() });
}

#[test]
fn rejects_a_template() {
    let refused = error(r#"@id("t") permit (principal == ?principal, action, resource);"#);
    assert_eq!(refused, PolicyError::Template { file: "ads".into() });
}

#[test]
fn rejects_what_the_strict_schema_does_not_know() {
    for clause in [
        r#"when { context.user.roles.contains("buyer") }"#, // no `has` before it
        r#"when { context has user && context.user.role == "buyer" }"#, // misspelt
        "when { context.proof.workload == 1 }",             // wrong type
        r#"when { principal.trust_domain == "td" }"#,       // a stranger has none
    ] {
        let text = format!(r#"@id("r") permit (principal, action, resource) {clause};"#);
        assert!(matches!(error(&text), PolicyError::Schema { id, .. } if id == "r"), "{clause}");
    }
    let action = r#"@id("r") permit (principal, action == Action::"BUY", resource);"#;
    assert!(matches!(error(action), PolicyError::Schema { .. }));
}

#[test]
fn rejects_a_rule_that_could_never_apply() {
    for (scope, entity) in [
        (r#"principal, action, resource == Route::"users /users""#, "Route::\"users /users\""),
        (r#"principal, action, resource == Route::"ads ads""#, "Route::\"ads ads\""),
        (r#"principal, action, resource == Route::"ads /a//b""#, "Route::\"ads /a//b\""),
        (r#"principal, action, resource in Service::"users""#, "Service::\"users\""),
        (r#"principal == Workload::"ads", action, resource"#, "Workload::\"ads\""),
        (
            r#"principal == Workload::"spiffe://TD/svc/ads", action, resource"#,
            "Workload::\"spiffe://TD/svc/ads\"",
        ),
        (r#"principal == Stranger::"x", action, resource"#, "Stranger::\"x\""),
    ] {
        let refused = error(&format!("@id(\"r\") permit ({scope});"));
        match refused {
            PolicyError::Unreachable { entity: named, .. } => assert_eq!(named, entity),
            other => panic!("{scope}: {other}"),
        }
    }
}

#[test]
fn rejects_a_rule_that_could_never_apply_when_it_hides_in_a_condition() {
    let text = r#"@id("r") permit (principal, action, resource)
                  when { [Workload::"spiffe://td/svc/a", Workload::"ads"].contains(principal) };"#;
    // The set holds workloads only, so the validator wants the principal to be one first.
    let text = text.replace("(principal, action", "(principal is Workload, action");
    assert!(matches!(error(&text), PolicyError::Unreachable { .. }));
}

#[test]
fn rejects_files_that_are_there_twice_or_named_after_nothing() {
    let twice = PolicySet::load([("ads", ALL), ("ads", ALL)]).unwrap_err();
    assert_eq!(twice, PolicyError::DuplicateFile("ads".into()));
    let nameless = PolicySet::load([("../ads", ALL)]).unwrap_err();
    assert_eq!(nameless, PolicyError::FileName("../ads".into()));
}

#[test]
fn accepts_limits_and_rejects_one_past_them() {
    let long = format!("{ALL}//{}", " ".repeat(POLICY_FILE_BYTES_MAX - ALL.len() - 2));
    assert!(PolicySet::load([("ads", long.as_str())]).is_ok());
    let bytes = POLICY_FILE_BYTES_MAX + 1;
    assert_eq!(error(&(long + " ")), PolicyError::TooLong { file: "ads".into(), bytes });

    let many = |count: usize| (0..count).map(|i| rule(&format!("r{i}"))).collect::<String>();
    assert!(PolicySet::load([("ads", many(RULES_PER_FILE_MAX).as_str())]).is_ok());
    let rules = RULES_PER_FILE_MAX + 1;
    assert_eq!(error(&many(rules)), PolicyError::TooManyRules { file: "ads".into(), rules });

    let names: Vec<String> = (0..=POLICY_FILES_MAX).map(|i| format!("s{i}")).collect();
    let files = |count: usize| names.iter().take(count).map(|name| (name.as_str(), ""));
    assert!(PolicySet::load(files(POLICY_FILES_MAX)).is_ok());
    let refused = PolicySet::load(files(POLICY_FILES_MAX + 1)).unwrap_err();
    assert_eq!(refused, PolicyError::TooManyFiles { files: 1025 });
}

#[test]
fn administration_names_its_actions_and_refuses_others() {
    let text = r#"@id("r") permit (principal is Admin, action == Action::"GET /api/v1/users", resource);"#;
    let policies = AdminPolicies::load(text, &["GET /api/v1/users"]).unwrap();
    assert_eq!(policies.rules().collect::<Vec<_>>(), ["r"]);
    let unknown = AdminPolicies::load(text, &["GET /api/v1/services/{name}"]).unwrap_err();
    assert!(matches!(unknown, PolicyError::Schema { .. }));
    let root = r#"@id("r") permit (principal == Admin::"root", action, resource);"#;
    let refused = AdminPolicies::load(root, &["GET /api/v1/users"]).unwrap_err();
    assert!(matches!(refused, PolicyError::Unreachable { .. }));
}

#[test]
fn rejects_a_list_of_actions_that_makes_no_schema() {
    let twice = AdminPolicies::load("", &["GET /a", "GET /a"]).unwrap_err();
    assert!(matches!(twice, PolicyError::Model(_)));
}

#[test]
fn the_routes_that_rules_name_are_known_to_whoever_stands_in_front_of_the_service() {
    let rules = r#"
        @id("one") permit (principal, action == Action::"GET", resource == Route::"users /users/{id}");
        @id("two") permit (principal, action, resource) when { resource == Route::"users /users/me" };
        @id("three") forbid (principal, action == Action::"PUT", resource == Route::"users /users/{id}");
        @id("all") permit (principal, action, resource in Service::"users");
    "#;
    let set = PolicySet::load([("users", rules)]).unwrap();
    let named: Vec<String> = set.routes("users").iter().map(ToString::to_string).collect();
    assert_eq!(named, ["/users/me", "/users/{id}"]);
    assert!(set.routes("ads").is_empty());
}

#[test]
fn rejects_two_names_for_one_route_because_rules_about_one_of_them_would_never_apply() {
    let rules = |first: &str, second: &str| {
        format!(
            "@id(\"a\") permit (principal, action, resource == Route::\"ads {first}\");
             @id(\"b\") forbid (principal, action, resource == Route::\"ads {second}\");"
        )
    };
    for (first, second) in [("/ads/{ad}", "/ads/{id}"), ("/ads/*", "/ads/{*rest}")] {
        let refused = PolicySet::load([("ads", rules(first, second).as_str())]).unwrap_err();
        assert!(matches!(refused, PolicyError::TwoNames { .. }), "{refused}");
    }
    for (first, second) in
        [("/ads/{id}", "/ads/*"), ("/ads/{id}", "/ads/{id}/buy"), ("/ads/{id}", "/ads/{id}")]
    {
        assert!(PolicySet::load([("ads", rules(first, second).as_str())]).is_ok(), "{first} {second}");
    }
}
