//! The authority as the agent sees it: one pooled mTLS connection, and whether anybody answers there.

use std::sync::Arc;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_sdk::clock;
use countersign_sdk::outbound::{CallError, CallLimits, Channel, Target};
use countersign_sdk::tls::{Connector, Expected, TrustState};
use countersign_wire::MESSAGE_BYTES_MAX;
use countersign_wire::node::Versions;
use countersign_wire::node::node_client::NodeClient;
use tokio::sync::watch;
use tonic::{Code, Response, Status};

/// Versions of `countersign.node.v1` that this agent speaks.
pub(crate) const VERSIONS: Versions = Versions { minimum: 1, maximum: 1 };

/// Whether the authority answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Not tried yet.
    Untried,
    /// The last call was answered.
    Answers,
    /// No call has been answered since.
    Lost(UnixTime),
}

/// The node API of one authority.
#[derive(Debug)]
pub(crate) struct Node {
    client: NodeClient<Channel>,
    contact: watch::Sender<Contact>,
}

impl Node {
    /// The authority of `trust_domain` at `address` (`host:port`), proven by its own SVID.
    pub(crate) fn new(address: &str, trust_domain: &TrustDomain, trust: Arc<TrustState>) -> Self {
        let expected = Expected::exactly(SpiffeId::authority(trust_domain));
        let target = Target::Workload {
            address: address.to_owned(),
            authority: "authority".to_owned(),
            connector: Connector::new(trust, expected),
        };
        let client = NodeClient::new(Channel::new(target, CallLimits::default()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, contact: watch::Sender::new(Contact::Untried) }
    }

    /// A client; calls go through [`Node::settle`].
    pub(crate) fn client(&self) -> NodeClient<Channel> {
        self.client.clone()
    }

    /// Whether it answers.
    pub(crate) fn contact(&self) -> Contact {
        *self.contact.borrow()
    }

    /// Notes what an answer, or none, says about the authority; workloads learn `Unavailable` for the latter.
    pub(crate) fn settle<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Status> {
        match answer {
            Ok(response) => {
                self.answered();
                Ok(response.into_inner())
            }
            Err(status) => Err(self.settle_failure(&status)),
        }
    }

    /// As [`Node::settle`], for a stream that ended.
    pub(crate) fn settle_failure(&self, status: &Status) -> Status {
        if is_unreachable(status) {
            self.lost(status);
            return Status::unavailable("the authority cannot be reached: try again");
        }
        self.answered();
        Status::new(status.code(), status.message())
    }

    fn answered(&self) {
        let back = self
            .contact
            .send_if_modified(|contact| std::mem::replace(contact, Contact::Answers) != Contact::Answers);
        if back {
            tracing::info!("the authority answers");
        }
    }

    fn lost(&self, status: &Status) {
        let news = self.contact.send_if_modified(|contact| {
            let news = !matches!(contact, Contact::Lost(_));
            if news {
                *contact = Contact::Lost(clock::now());
            }
            news
        });
        if news {
            tracing::warn!(reason = %reason(status), "the authority cannot be reached: workloads keep what they have");
        }
    }
}

fn is_unreachable(status: &Status) -> bool {
    call_error(status).is_some()
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown)
}

/// What the connection said, where it was not the authority that spoke.
pub(crate) fn call_error(status: &Status) -> Option<&CallError> {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<CallError>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The innermost words about a failed call.
pub(crate) fn reason(status: &Status) -> String {
    call_error(status).map_or_else(|| status.message().to_owned(), ToString::to_string)
}
