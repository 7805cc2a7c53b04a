//! Bodies that stream through with bounds: so many bytes, never a pause longer than the setting, and not so slowly that
//! only a machine meant to tie us up would send so.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use countersign_http1::is_forbidden_trailer;
use countersign_sdk::accept::{Progress, Stalled};
use countersign_sdk::authenticate::{UserTerm, UserTermError};
use countersign_sdk::inbound::{Challenge, Denial};
use countersign_wire::codes::Code;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// What went wrong with a body while it streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than the limit.
    #[error("the body is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: u64,
    },
    /// The sender paused for longer than the limit.
    #[error("the body paused for more than {after_ms} ms")]
    Stalled {
        /// The limit.
        after_ms: u64,
    },
    /// The sender was waited for longer than what it sent is worth.
    #[error("the body came with fewer than {bytes_s} bytes a second")]
    TooSlow {
        /// The limit.
        bytes_s: u64,
    },
    /// The whole exchange had so much time, and no more.
    #[error("the body did not end in the time that the whole exchange has")]
    OutOfTime,
    /// Whoever it was asked for is no longer known: nothing streams for longer than its user is proven.
    #[error("the token of the user ended before the body did")]
    TokenEnded,
    /// It was taken back meanwhile.
    #[error("the token of the user was revoked before the body ended")]
    TokenRevoked,
    /// The connection that it came from broke.
    #[error("the body broke off")]
    BrokenOff,
}

impl BodyError {
    /// Its row of the registry.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::TooLong { .. } => Code::BodyTooLarge,
            Self::Stalled { .. } | Self::TooSlow { .. } | Self::OutOfTime => Code::RequestTimeout,
            Self::TokenEnded => Code::TokenExpired,
            Self::TokenRevoked => Code::TokenRevoked,
            Self::BrokenOff => Code::BodyMalformed,
        }
    }

    /// The refusal where it came in the place of an answer, as another service is told it.
    pub(crate) fn denial(self) -> Denial {
        let denial = Denial::new(self.code(), self.to_string());
        match self {
            Self::TokenEnded | Self::TokenRevoked => denial.with_challenge(Challenge::TxnToken),
            _ => denial,
        }
    }
}

/// Tells the pipeline afterwards what ended a request body: the client's fault is not the upstream's.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFault(Arc<OnceLock<BodyError>>);

impl BodyFault {
    /// The error that ended the body, if one did.
    pub(crate) fn seen(&self) -> Option<BodyError> {
        self.0.get().copied()
    }

    /// The first one counts.
    fn note(&self, error: BodyError) {
        let _ = self.0.set(error);
    }
}

/// The bounds of one body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Bytes in total.
    pub(crate) bytes_max: u64,
    /// Longest pause between two pieces.
    pub(crate) idle_timeout: Duration,
    /// How slowly it may come.
    pub(crate) slowest: Option<Slowest>,
}

/// How long a sender is waited for in sum: `grace`, and a second more for each `bytes_s` that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slowest {
    pub(crate) bytes_s: NonZeroU64,
    pub(crate) grace: Duration,
}

/// The time of one exchange, shared by the bodies of both directions: while one of them moves, the other may pause.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    /// `None`: there is but one body.
    pub(crate) progress: Option<Progress>,
    /// When all of it has to be over.
    pub(crate) ends: Option<Instant>,
    /// In whose name it goes on.
    pub(crate) user: Option<UserTerm>,
}

impl BodyLimits {
    fn stalled(&self) -> BodyError {
        BodyError::Stalled { after_ms: millis(self.idle_timeout) }
    }
}

impl Slowest {
    /// How long whoever sent so many bytes may have been waited for.
    fn worth(&self, bytes: u64) -> Duration {
        self.grace.saturating_add(Duration::from_millis(bytes.saturating_mul(1000) / self.bytes_s))
    }
}

impl Pace {
    /// For an exchange that began with `request`, and has `total` if that is limited.
    pub(crate) fn of<B>(request: &Request<B>, total: Option<Duration>) -> Self {
        let progress = request.extensions().get::<Progress>().cloned();
        let ends = total.and_then(|total| Instant::now().checked_add(total));
        Pace { progress, ends, user: None }
    }

    /// The same for a user: what streams ends at the earliest of certificate and token. Of the certificate, the connection
    /// takes care.
    pub(crate) fn with_user(self, user: Option<UserTerm>) -> Self {
        Pace { user, ..self }
    }

    /// The same for the answer, whose body this is.
    pub(crate) fn of_answer(&self, body: &impl Body) -> Self {
        let user = self.user.clone().and_then(|user| user.of_answer(body.size_hint().exact()));
        Pace { user, ..self.clone() }
    }

