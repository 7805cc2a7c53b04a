//! Time without timers: each connection states when its present phase must be over, and one sweep in a quarter of a
//! second looks at all of them. The same sweep asks whether their peers are still believed.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use countersign_identity::UnixTime;
use countersign_sdk::accept::{Belief, Doubt, Limits, Serving};
use countersign_sdk::clock;
use http::HeaderValue;

use crate::upstream::Proof;

/// The connections of one worker, and its coarse time.
pub(crate) struct Watch {
    now: Cell<u32>,
    watched: RefCell<Vec<Weak<Watched>>>,
    date: RefCell<HeaderValue>,
}

/// One connection.
pub(crate) struct Watched {
    watch: Rc<Watch>,
    belief: Belief,
    /// Its peer is believed no longer, and never again.
    doubted: Cell<bool>,
    /// Who answers the request in progress, where that was proven, until the answer has ended.
    source: RefCell<Option<Rc<Proof>>>,
    /// That one is believed no longer.
    source_doubted: Cell<bool>,
    old_at: u32,
    limits: Limits,
    /// When the present phase must be over.
    phase_ends: Cell<u32>,
    /// No more requests, once this is set.
    drains: Cell<bool>,
    /// When the connection ends, whatever it does.
    cut_at: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

/// Why something did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The phase took too long.
    Late,
    /// The connection shall take no more requests.
    Drain,
    /// The connection ends now.
    Cut,
    /// Whoever answers is no longer believed.
    Source,
}

impl Watch {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { now: Cell::new(0), watched: RefCell::default(), date: RefCell::new(date()) })
    }

    /// Sweeps until this is dropped.
    pub(crate) async fn run(self: Rc<Self>, serving: Serving) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = serving.cut.cancelled() => {
                    self.each(|watched| watched.cut_at.set(0));
                    // Those that were admitted before the order and begin after it.
                    ticks.tick().await;
                }
            }
            self.now.set(self.now.get().saturating_add(1));
            self.date.replace(date());
            let (now, draining) = (clock::now(), serving.draining.is_cancelled());
            self.each(|watched| watched.judge(now, draining));
        }
    }

    /// The value of `Date` (RFC 9110 section 6.6.1).
    pub(crate) fn date(&self) -> HeaderValue {
        self.date.borrow().clone()
    }

    /// Begins to watch a connection.
    pub(crate) fn enter(self: &Rc<Self>, belief: Belief, limits: &Limits) -> Rc<Watched> {
        let watched = Rc::new(Watched {
            watch: Rc::clone(self),
            belief,
            doubted: Cell::new(false),
            source: RefCell::default(),
            source_doubted: Cell::new(false),
            old_at: self.after(limits.connection_age),
            limits: *limits,
            phase_ends: Cell::new(NEVER),
            drains: Cell::new(false),
            cut_at: Cell::new(NEVER),
            waker: RefCell::default(),
        });
        // Trust may have changed after the handshake was judged.
        watched.judge(clock::now(), false);
        self.watched.borrow_mut().push(Rc::downgrade(&watched));
        watched
    }

    fn each(&self, work: impl Fn(&Watched)) {
        self.watched.borrow_mut().retain(|watched| {
            let Some(watched) = watched.upgrade() else { return false };
            work(&watched);
            if watched.interrupt(true).is_some() {
                watched.wake();
            }
            true
        });
    }

    /// The first tick that is later than `span` from now.
    fn after(&self, span: Duration) -> u32 {
        let ticks = span.as_millis().div_ceil(TICK.as_millis()).saturating_add(1);
        self.now.get().saturating_add(u32::try_from(ticks).unwrap_or(NEVER))
    }
}

impl Watched {
    /// From now on, what is done must be done within `span`.
    pub(crate) fn begin(&self, span: Duration) {
        self.phase_ends.set(self.watch.after(span));
    }

    /// From now on, only the end of the connection interrupts.
    pub(crate) fn begin_without_end(&self) {
        self.phase_ends.set(NEVER);
    }

    /// From now on, what is done counts on whoever this proves, and on nobody else.
    pub(crate) fn relies_on(&self, source: Option<&Rc<Proof>>) {
        self.source.replace(source.cloned());
        self.source_doubted.set(false);
    }

    /// Should the connection take no more requests?
    pub(crate) fn drains(&self) -> bool {
        self.drains.get()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn date(&self) -> HeaderValue {
        self.watch.date()
    }

    /// Waits for the first byte of a request: an order to drain ends that.
    pub(crate) async fn idle<F: Future>(&self, work: F) -> Result<F::Output, Interrupt> {
        self.until_interrupted(work, true).await
    }

    /// Does `work` unless the phase ends first or the connection does.
    pub(crate) async fn busy<F: Future>(&self, work: F) -> Result<F::Output, Interrupt> {
        self.until_interrupted(work, false).await
    }

    async fn until_interrupted<F: Future>(&self, work: F, is_idle: bool) -> Result<F::Output, Interrupt> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.poll(cx, is_idle, work.as_mut())).await
    }

    fn poll<F: Future>(
        &self,
        cx: &mut Context<'_>,
        is_idle: bool,
        work: Pin<&mut F>,
    ) -> Poll<Result<F::Output, Interrupt>> {
        if let Poll::Ready(done) = work.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Some(interrupt) = self.interrupt(is_idle) {
            return Poll::Ready(Err(interrupt));
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn interrupt(&self, is_idle: bool) -> Option<Interrupt> {
        let now = self.watch.now.get();
        if now >= self.cut_at.get() {
            Some(Interrupt::Cut)
        } else if self.source_doubted.get() {
            Some(Interrupt::Source)
        } else if now >= self.phase_ends.get() {
            Some(Interrupt::Late)
        } else {
            (is_idle && self.drains.get()).then_some(Interrupt::Drain)
        }
    }

    fn judge(&self, now: UnixTime, draining: bool) {
        if self.source.borrow().as_ref().is_some_and(|proof| !proof.is_believed(now)) {
            self.source_doubted.set(true);
        }
        if self.doubted.get() {
            return;
        }
        match self.belief.judge(now) {
            Err(Doubt::Peer) => {
                self.doubted.set(true);
                self.end_within(self.limits.cut);
            }
            Err(Doubt::Floor) => self.end_within(self.limits.drain),
            Ok(()) if draining || self.watch.now.get() >= self.old_at => self.end_within(self.limits.drain),
            Ok(()) => {}
        }
    }

    fn end_within(&self, span: Duration) {
        self.drains.set(true);
        self.cut_at.set(self.cut_at.get().min(self.watch.after(span)));
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

fn date() -> HeaderValue {
    let since = Duration::from_millis(u64::try_from(clock::now().millis()).unwrap_or(0));
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since);
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// How coarse time is here.
pub(crate) const TICK: Duration = Duration::from_millis(250);
const NEVER: u32 = u32::MAX;
