//! The layer in front of a service: canonical request, strip, authenticate, decide, record.
//!
//! It works on any `http` service and knows nothing of frameworks; the extractors for axum are in
//! [`extract`]. Deny by default: without a rule that permits, nobody gets in, and a service without
//! rules accepts nobody.

mod bound_body;
mod caller;
mod decision;
mod extract;
mod grpc;
mod handshakes;
mod lasting;
mod layer;
mod quick;
mod refusal;
mod signed_answer;
mod tenure;
mod token_codes;

use std::{sync::Arc, time::Duration};

use countersign_policy::Explainer;
use countersign_request::{CanonicalRequest, RouteError, RouteTable, RouteTableError, RouteTemplate};
use countersign_token::{ServiceTokenError, service_token::RequiredClaim};
use thiserror::Error;
use tower_layer::Layer;

pub use caller::Caller;
pub use decision::DecisionDraft;
pub use extract::{CallerMissing, EndUser, UserMissing};
pub use grpc::is_grpc;
pub use handshakes::HandshakeRecorder;
pub use lasting::Lasting;
pub use layer::{Afterword, Guarded, GuardedBody};
pub use quick::{CallerMark, DoorRecorder, Entered, QuickDoor, Recalled};
pub use refusal::{Challenge, Denial, new_decision_id};
pub use tenure::Tenure;

use crate::{
    authenticate::Authenticator,
    credentials::Credentials,
    live::{Live, LiveCell},
    spool::Spool,
};

/// Lets in whom the policy permits. Made by [`crate::workload::Workload::require`].
#[derive(Clone, Debug)]
pub struct Inbound {
    door: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    target: String,
    authenticator: Arc<Authenticator>,
    /// With what answers are signed.
    credentials: Option<Credentials>,
    live: Arc<LiveCell>,
    spool: Arc<Spool>,
    skipped: Vec<RouteTemplate>,
    routes: Option<RouteTable<()>>,
    /// Are routes those that the policies name, where nobody else says?
    routes_of_policies: bool,
    demands: Vec<(RouteTemplate, RequiredClaim)>,
    limits: DoorLimits,
    explainer: Explainer,
}

/// What one request may cost a service. Each has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorLimits {
    /// Body of a declared length, in bytes. One without a declared length is bounded by whoever reads it: the
    /// extractors of axum stop at 2 MiB.
    pub body_bytes_max: u64,
    /// Body to which the caller's evidence is bound, in bytes: it is held in memory and compared before the handler
    /// sees any of it. A longer one has to say that nothing is bound to it.
    pub bound_body_bytes_max: usize,
    /// From the request's head, or from the last piece of its body, to the answer's head.
    pub answer: Duration,
    /// What streams in a user's name, in either direction, may go on when the user's token has expired; that it was
    /// revoked ends it all the same. Otherwise it ends with the token.
    pub streams_may_outlive_their_users_token_insecure: bool,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 2 << 20,
            bound_body_bytes_max: 256 << 10,
            answer: Duration::from_secs(30),
            streams_may_outlive_their_users_token_insecure: false,
        }
    }
}

