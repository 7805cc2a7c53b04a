//! One channel for each callee.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

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
    channels: Mutex<HashMap<String, (ServiceAddress, Channel)>>,
}

impl Pool {
    /// Calls as whom `trust` says, where `live` says.
    #[must_use]
    pub fn new(trust: Arc<TrustState>, live: Arc<LiveCell>, limits: CallLimits) -> Self {
        Self(Arc::new(Inner { trust, live, limits, channels: Mutex::default() }))
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
        let live = self.0.live.load();
        if live.freshness(clock::now()) == Freshness::Stale {
            return Err(CallError::Stale);
        }
        let entry = live.service(service);
        let entry = entry.ok_or_else(|| CallError::UnknownService { name: service.to_owned() })?;
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((registered, channel)) = channels.get(service)
            && registered == entry
        {
            return Ok(channel.clone());
        }
        channels.retain(|name, _| live.service(name).is_some());
        let target = Target::Workload {
            address: entry.address.clone(),
            authority: service.to_owned(),
            connector: Connector::new(Arc::clone(&self.0.trust), Expected::exactly(entry.spiffe_id.clone())),
        };
        let channel = Channel::new(target, self.0.limits);
        channels.insert(service.to_owned(), (entry.clone(), channel.clone()));
        Ok(channel)
    }
}
