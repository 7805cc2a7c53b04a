//! Upstreams of the configuration, through real sockets.

mod balance;
mod breaker;
pub(crate) mod connect;
mod discovery;
mod documented;
mod health;
mod retries;
mod routing;
mod traces;

use crate::rig::backend::Backend;
use crate::rig::client::{Answer, get};
use crate::rig::{Rig, Running};

const ALL: &str = "@id(\"all\")\npermit (principal, action, resource);";

/// A route for everything to the upstream `backend`.
const EVERYTHING: &str = "[[route]]\npath = \"/*\"\nto = \"backend\"\nuser = \"none\"\n";

/// A gateway that sends everything to the upstream `backend`, which is told this.
async fn gateway(rig: &Rig, upstream: &str) -> Running {
    rig.policy("gateway", ALL);
    rig.gateway(&format!("{EVERYTHING}[[upstream]]\nname = \"backend\"\n{upstream}\n")).await
}

fn endpoints(backends: &[&Backend]) -> String {
    let texts: Vec<String> = backends.iter().map(|backend| format!("\"{}\"", backend.address)).collect();
    format!("endpoints = [{}]", texts.join(", "))
}

async fn ask(edge: &Running) -> Answer {
    get(edge.plain, "/a", &[]).await
}

/// Asks until the answer fits, at most five seconds.
async fn until(edge: &Running, fits: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..500 {
        let answer = ask(edge).await;
        if fits(&answer) {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no answer ever fitted");
}
