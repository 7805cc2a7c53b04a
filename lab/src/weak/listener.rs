//! The two ports: TLS as configured by somebody in a hurry, where a weakness says so, and one request after the other.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak as WeakRef},
    time::Duration,
};

use bytes::Bytes;
use countersign_pki::CertificateDer;
use countersign_sdk::{
    inbound::Denial,
    tls::{HandshakeRefusal, provider},
};
use countersign_wire::{
    codes::Code,
    problem::{PROBLEM_JSON, Problem},
};
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    NoListener, Weak, Weakness,
    door::Asked,
    edge::{self, Met},
    nodes,
};
use crate::attack::Kind;

/// What listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// For services, over mutual TLS.
    Service,
    /// For users.
    Edge,
    /// For whoever holds a bearer token or a macaroon.
    Callee,
    /// The authority's API.
    Authority,
    /// The authority's API for nodes.
    Nodes,
}

/// What is known of a connection.
#[derive(Clone, Default)]
struct Known {
    exporter: Option<[u8; 32]>,
    peer: Option<(Arc<[CertificateDer<'static>]>, String)>,
}

pub(super) async fn bind() -> Result<TcpListener, NoListener> {
    TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| NoListener::new("a port", error))
}

pub(super) async fn serve(listener: TcpListener, role: Role, weak: WeakRef<Weak>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (Ok((tcp, address)), Some(weak)) = (accepted, weak.upgrade()) else { continue };
        let stop = stop.clone();
        let _ = tcp.set_nodelay(true);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = timeout(CONNECTION_MAX, connection(tcp, address, role, &weak)) => {}
            }
        });
    }
}

async fn connection(tcp: TcpStream, address: SocketAddr, role: Role, weak: &Arc<Weak>) {
    let mut first = [0];
    if tcp.peek(&mut first).await.is_ok() && first != [TLS_HANDSHAKE] {
        if weak.makes(Weakness::PlainHttp) {
            return requests(tcp, Known::default(), Role::Service, weak).await;
        }
        let refused = Denial::from(&HandshakeRefusal::Plain);
        weak.tells_of_connection(address, refused.code, refused.reason);
        return;
    }
    let judge = Arc::new(Judge { weak: Arc::clone(weak), role, found: Mutex::default() });
    let Ok(config) = server_config(weak, role, &judge) else { return };
    match TlsAcceptor::from(Arc::new(config)).accept(tcp).await {
        Ok(tls) => {
            let connection = tls.get_ref().1;
            let chain: Option<Arc<[_]>> = connection
                .peer_certificates()
                .map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
            let name =
                judge.found.lock().unwrap_or_else(PoisonError::into_inner).clone().and_then(Result::ok);
            let known = Known {
                exporter: connection.export_keying_material([0; 32], EXPORTER, Some(&[])).ok(),
                peer: chain.zip(name),
            };
            let speaks_h2 = connection.alpn_protocol() == Some(H2);
            let server_name = connection.server_name().map(str::to_owned);
            let met = Met { server_name, address: address.ip() };
            match role {
                Role::Edge if speaks_h2 => frames(tls, weak).await,
                Role::Edge => edge::requests(tls, &met, weak).await,
                Role::Nodes => {
                    nodes::requests(tls, known.peer.map(|(_, name)| name), Arc::clone(weak)).await;
                }
                Role::Service | Role::Callee | Role::Authority => requests(tls, known, role, weak).await,
            }
        }
        Err(error) => {
            let found = judge.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let refused = match found {
                Some(Err(denial)) => denial,
                _ => Denial::new(Code::HandshakeFailed, format!("tls handshake failed: {error}")),
            };
            weak.tells_of_connection(address, refused.code, refused.reason);
        }
    }
}

async fn requests<IO>(io: IO, known: Known, role: Role, weak: &Arc<Weak>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let known = known.clone();
        async move { Ok::<_, Infallible>(answer(request, &known, role, weak).await) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

/// Requests over HTTP/2, which are all alike: what counts is how many frames are taken.
async fn frames<IO>(io: IO, weak: &Weak)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("an answer")))
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if weak.makes(Weakness::AnyFrames) {
        builder
            .max_pending_accept_reset_streams(usize::MAX)
            .max_local_error_reset_streams(None)
            .max_header_list_size(16 * 1024 * 1024);
    }
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

