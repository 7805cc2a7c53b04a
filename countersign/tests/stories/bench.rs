//! The experiment, run for a moment: real deployment, real relays, real load. Figures are looked at by nobody here; that
//! they are there, and that they are refused where they are not what they say, is.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::deployment::{BINARY, text};

/// A machine that runs all tests at once may need a while for one answer.
const SECONDS: &str = "1.5";
const KEPT: &str = "mtls, kept, 2 edges, 100 B";

/// A person's directory, with a home of its own.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("cs").tempdir().unwrap())
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["bench", "--out"]).arg(self.out()).args(arguments).current_dir(self.0.path());
        command.env("HOME", self.0.path().join("home")).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
        command
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn data(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.out().join("experiment.json")).unwrap()).unwrap()
    }
}

/// Two arms, two blocks, and everything that a reader would want to compute again.
#[test]
fn a_run_leaves_every_trial_as_json_and_csv_with_what_the_callees_counted() {
    if countersign_testkit::wrk().is_none() {
        return;
    }
    let lab = Lab::new();
    let arms = ["--only", KEPT, "--only", "jwt RS256, fresh"];
    let out =
        lab.bench(&[&arms[..], &["--quick", "--blocks", "2", "--seconds", SECONDS, "--seed", "7"]].concat());
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains(KEPT), "{}", text(&out.stdout));

    let data = lab.data();
    assert_eq!((data["design"]["seed"].as_u64(), data["arms"].as_array().unwrap().len()), (Some(7), 2));
    assert!(data["load"]["tool"].as_str().unwrap().contains("wrk"));
    let trials = data["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4);
    for trial in trials {
        assert!(trial["claims"].as_array().unwrap().iter().all(|claim| claim["holds"] == true), "{trial}");
        let [edges, processes] = ["edges", "processes"].map(|list| trial[list].as_array().unwrap());
        assert_eq!((edges.len(), processes.len()), (2, 3));
        assert!(processes.iter().all(|process| process["cpu_us_per_request"].as_f64().unwrap() > 0.0));
        assert!(processes.iter().all(|process| process["pss_kib"].as_u64().unwrap() > 0));
        let requests = trial["requests"].as_u64().unwrap();
        for edge in edges {
            assert!(edge["bytes_received_per_request"].as_f64().unwrap() > 100.0, "more than the answer");
            let is_jwt = trial["arm"].as_str().unwrap().starts_with("jwt");
            let mode = if is_jwt { "jwt" } else { "mtls" };
            assert!(edge["modes"][mode].as_u64().unwrap() >= requests, "{edge}");
            let shaken = edge["handshakes"]["anonymous"]["X25519MLKEM768"].as_u64().unwrap_or_default();
            assert_eq!(shaken >= requests, is_jwt, "a handshake for each request, or none: {edge}");
        }
    }
    // Each block has each arm once.
    let turns: BTreeSet<(u64, &str)> =
        trials.iter().map(|t| (t["block"].as_u64().unwrap(), t["arm"].as_str().unwrap())).collect();
    assert_eq!(turns.len(), 4);
    let csv = std::fs::read_to_string(lab.out().join("trials.csv")).unwrap();
    assert_eq!(csv.split_terminator("\r\n").count(), 5);
    assert!(csv.starts_with("block,position,arm,mode,signing,"));
    // The chapter is made from nothing else.
    let [page, markdown] =
        ["report.html", "report.md"].map(|name| std::fs::read_to_string(lab.out().join(name)).unwrap());
    assert!(page.starts_with("<!doctype html>") && page.contains("jwt RS256") && page.contains("trials.csv"));
    assert!(markdown.contains("## Threats to validity") && markdown.contains("flea-market/src/run.rs"));
    // Nothing is left of the deployment that ran it: neither processes nor its master key.
    let keys = lab.0.path().join("home/.config/countersign");
    assert!(std::fs::read_dir(keys).map_or(true, |mut left| left.next().is_none()));
}

/// Relays that let anybody in over plain HTTP, under the name of `mtls`: every figure would be a wrong one.
#[test]
fn a_run_whose_callees_did_not_verify_what_its_arm_says_fails_and_shows_what_they_did() {
    if countersign_testkit::wrk().is_none() {
        return;
    }
    let lab = Lab::new();
    let one = ["--quick", "--only", KEPT, "--blocks", "1", "--seconds", SECONDS];
    let out = lab.bench(&[&one[..], &["--mislead", "mtls=none"]].concat());
    assert_eq!(out.status.code(), Some(1), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stderr).contains("claims do not hold"), "{}", text(&out.stderr));
    let data = lab.data();
    let claims = data["trials"][0]["claims"].as_array().unwrap();
    let broken: Vec<&str> =
        claims.iter().filter(|claim| claim["holds"] == false).map(|c| c["claim"].as_str().unwrap()).collect();
    assert!(broken.contains(&"mode"), "{broken:?}");
    assert!(data["trials"][0]["edges"][0]["modes"]["none"].as_u64().unwrap() > 0);
}

