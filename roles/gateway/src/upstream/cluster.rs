//! One upstream: its endpoints, and which of them the next request goes to.
//!
//! [`Cluster::pick`] touches one shared pointer (the roster) and atomics of one endpoint. Everything that changes the
//! roster, an ejection, a verdict of a health check, an answer of DNS, is rare, takes a lock, and makes a new one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dial::{Dialed, Dialer};
use super::endpoint::{Endpoint, Found};
use super::error::UpstreamError;
use super::meter::Meter;
use super::retry::Budget;
use super::roster::{Member, Roster};
use super::settings::{AnswerHead, Breaker, Outlier, Retry, Timeouts};

/// One upstream by name.
pub(crate) struct Cluster {
    pub(super) name: String,
    pub(super) host: Option<http::HeaderValue>,
    pub(super) takes_user_token: bool,
    pub(super) dialer: Dialer,
    pub(super) timeouts: Timeouts,
    pub(super) answer_head: AnswerHead,
    pub(super) retry: Retry,
    pub(super) budget: Budget,
    pub(super) meter: Meter,
    breaker: Breaker,
    outlier: Outlier,
    panic_percent: u8,
    roster: ArcSwap<Roster>,
    /// Held by whoever makes a new roster.
    changing: Mutex<()>,
    /// The last thing that went wrong.
    trouble: Mutex<String>,
    /// Wakes the keeper when an ejection has begun.
    pub(super) ejected: Notify,
    /// Wakes the checks when there are other endpoints.
    pub(super) changed: Notify,
    /// Cancelled once discovery has answered for the first time.
    pub(super) answered: CancellationToken,
    started: Instant,
}

/// What a cluster is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) host: Option<http::HeaderValue>,
    pub(super) takes_user_token: bool,
    pub(super) dialer: Dialer,
    pub(super) timeouts: Timeouts,
    pub(super) answer_head: AnswerHead,
    pub(super) retry: Retry,
    pub(super) breaker: Breaker,
    pub(super) outlier: Outlier,
    pub(super) panic_percent: u8,
}

/// One request at one endpoint, from the choice to the end of its answer. Counted as long as it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
}

/// How a try ended, as far as it tells something of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer with this status.
    Answered(u16),
    /// No connection, no answer in time, or the connection broke before one.
    Failed,
}

