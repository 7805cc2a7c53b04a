//! The operator's own filters, between the decision and the way to the service.

use countersign_request::CanonicalRequest;
use countersign_sdk::accept::RequestBody;

use super::onward::streams;
use super::{Judged, Pipeline};
use crate::filter::{Asked, Changes};
use crate::listener::Arrival;
use crate::record::{Check, Trace};
use crate::refusal::Refusal;

impl Pipeline {
    /// The operator's own filters: last, so that they are asked only about what is permitted, and can only narrow it.
    pub(super) async fn filter(
        &self,
        request: &CanonicalRequest,
        judged: &Judged<'_>,
        body: Option<&mut RequestBody>,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<Changes, Refusal> {
        let named = judged.route.filters.as_deref();
        if self.filters.is_empty() || named.is_some_and(<[String]>::is_empty) {
            trace.without(Check::Filter);
            return Ok(Changes::default());
        }
        let through = arrival.through.as_ref().and_then(|through| through.workload.as_ref());
        let user = judged.session.as_deref().and_then(|session| session.caller.user());
        let asked = Asked {
            request,
            decision: trace.draft.id(),
            route: judged.route.template.as_str(),
            target: judged.target.as_str(),
            client: Some(arrival.address()),
            scheme: arrival.scheme,
            workload: through.map(|workload| &workload.id),
            user: user.map(|user| user.get()),
        };
        let body =
            body.map(|body| (body, self.request_body_limits(streams(request, arrival, judged.target))));
        let consulted = self.filters.consult(&judged.permit, named, &asked, body).await?;
        trace.pass(Check::Filter, consulted.told);
        Ok(consulted.changes)
    }
}
