//! Questions of Envoy, message by message: the oddities of ext_authz that have let requests through elsewhere.

use std::collections::HashMap;

use bytes::Bytes;
use countersign_sdk::workload::Workload;
use countersign_wire::ext_authz::attribute_context::{HttpRequest, Peer, Request as Asking};
use countersign_wire::ext_authz::check_response::HttpResponse;
use countersign_wire::ext_authz::{
    Address, AttributeContext, CheckRequest, CheckResponse, HeaderMap, HeaderValue, SocketAddress,
};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;

use super::{ASKER, Asked, connect, issued};
use crate::rig::client::bearer;
use crate::rig::{make_ca, pem};

/// A GET of `/ads/1` with this token, as Envoy tells of it.
fn question(token: &str) -> CheckRequest {
    let (method, path, host, scheme) = ("GET", "/ads/1?near=here", "flea.test", "https");
    let pairs = [
        (":method", method),
        (":path", path),
        (":authority", host),
        (":scheme", scheme),
        ("authorization", token),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-user", "mallory"),
        ("x-debug", "on"),
        ("accept", "*/*"),
    ];
    let headers = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let http = HttpRequest {
        method: method.into(),
        headers,
        path: path.into(),
        host: host.into(),
        scheme: scheme.into(),
        ..HttpRequest::default()
    };
    let address = SocketAddress { address: "198.51.100.7".into(), port_value: 40_000 };
    let source = Peer { address: Some(Address { socket_address: Some(address) }), ..Peer::default() };
    let request = Some(Asking { http: Some(http) });
    let attributes = AttributeContext { source: Some(source), request, ..AttributeContext::default() };
    CheckRequest { attributes: Some(attributes) }
}

fn http(question: &mut CheckRequest) -> &mut HttpRequest {
    question.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap()
}

fn source(question: &mut CheckRequest) -> &mut Peer {
    question.attributes.as_mut().unwrap().source.as_mut().unwrap()
}

/// The answer, or the status of gRPC where there is none.
async fn check(who: &Workload, asked: &Asked, message: Vec<u8>) -> Result<CheckResponse, String> {
    let stream = connect(who, asked.by_svid, &[b"h2"]).await;
    let (mut sender, driving) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driving);
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message);
    let request = Request::post("https://countersign/envoy.service.auth.v3.Authorization/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    let status = trailers.get("grpc-status").unwrap().to_str().unwrap().to_owned();
    if status != "0" {
        return Err(status);
    }
    Ok(CheckResponse::decode(&body.to_bytes()[5..]).unwrap())
}

async fn asks(who: &Workload, asked: &Asked, question: &CheckRequest) -> CheckResponse {
    check(who, asked, question.encode_to_vec()).await.unwrap()
}

fn code(answer: &CheckResponse) -> i32 {
    answer.status.as_ref().unwrap().code
}