    /// Does `work`, unless nothing moves for `limit`, or the time of the exchange is over.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, work: F) -> Result<F::Output, Stalled> {
        self.in_all(Progress::of(self.progress.as_ref(), limit, work)).await.flatten()
    }

    /// Does `work`, unless the time of the exchange is over first.
    pub(crate) async fn in_all<F: Future>(&self, work: F) -> Result<F::Output, Stalled> {
        match self.ends {
            None => Ok(work.await),
            Some(ends) => tokio::time::timeout_at(ends, work).await.map_err(|_| Stalled),
        }
    }

    /// Whose fault it is that there is no answer within `limit` or in all: the client's, if its body was waited for.
    pub(crate) fn late_body(&self, limit: Duration) -> Option<BodyError> {
        self.progress.as_ref().filter(|progress| progress.awaits_sender())?;
        let is_over = self.ends.is_some_and(|ends| ends <= Instant::now());
        Some(if is_over { BodyError::OutOfTime } else { BodyError::Stalled { after_ms: millis(limit) } })
    }

    /// The same in a sidecar's words.
    pub(crate) fn late(&self, limit: Duration) -> Denial {
        match self.late_body(limit) {
            Some(error) => error.denial(),
            None => Denial::new(Code::UpstreamTimeout, "no answer in the time that the whole exchange has"),
        }
    }

    /// What ended the exchange by now, if anything did.
    pub(crate) fn over(&self) -> Option<BodyError> {
        match self.user.as_ref().map(UserTerm::judge) {
            Some(Err(UserTermError::Revoked(_))) => return Some(BodyError::TokenRevoked),
            Some(Err(UserTermError::Expired)) => return Some(BodyError::TokenEnded),
            None | Some(Ok(())) => {}
        }
        self.ends.filter(|ends| *ends <= Instant::now()).map(|_| BodyError::OutOfTime)
    }

    /// When it ends whatever moves, and what to say then.
    fn end(&self) -> Option<(Instant, BodyError)> {
        let ends = self.ends.map(|ends| (ends, BodyError::OutOfTime));
        let user_ends = self.user.as_ref().and_then(UserTerm::ends).map(|ends| (ends, BodyError::TokenEnded));
        ends.into_iter().chain(user_ends).min_by_key(|(end, _)| *end)
    }

    fn moved(&self) {
        if let Some(progress) = &self.progress {
            progress.moved();
        }
    }

    /// When something last moved in either direction, `since` or after.
    fn last(&self, since: Instant) -> Instant {
        self.progress.as_ref().map_or(since, |progress| progress.last().max(since))
    }
}

/// A body of the inner kind within [`BodyLimits`]. Nothing is buffered: a slow reader slows the sender down.
pub(crate) struct BoundedBody<B> {
    inner: B,
    limits: BodyLimits,
    bytes: u64,
    fault: BodyFault,
    pace: Pace,
    /// Its sender was waited for, before now.
    waited: Duration,
    waiting: Option<Waiting>,
}

/// Armed only while a piece is awaited, so that a reader's own pauses are not the sender's fault.
struct Waiting {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<B> BoundedBody<B> {
    pub(crate) fn new(inner: B, limits: BodyLimits, fault: BodyFault) -> Self {
        let (pace, waited) = (Pace::default(), Duration::ZERO);
        BoundedBody { inner, limits, bytes: 0, fault, pace, waited, waiting: None }
    }

    /// The same as one of the two bodies of an exchange.
    pub(crate) fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.fault.note(error);
        Poll::Ready(Some(Err(error)))
    }

    /// Waits for the next piece no longer than every limit allows.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let since = self.waiting.as_ref().map_or_else(Instant::now, |waiting| waiting.since);
        loop {
            let (end, error) = self.end(since);
            let waiting = self
                .waiting
                .get_or_insert_with(|| Waiting { since, timer: Box::pin(tokio::time::sleep_until(end)) });
            if waiting.timer.deadline() != end {
                waiting.timer.as_mut().reset(end);
            }
            ready!(waiting.timer.as_mut().poll(cx));
            // The other direction may have moved meanwhile.
            if self.end(since).0 <= end {
                return self.fail(error);
            }
        }
    }

    /// When waiting that began at `since` is over, and what to say then.
    fn end(&self, since: Instant) -> (Instant, BodyError) {
        let mut end = (self.pace.last(since) + self.limits.idle_timeout, self.limits.stalled());
        if let Some(slowest) = self.limits.slowest {
            let left = slowest.worth(self.bytes).saturating_sub(self.waited);
            let slow = (since + left, BodyError::TooSlow { bytes_s: slowest.bytes_s.get() });
            end = if slow.0 < end.0 { slow } else { end };
        }
        self.pace.end().filter(|(ends, _)| *ends < end.0).unwrap_or(end)
    }
}

