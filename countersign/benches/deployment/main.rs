//! The whole thing, as `up` runs it: how soon it is ready, what a request through the gateway costs in which process,
//! what certificates cost, and what memory each process takes.
//!
//! `cargo bench -p countersign`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::zombie_processes,
    unreachable_pub,
    dead_code,
    reason = "a benchmark prints, and stops when it cannot go on; it uses a part of what the tests share"
)]

mod certificates;
#[path = "../../tests/stories/deployment.rs"]
mod deployment;
mod gateway;
mod processes;

use std::io::Write as _;
use std::time::{Duration, Instant};

use deployment::Deployment;
use processes::Processes;

/// Starts on state that is there.
const STARTS: usize = 7;
const REQUESTS: usize = 10_000;
/// All load comes from one address here, which the gateway would throttle after the first few thousand requests.
const NO_THROTTLE: &str = "\n[gateway.throttle]\nrequests_per_second = 1000000\nrequests_burst = 1000000\n";

#[tokio::main]
async fn main() {
    let deployment = startup();
    let processes = Processes::of(&deployment);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let at_start = processes.memory();
    let ledger = ledger_bytes(&deployment);
    gateway::kept_connections(&deployment, &processes, REQUESTS).await;
    settle().await;
    println!("the authority's database grew by {} MiB meanwhile", (ledger_bytes(&deployment) - ledger) >> 20);
    let after_one = processes.memory();
    gateway::kept_connections(&deployment, &processes, REQUESTS).await;
    settle().await;
    let after_two = processes.memory();
    gateway::new_connections(&deployment, &processes, 1000).await;
    gateway::edges(&deployment);
    processes::print_memory(&[
        ("after start", at_start),
        ("after 10,000", after_one),
        ("after 20,000", after_two),
    ]);
    certificates::issued(&deployment, &processes).await;
}

fn startup() -> Deployment {
    let began = Instant::now();
    let mut deployment = Deployment::start();
    println!("first `up`: ready after {:.2} s, returns after {:.2} s", ready_s(&deployment), secs(began));
    let settings = deployment.state().join("countersign.toml");
    let mut settings = std::fs::OpenOptions::new().append(true).open(settings).unwrap();
    settings.write_all(NO_THROTTLE.as_bytes()).unwrap();
    let (mut ready, mut down) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        deployment.ok(&["down"]);
        down.push(secs(began));
        deployment.up();
        ready.push(ready_s(&deployment));
    }
    println!("`up` on existing state, {STARTS} times: ready after {}", spread(&mut ready));
    println!("`down`, {STARTS} times: returns after {}", spread(&mut down));
    deployment
}

/// What was recorded is shipped within seconds.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

/// The authority's database holds little else. Its write-ahead log is used again and does not grow.
fn ledger_bytes(deployment: &Deployment) -> u64 {
    std::fs::metadata(deployment.state().join("authority/authority.db")).unwrap().len()
}

fn ready_s(deployment: &Deployment) -> f64 {
    deployment.ready["ready_s"].as_f64().unwrap()
}

fn secs(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn spread(seconds: &mut [f64]) -> String {
    seconds.sort_by(f64::total_cmp);
    let (least, median, most) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    format!("{median:.2} s (median; {least:.2} to {most:.2})")
}
