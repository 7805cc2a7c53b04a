//! Which tries may be repeated, and how many of them: retries must not become the outage that they answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::settings::Retry;

/// Further tries of a window, in proportion to its requests.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u64,
    min: u64,
    window: Mutex<Option<Window>>,
}

/// Begins with the first retry that is asked for: without failures nobody counts anything.
#[derive(Debug)]
struct Window {
    began: Instant,
    requests_before: u64,
    retries: u64,
}

impl Budget {
    pub(super) fn new(settings: &Retry) -> Self {
        Budget {
            percent: settings.budget_percent.into(),
            min: settings.budget_min.into(),
            window: Mutex::default(),
        }
    }

    /// Takes one retry out of the budget, if there is one; `requests` is how many ever began.
    pub(super) fn take(&self, requests: u64, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Window { began: now, requests_before: requests, retries: 0 };
        let window = match window.as_mut() {
            Some(window) if now.duration_since(window.began) < WINDOW => window,
            _ => window.insert(fresh()),
        };
        let requests = requests.saturating_sub(window.requests_before);
        if window.retries >= self.min + requests * self.percent / 100 {
            return false;
        }
        window.retries += 1;
        true
    }
}

/// Would doing it twice be the same as doing it once (RFC 9110 section 9.2.2)?
pub(super) const fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, min: u32) -> Budget {
        Budget::new(&Retry { tries_max: 2, budget_percent: percent, budget_min: min })
    }

    fn taken(budget: &Budget, requests: u64, now: Instant) -> usize {
        (0..1_000).filter(|_| budget.take(requests, now)).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests_of_a_window() {
        let (budget, now) = (budget(20, 3), Instant::now());
        assert_eq!(taken(&budget, 5_000, now), 3, "requests before the window do not count");
        assert_eq!(taken(&budget, 5_100, now), 20, "a fifth of a hundred, and three before");
        assert_eq!(taken(&budget, 5_100, now + WINDOW / 2), 0);
        assert_eq!(taken(&budget, 5_100, now + WINDOW), 3, "a new window begins with the minimum");
    }

    #[test]
    fn without_a_share_and_a_minimum_nothing_is_repeated() {
        assert_eq!(taken(&budget(0, 0), 1_000_000, Instant::now()), 0);
    }

    #[test]
    fn only_what_may_be_done_twice_is_idempotent() {
        let yes = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
        assert!(yes.iter().all(is_idempotent));
        assert!(![Method::POST, Method::PATCH].iter().any(is_idempotent));
    }
}