impl<B> Body for BoundedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.pace.over() {
            return this.fail(error);
        }
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else { return this.wait(cx) };
        if let Some(waiting) = this.waiting.take() {
            this.waited = this.waited.saturating_add(waiting.since.elapsed());
        }
        this.pace.moved();
        match frame {
            None => Poll::Ready(None),
            // What it comes from may have seen first that it is over.
            Some(Err(_)) => this.fail(this.pace.over().unwrap_or(BodyError::BrokenOff)),
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    without_forbidden(trailers);
                }
                let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                this.bytes = this.bytes.saturating_add(length);
                if this.bytes > this.limits.bytes_max {
                    return this.fail(BodyError::TooLong { bytes_max: this.limits.bytes_max });
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Says how a body whose length nobody knows travels over HTTP/1.1: in chunks, whatever the method is. Without this word,
/// hyper sends a GET without its body, which is another request than the one that was decided.
pub(crate) fn state_framing(headers: &mut HeaderMap, body: &impl Body) {
    if body.size_hint().exact().is_none() && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 carries trailers that our codec for HTTP/1 refuses: what would mean something in a head goes nowhere.
fn without_forbidden(trailers: &mut HeaderMap) {
    let forbidden: Vec<_> =
        trailers.keys().filter(|name| is_forbidden_trailer(name.as_str())).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::{TrustDomain, UnixTime};
    use countersign_sdk::clock;
    use countersign_sdk::live::{Live, LiveCell};
    use countersign_token::TokenFacts;
    use countersign_wire::snapshot::{AccessTokenKeys, Policies, RevokedUser, Snapshot};
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    fn limits(bytes_max: u64) -> BodyLimits {
        BodyLimits { bytes_max, idle_timeout: Duration::from_millis(50), slowest: None }
    }

    /// Of time there is enough, also where the machine pauses.
    fn patient() -> BodyLimits {
        BodyLimits { idle_timeout: Duration::from_secs(60), ..limits(u64::MAX) }
    }

    #[tokio::test]
    async fn accepts_a_body_of_exactly_the_limit() {
        let fault = BodyFault::default();
        let body = BoundedBody::new(Full::new(Bytes::from_static(b"12345")), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "12345");
        assert_eq!(fault.seen(), None);
    }

    #[tokio::test]
    async fn rejects_a_body_one_byte_past_the_limit() {
        let fault = BodyFault::default();
        let body = BoundedBody::new(Full::new(Bytes::from_static(b"123456")), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::TooLong { bytes_max: 5 });
        assert_eq!(fault.seen(), Some(BodyError::TooLong { bytes_max: 5 }));
    }

    #[tokio::test]
    async fn trailers_that_would_mean_something_in_a_head_go_nowhere() {
        let mut trailers = HeaderMap::new();
        for name in ["x-user", "txn-token", "authorization", "connection", "grpc-status"] {
            trailers.insert(name, HeaderValue::from_static("0"));
        }
        let frames =
            [Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"1"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames));
        let read = BoundedBody::new(body, limits(5), BodyFault::default()).collect().await.unwrap();
        let left: Vec<_> = read.trailers().unwrap().keys().cloned().collect();
        assert_eq!(left, ["grpc-status"]);
    }

    #[tokio::test]
    async fn rejects_a_body_that_pauses_too_long() {
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        let fault = BodyFault::default();
        let body = BoundedBody::new(silent, limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::Stalled { after_ms: 50 });
        assert_eq!(fault.seen(), Some(BodyError::Stalled { after_ms: 50 }));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_from_one_that_ends() {
        let broken = futures::stream::iter([Err::<Frame<Bytes>, _>(BodyError::Stalled { after_ms: 1 })]);
        let fault = BodyFault::default();
        let body = BoundedBody::new(StreamBody::new(broken), limits(5), fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::BrokenOff);
        assert_eq!(fault.seen(), Some(BodyError::BrokenOff));
    }

    /// Gives a byte whenever so much time has passed.
    fn dripping(pause: Duration) -> impl Body<Data = Bytes, Error = BodyError> + Unpin {
        let drops = futures::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"."))), ()))
        });
        StreamBody::new(Box::pin(drops))
    }

    #[tokio::test]
    async fn rejects_a_body_that_never_pauses_and_drips() {
        let slowest = Slowest { bytes_s: NonZeroU64::new(1000).unwrap(), grace: Duration::from_millis(100) };
        let limits = BodyLimits { slowest: Some(slowest), ..patient() };
        let fault = BodyFault::default();
        let body = BoundedBody::new(dripping(Duration::from_millis(10)), limits, fault.clone());
        assert_eq!(body.collect().await.unwrap_err(), BodyError::TooSlow { bytes_s: 1000 });
        assert_eq!(fault.seen(), Some(BodyError::TooSlow { bytes_s: 1000 }));
        assert_eq!(slowest.worth(500), Duration::from_millis(600));
    }

    #[tokio::test]
    async fn rejects_a_body_that_outlives_the_time_of_its_exchange() {
        let pace = Pace { ends: Some(Instant::now() + Duration::from_millis(100)), ..Pace::default() };
        let body = BoundedBody::new(dripping(Duration::from_millis(10)), patient(), BodyFault::default());
        assert_eq!(body.paced(pace).collect().await.unwrap_err(), BodyError::OutOfTime);
    }

    #[tokio::test]
    async fn rejects_a_body_that_outlives_the_token_of_its_user_whether_it_moves_or_not() {
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        let quick =
            futures::stream::repeat_with(|| Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"."))));
        let limits = patient();
        let pace = Pace::default().with_user(Some(user(Duration::from_millis(80)).0));
        let mut silent = BoundedBody::new(silent, limits, BodyFault::default()).paced(pace.clone());
        assert_eq!(silent.frame().await.unwrap().unwrap_err(), BodyError::TokenEnded);
        let mut quick = BoundedBody::new(StreamBody::new(quick), limits, BodyFault::default()).paced(pace);
        assert_eq!(quick.frame().await.unwrap().unwrap_err(), BodyError::TokenEnded);
    }

    #[tokio::test]
    async fn rejects_a_body_whose_user_was_taken_back_also_where_it_may_outlive_the_token() {
        let (user, live) = user(Duration::ZERO);
        let pace = Pace::default().with_user(Some(user.outliving_the_token()));
        let moving = dripping(Duration::from_millis(1));
        let mut body = BoundedBody::new(moving, patient(), BodyFault::default()).paced(pace.clone());
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(pace.over(), None);
        revoke(&live);
        assert_eq!(body.frame().await.unwrap().unwrap_err(), BodyError::TokenRevoked);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_because_its_user_was_taken_back_is_not_blamed_on_its_sender() {
        let (user, live) = user(Duration::from_secs(60));
        let pace = Pace::default().with_user(Some(user));
        // Whoever hands it out sees it first.
        let broken = futures::stream::once(async move {
            revoke(&live);
            Err::<Frame<Bytes>, _>(BodyError::BrokenOff)
        });
        let broken = StreamBody::new(Box::pin(broken));
        let mut body = BoundedBody::new(broken, patient(), BodyFault::default()).paced(pace);
        assert_eq!(body.frame().await.unwrap().unwrap_err(), BodyError::TokenRevoked);
    }

    fn revoke(live: &LiveCell) {
        let mut snapshot = live.load().snapshot().clone();
        let until = clock::now().saturating_add(Duration::from_secs(60));
        snapshot.revoked.users.push(RevokedUser { id: "u_1".into(), issued_before: until, until });
        live.store(Live::compile(snapshot, None).unwrap());
    }

    /// Somebody whose token lives for so long from now on, and where it is said what was taken back.
    fn user(life: Duration) -> (UserTerm, Arc<LiveCell>) {
        let now = clock::now();
        let live = LiveCell::new(Live::compile(snapshot(now), None).unwrap());
        let (ids, subject, kid) = (vec!["txn".into()], "u_1".into(), "kid".into());
        let facts = TokenFacts { ids, subject, kid, issued_at: now, expires: now.saturating_add(life) };
        (UserTerm::of(facts.into(), Arc::clone(&live)), live)
    }

    fn snapshot(now: UnixTime) -> Snapshot {
        Snapshot {
            format: countersign_wire::snapshot::FORMAT,
            trust_domain: TrustDomain::parse("td").unwrap(),
            epoch: "e1".into(),
            sequence: 1,
            issued_at: now,
            valid_until: now.saturating_add(Duration::from_secs(60)),
            critical: Vec::new(),
            bundles: Vec::new(),
            access_token: AccessTokenKeys { issuer: "i".into(), audience: "a".into(), keys: Vec::new() },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Default::default(),
            sts: None,
        }
    }

    #[tokio::test]
    async fn a_direction_may_pause_for_as_long_as_the_other_moves() {
        let progress = Progress::begin();
        let pace = Pace { progress: Some(progress.clone()), ..Pace::default() };
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        // Long, because the machine may pause too.
        let limits = BodyLimits { idle_timeout: Duration::from_secs(1), ..limits(5) };
        let mut quiet = BoundedBody::new(silent, limits, BodyFault::default()).paced(pace);
        let other = async {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                progress.moved();
            }
        };
        tokio::select! {
            ended = quiet.frame() => panic!("it was ended while the other direction moved: {ended:?}"),
            () = other => {}
        }
        assert_eq!(quiet.frame().await.unwrap().unwrap_err(), BodyError::Stalled { after_ms: 1000 });
    }
}
