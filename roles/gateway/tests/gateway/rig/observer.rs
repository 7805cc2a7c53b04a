//! Whoever hears of every request of this process: of all tests, so each looks for its own.

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use countersign_sdk::trace::{Exchange, Observer, TraceId, observe};

/// What was heard.
#[derive(Default)]
pub struct Heard(Mutex<Vec<Exchange>>);

struct Listening(&'static Heard);

/// Begins the ids of traces that the observer does not sample.
pub const UNSAMPLED: &str = "0e";

/// From now on every request is heard of, and each hop of a trace is a span of its own.
pub fn listen() -> &'static Heard {
    static HEARD: OnceLock<Heard> = OnceLock::new();
    static LISTENING: OnceLock<bool> = OnceLock::new();
    let heard = HEARD.get_or_init(Heard::default);
    assert!(LISTENING.get_or_init(|| observe(Box::new(Listening(heard)))), "somebody else observes");
    heard
}

impl Heard {
    /// Those that fit, once there are so many.
    pub async fn of(&self, count: usize, fits: impl Fn(&Exchange) -> bool) -> Vec<Exchange> {
        for _ in 0..200 {
            let found: Vec<Exchange> =
                self.0.lock().unwrap().iter().filter(|exchange| fits(exchange)).cloned().collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "each request ends once: {found:?}");
                return found;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no {count} such requests were heard of: {:?}", self.0.lock().unwrap());
    }
}

impl Observer for Listening {
    fn records_spans(&self) -> bool {
        true
    }

    fn samples(&self, trace: TraceId) -> bool {
        !trace.to_string().starts_with(UNSAMPLED)
    }

    fn wants(&self, _status: u16, _is_sampled: bool) -> bool {
        true
    }

    fn ended(&self, exchange: Exchange) {
        self.0.0.lock().unwrap().push(exchange);
    }
}
