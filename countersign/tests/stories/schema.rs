//! # Every configuration that we show, and the one that `up` writes, is one by the schema; a typo is none
//!
//! The judge is the `jsonschema` of PyPI, which knows nothing of us.

use std::path::PathBuf;
use std::process::Command;

use countersign_testkit::{Python, workspace_root};
use serde_json::{Value, json};

use crate::deployment::{BINARY, Deployment, text};

/// Checks the schema itself, then says of each document what is wrong with it.
const JUDGE: &str = r#"
import json, sys, jsonschema
asked = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(asked["schema"])
validator = jsonschema.Draft202012Validator(asked["schema"])
json.dump([[error.message for error in validator.iter_errors(d)] for d in asked["documents"]], sys.stdout)
"#;

fn schema() -> Value {
    let out = Command::new(BINARY).args(["config", "schema"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn judged(python: &Python, documents: &[Value]) -> Vec<Vec<String>> {
    let asked = json!({ "schema": schema(), "documents": documents });
    serde_json::from_str(&python.run(JUDGE, &asked.to_string())).unwrap()
}

fn of_toml(toml: &str) -> Value {
    serde_json::to_value(toml.parse::<toml::Table>().unwrap_or_else(|e| panic!("{e}: {toml}"))).unwrap()
}

/// The examples of `docs/`, with the places where they stand.
fn examples() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let docs = std::fs::read_dir(workspace_root().join("docs")).unwrap();
    let mut files: Vec<PathBuf> = docs.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let page = std::fs::read_to_string(file).unwrap();
        for (number, block) in page.split("```toml\n").skip(1).enumerate() {
            let toml = block.split("```").next().unwrap();
            found.push((format!("{} example {}", file.display(), number + 1), of_toml(toml)));
        }
    }
    found
}

#[test]
fn every_configuration_that_we_show_is_one_by_the_schema_and_a_typo_is_none() {
    let Some(python) = Python::with(&["jsonschema==4.26.0"]) else { return };
    let d = Deployment::shared();
    let written = std::fs::read_to_string(d.state().join("countersign.toml")).unwrap();
    let mut good = examples();
    assert!(good.len() >= 10, "the examples were found: {}", good.len());
    good.push(("what up writes".to_owned(), of_toml(&written)));
    let documents: Vec<Value> = good.iter().map(|(_, value)| value.clone()).collect();
    for ((place, _), wrong) in good.iter().zip(judged(&python, &documents)) {
        assert!(wrong.is_empty(), "{place}: {wrong:?}");
    }

    let bad = [
        "trust_domian = \"a\"",
        "trust_domain = 7",
        "[gateway]\nlistn = \"127.0.0.1:8080\"",
        "[gateway]\nworkers = \"two\"",
        "[[gateway.route]]\npth = \"/*\"\nto = \"ads\"",
        "[[gateway.route]]\npath = \"/*\"\nto = \"ads\"\nuser = \"perhaps\"",
        "[[gateway.upstream]]\nname = \"a\"\nhealth = { path = \"/\", evry_ms = 7 }",
        "[[gateway.limit]]\nper = \"planet\"\nrate = \"1/s\"",
        "[sidecar]\nservce = \"ads\"",
        "[agent]\nauthority_node = \"a:1\"\nsoket = \"/s\"",
        "[agent]\nsocket = \"/s\"",
        "[[service]]\nname = \"ads\"\nuser_context = \"all\"",
        "[log]\naccess = \"everything\"",
        "[otlp]\nendpiont = \"http://127.0.0.1:4318\"",
        "[demo.services.ads]\nlisten = \"127.0.0.1:1\"",
    ];
    let mut documents: Vec<Value> = bad.iter().map(|toml| of_toml(toml)).collect();
    // A key that nobody knows, in each table that `up` writes.
    let written = of_toml(&written);
    for table in ["authority", "agent", "gateway", "policy", "demo"] {
        let mut typo = written.clone();
        typo[table]["unheard_of"] = json!(1);
        documents.push(typo);
    }
    for (document, wrong) in documents.iter().zip(judged(&python, &documents)) {
        assert!(!wrong.is_empty(), "it is one by the schema: {document}");
    }
}
