//! What a caller may learn: the public codes, with everything that depends on them.

/// Where the headings of `docs/errors.md` are served. The name is reserved (RFC 2606), so nobody else can own it.
const TYPE_BASE: &str = "https://countersign.example/docs/errors#";

macro_rules! public_codes {
    ($($(#[$doc:meta])* $name:ident $slug:literal $status:literal $oauth:literal $grpc:ident $title:literal;)+) => {
        /// What a caller is told. Status, title, OAuth and gRPC codes follow from it and from nothing else, so
        /// codes that share a public code cannot be told apart from outside.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Public { $($(#[$doc])* $name,)+ }

        impl Public {
            /// All of them.
            pub const ALL: &'static [Public] = &[$(Public::$name),+];

            /// The code, `access_denied`.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Public::$name => $slug),+ } }

            /// HTTP status.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Public::$name => $status),+ } }

            /// The `error` of RFC 6749 and RFC 6750 that stands for it at an OAuth endpoint.
            #[must_use]
            pub fn oauth(self) -> &'static str { match self { $(Public::$name => $oauth),+ } }

            /// gRPC status.
            #[must_use]
            pub fn grpc(self) -> tonic::Code { match self { $(Public::$name => tonic::Code::$grpc),+ } }

            /// One sentence, the same for all problems of this type.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Public::$name => $title),+ } }
        }
    };
}

public_codes! {
    /// The request cannot be read.
    MalformedRequest "malformed_request" 400 "invalid_request" InvalidArgument
        "The request cannot be read in exactly one way";
    /// The request can be read, and a value in it is not acceptable.
    InvalidRequest "invalid_request" 422 "invalid_request" InvalidArgument
        "A value in the request is not acceptable";
    /// Nothing was presented, and something would help.
    AuthenticationRequired "authentication_required" 401 "invalid_request" Unauthenticated
        "Authentication is required";
    /// What was presented does not count.
    AuthenticationFailed "authentication_failed" 401 "invalid_token" Unauthenticated
        "The presented credential does not count";
    /// It counted until its time was over.
    CredentialExpired "credential_expired" 401 "invalid_token" Unauthenticated
        "The presented credential has expired";
    /// Name or password.
    LoginFailed "login_failed" 401 "invalid_grant" Unauthenticated
        "Name or password is wrong";
    /// A client of the token service that is not known.
    InvalidClient "invalid_client" 401 "invalid_client" Unauthenticated
        "The client did not authenticate";
    /// A client that may not do this at all.
    UnauthorizedClient "unauthorized_client" 400 "unauthorized_client" PermissionDenied
        "This client may not use this grant";
    /// A grant that does not exist here.
    UnsupportedGrantType "unsupported_grant_type" 400 "unsupported_grant_type" InvalidArgument
        "There is no such grant";
    /// A token of a type that does not exist here.
    UnsupportedTokenType "unsupported_token_type" 400 "unsupported_token_type" InvalidArgument
        "Tokens of this type are not handled here";
    /// A token that cannot be exchanged: RFC 8693 section 2.2.2 wants this code.
    ExchangeRefused "exchange_refused" 400 "invalid_request" PermissionDenied
        "The token cannot be exchanged";
    /// No token for this target (RFC 8693 section 2.2.2).
    InvalidTarget "invalid_target" 400 "invalid_target" PermissionDenied
        "No token is issued for this target";
    /// More than the grant has.
    InvalidScope "invalid_scope" 400 "invalid_scope" PermissionDenied
        "The scope goes beyond what was granted";
    /// RFC 9449 section 5.
    InvalidDpopProof "invalid_dpop_proof" 400 "invalid_dpop_proof" Unauthenticated
        "The DPoP proof does not count";
    /// RFC 9449 section 8.
    UseDpopNonce "use_dpop_nonce" 400 "use_dpop_nonce" Unauthenticated
        "The DPoP proof needs the nonce that comes with this answer";
    /// Known, and not allowed.
    AccessDenied "access_denied" 403 "insufficient_scope" PermissionDenied
        "This caller may not do this";
    /// Nothing there.
    NotFound "not_found" 404 "invalid_request" NotFound
        "There is no such thing";
    /// There, but not for this method.
    MethodNotAllowed "method_not_allowed" 405 "invalid_request" Unimplemented
        "The method is not allowed here";
    /// The client took too long.
    RequestTimeout "request_timeout" 408 "invalid_request" DeadlineExceeded
        "The request took too long to arrive";
    /// Something is already there.
    Conflict "conflict" 409 "invalid_request" AlreadyExists
        "It conflicts with what is already there";
    /// Too long a body.
    BodyTooLarge "body_too_large" 413 "invalid_request" ResourceExhausted
        "The body is too large";
    /// Too long a URI.
    UriTooLong "uri_too_long" 414 "invalid_request" InvalidArgument
        "The URI is too long";
    /// A body of another kind.
    UnsupportedMediaType "unsupported_media_type" 415 "invalid_request" InvalidArgument
        "The media type is not supported";
    /// Sent to a connection that is not for this host.
    MisdirectedRequest "misdirected_request" 421 "invalid_request" InvalidArgument
        "This connection does not serve that host";
    /// Too often.
    TooManyRequests "too_many_requests" 429 "temporarily_unavailable" ResourceExhausted
        "Too many requests: wait and try again";
    /// Too long a head.
    HeadersTooLarge "headers_too_large" 431 "invalid_request" ResourceExhausted
        "The headers are too large";
    /// Our fault.
    InternalError "internal_error" 500 "server_error" Internal
        "Something went wrong here";
    /// The callee's fault.
    BadGateway "bad_gateway" 502 "server_error" Unavailable
        "The service behind gave no usable answer";
    /// Not now.
    Unavailable "unavailable" 503 "temporarily_unavailable" Unavailable
        "Not available now: try again later";
    /// The callee took too long.
    GatewayTimeout "gateway_timeout" 504 "temporarily_unavailable" DeadlineExceeded
        "The service behind did not answer in time";
}

impl Public {
    /// From [`Public::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Public> {
        Public::ALL.iter().copied().find(|public| public.as_str() == text)
    }

    /// The `type` of a problem; the fragment is a heading of `docs/errors.md`.
    #[must_use]
    pub fn type_uri(self) -> String {
        format!("{TYPE_BASE}{}", self.as_str())
    }

    /// What a command returns when the authority answers with it.
    #[must_use]
    pub fn exit(self) -> super::Exit {
        use super::Exit;
        match self.status() {
            401 | 403 | 429 => Exit::Denied,
            400..=499 => Exit::Usage,
            502..=504 => Exit::Unreachable,
            _ => Exit::CheckFailed,
        }
    }
}