impl Cluster {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Cluster {
            meter: Meter::new(&parts.name),
            name: parts.name,
            host: parts.host,
            takes_user_token: parts.takes_user_token,
            dialer: parts.dialer,
            timeouts: parts.timeouts,
            answer_head: parts.answer_head,
            budget: Budget::new(&parts.retry),
            retry: parts.retry,
            breaker: parts.breaker,
            outlier: parts.outlier,
            panic_percent: parts.panic_percent,
            roster: ArcSwap::default(),
            changing: Mutex::default(),
            trouble: Mutex::new("discovery has not answered yet".to_owned()),
            ejected: Notify::new(),
            changed: Notify::new(),
            answered: CancellationToken::new(),
            started: Instant::now(),
        })
    }

    /// What a route's `to` says.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its waiting times.
    pub(crate) const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// How long the head of an answer may be.
    pub(crate) const fn answer_head(&self) -> &AnswerHead {
        &self.answer_head
    }

    /// How to connect to its endpoints.
    pub(crate) const fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// What `Host` says there, if not what the client asked for.
    pub(crate) const fn host(&self) -> Option<&http::HeaderValue> {
        self.host.as_ref()
    }

    /// Whether the end user's internal token goes along.
    pub(crate) const fn takes_user_token(&self) -> bool {
        self.takes_user_token
    }

    /// A connection of the carrier's own to where `lease` leads. `None`: there may be no more at the moment.
    ///
    /// # Errors
    /// Nobody is there in time, or not whom we expect.
    pub(crate) async fn dial(&self, lease: &Lease) -> Result<Option<Dialed>, UpstreamError> {
        let Some(seat) = lease.endpoint().seat() else { return Ok(None) };
        let dialed = self.dialer.dial(lease.endpoint(), Some(seat)).await?;
        self.meter.connected();
        Ok(Some(dialed))
    }

    /// The refusal of an endpoint whose connection ended before it answered.
    pub(crate) fn broke(&self, lease: &Lease, why: &str) -> UpstreamError {
        let endpoint = lease.endpoint().place().to_string();
        UpstreamError::Broken { upstream: self.name.clone(), endpoint, why: why.to_owned() }
    }

    /// The refusal of an endpoint whose answer is not HTTP of the version that it is spoken to in.
    pub(crate) fn unreadable(&self, lease: &Lease, why: &str) -> UpstreamError {
        UpstreamError::NotHttp {
            upstream: self.name.clone(),
            endpoint: lease.endpoint().place().to_string(),
            protocol: self.dialer.protocol(),
            why: why.to_owned(),
        }
    }

    /// Takes one further try out of the budget, if there is one.
    pub(crate) fn may_retry(&self) -> bool {
        let may = self.retry.tries_max > 0 && self.budget.take(self.begun(), Instant::now());
        if may {
            self.meter.retried();
        }
        may
    }

    /// The refusal of an endpoint that does not answer in time.
    pub(crate) fn late(&self, lease: &Lease) -> UpstreamError {
        let endpoint = lease.endpoint().place().to_string();
        let after_ms = self.timeouts.answer_ms;
        UpstreamError::AnswerTimedOut { upstream: self.name.clone(), endpoint, after_ms }
    }

    /// The less loaded of two usable endpoints that chance names.
    ///
    /// # Errors
    /// There is none, or they are full.
    pub(crate) fn pick(&self) -> Result<Lease, UpstreamError> {
        let roster = self.roster.load();
        let chosen = roster.choose(rand::random()).ok_or_else(|| self.refuse_without(&roster))?;
        if chosen.endpoint.begin() {
            return Ok(Lease { endpoint: Arc::clone(&chosen.endpoint) });
        }
        self.pick_least(&roster, &[])
    }

    /// The least loaded usable endpoint, none of `avoid` as long as there are others.
    ///
    /// # Errors
    /// There is none, or they are full.
    pub(super) fn pick_other(&self, avoid: &[u32]) -> Result<Lease, UpstreamError> {
        if avoid.is_empty() {
            return self.pick();
        }
        self.pick_least(&self.roster.load(), avoid)
    }

    fn pick_least(&self, roster: &Roster, avoid: &[u32]) -> Result<Lease, UpstreamError> {
        if let Some(member) = roster.least(avoid, Endpoint::begin) {
            return Ok(Lease { endpoint: Arc::clone(&member.endpoint) });
        }
        let Some(full) = roster.usable().first() else { return Err(self.refuse_without(roster)) };
        self.meter.refused("requests_max");
        Err(self.full(&full.endpoint, "requests_max", self.breaker.requests_max.get()))
    }

    /// The refusal that names a setting of `breaker`.
    pub(super) fn full(&self, endpoint: &Endpoint, setting: &'static str, limit: u32) -> UpstreamError {
        let endpoint = endpoint.place().to_string();
        UpstreamError::Full { upstream: self.name.clone(), endpoint, setting, limit }
    }

    pub(super) const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    fn refuse_without(&self, roster: &Roster) -> UpstreamError {
        self.meter.refused("no_endpoint");
        self.no_endpoint(roster)
    }

    fn no_endpoint(&self, roster: &Roster) -> UpstreamError {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match roster.all.len() {
            0 => format!("none is known: {trouble}"),
            count => format!("of {count} none is well: {trouble}"),
        };
        UpstreamError::NoEndpoint { upstream: self.name.clone(), why }
    }

    /// Why no request could go anywhere now, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let roster = self.roster.load();
        roster.usable().is_empty().then(|| self.no_endpoint(&roster).to_string())
    }

    /// Closes idle connections that waited for too long.
    pub(super) fn prune(&self) {
        for member in &self.roster.load().all {
            if let Some(pool) = member.endpoint.pool_if_used() {
                pool.prune(self.timeouts.idle(), false);
            }
        }
    }

    /// The last thing that went wrong, for the next refusal.
    pub(super) fn note_trouble(&self, what: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Every endpoint that discovery names now.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.roster.load().all.iter().map(|member| Arc::clone(&member.endpoint)).collect()
    }

    /// From now on, there are these. Who was there before stays the same endpoint; who is no longer finishes its
    /// requests and gets no more.
    pub(super) fn set_endpoints(self: &Arc<Self>, found: Vec<Found>) {
        let _one_writer = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.roster.load_full();
        let mut all: Vec<Member> = Vec::with_capacity(found.len());
        for found in found {
            if all.iter().any(|member| *member.endpoint.place() == found.place) {
                continue;
            }
            let kept = old.all.iter().find(|member| *member.endpoint.place() == found.place);
            let endpoint = kept.map_or_else(
                || Endpoint::new(found.place, Arc::downgrade(self), &self.breaker),
                |member| Arc::clone(&member.endpoint),
            );
            all.push(Member { endpoint, weight: found.weight.get(), priority: found.priority });
        }
        self.publish(Roster::new(all, self.panic_percent));
        self.changed.notify_one();
        let new = self.roster.load();
        for member in &old.all {
            if !new.all.iter().any(|kept| Arc::ptr_eq(&kept.endpoint, &member.endpoint)) {
                member.endpoint.retire();
                if let Some(pool) = member.endpoint.pool_if_used() {
                    pool.prune(self.timeouts.idle(), true);
                }
                self.meter.retire(member.endpoint.begun());
            }
        }
    }

    /// What an active check has found.
    pub(super) fn set_well(&self, endpoint: &Endpoint, well: bool) {
        let _one_writer = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        endpoint.health.unwell.store(!well, Ordering::Relaxed);
        self.renew();
    }

    /// Leaves an endpoint alone for a while, unless too many are already.
    fn eject(&self, endpoint: &Endpoint) {
        let _one_writer = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let health = &endpoint.health;
        let is_ejected = |endpoint: &Endpoint| endpoint.health.ejected_until.load(Ordering::Relaxed) != 0;
        if is_ejected(endpoint) || endpoint.is_gone() {
            return;
        }
        health.failures.store(0, Ordering::Relaxed);
        let roster = self.roster.load_full();
        let ejected = roster.all.iter().filter(|member| is_ejected(&member.endpoint)).count();
        if (ejected + 1) * 100 > roster.all.len() * usize::from(self.outlier.ejected_max_percent) {
            return;
        }
        let times = health.ejections.fetch_add(1, Ordering::Relaxed);
        let pause = self.outlier.eject_ms.saturating_mul(1 << times.min(20)).min(self.outlier.eject_max_ms);
        health.ejected_until.store(self.elapsed_ms().saturating_add(pause).max(1), Ordering::Relaxed);
        self.meter.ejected();
        tracing::warn!(upstream = self.name, endpoint = %endpoint.place(), pause_ms = pause,
            "an endpoint is left alone after repeated failures");
        self.renew();
        self.ejected.notify_one();
    }

    /// Takes back those whose time is over; says how long until the next one.
    pub(super) fn readmit(&self) -> Option<Duration> {
        let _one_writer = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, mut next, mut changed) = (self.elapsed_ms(), None, false);
        for member in &self.roster.load_full().all {
            match member.endpoint.health.ejected_until.load(Ordering::Relaxed) {
                0 => {}
                until if until <= now => {
                    member.endpoint.health.ejected_until.store(0, Ordering::Relaxed);
                    changed = true;
                }
                until => next = Some(next.map_or(until, |next: u64| next.min(until))),
            }
        }
        if changed {
            self.renew();
        }
        next.map(|until| Duration::from_millis(until - now))
    }

    /// The same endpoints, judged again. The caller holds `changing`.
    fn renew(&self) {
        self.publish(Roster::new(self.roster.load().all.clone(), self.panic_percent));
    }

    fn publish(&self, roster: Roster) {
        if roster.panicking && !self.roster.load().panicking {
            tracing::warn!(upstream = self.name, "so few endpoints are well that all of them are used");
        }
        self.meter.endpoints(&roster);
        self.roster.store(Arc::new(roster));
    }

    /// Requests that ever began, at endpoints of all times.
    pub(super) fn begun(&self) -> u64 {
        let now: u64 = self.roster.load().all.iter().map(|member| member.endpoint.begun()).sum();
        now + self.meter.retired()
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Lease {
    /// Where the request goes.
    pub(crate) const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Tells how the try ended. Enough failures in a row, and the endpoint is left alone for a while. A try that was given
    /// up by the client tells nothing: drop the lease.
    pub(crate) fn report(&self, outcome: Outcome) {
        let health = &self.endpoint.health;
        if !outcome.is_failure() {
            // Written only when there is something to forget: good answers share no cache line.
            if health.failures.load(Ordering::Relaxed) != 0 {
                health.failures.store(0, Ordering::Relaxed);
            }
            let is_back = health.ejected_until.load(Ordering::Relaxed) == 0;
            if is_back && health.ejections.load(Ordering::Relaxed) != 0 {
                health.ejections.store(0, Ordering::Relaxed);
            }
            return;
        }
        let failures = health.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(cluster) = self.endpoint.cluster() else { return };
        cluster.meter.failed();
        if cluster.outlier.failures != 0 && failures >= cluster.outlier.failures {
            cluster.eject(&self.endpoint);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.end();
    }
}

impl Outcome {
    const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Answered(502..=504))
    }
}
