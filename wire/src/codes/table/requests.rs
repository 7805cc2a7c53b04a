//! Codes of requests and identities.

macro_rules! requests {
    ($($before:tt)*) => { decisions! { $($before)*
        // --- request -----------------------------------------------------------------------------------------
        1001 PathAmbiguous (Request, MalformedRequest, never, Usage)
            "the path can be read in more than one way"
            "dot segments, double slashes, encoded slashes, backslashes, NUL and ';' mean different things to different programs, so a rule on the path could be bypassed"
            "send the path in its plain form, /ads/1/buy";
        1002 HeaderAmbiguous (Request, MalformedRequest, never, Usage)
            "a header stands there twice, or under an alias"
            "two programs could each believe another one of them"
            "send each header once, spelled with hyphens";
        1003 BodyTooLarge (Request, BodyTooLarge, never, Usage)
            "the body is longer than the limit"
            "a body must be held in memory until it is judged, and memory is bounded"
            "send less, or raise the limit of this route";
        1004 HeadersTooLarge (Request, HeadersTooLarge, never, Usage)
            "the request head is longer than the limit, or has too many headers"
            "heads are read before anybody is known, and memory is bounded"
            "send fewer or shorter headers and cookies";
        1005 BodyMalformed (Request, MalformedRequest, never, Usage)
            "the body is not JSON of the right shape"
            "unknown, missing and doubled members are errors, because a typo must not silently change the meaning"
            "compare the body with /api/v1/openapi.json";
        1006 RouteUnknown (Request, NotFound, never, Usage)
            "no route matches the path"
            "what no route names is not served"
            "look at the routes in the configuration file, or at /api/v1/openapi.json";
        1007 MethodNotAllowed (Request, MethodNotAllowed, never, Usage)
            "the route exists, but not for this method"
            "each route names its methods"
            "use a method that the Allow header names";
        1008 RequestTimeout (Request, RequestTimeout, later, CheckFailed)
            "the request took too long to arrive"
            "slow senders would otherwise hold connections for ever"
            "send head and body without pause";
        1009 TooManyRequests (Quota, TooManyRequests, later, Denied)
            "more requests than this address or caller may send"
            "the quota protects everybody else"
            "wait as long as Retry-After says, or raise the quota";
        1010 UriTooLong (Request, UriTooLong, never, Usage)
            "the URI is longer than the limit"
            "paths are parsed before anybody is known, and memory is bounded"
            "move data from the query to the body";
        1011 ParameterInvalid (Request, InvalidRequest, never, Usage)
            "a parameter has a value that is not acceptable"
            "each parameter has a range or a form"
            "see the detail, and /api/v1/openapi.json";
        1012 ObjectUnknown (Request, NotFound, never, Usage)
            "there is no such object"
            "the name or id is not known in this trust domain"
            "list what exists: countersign service list, countersign cert list, countersign user list";
        1013 Conflict (Request, Conflict, never, Usage)
            "an object with this name exists already"
            "names are unique within a trust domain"
            "choose another name, or change the object that is there";
        1014 MediaTypeUnsupported (Request, UnsupportedMediaType, never, Usage)
            "the body has another media type than this route reads"
            "a body is parsed only as what it says it is"
            "send Content-Type: application/json";
        1015 AuthorityAmbiguous (Request, MalformedRequest, never, Usage)
            "the request names no host, or two"
            "Host and :authority decide where a request goes, so they must agree"
            "send exactly one Host header, or :authority alone";
        1016 Misdirected (Request, MisdirectedRequest, never, Usage)
            "the request names another host than the TLS handshake did"
            "a certificate, a policy or a route for one host must not be reached through the handshake of another"
            "open a connection of its own for each host, and write the host as in the URL";
        1017 UpgradeRefused (Request, MalformedRequest, never, Usage)
            "the request asks to leave HTTP"
            "bytes after an upgrade are not requests, so nobody could decide about them"
            "send the request without Upgrade, or name websocket in upgrade, in the route or in [sidecar]: docs/gateway.md";
        1018 AddressRefused (Request, AccessDenied, never, Denied)
            "requests from this address are not served here"
            "a list of networks or countries says who may knock at all"
            "look at allow, deny and countries in [gateway.access] and in the route";
        1019 OriginRefused (Request, AccessDenied, never, Denied)
            "pages of this origin may not send this request"
            "a browser asks first, and only listed origins, methods and headers are let through"
            "list the origin in [gateway.cors], or in the cors of the route";
        1020 PuzzleNeeded (Quota, TooManyRequests, later, Denied)
            "too many logins from this address failed, so the next one has to cost something"
            "guessing passwords must be dearer than knowing one"
            "solve the puzzle in Countersign-Puzzle and send the solution along: docs/gateway.md";
        // Of the token service.
        1101 GrantUnsupported (Request, UnsupportedGrantType, never, Usage)
            "the token service does not know this grant"
            "services exchange tokens here; people log in elsewhere"
            "send grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
        1102 ExchangeMalformed (Request, MalformedRequest, never, Usage)
            "a parameter of the token request is missing, doubled or unfit"
            "what can be read in two ways is not read at all"
            "see the error_description, and RFC 8693 section 2.1";
        1103 TokenTypeUnsupported (Request, UnsupportedTokenType, never, Usage)
            "tokens of this type cannot be taken back here"
            "RFC 7009 section 2.2.1"
            "see which types exist: /.well-known/oauth-authorization-server";

        // --- identity and transport --------------------------------------------------------------------------
        2001 CertificateMissing (Identity, AuthenticationRequired, never, Denied)
            "the caller presented no certificate"
            "this target accepts only callers that prove who they are by mutual TLS"
            "start the caller with an identity: countersign run --service NAME -- CMD";
        2002 CertificateUsage (Transport, AuthenticationFailed, never, Denied)
            "the certificate is not made for this use"
            "a client needs the extended key usage clientAuth, a server serverAuth, and a CA certificate is never a leaf"
            "let the agent issue the certificate, or use --profile workload";
        2003 CertificateExpired (Transport, CredentialExpired, never, Denied)
            "the certificate is outside its validity"
            "either it has expired and was not renewed, or a clock is wrong"
            "check that the workload reaches its agent's socket, and compare the clocks";
        2004 CertificateNotYetValid (Transport, AuthenticationFailed, later, Denied)
            "the certificate is not valid yet"
            "its validity begins in the future, by more than the permitted difference of clocks"
            "compare the clocks of this machine and the authority";
        2005 CertificateUntrusted (Transport, AuthenticationFailed, never, Denied)
            "the certificate does not lead to a root of its own trust domain"
            "only the bundle of the trust domain that the certificate names counts; an equal name under another root is a stranger"
            "compare countersign inspect CERT with countersign ca bundle";
        2006 CertificateRevoked (Transport, AuthenticationFailed, never, Denied)
            "the certificate has been revoked"
            "somebody withdrew trust in it before it expired"
            "see who and why: countersign audit search --kind certificate_revoked; restart the workload to get a new one";
        2007 CertificateIdentity (Transport, AuthenticationFailed, never, Denied)
            "the certificate names no single SPIFFE ID"
            "exactly one URI SAN with a valid SPIFFE ID makes an identity; DNS names and e-mail addresses do not"
            "look at it: countersign inspect CERT";
        2008 PeerUnexpected (Transport, AuthenticationFailed, never, Denied)
            "the peer proved another identity than the expected one"
            "whoever listens there is not the service that was called"
            "compare the address of the service with countersign service list";
        2009 CrlMissing (Transport, Unavailable, later, Unreachable)
            "no revocation list is at hand for the peer's trust domain"
            "without a list a revoked certificate would look valid"
            "check that the agent reaches the authority: countersign check";
        2010 CrlExpired (Transport, Unavailable, later, Unreachable)
            "the revocation list is older than its nextUpdate"
            "newer revocations may be missing from it"
            "check that the agent reaches the authority: countersign check";
        2011 HandshakeFailed (Transport, AuthenticationFailed, later, Denied)
            "the TLS handshake failed"
            "the peers found no common protocol, or one of them broke off"
            "try openssl s_client against the same address; TLS 1.3 is required";
        2012 HandshakeTimeout (Transport, RequestTimeout, later, CheckFailed)
            "the TLS handshake took too long"
            "slow peers would otherwise hold connections for ever"
            "check the network, and whether the peer speaks TLS at all";
        2013 TrustDomainForeign (Transport, AuthenticationFailed, never, Denied)
            "no bundle is known for the peer's trust domain"
            "a peer is judged by the bundle of its own trust domain and by no other"
            "see which bundles are known: countersign ca bundle";
        2014 CsrMalformed (Request, MalformedRequest, never, Usage)
            "the certificate request cannot be read"
            "it must be one PKCS#10 in DER, within the size limit"
            "make it anew: openssl req -new -key KEY -outform DER";
        2015 CsrSignature (Request, InvalidRequest, never, Usage)
            "the certificate request is not signed by its own key"
            "the signature proves that the requester holds the private key"
            "make the request with the private key that it names";
        2016 CsrWeakKey (Request, InvalidRequest, never, Usage)
            "the key in the certificate request is too weak"
            "short keys can be broken within the life of the deployment"
            "use ECDSA P-256";
        2017 CsrForeignKey (Request, InvalidRequest, never, Usage)
            "the key in the certificate request is of another kind"
            "workloads use ECDSA P-256, one algorithm that everything here verifies"
            "use ECDSA P-256";
        2018 CsrAsksForMore (Request, InvalidRequest, never, Usage)
            "the certificate request asks for something that is not its own identity"
            "the profile alone decides what a certificate contains"
            "make a request without extensions, or with exactly its own SPIFFE ID";
        2019 AttestationFailed (Identity, AccessDenied, never, Denied)
            "the agent does not know this process"
            "an identity belongs to a process that was started for it, not to whoever asks"
            "start the process with countersign run --service NAME -- CMD";
        2020 EntryUnknown (Identity, AccessDenied, never, Denied)
            "no registration entry names this identity for this node"
            "only the authority grants identities, an agent can only narrow them"
            "register it: [[service]] in the configuration file, then countersign service list";
        2021 LaunchNotPermitted (Identity, AccessDenied, never, Denied)
            "this uid may not launch that service"
            "launching is a right: the entry names the uids that have it"
            "add the uid to launch_by of the service";
        2022 LifetimeOutOfRange (Request, InvalidRequest, never, Usage)
            "the lifetime is outside what the profile permits"
            "short lives bound the damage of a stolen key, and no certificate outlives its issuer"
            "ask for 1 minute to 24 hours";
        2023 IssuerExpiring (System, Unavailable, later, CheckFailed)
            "a CA certificate is near its end"
            "what it signs cannot live longer than it does"
            "renew it: countersign check says which one and until when";
        2024 ProofTooWeak (Identity, AuthenticationRequired, never, Denied)
            "the caller proved itself in a mode that this target does not accept"
            "each service states its floor, and nothing below it counts"
            "compare accepts and sends: countersign service list";
        2025 ReservedIdentity (Identity, AccessDenied, never, Denied)
            "this identity is reserved for the system itself"
            "names under /countersign/ belong to authority, agents and gateways"
            "use spiffe://TRUST-DOMAIN/svc/NAME for services";
    }};
}
