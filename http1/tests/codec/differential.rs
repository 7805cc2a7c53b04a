//! Beside hyper: whatever we accept, hyper reads as the same request. Where hyper is laxer, we refuse.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use countersign_request::CanonicalRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::properties::{mutations, requests};
use crate::reader::{self, Connection, decided};

struct Seen {
    decided: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Every request that we read whole, hyper reads alike.
pub(crate) fn assert_hyper_agrees(sent: &[u8], ours: &Connection) {
    let read: Vec<_> = ours.messages.iter().filter(|message| message.complete).collect();
    if read.is_empty() {
        return;
    }
    let hypers = hyper(sent);
    let shown = String::from_utf8_lossy(sent);
    assert!(hypers.len() >= read.len(), "we read {} requests, hyper {}: {shown:?}", read.len(), hypers.len());
    for (ours, hyper) in read.into_iter().zip(&hypers) {
        assert_eq!(ours.decided, hyper.decided, "{shown:?}");
        assert_eq!(ours.body, hyper.body, "{shown:?}");
        let mut headers = HeaderMap::new();
        for (name, value) in &ours.headers {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(headers, hyper.headers, "{shown:?}");
    }
}

/// The requests that hyper reads from a connection, whole ones only.
fn hyper(sent: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                let (head, body) = request.into_parts();
                if let Ok(body) = body.collect().await {
                    let request =
                        CanonicalRequest::parse(&head.method, &head.uri, &head.headers, head.version);
                    let decided = request.map_or_else(|why| why.to_string(), |request| decided(&request));
                    seen.borrow_mut().push(Seen {
                        decided,
                        headers: head.headers,
                        body: body.to_bytes().to_vec(),
                    });
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.half_close(true).serve_connection(TokioIo::new(server), service).await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    });
    seen.take()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_we_accept_hyper_reads_as_the_same_requests(sent in requests()) {
        let ours = reader::requests(&sent, sent.len());
        prop_assert_eq!(&ours.refused, &None, "{:?}", String::from_utf8_lossy(&sent));
        assert_hyper_agrees(&sent, &ours);
    }

    #[test]
    fn whatever_we_accept_of_changed_requests_hyper_reads_as_the_same_requests(sent in requests(), changes in mutations()) {
        let sent = changes.apply(sent);
        assert_hyper_agrees(&sent, &reader::requests(&sent, sent.len()));
    }

    #[test]
    fn what_we_send_on_hyper_reads_as_exactly_one_request(sent in requests(), changes in mutations()) {
        let sent = changes.apply(sent);
        let ours = reader::requests(&sent, sent.len());
        for (message, onward) in ours.messages.iter().zip(&ours.onward).filter(|(message, _)| message.complete) {
            let hypers = hyper(onward);
            prop_assert_eq!(hypers.len(), 1, "{:?}", String::from_utf8_lossy(onward));
            prop_assert_eq!(&hypers[0].decided, &message.decided);
            prop_assert_eq!(&hypers[0].body, &message.body);
            prop_assert!(!hypers[0].headers.keys().any(countersign_request::is_identity_header));
        }
    }
}
