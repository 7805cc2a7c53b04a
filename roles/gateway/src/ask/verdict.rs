//! A question goes through the same stages as a request that came here, up to the internal token.

use countersign_request::{CanonicalRequest, DPOP};
use countersign_sdk::accept::Connection;
use countersign_sdk::authenticate::authenticate_forwarded;
use countersign_sdk::clock;
use countersign_sdk::inbound::DecisionDraft;
use countersign_sdk::outbound::InternalToken;
use countersign_sdk::trace::Hop;
use http::{HeaderValue, Response, StatusCode};

use super::edits::{Edits, Known};
use super::question::{Question, QuestionError};
use crate::forward::EdgeBody;
use crate::listener::{Arrival, Through};
use crate::pipeline::{GATEWAY, Judged, Pipeline};
use crate::proof::DPOP_NONCE;
use crate::record::{Check, Trace};
use crate::refusal::Refusal;
use crate::route::Target;

/// What the asker is told.
pub(crate) enum Verdict {
    /// It may go on, with these changes.
    Go(Edits),
    /// It may not, and this is what the client is to get.
    Stop(Box<Response<EdgeBody>>),
}

impl Pipeline {
    /// Answers a question over `connection`, whatever happens. The decision is in the ledger before a refusal is out.
    pub(crate) async fn ask(
        &self,
        question: Result<Question, QuestionError>,
        connection: &Connection,
    ) -> Verdict {
        let mut arrival = Arrival {
            connection: Some(connection.clone()),
            scheme: question.as_ref().map_or("https", |question| question.scheme),
            is_http_1: false,
            client: None,
            through: None,
        };
        // Proven in the handshake; judged again now, since that may be long ago.
        let question = match (question, connection.spiffe_id()) {
            (Ok(question), Some(proxy)) => {
                arrival.client = Some(question.client);
                arrival.through = Some(Through { proxy, workload: None });
                Ok(question)
            }
            (Ok(_), None) => Err(Refusal::NoAsker),
            (Err(error), _) => Err(Refusal::Question(error)),
        };
        let hop = match &question {
            Ok(question) => Hop::of_request(&question.head.headers),
            Err(_) => Hop::first(),
        };
        let mut draft = DecisionDraft::begin(GATEWAY, hop);
        draft.came_over(connection);
        let mut trace = Trace::new(draft, arrival.address());
        let proves_a_key = question.as_ref().is_ok_and(|question| question.head.headers.contains_key(DPOP));
        let outcome = match question {
            Ok(question) => {
                trace.draft.asks_for(&question.head.method, "");
                let considering = self.consider(question, &mut arrival, &mut trace);
                let late = Err(Refusal::TimedOut { after_ms: self.limits.request_timeout_ms });
                tokio::time::timeout(self.limits.request_timeout(), considering).await.unwrap_or(late)
            }
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(edits) => {
                if let Some(exchange) = self.recorder.allowed(trace, StatusCode::OK) {
                    exchange.ended(None);
                }
                Verdict::Go(edits)
            }
            Err(refusal) => {
                let mut answer = self.refused(trace, &refusal, &arrival).await;
                if proves_a_key && let Ok(nonce) = HeaderValue::from_str(&self.proofs.nonce(clock::now())) {
                    answer.headers_mut().insert(DPOP_NONCE, nonce);
                }
                Verdict::Stop(Box::new(answer))
            }
        }
    }

    async fn consider(
        &self,
        question: Question,
        arrival: &mut Arrival,
        trace: &mut Trace,
    ) -> Result<Edits, Refusal> {
        let request = self.admit(&question.head, arrival, trace)?;
        if let Some(through) = arrival.through.as_mut().filter(|_| !question.chain.is_empty()) {
            let trust = self.workload.trust();
            through.workload = Some(authenticate_forwarded(&question.chain, trust, clock::now())?);
        }
        let judged = self.judge_patiently(&request, None, arrival, trace).await?;
        let session = judged.session.as_deref();
        let token = session.map(|session| self.countersign(&judged.permit, session)).transpose()?;
        let rules = [&self.rules, &judged.route.headers];
        let edits = edits(&request, &judged, token.as_ref(), rules, arrival, trace);
        trace.pass(Check::Upstream, "left to the asker");
        Ok(edits)
    }
}

fn edits(
    request: &CanonicalRequest,
    judged: &Judged<'_>,
    token: Option<&InternalToken>,
    rules: [&crate::headers::Rules; 2],
    arrival: &Arrival,
    trace: &Trace,
) -> Edits {
    let wanted = match judged.target {
        Target::Service(_) => true,
        Target::Upstream(cluster) => cluster.takes_user_token(),
    };
    let workload = arrival.through.as_ref().and_then(|through| through.workload.as_ref());
    let known = Known {
        decision: trace.draft.id(),
        user: judged.session.as_deref().map(|session| &session.caller),
        workload: workload.map(|workload| &workload.id),
        token: token.filter(|_| wanted),
        client: arrival.address(),
        scheme: arrival.scheme,
        authority: request.authority().to_string(),
    };
    Edits::new(request.headers(), &judged.changes, rules, &known)
}