async fn answer(request: Request<Incoming>, known: &Known, role: Role, weak: &Weak) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let asked = Asked {
        method: head.method.as_str(),
        target: head.uri.path_and_query().map_or("/", |target| target.as_str()),
        headers: &head.headers,
        body: &body,
        exporter: known.exporter,
        peer: known.peer.as_ref().map(|(chain, name)| (&**chain, name.as_str())),
    };
    let caller = match role {
        Role::Service => weak.caller(&asked),
        Role::Edge => weak.user(&asked),
        Role::Callee => weak.holder(&asked),
        Role::Authority | Role::Nodes => weak.administrator(&asked),
    };
    match caller {
        Ok(caller) => Response::new(Full::from(format!("you are {caller}"))),
        Err(denial) => {
            let decision = weak.tells(denial.code, &denial.reason);
            let problem = Problem::new(denial.code, Some(decision));
            let mut response = Response::new(Full::from(problem.to_json()));
            *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::FORBIDDEN);
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(PROBLEM_JSON));
            response
        }
    }
}

fn server_config(weak: &Weak, role: Role, judge: &Arc<Judge>) -> Result<ServerConfig, NoListener> {
    let failed = |error: &dyn fmt::Display| NoListener::new("tls", error);
    let me = weak.certified("ads", Kind::Workload, LIFE).map_err(|error| failed(&error))?;
    let pkcs8 = me.key.to_pkcs8().map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().clone()));
    let versions: &[&rustls::SupportedProtocolVersion] = match weak.makes(Weakness::OldTls) {
        true => &[&rustls::version::TLS13, &rustls::version::TLS12],
        false => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| failed(&error))?;
    let builder = match role {
        Role::Service | Role::Authority | Role::Nodes => {
            builder.with_client_cert_verifier(Arc::clone(judge) as Arc<dyn ClientCertVerifier>)
        }
        Role::Edge | Role::Callee => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(me.chain, key).map_err(|error| failed(&error))?;
    config.alpn_protocols = match role {
        Role::Edge => vec![H2.to_vec(), b"http/1.1".to_vec()],
        Role::Nodes => vec![H2.to_vec()],
        Role::Service | Role::Callee | Role::Authority => Vec::new(),
    };
    Ok(config)
}

/// Judges the client certificate of one connection.
struct Judge {
    weak: Arc<Weak>,
    role: Role,
    found: Mutex<Option<Result<String, Denial>>>,
}

impl Judge {
    fn possession(
        &self,
        verified: Result<HandshakeSignatureValid, TlsError>,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.weak.makes(Weakness::NoPossession) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verified.inspect_err(|_| {
            let denial = Denial::from(&HandshakeRefusal::NoPossession);
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Err(denial));
        })
    }
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.role == Role::Service && !self.weak.makes(Weakness::NoCertificateDemanded)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(end_entity).chain(intermediates).cloned().collect();
        let found = self.weak.peer(&chain);
        let alert = found.as_ref().err().map(|error| match error.check() {
            countersign_pki::CheckName::Usage => CertificateError::InvalidPurpose,
            countersign_pki::CheckName::Validity => CertificateError::Expired,
            countersign_pki::CheckName::Chain => CertificateError::UnknownIssuer,
            countersign_pki::CheckName::Revocation => CertificateError::Revoked,
            countersign_pki::CheckName::Identity => CertificateError::ApplicationVerificationFailure,
        });
        let found = found.map_err(|error| Denial::from(&HandshakeRefusal::Peer(error)));
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        match alert {
            Some(alert) => Err(TlsError::InvalidCertificate(alert)),
            None => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        self.possession(rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        self.possession(rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}

const H2: &[u8] = b"h2";
/// RFC 9266 section 2.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";
/// First byte of a TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
const LIFE: Duration = Duration::from_secs(600);
const CONNECTION_MAX: Duration = Duration::from_secs(60);
const BODY_BYTES_MAX: usize = 64 * 1024;
