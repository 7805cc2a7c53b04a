//! The SPIFFE Workload API (SPIFFE_Workload_API.md): the profile X.509-SVID, and the doors of the other two.
//!
//! Every message is complete: what is not in it is withdrawn (section 4.4). A stream speaks at once, then on
//! each renewal, CRL and bundle, and ends with `PermissionDenied` when the caller is nobody any more.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use countersign_sdk::clock;
use countersign_wire::WORKLOAD_METADATA;
use countersign_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use countersign_wire::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use futures::Stream;
use futures::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::agent::Core;
use crate::registry::Registered;
use crate::serve::{caller, gone, starting};
use crate::snapshot::Held;
use crate::svid::{Svid, SvidSource, SvidState};
use crate::token_bundles::{self, Bundles, SvidKind};
use crate::{jwt_svid, wit_svid};

/// The service, on the agent's socket.
#[derive(Debug)]
pub(crate) struct WorkloadApi(pub(crate) Arc<Core>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// SPIFFE_Workload_Endpoint.md section 5: without exactly this metadata no call is served. It keeps out
/// programs that were talked into sending a request on somebody else's behalf.
pub(crate) fn demand_metadata(request: Request<()>) -> Result<Request<()>, Status> {
    let (name, value) = WORKLOAD_METADATA;
    let mut sent = request.metadata().get_all(name).iter();
    match (sent.next(), sent.next()) {
        (Some(only), None) if only.as_bytes() == value.as_bytes() => Ok(request),
        _ => Err(Status::invalid_argument(format!("the security header {name}: {value} is missing"))),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let (process, held) = caller(&self.0, request.extensions())?;
        if self.0.snapshots.borrow().is_none() {
            return Err(starting());
        }
        self.0.limits.certificate(process.key())?;
        let svid = SvidSource::watch(&self.0, &process, &held);
        let feed =
            Feed { snapshots: self.0.snapshots.subscribe(), held, svid: Some(svid), said: None, over: false };
        Ok(Response::new(feed.into_stream(Said::svids)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        if self.0.snapshots.borrow().is_none() {
            return Err(starting());
        }
        let feed =
            Feed { snapshots: self.0.snapshots.subscribe(), held, svid: None, said: None, over: false };
        Ok(Response::new(feed.into_stream(Said::bundles)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let (process, held) = caller(&self.0, request.extensions())?;
        jwt_svid::fetch(&self.0, &process, &held, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        self.snapshot()?;
        let said = |bundles: Bundles| JwtBundlesResponse {
            bundles: bundles.into_iter().map(|(id, keys)| (id, keys.into_bytes())).collect(),
        };
        Ok(Response::new(token_bundles::feed(held, self.0.snapshots.subscribe(), SvidKind::Jwt, said)))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        caller(&self.0, request.extensions())?;
        let snapshot = self.snapshot()?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        jwt_svid::validate(snapshot.live.snapshot(), &audience, &svid, clock::now()).map(Response::new)
    }

    async fn fetch_witsvid(
        &self,
        request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        let (process, held) = caller(&self.0, request.extensions())?;
        jwt_svid::must_be_own(&held, &request.get_ref().spiffe_id)?;
        Ok(Response::new(wit_svid::feed(Arc::clone(&self.0), process, held)))
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        let (_, held) = caller(&self.0, request.extensions())?;
        self.snapshot()?;
        let said = |bundles: Bundles| WitBundlesResponse { bundles };
        Ok(Response::new(token_bundles::feed(held, self.0.snapshots.subscribe(), SvidKind::Wit, said)))
    }
}

impl WorkloadApi {
    fn snapshot(&self) -> Result<Arc<Held>, Status> {
        self.0.snapshots.borrow().clone().ok_or_else(starting)
    }
}

/// One open stream.
struct Feed {
    held: Arc<Registered>,
    /// Absent for those who want bundles only.
    svid: Option<watch::Receiver<SvidState>>,
    snapshots: watch::Receiver<Option<Arc<Held>>>,
    said: Option<Said>,
    over: bool,
}

/// Everything that one message says.
#[derive(Debug, Clone)]
struct Said {
    svid: Option<(String, Arc<Svid>)>,
    own: String,
    /// By the SPIFFE ID of the trust domain; concatenated DER.
    bundles: HashMap<String, Vec<u8>>,
    crl: Vec<Vec<u8>>,
}

impl Feed {
    fn into_stream<T: 'static>(self, form: fn(Said) -> T) -> Answers<T> {
        Box::pin(stream::unfold(self, move |mut feed| async move {
            let next = feed.next().await?;
            Some((next.map(form), feed))
        }))
    }

    /// The next message that says something new.
    async fn next(&mut self) -> Option<Result<Said, Status>> {
        loop {
            if self.over {
                return None;
            }
            if self.held.gone.is_cancelled() {
                return self.end(gone());
            }
            match self.now() {
                Ok(Some(now)) if self.said.as_ref().is_none_or(|said| !said.is_the_same(&now)) => {
                    self.said = Some(now.clone());
                    return Some(Ok(now));
                }
                Ok(_) => {}
                Err(status) => return self.end(status),
            }
            let changed = tokio::select! {
                () = self.held.gone.cancelled() => true,
                changed = self.snapshots.changed() => changed.is_ok(),
                changed = changed(&mut self.svid) => changed,
            };
            if !changed {
                return self.end(starting());
            }
        }
    }

    fn end(&mut self, status: Status) -> Option<Result<Said, Status>> {
        self.over = true;
        Some(Err(status))
    }

    /// What is to be said at this moment; `None` while the first certificate is being made.
    fn now(&mut self) -> Result<Option<Said>, Status> {
        let svid = match self.svid.as_mut().map(|svid| svid.borrow_and_update().clone()) {
            None => None,
            Some(SvidState::Pending) => return Ok(None),
            Some(SvidState::Refused(code, why)) => return Err(Status::new(code, why)),
            Some(SvidState::Ready(svid)) => Some((self.held.entry.spiffe_id.to_string(), svid)),
        };
        let Some(held) = self.snapshots.borrow_and_update().clone() else { return Err(starting()) };
        let own = trust_domain_id(self.held.entry.spiffe_id.trust_domain().as_str());
        let bundles = held.live.bundles();
        Ok(Some(Said {
            svid,
            own,
            bundles: bundles
                .iter()
                .map(|b| {
                    (
                        trust_domain_id(b.trust_domain().as_str()),
                        b.roots().iter().flat_map(|r| r.to_vec()).collect(),
                    )
                })
                .collect(),
            crl: bundles.iter().flat_map(|b| b.crls().iter().map(|crl| crl.der().to_vec())).collect(),
        }))
    }
}

async fn changed(svid: &mut Option<watch::Receiver<SvidState>>) -> bool {
    match svid {
        Some(svid) => svid.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

fn trust_domain_id(name: &str) -> String {
    format!("spiffe://{name}")
}

impl Said {
    /// A snapshot with other policies, say, is no news here.
    fn is_the_same(&self, other: &Self) -> bool {
        let same_svid = match (&self.svid, &other.svid) {
            (Some((_, a)), Some((_, b))) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_svid && self.bundles == other.bundles && self.crl == other.crl
    }

    /// Section 5.2.1. One identity per process, so it is the default one and needs no hint.
    fn svids(mut self) -> X509svidResponse {
        let own = self.bundles.remove(&self.own).unwrap_or_default();
        let svids = self.svid.into_iter().map(|(spiffe_id, svid)| X509svid {
            spiffe_id,
            x509_svid: svid.chain.concat(),
            x509_svid_key: svid.key.expose().clone(),
            bundle: own.clone(),
            hint: String::new(),
        });
        X509svidResponse { svids: svids.collect(), crl: self.crl, federated_bundles: self.bundles }
    }

    /// Section 5.2.2.
    fn bundles(self) -> X509BundlesResponse {
        X509BundlesResponse { crl: self.crl, bundles: self.bundles }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked_with(values: &[&'static str]) -> Result<Request<()>, Status> {
        let mut request = Request::new(());
        for value in values {
            request.metadata_mut().append(WORKLOAD_METADATA.0, value.parse().unwrap());
        }
        demand_metadata(request)
    }

    #[test]
    fn accepts_the_security_header_and_nothing_like_it() {
        assert!(asked_with(&["true"]).is_ok());
        for bad in [&[][..], &["True"], &["1"], &[""], &["true "], &["true", "true"], &["true", "false"]] {
            assert_eq!(asked_with(bad).unwrap_err().code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
    }
}
