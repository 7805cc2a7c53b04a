//! Whether a page of another origin may ask, answered before anybody is asked who asks.

use countersign_request::{AuthorityRef, CanonicalRequest, Head};
use http::{HeaderName, Method, Response};

use super::{LOGIN_PATH, Pipeline};
use crate::forward::EdgeBody;
use crate::guard::cors::Preflight;
use crate::listener::Arrival;
use crate::record::{Check, Trace};
use crate::refusal::Refusal;

impl Pipeline {
    /// The answer to a browser that asks whether a page of another origin may send a request. It comes without
    /// credentials and before there are any, and lets nothing through.
    pub(super) fn preflight(
        &self,
        request: &CanonicalRequest,
        arrival: &Arrival,
        trace: &mut Trace,
    ) -> Result<Option<Response<EdgeBody>>, Refusal> {
        let Some(asked) = Preflight::of(request.method(), request.headers()) else { return Ok(None) };
        let Some(method) = asked.method() else { return Ok(None) };
        let is_login = self.login.is_some() && request.path() == LOGIN_PATH;
        let route = self.routes.find(&WithMethod { request, method }).ok().filter(|_| !is_login);
        let cors = match route {
            Some(route) => self.guard.cors(&route.guard),
            None if is_login => self.guard.cors_of_all(),
            None => None,
        };
        let Some(cors) = cors else { return Ok(None) };
        trace.told.by(Some(cors));
        let template = route.map_or(LOGIN_PATH, |route| route.template.as_str());
        trace.draft.asks_for(request.method(), template);
        if let Some(route) = route {
            self.guard.admit_to(&route.guard, arrival.address())?;
        }
        let answer = cors.preflight(&asked)?;
        trace.pass(Check::Route, format!("preflight of {template}"));
        Ok(Some(answer))
    }
}

/// A request as it would be with another method: what a preflight asks about.
struct WithMethod<'a> {
    request: &'a CanonicalRequest,
    method: Method,
}

impl Head for WithMethod<'_> {
    fn method(&self) -> &Method {
        &self.method
    }

    fn authority(&self) -> AuthorityRef<'_> {
        Head::authority(self.request)
    }

    fn path(&self) -> &str {
        self.request.path()
    }

    fn query(&self) -> Option<&str> {
        self.request.query()
    }

    fn header_values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.request.header_values(name)
    }
}
