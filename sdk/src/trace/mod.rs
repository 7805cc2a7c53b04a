//! W3C Trace Context: which call a request belongs to, and who observes its hops.
//!
//! A hop goes on with the trace that a request names ([`Hop::of_request`]), keeps its sampled flag and hands on its
//! `tracestate`. Where this process records spans ([`observe`]) its own span stands between caller and callee;
//! where it records none, what comes after it names the caller's span as its parent, so that nobody looks for a span
//! that does not exist. What is malformed begins a new trace and never refuses a request: a trace is a label, not a proof.

mod hop;
mod observer;
mod state;

pub use hop::{Hop, SpanId, TRACEPARENT, TraceContext, TraceId};
pub use observer::{Exchange, Observer, observe, samples, wants};
pub use state::TRACESTATE;
