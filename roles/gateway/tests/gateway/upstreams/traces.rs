//! W3C Trace Context at the edge, by either carrier.

use super::{ALL, EVERYTHING, endpoints, gateway};
use crate::rig::backend::Backend;
use crate::rig::client::raw;
use crate::rig::observer::{UNSAMPLED, listen};
use crate::rig::{Rig, Running};

const SPAN: &str = "00f067aa0ba902b7";
const CHUNKED: &str = "POST /a HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n";
const PLAIN: &str = "GET /a HTTP/1.1\r\nHost: flea.test\r\n";
/// The quick carrier takes the one, the full carrier the other.
const CARRIERS: [(&str, &str); 2] = [(PLAIN, ""), (CHUNKED, "0\r\n\r\n")];

/// What the backend was told, in lower case.
async fn told(edge: &Running, backend: &Backend, (head, body): (&str, &str), lines: &[&str]) -> Vec<String> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let answer = raw(edge.plain, format!("{head}{lines}\r\n{body}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = backend.last().to_lowercase();
    seen.split("\r\n").filter(|line| line.starts_with("trace")).map(str::to_owned).collect()
}

/// What goes on of a trace that came with these flags, and what is heard of it.
async fn goes_on(
    edge: &Running,
    backend: &Backend,
    carrier: (&str, &str),
    (trace, flags): (&str, &str),
    goes_on_with: &str,
) {
    let heard = listen();
    let parent = format!("TraceParent: 00-{trace}-{SPAN}-{flags}");
    let told = told(edge, backend, carrier, &[&parent, "tracestate: a=1,b@c=2"]).await;
    let [parent] = &told.iter().filter(|line| line.starts_with("traceparent")).collect::<Vec<_>>()[..] else {
        panic!("one traceparent goes on: {told:?}");
    };
    assert!(told.contains(&"tracestate: a=1,b@c=2".to_owned()), "{told:?}");
    let own = parent.strip_prefix(&format!("traceparent: 00-{trace}-")).unwrap();
    let own = own.strip_suffix(&format!("-{goes_on_with}")).unwrap_or_else(|| panic!("{flags}: {parent}"));
    let hop = heard.of(1, |exchange| exchange.hop.trace().to_string() == trace).await[0].hop;
    assert_eq!(hop.is_sampled(), goes_on_with == "01");
    assert_eq!(hop.parent().unwrap().to_string(), SPAN);
    assert_eq!(hop.span().to_string(), own);
    // A span is recorded of what is sampled; what is not keeps the parent that it had.
    assert_eq!(own == SPAN, goes_on_with == "00");
}

#[tokio::test]
async fn a_trace_goes_on_with_its_state_and_a_span_of_ours_and_no_stranger_decides_whether_it_is_kept() {
    listen();
    let (rig, backend) = (Rig::new(), Backend::named("here").await);
    let edge = gateway(&rig, &endpoints(&[&backend])).await;
    let traces = [("a1", "01", "01"), ("a2", "00", "01"), ("b1", "01", "00"), ("b2", "00", "00")];
    for (carrier, number) in CARRIERS.iter().zip(["3", "4"]) {
        for (name, flags, goes_on_with) in traces {
            let begins = if goes_on_with == "01" { "a5" } else { UNSAMPLED };
            let trace = format!("{begins}{}", format!("{name}{number}").repeat(10));
            goes_on(&edge, &backend, *carrier, (&trace, flags), goes_on_with).await;
        }
    }
}

#[tokio::test]
async fn the_flag_of_a_trace_counts_from_a_listed_proxy() {
    listen();
    let (rig, backend) = (Rig::new(), Backend::named("here").await);
    rig.policy("gateway", ALL);
    let upstream = format!("[[upstream]]\nname = \"backend\"\n{}\n", endpoints(&[&backend]));
    let edge = rig.gateway(&format!("behind.from = [\"127.0.0.1\"]\n{EVERYTHING}{upstream}")).await;
    for (trace, flags) in [(format!("{UNSAMPLED}{}", "d1".repeat(15)), "01"), ("d2".repeat(16), "00")] {
        goes_on(&edge, &backend, (PLAIN, ""), (&trace, flags), flags).await;
    }
}

#[tokio::test]
async fn a_malformed_traceparent_begins_a_new_trace_and_its_state_ends_here_by_either_carrier() {
    let (rig, backend) = (Rig::new(), Backend::named("here").await);
    let edge = gateway(&rig, &endpoints(&[&backend])).await;
    let trace = "b1".repeat(16);
    let bad = [
        vec![],
        vec![format!("traceparent: 00-{}-{SPAN}-01", "0".repeat(32))],
        vec![format!("traceparent: 00-{trace}-{}-01", "0".repeat(16))],
        vec![format!("traceparent: 00-{trace}-{SPAN}-01-more")],
        vec![format!("traceparent: ff-{trace}-{SPAN}-01")],
        vec![format!("traceparent: 00-{trace}-{SPAN}-01"); 2],
    ];
    for carrier in CARRIERS {
        for bad in &bad {
            let mut lines: Vec<&str> = bad.iter().map(String::as_str).collect();
            lines.push("TraceState: a=1");
            let told = told(&edge, &backend, carrier, &lines).await;
            assert_eq!(told.len(), 1, "{bad:?}: {told:?}");
            assert!(
                told[0].starts_with("traceparent: 00-") && !told[0].contains(&trace),
                "{bad:?}: {told:?}"
            );
        }
        let future = format!("traceparent: cc-{trace}-{SPAN}-01-what-the-future-holds");
        let told = told(&edge, &backend, carrier, &[&future, "tracestate: a=1"]).await;
        assert!(told.iter().any(|line| line.starts_with(&format!("traceparent: 00-{trace}-"))), "{told:?}");
        assert!(told.contains(&"tracestate: a=1".to_owned()));
    }
}

#[tokio::test]
async fn a_malformed_tracestate_ends_here_and_its_trace_goes_on_by_either_carrier() {
    let (rig, backend) = (Rig::new(), Backend::named("here").await);
    let edge = gateway(&rig, &endpoints(&[&backend])).await;
    let trace = "c1".repeat(16);
    let parent = format!("traceparent: 00-{trace}-{SPAN}-01");
    let members: Vec<String> = (0..33).map(|n| format!("k{n}=1")).collect();
    let long = format!("tracestate: {}", members.join(","));
    for carrier in CARRIERS {
        for bad in ["tracestate: a", "tracestate: a=1,a=2", &long] {
            let told = told(&edge, &backend, carrier, &[&parent, bad]).await;
            assert_eq!(told.len(), 1, "{bad}: {told:?}");
            assert!(told[0].contains(&trace), "{bad}: {told:?}");
        }
    }
}