/// Whether they hold is a matter of the machine; that they are judged by what was measured, and that the run ends as they
/// say, is not.
#[test]
fn the_self_check_runs_twins_and_a_planted_delay_and_ends_as_its_checks_say() {
    if countersign_testkit::wrk().is_none() {
        return;
    }
    let lab = Lab::new();
    let out = lab.bench(&["--self-check", "--plant", "300ms@mtls", "--blocks", "3", "--seconds", SECONDS]);
    let data = lab.data();
    let trials = data["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 9, "{}", text(&out.stderr));
    let p50s = |delayed: bool| {
        let arms = data["arms"].as_array().unwrap().iter();
        let planted = arms.filter(|arm| arm["role"].to_string().contains("300000") == delayed);
        let names: BTreeSet<&str> = planted.map(|arm| arm["name"].as_str().unwrap()).collect();
        let answered = trials.iter().filter(|trial| trial["requests"].as_u64().unwrap() > 0);
        let of = answered.filter(|trial| names.contains(trial["arm"].as_str().unwrap()));
        of.map(|trial| trial["latency_us"]["p50"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert!(!p50s(true).is_empty() && !p50s(false).is_empty());
    assert!(
        p50s(true).iter().all(|p50| *p50 >= 300_000.0),
        "whoever sleeps sleeps so long: {:?}",
        p50s(true)
    );

    let checks = data["checks"].as_array().unwrap();
    let named =
        |part: &str| checks.iter().filter(|check| check["name"].as_str().unwrap().contains(part)).count();
    assert_eq!((named("does not differ from itself"), named("is found in p50"), checks.len()), (3, 1, 4));
    let claims = trials.iter().flat_map(|trial| trial["claims"].as_array().unwrap());
    let all_hold = checks.iter().chain(claims).all(|judged| judged["holds"] == true);
    assert_eq!(out.status.code(), Some(i32::from(!all_hold)), "{checks:?}: {}", text(&out.stderr));
    let page = std::fs::read_to_string(lab.out().join("report.html")).unwrap();
    assert!(page.contains("Does the experiment find what is there, and nothing else?"));
}

/// A service that knows nothing of any of this, on a port of its own.
fn a_service_of_ones_own() -> std::net::SocketAddr {
    let (say, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            say.send(listener.local_addr().unwrap()).unwrap();
            let router = axum::Router::new().route("/orders/7", axum::routing::get(|| async { "order 7" }));
            axum::serve(listener, router).await.unwrap();
        });
    });
    hear.recv().unwrap()
}

/// Whoever has services already measures those: each behind a sidecar, and another one that calls it.
#[test]
fn services_of_ones_own_are_measured_behind_sidecars() {
    if countersign_testkit::wrk().is_none() {
        return;
    }
    let (lab, app) = (Lab::new(), a_service_of_ones_own());
    let file = lab.0.path().join("app.toml");
    let service = format!("[[service]]\nname = \"orders\"\napp = \"{app}\"\npath = \"/orders/7\"\n");
    std::fs::write(&file, &service).unwrap();
    let target = ["--target", file.to_str().unwrap(), "--blocks", "1", "--seconds", SECONDS];
    let out =
        lab.bench(&[&target[..], &["--only", ", none", "--only", ", mtls", "--only", ", jwt"]].concat());
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    let data = lab.data();
    let trials = data["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4, "none, jwt, mtls, mtls+jwt");
    for trial in trials {
        assert_eq!(
            (&trial["errors"]["status"], trial["processes"].as_array().unwrap().len()),
            (&0.into(), 2)
        );
        let [edge] = trial["edges"].as_array().unwrap().as_slice() else { panic!("{trial}") };
        assert!(edge["modes"].as_object().unwrap().values().next().unwrap().as_u64().unwrap() > 0);
    }
    // Only one's own machine is put under load.
    std::fs::write(&file, service.replace(&app.ip().to_string(), "192.0.2.1")).unwrap();
    let out = lab.bench(&target);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("loopback"), "{}", text(&out.stderr));
}

#[test]
fn a_run_that_somebody_stops_leaves_nothing_behind() {
    if countersign_testkit::wrk().is_none() {
        return;
    }
    let (lab, place) = (Lab::new(), tempfile::Builder::new().prefix("cs").tempdir().unwrap());
    let mut command = lab.command(&["--only", KEPT, "--blocks", "9", "--seconds", "60"]);
    let mut run = command.env("TMPDIR", place.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    assert!(said.by_ref().any(|line| line.unwrap().starts_with("trial 1 of")));
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty() && !lab.out().exists(), "{left:?}");
}

#[test]
fn a_plan_that_cannot_be_run_is_refused_before_anything_is_started() {
    let lab = Lab::new();
    for (arguments, said) in [
        (&["--quick", "--only", "kerberos"][..], "kerberos"),
        (&["--quick", "--seconds", "0.1"], "too short"),
        (&["--quick", "--blocks", "0"], "at least one block"),
        (&["--plant", "2ms@kerberos"], "2ms@mtls"),
    ] {
        let out = lab.bench(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(said), "{arguments:?}: {}", text(&out.stderr));
        assert!(!lab.out().exists());
    }
}

/// Without the load generator there is nothing to wait for: the command that installs it is told.
#[test]
fn a_machine_without_the_load_generator_is_told_how_to_get_it() {
    let lab = Lab::new();
    let empty = lab.0.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["bench", "--quick", "--out"]).arg(lab.out()).env("PATH", &empty).stdin(Stdio::null());
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("apt-get install wrk"), "{}", text(&out.stderr));
}
