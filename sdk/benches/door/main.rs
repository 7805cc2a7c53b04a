//! What a countersigned call costs beside the same call without: three services in a row, each with one small handler,
//! in one process, over loopback.
//!
//! - `bare`: HTTP/2 over TCP by hyper alone. No TLS, nobody is asked who they are. It exists here only: the product
//!   has no such mode.
//! - `mtls`: the SDK's client and accept loop, without a door: the certificates are judged, and that is all.
//! - `door`: what a service gets: the same, and at each hop canonical request, internal token verified, policy
//!   decided, the decision recorded in the spool and shipped.
//!
//! Once with connections that are kept, once with a new connection at every hop of every call.
//!
//! `cargo bench -p countersign-sdk`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    dead_code,
    reason = "a benchmark prints, and stops when it cannot go on; it uses a part of what the tests share"
)]

mod chain;
#[path = "../../tests/sockets/deployment.rs"]
mod deployment;
#[path = "../../tests/sockets/desk.rs"]
mod desk;

use std::{sync::Arc, time::Duration};

use chain::{Chain, Connections, Way};
use countersign_testkit::measure::{Figures, Tally, process_cpu};

/// Calls in progress at one time.
const WORKERS: usize = 8;
/// Ways are measured in turns, so that a busy moment of the machine meets all of them.
const TURNS: usize = 4;

#[tokio::main]
async fn main() {
    println!("three services in a row, {WORKERS} calls at a time, one process");
    for (connections, calls) in [(Connections::Kept, 1500), (Connections::New, 250)] {
        let measured = measure(connections, calls).await;
        println!("\nconnections {connections:?}, {} calls of each way", calls * TURNS);
        println!("way    requests/s  of bare  CPU s/10,000  x bare  p50 ms  p99 ms");
        let bare = &measured[0].1;
        for (way, figures) in &measured {
            println!(
                "{:<6} {:>10.0} {:>8.2} {:>13.2} {:>7.1} {:>7.2} {:>7.2}",
                format!("{way:?}").to_lowercase(),
                figures.per_second(),
                figures.per_second() / bare.per_second(),
                figures.cpu_for_ten_thousand(),
                figures.cpu_for_ten_thousand() / bare.cpu_for_ten_thousand(),
                figures.latency_ms(0.50),
                figures.latency_ms(0.99),
            );
        }
    }
}

async fn measure(connections: Connections, calls: usize) -> Vec<(Way, Figures)> {
    let mut chains = Vec::new();
    for way in [Way::Bare, Way::Mtls, Way::Door] {
        chains.push((way, Arc::new(Chain::start(way, connections).await), None::<Figures>));
    }
    for turn in 0..=TURNS {
        for (_, chain, sum) in &mut chains {
            let figures = run(chain, calls).await;
            // The first turn warms up.
            if turn > 0 {
                *sum = Some(sum.take().map_or(figures.clone(), |sum| sum.and(figures)));
            }
        }
    }
    chains.into_iter().map(|(way, _, sum)| (way, sum.unwrap())).collect()
}

async fn run(chain: &Arc<Chain>, calls: usize) -> Figures {
    let me = std::process::id();
    let (before, tally) = (process_cpu(me), Arc::new(Tally::of(calls)));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (chain, tally) = (Arc::clone(chain), Arc::clone(&tally));
            tokio::spawn(async move {
                while let Some(started) = tally.next() {
                    assert_eq!(chain.call().await, chain::PREVIEW);
                    tally.ended(started);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let figures = tally.finish();
    // What was recorded is written and shipped a moment later, and belongs to the price of the call.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    figures.costing(process_cpu(me) - before)
}
