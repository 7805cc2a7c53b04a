//! What a filter is asked: the canonical request, and who is calling.

use std::collections::HashMap;
use std::net::IpAddr;

use bytes::Bytes;
use countersign_identity::{DecisionId, SpiffeId, User};
use countersign_request::{CanonicalRequest, strip_hop_by_hop, strip_identity_headers};
use countersign_wire::ext_authz::attribute_context::{HttpRequest, Peer, Request};
use countersign_wire::ext_authz::{Address, AttributeContext, CheckRequest, SocketAddress};
use http::header::{self, HeaderMap};

use super::FilterError;
use crate::upgrade::{WEBSOCKET, asks_to_leave};

/// A request that the policy permits.
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a CanonicalRequest,
    pub(crate) decision: DecisionId,
    /// The route's template.
    pub(crate) route: &'a str,
    /// The service or upstream that it leads to.
    pub(crate) target: &'a str,
    /// Where the client is.
    pub(crate) client: Option<IpAddr>,
    pub(crate) scheme: &'static str,
    pub(crate) workload: Option<&'a SpiffeId>,
    pub(crate) user: Option<&'a User>,
}

impl Asked<'_> {
    /// The question of Envoy's external authorisation. Credentials do not go along: the filter learns who was proven,
    /// not how.
    ///
    /// `elsewhere`: another proxy passes the request on, and does so by what it makes of `Connection` itself.
    pub(super) fn question(
        &self,
        body: Option<&Bytes>,
        elsewhere: bool,
    ) -> Result<CheckRequest, FilterError> {
        let request = self.request;
        let (method, path) = (request.method().to_string(), request.path_and_query());
        let (host, scheme) = (request.authority().to_string(), self.scheme.to_owned());
        let mut headers = headers(request.headers(), elsewhere)?;
        let pseudo = [(":method", &method), (":path", &path), (":authority", &host), (":scheme", &scheme)];
        headers.extend(pseudo.map(|(name, value)| (name.to_owned(), value.clone())));
        let mut http = HttpRequest {
            id: self.decision.to_string(),
            method,
            headers,
            path,
            host,
            scheme,
            size: -1,
            ..HttpRequest::default()
        };
        if let Some(body) = body {
            http.size = i64::try_from(body.len()).unwrap_or(i64::MAX);
            // In both fields: whoever reads but one of them must not take a body for none.
            http.body = String::from_utf8_lossy(body).into_owned();
            http.raw_body = body.to_vec();
        }
        let address = self
            .client
            .map(|address| SocketAddress { address: address.to_canonical().to_string(), port_value: 0 });
        let source = Peer {
            address: address.map(|address| Address { socket_address: Some(address) }),
            principal: self.workload.map(ToString::to_string).unwrap_or_default(),
            certificate: String::new(),
        };
        Ok(CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source),
                request: Some(Request { http: Some(http) }),
                context_extensions: self.context(),
            }),
        })
    }

    /// What Envoy has no field for.
    fn context(&self) -> HashMap<String, String> {
        let mut context = HashMap::new();
        let mut say = |name: &str, value: String| context.insert(format!("countersign.{name}"), value);
        say("decision", self.decision.to_string());
        say("route", self.route.to_owned());
        say("target", self.target.to_owned());
        if asks_to_leave(self.request.headers()) {
            say("upgrade", WEBSOCKET.to_owned());
        }
        if let Some(User { id, name, roles, .. }) = self.user {
            say("user", id.clone());
            say("user_name", name.clone());
            say("user_roles", roles.join(","));
        }
        context
    }
}

/// Each name once, its values joined as Envoy joins them.
fn headers(came: &HeaderMap, elsewhere: bool) -> Result<HashMap<String, String>, FilterError> {
    let mut shown = came.clone();
    if elsewhere {
        // What it lists may go on all the same, and nothing goes on that the filter did not see.
        shown.remove(header::CONNECTION);
    }
    strip_hop_by_hop(&mut shown);
    strip_identity_headers(&mut shown);
    shown.remove(header::AUTHORIZATION);
    let mut headers: HashMap<String, String> = HashMap::with_capacity(shown.len());
    for (name, value) in &shown {
        // Other bytes than those that go on must not be judged in their place.
        let unsayable = |_| FilterError::Unsayable { header: name.to_string() };
        let value = std::str::from_utf8(value.as_bytes()).map_err(unsayable)?;
        match headers.get_mut(name.as_str()) {
            Some(values) => {
                values.push_str(if name == header::COOKIE { "; " } else { "," });
                values.push_str(value);
            }
            None => drop(headers.insert(name.to_string(), value.to_owned())),
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_connection_lists_is_hidden_only_where_it_goes_no_further() {
        let mut came = HeaderMap::new();
        for (name, value) in
            [("connection", "x-attack"), ("x-attack", "1"), ("keep-alive", "1"), ("x-user", "a")]
        {
            came.insert(name, HeaderValue::from_static(value));
        }
        let shown = |elsewhere| headers(&came, elsewhere).unwrap();
        assert!(shown(false).is_empty());
        assert_eq!(shown(true), HashMap::from([("x-attack".to_owned(), "1".to_owned())]));
    }
}
