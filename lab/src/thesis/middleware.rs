//! Section 5.3.2: the `JWTAuthenticationMiddleware`, which every request passes before a controller sees it.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use countersign_pki::truststore::CertificateAuthorityService;
use http::{Request as HttpRequest, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    ClientCertificate, Clock, DanglingElse, Request, TokenValidationService, Verdict, token, validate_request,
};

/// What a controller finds in a request's extensions: both names that the algorithm saw, and did not compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedRequest {
    /// The algorithm's `issuer`.
    pub issuer: String,
    /// The token's `iss`.
    pub token_issuer: String,
}

/// Puts [`JwtAuthenticationMiddleware`] before controllers.
#[derive(Clone)]
pub struct JwtAuthentication {
    authorities: Arc<RwLock<dyn CertificateAuthorityService + Send + Sync>>,
    tokens: Arc<dyn TokenValidationService>,
    reading: DanglingElse,
    clock: Clock,
}

/// Lets a request through to `S`, or answers it.
#[derive(Clone)]
pub struct JwtAuthenticationMiddleware<S> {
    controllers: S,
    authentication: JwtAuthentication,
}

impl JwtAuthentication {
    /// Injects the services of Listings 5.1 and 5.2.
    #[must_use]
    pub fn new(
        authorities: Arc<RwLock<dyn CertificateAuthorityService + Send + Sync>>,
        tokens: Arc<dyn TokenValidationService>,
        reading: DanglingElse,
        clock: Clock,
    ) -> Self {
        Self { authorities, tokens, reading, clock }
    }

    fn admit<B>(&self, request: &mut HttpRequest<B>) -> Result<(), StatusCode> {
        let certificate = request.extensions().get::<ClientCertificate>().cloned();
        let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let seen = Request {
            client_certificate: certificate.as_ref().map(|certificate| certificate.0.as_slice()),
            authorization,
        };
        let authorities = self.authorities.read().unwrap_or_else(PoisonError::into_inner);
        match validate_request(seen, self.reading, &*authorities, &*self.tokens, (self.clock)()) {
            Verdict::Authenticated { issuer } => {
                let token = authorization.map(|text| text.strip_prefix("Bearer ").unwrap_or(text));
                let token_issuer = token.and_then(token::parse).map(|token| token.claims.iss);
                let token_issuer = token_issuer.unwrap_or_default();
                request.extensions_mut().insert(AuthenticatedRequest { issuer, token_issuer });
                Ok(())
            }
            Verdict::Unauthorized => Err(StatusCode::UNAUTHORIZED),
            Verdict::Forbidden => Err(StatusCode::FORBIDDEN),
        }
    }
}

impl<S> Layer<S> for JwtAuthentication {
    type Service = JwtAuthenticationMiddleware<S>;

    fn layer(&self, controllers: S) -> Self::Service {
        JwtAuthenticationMiddleware { controllers, authentication: self.clone() }
    }
}

impl<S, B> Service<HttpRequest<B>> for JwtAuthenticationMiddleware<S>
where
    S: Service<HttpRequest<B>, Response = Response<Full<Bytes>>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.controllers.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        match self.authentication.admit(&mut request) {
            Ok(()) => Box::pin(self.controllers.call(request)),
            Err(status) => {
                // Literally: no challenge, no body.
                let mut response = Response::new(Full::default());
                *response.status_mut() = status;
                let refused: Ready<Result<_, S::Error>> = ready(Ok(response));
                Box::pin(refused)
            }
        }
    }
}
