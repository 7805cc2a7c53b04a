//! The ways to each callee.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use arc_swap::ArcSwap;
use countersign_identity::{Mode, SpiffeId};
use countersign_wire::snapshot::ServiceAddress;

use super::{CallError, CallLimits, Channel, ServiceClient, Target, exchange::Exchanger, sending::Sending};
use crate::{
    clock,
    credentials::Credentials,
    live::{Freshness, Live, LiveCell},
    tls::{Connector, Expected, TrustState},
};

/// The channels of one identity to each expected peer, one for each kind of connection. Bounded by the number of
/// registered services.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    trust: Arc<TrustState>,
    live: Arc<LiveCell>,
    limits: CallLimits,
    credentials: Credentials,
    exchanger: Exchanger,
    callees: ArcSwap<Callees>,
}

type Callees = HashMap<String, Arc<Callee>>;

/// One registered service, and the ways to it. Each connects with the first request that takes it, so a switch of modes
/// leaves what is in progress alone.
#[derive(Debug)]
struct Callee {
    id: SpiffeId,
    address: String,
    mutual: Channel,
    server_only: Channel,
    plain: Channel,
    /// Modes about which something was said in the log, as bits.
    said: AtomicU8,
}

/// One request on its way: by which snapshot, how, and to whom.
pub(super) struct Call {
    /// Held until the answer is there: whoever waits for a switch to be over waits for this.
    pub(super) live: Arc<Live>,
    pub(super) sending: Sending,
    callee: Arc<Callee>,
}

impl Pool {
    /// Calls as whom `trust` and `credentials` say, where and how `live` says.
    #[must_use]
    pub fn new(
        trust: Arc<TrustState>,
        live: Arc<LiveCell>,
        credentials: Credentials,
        limits: CallLimits,
    ) -> Self {
        let exchanger = Exchanger::new(Arc::clone(&trust));
        let callees = ArcSwap::default();
        Self(Arc::new(Inner { trust, live, limits, credentials, exchanger, callees }))
    }

    /// A client of a registered service.
    #[must_use]
    pub fn client(&self, service: &str) -> ServiceClient {
        ServiceClient::new(self.clone(), service.to_owned())
    }

    pub(super) fn limits(&self) -> CallLimits {
        self.0.limits
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    pub(super) fn exchanger(&self) -> &Exchanger {
        &self.0.exchanger
    }

    /// How a request that begins now goes to a service.
    ///
    /// # Errors
    /// No such service, or our snapshot is too old to say.
    pub(super) fn call(&self, service: &str) -> Result<Call, CallError> {
        let live = self.0.live.load();
        if live.freshness(clock::now()) == Freshness::Stale {
            return Err(CallError::Stale);
        }
        let entry = live.service(service).filter(|entry| !entry.address.is_empty());
        let entry = entry.ok_or_else(|| CallError::UnknownService { name: service.to_owned() })?;
        let callee = self.callee(service, entry, &live);
        let sending = Sending::of(self.0.credentials.id(), &live);
        callee.remark(sending.mode, entry);
        Ok(Call { live, sending, callee })
    }

    pub(super) fn connections(&self, service: &str) -> u64 {
        self.0.callees.load().get(service).map_or(0, |callee| {
            [&callee.mutual, &callee.server_only, &callee.plain].map(Channel::connections).iter().sum()
        })
    }

    /// The ways to a service; new ones when its name or address has changed.
    fn callee(&self, service: &str, entry: &ServiceAddress, live: &Live) -> Arc<Callee> {
        if let Some(callee) = known(&self.0.callees.load(), service, entry) {
            return callee;
        }
        self.0.credentials.will_call(&entry.spiffe_id);
        let fresh = Arc::new(self.open(service, entry));
        // Whoever comes second takes the channels of the first: there is one connection for each callee and kind.
        self.0.callees.rcu(|callees| match known(callees, service, entry) {
            Some(_) => Callees::clone(callees),
            None => {
                let mut next = Callees::clone(callees);
                next.retain(|name, _| live.service(name).is_some());
                next.insert(service.to_owned(), Arc::clone(&fresh));
                next
            }
        });
        known(&self.0.callees.load(), service, entry).unwrap_or(fresh)
    }

    fn open(&self, service: &str, entry: &ServiceAddress) -> Callee {
        let (address, authority) = (entry.address.clone(), service.to_owned());
        let expected = Expected::exactly(entry.spiffe_id.clone());
        let connector = Connector::new(Arc::clone(&self.0.trust), expected);
        let over_tls = |connector| Target::Workload {
            address: address.clone(),
            authority: authority.clone(),
            connector,
        };
        let mutual = Channel::new(over_tls(connector.clone()), self.0.limits);
        let server_only = mutual.beside(over_tls(connector.showing_none()));
        let plain = mutual.beside(Target::Plain { address: address.clone(), authority: authority.clone() });
        let id = entry.spiffe_id.clone();
        Callee { id, address, mutual, server_only, plain, said: AtomicU8::new(0) }
    }
}

impl Call {
    pub(super) fn callee(&self) -> &SpiffeId {
        &self.callee.id
    }

    /// The kind of connection that the mode takes. Except over plain HTTP the callee is proven in each.
    pub(super) fn channel(&self) -> &Channel {
        match self.sending.mode {
            Mode::None => &self.callee.plain,
            Mode::Bearer | Mode::Macaroon | Mode::Jwt | Mode::Wimse => &self.callee.server_only,
            Mode::Mtls | Mode::MtlsJwt => &self.callee.mutual,
        }
    }
}

impl Callee {
    /// What an operator should know of this mode, said once.
    fn remark(&self, mode: Mode, entry: &ServiceAddress) {
        let accepted = mode.satisfies(&entry.accepts);
        if accepted && mode != Mode::None {
            return;
        }
        let bit = 1_u8 << mode as u8;
        if self.said.load(Ordering::Relaxed) & bit != 0
            || self.said.fetch_or(bit, Ordering::Relaxed) & bit != 0
        {
            return;
        }
        let name = entry.name.as_str();
        if !accepted {
            tracing::warn!(callee = name, %mode, "we send a mode that this callee does not accept: it will refuse");
        }
        if mode == Mode::None {
            tracing::warn!(
                callee = name,
                "we call in mode none: plain HTTP, nobody is proven on either side"
            );
        }
    }
}

fn known(callees: &Callees, service: &str, entry: &ServiceAddress) -> Option<Arc<Callee>> {
    let callee = callees.get(service)?;
    (callee.id == entry.spiffe_id && callee.address == entry.address).then(|| Arc::clone(callee))
}
