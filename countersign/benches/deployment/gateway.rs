//! Figure 5.1 of the thesis under load: `GET /ads?near=…` as alice, gateway → ads → users and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_pki::{CertificateDer, pem};
use countersign_sdk::outbound::{CallLimits, Channel, EdgeTarget, Target, empty};
use countersign_sdk::tls::install_provider;
use countersign_testkit::measure::{Figures, Tally};
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::deployment::Deployment;
use crate::processes::{Processes, spent};

const PATH: &str = "/ads?near=48.37,14.51";
/// Clients, each with one request in progress.
const CLIENTS: usize = 8;

/// Clients that keep their HTTP/1.1 connection, without TLS before the gateway.
pub(crate) async fn kept_connections(deployment: &Deployment, processes: &Processes, requests: usize) {
    let token = token(deployment);
    let address = deployment.url("gateway").trim_start_matches("http://").to_owned();
    // Opens the connections between the services.
    warm_up(&address, &token).await;
    let (before, tally) = (processes.cpu(), Arc::new(Tally::of(requests)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (tally, address, token) = (Arc::clone(&tally), address.clone(), token.clone());
            tokio::spawn(async move {
                let mut send = connect(&address).await;
                while let Some(started) = tally.next() {
                    get(&mut send, &address, &token).await;
                    tally.ended(started);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let figures = tally.finish();
    // What was recorded is shipped a moment later, and belongs to the price of the request.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let title = format!("{requests} × GET {PATH}, {CLIENTS} clients, connections kept");
    print(&title, figures, &spent(&before, &processes.cpu()));
}

/// Clients that open an HTTPS connection for each request.
pub(crate) async fn new_connections(deployment: &Deployment, processes: &Processes, requests: usize) {
    install_provider();
    let token = token(deployment);
    let root = pem::decode(&std::fs::read(deployment.url("ca_file")).unwrap()).unwrap();
    let roots: Vec<_> = root.into_iter().map(|block| CertificateDer::from(block.der)).collect();
    let target = EdgeTarget::new(deployment.url("gateway_tls"), &roots).unwrap();
    let (before, tally) = (processes.cpu(), Arc::new(Tally::of(requests)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (tally, target, token) = (Arc::clone(&tally), target.clone(), token.clone());
            tokio::spawn(async move {
                while let Some(started) = tally.next() {
                    let channel = Channel::new(Target::Edge(target.clone()), CallLimits::default());
                    let request = http::Request::get(PATH).header(AUTHORIZATION, &token).body(empty());
                    let answer = channel.send(request.unwrap()).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    answer.into_body().collect().await.unwrap();
                    tally.ended(started);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let figures = tally.finish();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let title = format!("{requests} × GET {PATH}, {CLIENTS} clients, a new HTTPS connection each time");
    print(&title, figures, &spent(&before, &processes.cpu()));
}

/// What the callees themselves measured.
pub(crate) fn edges(deployment: &Deployment) {
    println!("\nedges, as `countersign edges` tells (quantiles are interpolated between powers of two)");
    println!("source → target          requests  denied  p50 ms  p99 ms");
    for edge in deployment.json(&["edges"]).as_array().unwrap() {
        let source = edge["source"].as_str().unwrap().rsplit('/').next().unwrap();
        println!(
            "{:<24} {:>8} {:>7} {:>7.1} {:>7.1}",
            format!("{source} → {}", edge["target"].as_str().unwrap()),
            edge["requests"],
            edge["denied"],
            edge["p50_ms"].as_f64().unwrap(),
            edge["p99_ms"].as_f64().unwrap()
        );
    }
}

fn print(title: &str, figures: Figures, spent: &[(&'static str, Duration)]) {
    let sum: Duration = spent.iter().map(|(_, cpu)| *cpu).sum();
    let figures = figures.costing(sum);
    println!("\n{title}");
    println!(
        "{:.0} requests/s, p50 {:.1} ms, p99 {:.1} ms, {:.1} CPU s for 10,000 (without the clients'), of which",
        figures.per_second(),
        figures.latency_ms(0.50),
        figures.latency_ms(0.99),
        figures.cpu_for_ten_thousand(),
    );
    for (name, cpu) in spent.iter().filter(|(_, cpu)| !cpu.is_zero()) {
        let share = cpu.as_secs_f64() / sum.as_secs_f64();
        println!("  {name:<14} {:>5.1} s  {:>3.0} %", share * figures.cpu_for_ten_thousand(), share * 100.0);
    }
}

fn token(deployment: &Deployment) -> String {
    format!("Bearer {}", deployment.ok(&["login", "alice", "--token"]).trim())
}

async fn warm_up(address: &str, token: &str) {
    let mut send = connect(address).await;
    for _ in 0..200 {
        get(&mut send, address, token).await;
    }
}

async fn connect(address: &str) -> http1::SendRequest<Empty<Bytes>> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (send, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn get(send: &mut http1::SendRequest<Empty<Bytes>>, address: &str, token: &str) {
    let request = http::Request::get(PATH).header("host", address).header(AUTHORIZATION, token);
    send.ready().await.unwrap();
    let answer = send.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    // Without previews it would not be the whole chain.
    assert!(body.windows(9).any(|part| part == b"\"preview\""), "{}", String::from_utf8_lossy(&body));
}
