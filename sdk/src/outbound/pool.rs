//! One channel for each callee.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use countersign_wire::snapshot::ServiceAddress;

use super::{CallError, CallLimits, Channel, ServiceClient, Target};
use crate::{
    clock,
    live::{Freshness, LiveCell},
    tls::{Connector, Expected, TrustState},
};

/// The channels of one identity, each for one expected peer. Bounded by the number of registered services.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    trust: Arc<TrustState>,
    live: Arc<LiveCell>,
    limits: CallLimits,
    channels: ArcSwap<Channels>,
}

type Channels = HashMap<String, (ServiceAddress, Channel)>;

impl Pool {
    /// Calls as whom `trust` says, where `live` says.
    #[must_use]
    pub fn new(trust: Arc<TrustState>, live: Arc<LiveCell>, limits: CallLimits) -> Self {
        Self(Arc::new(Inner { trust, live, limits, channels: ArcSwap::default() }))
    }

    /// A client of a registered service.
    #[must_use]
    pub fn client(&self, service: &str) -> ServiceClient {
        ServiceClient::new(self.clone(), service.to_owned())
    }

    /// The channel to a service; a new one when its registration has changed.
    ///
    /// # Errors
    /// No such service, or our snapshot is too old to say.
    pub fn channel(&self, service: &str) -> Result<Channel, CallError> {
        let live = self.0.live.peek();
        if live.freshness(clock::now()) == Freshness::Stale {
            return Err(CallError::Stale);
        }
        let entry = live.service(service);
        let entry = entry.ok_or_else(|| CallError::UnknownService { name: service.to_owned() })?;
        if let Some(channel) = known(&self.0.channels.load(), service, entry) {
            return Ok(channel);
        }
        let fresh = self.open(service, entry);
        // Whoever comes second takes the channel of the first: there is one connection for each callee.
        self.0.channels.rcu(|channels| match known(channels, service, entry) {
            Some(_) => Channels::clone(channels),
            None => {
                let mut next = Channels::clone(channels);
                next.retain(|name, _| live.service(name).is_some());
                next.insert(service.to_owned(), (entry.clone(), fresh.clone()));
                next
            }
        });
        Ok(known(&self.0.channels.load(), service, entry).unwrap_or(fresh))
    }

    fn open(&self, service: &str, entry: &ServiceAddress) -> Channel {
        let expected = Expected::exactly(entry.spiffe_id.clone());
        let target = Target::Workload {
            address: entry.address.clone(),
            authority: service.to_owned(),
            connector: Connector::new(Arc::clone(&self.0.trust), expected),
        };
        Channel::new(target, self.0.limits)
    }
}

fn known(channels: &Channels, service: &str, entry: &ServiceAddress) -> Option<Channel> {
    let (registered, channel) = channels.get(service)?;
    (registered == entry).then(|| channel.clone())
}
