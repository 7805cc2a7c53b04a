//! The login stage: a client asks for an access token, and the authority is asked on its behalf.

use bytes::Bytes;
use countersign_policy::decide;
use countersign_request::{CanonicalRequest, DPOP};
use countersign_sdk::accept::RequestBody;
use countersign_sdk::clock;
use countersign_token::DpopProof;
use http::{HeaderValue, Method, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};

use super::{Asked, LOGIN_PATH, Pipeline};
use crate::body::{BodyError, BodyFault, BodyLimits};
use crate::forward::{self, EdgeBody};
use crate::listener::Arrival;
use crate::login::{LOGIN_BYTES_MAX, LoginAnswer, LoginDesk};
use crate::record::{Check, Trace};
use crate::refusal::Refusal;

impl Pipeline {
    pub(super) async fn log_in(
        &self,
        desk: &LoginDesk,
        request: &CanonicalRequest,
        body: RequestBody,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<Response<EdgeBody>, Refusal> {
        let client = arrival.address();
        trace.draft.asks_for(request.method(), LOGIN_PATH);
        AUTHORITY.clone_into(&mut trace.callee);
        if request.method() != Method::POST {
            return Err(Refusal::LoginMethod);
        }
        self.throttle.login(client, clock::now())?;
        self.guard.admit_login(client, LOGIN_PATH, request.headers(), clock::now(), &mut trace.told)?;
        trace.pass(Check::Route, "login");
        let key = self.key_of_login(request, arrival)?;
        trace.pass(Check::Token, if key.is_some() { "a key for the token" } else { "not asked for" });
        let asked = Asked { route: LOGIN_PATH, session: None, arrival, token_counts: false };
        let permit = {
            let live = self.live()?;
            self.decide(request, asked, &live, trace, decide)?
        };
        // A password is no business of a filter.
        trace.without(Check::Filter);
        let fault = BodyFault::default();
        let limits = BodyLimits { bytes_max: LOGIN_BYTES_MAX as u64, ..self.request_body_limits(false) };
        let body = forward::inbound_body(request.headers(), body, limits, &fault)?;
        let body = Limited::new(body, LOGIN_BYTES_MAX).collect().await;
        let body = body.map_err(|_| Refusal::Body(fault.seen().unwrap_or(BodyError::BrokenOff)))?;
        match desk.ask(permit, &body.to_bytes(), client, key.as_ref()).await? {
            LoginAnswer::Accepted(body) => {
                trace.pass(Check::Upstream, "200");
                Ok(login_response(body))
            }
            LoginAnswer::Refused => {
                self.guard.login_failed(client, clock::now());
                metrics::counter!("countersign_login_failures_total", "reason" => "refused").increment(1);
                Err(Refusal::LoginRefused)
            }
            LoginAnswer::Throttled { retry_after_s } => Err(Refusal::LoginThrottled { retry_after_s }),
        }
    }

    /// The key that the client of a login proves to hold, if it wants a token that is bound to one.
    fn key_of_login(
        &self,
        request: &CanonicalRequest,
        arrival: &Arrival,
    ) -> Result<Option<DpopProof>, Refusal> {
        let Some(proof) = request.headers().get(DPOP) else { return Ok(None) };
        let now = clock::now();
        let judged =
            self.proofs.judge(proof.to_str().unwrap_or_default(), arrival.scheme, request, None, now)?;
        self.proofs.admit(&judged, now)?;
        Ok(Some(judged.proof))
    }
}

fn login_response(body: Bytes) -> Response<EdgeBody> {
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // RFC 6749 section 5.1: a token is never cached.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

const AUTHORITY: &str = "authority";