/// Why routes cannot be declared so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InboundError {
    /// Not a template.
    #[error("route {route:?} cannot be declared: {source}")]
    Route {
        /// As it was written.
        route: String,
        /// What is wrong with it.
        source: RouteError,
    },
    /// Two templates for the same paths.
    #[error(transparent)]
    Table(#[from] RouteTableError),
    /// A claim that cannot be demanded.
    #[error(transparent)]
    Claim(#[from] ServiceTokenError),
}

impl Inbound {
    /// A layer for the service `target`, which knows callers by `authenticator`, decides by `live` and records in
    /// `spool`.
    #[must_use]
    pub fn new(
        target: String,
        authenticator: Arc<Authenticator>,
        live: Arc<LiveCell>,
        spool: Arc<Spool>,
    ) -> Self {
        Self {
            door: Arc::new(Door {
                target,
                authenticator,
                credentials: None,
                live,
                spool,
                skipped: Vec::new(),
                routes: None,
                routes_of_policies: false,
                demands: Vec::new(),
                limits: DoorLimits::default(),
                explainer: Explainer::default(),
            }),
        }
    }

    /// Signs the answers to callers that ask for it, with the key of our workload identity token.
    #[must_use]
    pub fn signing_answers(mut self, credentials: Credentials) -> Self {
        self.door = Arc::new(Door { credentials: Some(credentials), ..self.parts() });
        self
    }

    /// Lets everybody use this route, whoever they are: `/healthz`. No caller is known there, even if
    /// there is one.
    ///
    /// # Errors
    /// `route` is not a template.
    pub fn skip(mut self, route: &str) -> Result<Self, InboundError> {
        let route = template(route)?;
        let mut skipped = self.door.skipped.clone();
        skipped.push(route);
        self.door = Arc::new(Door { skipped, ..self.parts() });
        Ok(self)
    }

    /// Names the routes of a service whose framework does not: policies speak of templates, never of paths.
    /// With axum this is not needed.
    ///
    /// # Errors
    /// One of them is not a template, or two match the same paths.
    pub fn routes<'a>(mut self, routes: impl IntoIterator<Item = &'a str>) -> Result<Self, InboundError> {
        let templates = routes.into_iter().map(|route| template(route).map(|route| (route, ())));
        let table = RouteTable::new(templates.collect::<Result<Vec<_>, _>>()?)?;
        self.door = Arc::new(Door { routes: Some(table), ..self.parts() });
        Ok(self)
    }

    /// For whoever stands in front of a service whose routes it does not know: the routes are those that the service's
    /// rules name. What they do not name, no rule can permit but one for the whole service.
    #[must_use]
    pub fn routes_of_policies(mut self) -> Self {
        self.door = Arc::new(Door { routes_of_policies: true, ..self.parts() });
        self
    }

    /// Demands of every request to `route` a claim that its caller signed, such as `tenant`: with this value, or with any
    /// for `None`. Of several demands that match a request each must be fulfilled.
    ///
    /// Only a self-signed token has claims ([`crate::ServiceClient::with_claim`]): callers who prove themselves in any
    /// other mode than `jwt` and `mtls+jwt` are refused here.
    ///
    /// # Errors
    /// `route` is not a template, or the name of the claim is a registered one.
    pub fn require_claim(
        mut self,
        route: &str,
        name: &str,
        value: Option<&str>,
    ) -> Result<Self, InboundError> {
        let mut demands = self.door.demands.clone();
        demands.push((template(route)?, RequiredClaim::new(name, value)?));
        self.door = Arc::new(Door { demands, ..self.parts() });
        Ok(self)
    }

    /// Other limits than the usual ones.
    #[must_use]
    pub fn limits(mut self, limits: DoorLimits) -> Self {
        self.door = Arc::new(Door { limits, ..self.parts() });
        self
    }

    fn parts(&self) -> Door {
        Door {
            target: self.door.target.clone(),
            authenticator: Arc::clone(&self.door.authenticator),
            credentials: self.door.credentials.clone(),
            live: Arc::clone(&self.door.live),
            spool: Arc::clone(&self.door.spool),
            skipped: self.door.skipped.clone(),
            routes: self.door.routes.clone(),
            routes_of_policies: self.door.routes_of_policies,
            demands: self.door.demands.clone(),
            limits: self.door.limits,
            explainer: Explainer::default(),
        }
    }
}

impl<S> Layer<S> for Inbound {
    type Service = Guarded<S>;

    fn layer(&self, service: S) -> Guarded<S> {
        Guarded::new(service, Arc::clone(&self.door))
    }
}

impl Door {
    fn is_skipped(&self, request: &CanonicalRequest) -> bool {
        self.skipped.iter().any(|route| route.matches(request))
    }

    /// Claims that are demanded of this request, by whatever templates.
    fn demanded(&self, request: &CanonicalRequest) -> Vec<&RequiredClaim> {
        let matching = self.demands.iter().filter(|(route, _)| route.matches(request));
        matching.map(|(_, claim)| claim).collect()
    }

    /// The template of the route, as the service declared it or as axum matched it. A path that no route has
    /// is called so, and never appears itself.
    fn route(&self, request: &CanonicalRequest, extensions: &http::Extensions, live: &Live) -> String {
        let declared = self.routes.as_ref().and_then(|routes| routes.find(request));
        match (declared, extensions.get::<axum::extract::MatchedPath>()) {
            (Some((template, ())), _) => template.as_str().to_owned(),
            (None, Some(matched)) => matched.as_str().to_owned(),
            (None, None) if self.routes_of_policies => {
                let named = live.routes().find(request).map(|(template, ())| template.as_str().to_owned());
                named.unwrap_or_else(|| UNMATCHED.to_owned())
            }
            (None, None) => UNMATCHED.to_owned(),
        }
    }
}

fn template(route: &str) -> Result<RouteTemplate, InboundError> {
    RouteTemplate::parse(route).map_err(|source| InboundError::Route { route: route.to_owned(), source })
}

/// What policies and records say of a path that no route has.
const UNMATCHED: &str = "(unmatched)";