/// The status for the client, of a refusal.
fn denied(answer: &CheckResponse) -> i32 {
    assert_ne!(code(answer), 0, "{answer:?}");
    match answer.http_response.as_ref().unwrap() {
        HttpResponse::DeniedResponse(denied) => denied.status.as_ref().unwrap().code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn envoy_is_told_what_to_set_and_what_to_remove() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let answer = asks(&asker, &asked, &question(&alice)).await;
    assert_eq!(code(&answer), 0);
    let Some(HttpResponse::OkResponse(ok)) = answer.http_response else { panic!("{answer:?}") };
    let set: HashMap<String, String> = ok
        .headers
        .iter()
        .map(|option| {
            assert_eq!(option.append_action, 2, "ours replaces theirs");
            let header = option.header.as_ref().unwrap();
            (header.key.clone(), header.value.clone())
        })
        .collect();
    assert!(set["txn-token"].starts_with("eyJ"));
    assert_eq!((set["countersign-user"].as_str(), set["x-edge"].as_str()), ("u_alice", "countersign"));
    assert_eq!(set["x-forwarded-for"], "198.51.100.7", "of the connection, not of the client");
    let mut removed = ok.headers_to_remove.clone();
    removed.sort();
    assert_eq!(removed, ["authorization", "x-debug", "x-user"]);
    assert!(!set.contains_key("accept"), "what stays is not mentioned");
    asked.rig.decision(|decision| decision.id.to_string() == set["countersign-decision"]).await;
}

#[tokio::test]
async fn whatever_is_odd_in_a_question_of_envoy_is_never_ok() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    type Change = fn(&mut CheckRequest);
    let oddities: &[(&str, i32, Change)] = &[
        ("no attributes", 400, |q| q.attributes = None),
        ("no request", 400, |q| q.attributes.as_mut().unwrap().request = None),
        ("no source", 400, |q| q.attributes.as_mut().unwrap().source = None),
        ("a source without address", 400, |q| source(q).address = None),
        ("CONNECT without path", 400, |q| {
            http(q).method = "CONNECT".into();
            http(q).path = String::new();
            http(q).headers.retain(|name, _| !name.starts_with(':'));
        }),
        ("no path", 400, |q| http(q).path = String::new()),
        ("no host", 400, |q| http(q).host = String::new()),
        ("no scheme", 400, |q| http(q).scheme = String::new()),
        ("another path among the headers", 400, |q| {
            http(q).headers.insert(":path".into(), "/open".into());
        }),
        ("another method among the headers", 400, |q| {
            http(q).headers.insert(":method".into(), "POST".into());
        }),
        ("another host among the headers", 400, |q| {
            http(q).headers.insert("host".into(), "other.test".into());
        }),
        ("another scheme among the headers", 400, |q| {
            http(q).headers.insert(":scheme".into(), "http".into());
        }),
        ("headers in both forms", 400, |q| {
            let header = HeaderValue { key: "accept".into(), value: "*/*".into(), raw_value: Vec::new() };
            http(q).header_map = Some(HeaderMap { headers: vec![header] });
        }),
        ("a token in the query of the path", 400, |q| {
            http(q).path = "/ads/1?access_token=x".into();
            http(q).headers.remove(":path");
        }),
        ("dot segments", 400, |q| {
            http(q).path = "/ads/../machines".into();
            http(q).headers.remove(":path");
        }),
        ("two tokens, joined by a comma", 401, |q| {
            let token = http(q).headers["authorization"].clone();
            http(q).headers.insert("authorization".into(), format!("{token},{token}"));
        }),
        ("an alias of an identity header", 400, |q| {
            http(q).headers.insert("x_user".into(), "mallory".into());
        }),
        ("a header name that is none", 400, |q| {
            http(q).headers.insert("x user".into(), "mallory".into());
        }),
        ("a value with a line feed", 400, |q| {
            http(q).headers.insert("x-a".into(), "a\nx-b: c".into());
        }),
        ("a certificate that is none", 400, |q| source(q).certificate = "nonsense".into()),
    ];
    for (what, status, change) in oddities {
        let mut question = question(&alice);
        change(&mut question);
        let answer = asks(&asker, &asked, &question).await;
        assert_eq!(denied(&answer), *status, "{what}: {answer:?}");
    }
    assert_eq!(code(&asks(&asker, &asked, &question(&alice)).await), 0);
}

