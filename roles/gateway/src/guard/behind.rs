//! Behind another proxy: whose request it is, by the word of listed proxies and of nobody else.
//!
//! The header is read from its end: the last entry is what the listed proxy itself saw. Only as long as an entry is a
//! listed proxy again does the one before it count, so whatever a client writes into the header is never reached.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::networks::Networks;

/// `[gateway.behind]`: proxies that are believed.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BehindSettings {
    /// Where they are.
    #[schemars(with = "Vec<String>")]
    pub from: Networks,
    /// In which header they tell. Only this one is read: what a proxy does not write, a client may.
    pub header: ForwardedHeader,
    /// With [`ForwardedHeader::XForwardedFor`]: do they all write `X-Forwarded-Proto` themselves, over whatever a client
    /// wrote? Else it is not read.
    pub x_forwarded_proto: bool,
}

/// The header in which a proxy tells whom it forwards for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What listed proxies tell of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) client: IpAddr,
    /// How the client spoke to the first of them.
    pub(crate) scheme: Option<&'static str>,
}

impl BehindSettings {
    /// Whose request it is, if `peer` is one of the proxies. What cannot be read ends the chain: then it is the last
    /// proxy's that can be.
    pub(crate) fn told(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Told> {
        if !self.from.contain(peer) {
            return None;
        }
        let hops = match self.header {
            ForwardedHeader::XForwardedFor => x_forwarded(headers, self.x_forwarded_proto),
            ForwardedHeader::Forwarded => forwarded(headers),
        };
        let mut told = Told { client: peer.to_canonical(), scheme: None };
        for hop in hops.into_iter().rev().take(HOPS_MAX) {
            let Some(address) = hop.address else { break };
            told = Told { client: address.to_canonical(), scheme: hop.scheme.or(told.scheme) };
            if !self.from.contain(address) {
                break;
            }
        }
        Some(told)
    }
}

/// One entry.
struct Hop {
    address: Option<IpAddr>,
    scheme: Option<&'static str>,
}

fn x_forwarded(headers: &HeaderMap, with_proto: bool) -> Vec<Hop> {
    let mut protos = headers.get_all("x-forwarded-proto").iter();
    // One proxy, one word; several would have to be matched with the addresses, and nobody says how.
    let scheme = match (protos.next(), protos.next()) {
        (Some(one), None) if with_proto => one.to_str().ok().and_then(scheme),
        _ => None,
    };
    list(headers, "x-forwarded-for").map(|text| Hop { address: address(text), scheme }).collect()
}

fn forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let parse = |element: &str| {
        let mut hop = Hop { address: None, scheme: None };
        for pair in element.split(';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => hop.address = address(value),
                "proto" => hop.scheme = scheme(value),
                _ => {}
            }
        }
        hop
    };
    list(headers, "forwarded").map(parse).collect()
}

/// The entries of a list, over all lines. A quoted text with a comma in it breaks into pieces that name no address.
fn list<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?"));
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().map(|socket: SocketAddr| socket.ip()).ok())
}

fn scheme(text: &str) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

const HOPS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn told(
        header: &str,
        peer: &str,
        lines: &[(&'static str, &str)],
    ) -> Option<(String, Option<&'static str>)> {
        told_as(&format!("header = {header:?}\nx_forwarded_proto = true"), peer, lines)
    }

    fn told_as(
        further: &str,
        peer: &str,
        lines: &[(&'static str, &str)],
    ) -> Option<(String, Option<&'static str>)> {
        let toml = format!("from = [\"10.0.0.0/8\"]\n{further}");
        let settings: BehindSettings = toml::from_str(&toml).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let told = settings.told(peer.parse().unwrap(), &headers)?;
        Some((told.client.to_string(), told.scheme))
    }

    #[test]
    fn only_a_listed_proxy_is_believed() {
        let lines = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
        assert_eq!(told("x-forwarded-for", "10.1.1.1", &lines), Some(("192.0.2.1".into(), Some("https"))));
        assert_eq!(told("x-forwarded-for", "192.0.2.9", &lines), None);
    }

    #[test]
    fn a_scheme_counts_only_from_proxies_that_are_said_to_write_it() {
        let lines = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
        assert_eq!(told_as("", "10.1.1.1", &lines), Some(("192.0.2.1".into(), None)));
        let twice = [lines[0], lines[1], ("x-forwarded-proto", "https")];
        assert_eq!(told("x-forwarded-for", "10.1.1.1", &twice), Some(("192.0.2.1".into(), None)));
    }

    #[test]
    fn what_a_client_wrote_before_the_proxy_is_never_reached() {
        let client = |lines: &[(&'static str, &str)]| told("x-forwarded-for", "10.1.1.1", lines).unwrap().0;
        assert_eq!(client(&[("x-forwarded-for", "1.1.1.1, 192.0.2.1")]), "192.0.2.1");
        assert_eq!(
            client(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.1, 10.2.2.2")]),
            "192.0.2.1"
        );
        assert_eq!(client(&[("x-forwarded-for", "1.1.1.1, nonsense, 10.2.2.2")]), "10.2.2.2");
        assert_eq!(client(&[("forwarded", "for=1.1.1.1")]), "10.1.1.1", "only the header of the settings");
        assert_eq!(client(&[("x-forwarded-for", "1.1.1.1,")]), "10.1.1.1");
        let long = format!("1.1.1.1{}", ", 10.9.9.9".repeat(HOPS_MAX));
        assert_eq!(client(&[("x-forwarded-for", &long)]), "10.9.9.9");
    }

    #[test]
    fn the_header_of_rfc_7239_is_read_in_its_forms() {
        let read = |value: &str| told("forwarded", "10.1.1.1", &[("forwarded", value)]).unwrap();
        assert_eq!(read("for=192.0.2.60;proto=https;by=203.0.113.43"), ("192.0.2.60".into(), Some("https")));
        assert_eq!(read("for=1.1.1.1, For=\"[2001:db8:cafe::17]:4711\""), ("2001:db8:cafe::17".into(), None));
        assert_eq!(read("for=_hidden"), ("10.1.1.1".into(), None));
        assert_eq!(read("for=unknown;proto=gopher"), ("10.1.1.1".into(), None));
    }
}