#[tokio::test]
async fn header_values_that_are_no_utf8_are_exact_or_refused() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    // As raw bytes they are what they are, and judged like everything that comes here.
    let mut exact = question(&alice);
    let mut headers: Vec<HeaderValue> = std::mem::take(&mut http(&mut exact).headers)
        .into_iter()
        .map(|(key, value)| HeaderValue { key, value: String::new(), raw_value: value.into_bytes() })
        .collect();
    http(&mut exact).header_map = Some(HeaderMap { headers: headers.clone() });
    assert_eq!(code(&asks(&asker, &asked, &exact).await), 0);
    let bytes = HeaderValue { key: "x-a".into(), value: String::new(), raw_value: vec![0xff, 0xfe] };
    let with_bytes = headers.iter().cloned().chain([bytes]).collect();
    http(&mut exact).header_map = Some(HeaderMap { headers: with_bytes });
    assert_eq!(denied(&asks(&asker, &asked, &exact).await), 400);
    // Twice the same single-valued header, exactly as it came.
    let token = headers.iter().find(|header| header.key == "authorization").unwrap().clone();
    headers.push(token);
    http(&mut exact).header_map = Some(HeaderMap { headers });
    assert_eq!(denied(&asks(&asker, &asked, &exact).await), 400);
    // As text they are no message at all.
    let bytes = question(&alice).encode_to_vec();
    let place = bytes.windows(7).position(|window| window == b"mallory").unwrap();
    let mut broken = bytes.clone();
    broken[place] = 0xff;
    assert!(check(&asker, &asked, broken).await.is_err());
    assert!(check(&asker, &asked, vec![0xff; 40]).await.is_err());
    assert!(check(&asker, &asked, bytes).await.is_ok());
}

#[tokio::test]
async fn a_body_whole_or_truncated_changes_no_verdict() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    // Field 11 of the request, `body`, of which the rest was cut off.
    for (token, expected) in [(alice.as_str(), 0), ("Bearer x", 16)] {
        let mut question = question(token);
        http(&mut question).headers.insert("x-envoy-auth-partial-body".into(), "true".into());
        assert_eq!(code(&asks(&asker, &asked, &question).await), expected);
    }
}

#[tokio::test]
async fn a_forwarded_certificate_is_verified_again_and_never_taken_from_the_header_alone() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let encoded = |ders: &[Vec<u8>]| {
        let text: String = ders.iter().map(|der| pem("CERTIFICATE", der)).collect();
        utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string()
    };
    let (robot, _) = issued(&asked.rig.world.issuing, "spiffe://fleamarket.test/svc/robot");
    let (other, _) = issued(&asked.rig.world.issuing, "spiffe://fleamarket.test/svc/other");
    let (_, foreign) = make_ca(&asked.rig.td);
    let (forged, _) = issued(&foreign, "spiffe://fleamarket.test/svc/robot");
    let element = |chain: &[Vec<u8>]| format!("Hash=00;Chain=\"{}\"", encoded(chain));
    let ask = async |leaf: &str, xfcc: &str| {
        let mut question = question("");
        let http = http(&mut question);
        http.path = "/machines".into();
        http.headers.insert(":path".into(), "/machines".into());
        http.headers.remove("authorization");
        http.headers.insert("x-forwarded-client-cert".into(), xfcc.to_owned());
        leaf.clone_into(&mut source(&mut question).certificate);
        asks(&asker, &asked, &question).await
    };
    let leaf = |chain: &[Vec<u8>]| encoded(&chain[..1]);
    let answer = ask(&leaf(&robot), &element(&robot)).await;
    assert_eq!(code(&answer), 0, "{answer:?}");
    let record =
        asked.rig.decision(|d| d.source.as_deref() == Some("spiffe://fleamarket.test/svc/robot")).await;
    assert_eq!(record.checks[0].detail, format!("through {ASKER}"));
    // Wherever the element stands.
    let both = format!("{},{}", element(&other), element(&robot));
    assert_eq!(code(&ask(&leaf(&robot), &both).await), 0);
    // The header alone is nobody: whoever knows a certificate could have sent it.
    assert_eq!(denied(&ask("", &element(&robot)).await), 403);
    // The leaf is another one than the header's first element.
    assert_eq!(denied(&ask(&leaf(&other), &both).await), 403);
    // Without the certificates between, and of an authority that is not ours.
    assert_eq!(denied(&ask(&leaf(&robot), "By=spiffe://fleamarket.test/svc/proxy").await), 401);
    assert_eq!(denied(&ask(&leaf(&forged), &element(&forged)).await), 401);
    assert_eq!(denied(&ask(&leaf(&robot), "By=\"").await), 400);
}
