//! The table. One row per code: number, name, stage, public code, retryable, exit code; what happened; why that
//! is an error; what to try. Numbers are never reused.

use super::{Entry, Exit, Public, Stage};

codes! {
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
        "send the request without Upgrade";
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

    // --- token -------------------------------------------------------------------------------------------
    3001 TokenMissing (Token, AuthenticationRequired, never, Denied)
        "the request carries no user token"
        "this route is for users that have logged in"
        "log in and send the token: countersign login NAME --curl-config";
    3002 TokenMalformed (Token, AuthenticationFailed, never, Denied)
        "the token cannot be read"
        "a token has three canonical parts, a strict header, and at most 8 KiB"
        "get a new one: countersign login NAME --token";
    3003 TokenSignature (Token, AuthenticationFailed, never, Denied)
        "the signature of the token does not verify"
        "it was changed, or made with another key"
        "get a new one: countersign login NAME --token";
    3004 TokenKeyUnknown (Token, AuthenticationFailed, never, Denied)
        "the token names a key that is not in use"
        "only published keys count, whatever the token says about itself"
        "get a new one; if that fails too, check that the snapshot is fresh: countersign status";
    3005 TokenExpired (Token, CredentialExpired, never, Denied)
        "the token has expired"
        "its exp lies in the past"
        "log in again: countersign login NAME --token";
    3006 TokenNotYetValid (Token, AuthenticationFailed, later, Denied)
        "the token was issued in the future"
        "its iat or nbf lies ahead by more than the permitted difference of clocks"
        "compare the clocks of this machine and the issuer";
    3007 TokenAudience (Token, AuthenticationFailed, never, Denied)
        "the token was made for somebody else"
        "its aud does not name us"
        "ask the issuer for a token with this audience";
    3008 TokenIssuer (Token, AuthenticationFailed, never, Denied)
        "the token comes from another issuer"
        "its iss is not the one whose keys we hold"
        "log in at this deployment's authority";
    3009 TokenKind (Token, AuthenticationFailed, never, Denied)
        "the token is of another kind"
        "its typ says what a token is for, and one kind never passes as another"
        "send an access token at the edge, and no Txn-Token from outside";
    3010 TokenLifetime (Token, AuthenticationFailed, never, Denied)
        "the token lives longer than tokens of its kind may"
        "access tokens live 10 minutes at most, internal tokens 5"
        "mint it with a shorter life";
    3011 TokenClaims (Token, AuthenticationFailed, never, Denied)
        "a claim of the token is missing or of the wrong type"
        "nothing about a user is ever guessed or defaulted"
        "get a new one: countersign login NAME --token";
    3012 TokenRequester (Token, AuthenticationFailed, never, Denied)
        "the token names another requester than the owner of its key"
        "a gateway can speak only for itself"
        "check which gateway published the key: countersign audit search --kind token_key_published";
    3013 LoginFailed (Token, LoginFailed, never, Denied)
        "name or password is wrong"
        "which of them stays unsaid"
        "try again; an administrator can add the user: countersign user add NAME";
    3014 AccountLocked (Token, LoginFailed, never, Denied)
        "the account has failed too often"
        "guessing stops at 100 consecutive failures (SP 800-63B)"
        "an administrator unlocks it by setting a new password: countersign user reset NAME --password-file FILE";
    3015 PasswordUnacceptable (Token, InvalidRequest, never, Usage)
        "the password is not acceptable"
        "it needs at least 15 characters, at most 256, and must not be one that everybody guesses first"
        "choose a longer one: several words are fine";
    3016 LoginBusy (Token, Unavailable, later, Unreachable)
        "too many logins are being judged"
        "each costs memory and a core, so their number is bounded"
        "try again in a second";
    3017 JoinTokenInvalid (Token, AuthenticationFailed, never, Denied)
        "the join token is unknown"
        "it was never made here, or belongs to another trust domain"
        "make a new one: POST /api/v1/join-tokens on the admin socket";
    3018 JoinTokenExpired (Token, AuthenticationFailed, never, Denied)
        "the join token has expired"
        "it lives minutes, because whoever holds it becomes an agent"
        "make a new one: POST /api/v1/join-tokens on the admin socket";
    3019 JoinTokenSpent (Token, AuthenticationFailed, never, Denied)
        "the join token has been used with another key"
        "it is good for one agent; if that was not yours, somebody else has joined"
        "look at countersign audit search --kind node_joined, then make a new token";
    3020 EvidenceCombination (Token, AuthenticationFailed, never, Denied)
        "the request carries evidence that does not go together"
        "where two things are shown, nobody can say which of them was meant, and the weaker one must not win"
        "send the evidence of one mode: countersign service list";
    3021 TokenInTheClear (Token, AuthenticationFailed, never, Denied)
        "a token of a workload came over plain HTTP"
        "everybody on the way has a copy of it now"
        "connect with TLS, and replace the token";
    3022 ProofReplayed (Token, AuthenticationFailed, never, Denied)
        "the proof was used before"
        "a proof is good for one request; a second one is a copy"
        "make a new one for each request; if the caller did, somebody else holds a copy";
    3023 ProofMemoryFull (Token, Unavailable, later, Denied)
        "more proofs are alive than are remembered"
        "a proof that cannot be remembered could be used twice, and no live one is forgotten to make room"
        "send less, or give proofs a shorter life";
    3024 ProofOfOtherRequest (Token, AuthenticationFailed, never, Denied)
        "the proof was made for another request"
        "method, path, query or recipient are not those that were signed"
        "look for a proxy that rewrites requests; if there is none, somebody used a copy";
    3025 ProofOfOtherConnection (Token, AuthenticationFailed, never, Denied)
        "the proof was made for another connection"
        "a proof that names its TLS connection dies with it"
        "make a new one on each connection; if the caller did, somebody used a copy";
    3026 BodyChanged (Token, AuthenticationFailed, never, Denied)
        "the body is not the one that was signed"
        "it was changed on the way, or the proof belongs to another request"
        "look for a proxy that rewrites bodies; if there is none, somebody used a copy";
    3027 TokenRevoked (Token, AuthenticationFailed, never, Denied)
        "the token was taken back"
        "the token itself, its user, or the key that signed it is on the list of revocations"
        "see who and why: countersign audit search --kind token_revoked";
    3028 TokenOfOtherHolder (Token, AuthenticationFailed, never, Denied)
        "the token is bound to another key or certificate than the caller holds"
        "a bound token is worth nothing to whoever copied it"
        "exchange it for one of your own: countersign token exchange";
    3029 SigningChainMissing (Token, AuthenticationRequired, never, Denied)
        "the certificate of the key that signed is not known here"
        "a signature counts only once its key is known to belong to somebody"
        "send the header Countersign-Signing-Chain once, or register the key";
    3030 CaveatNotMet (Token, AuthenticationFailed, never, Denied)
        "a caveat of the macaroon is not met, or not understood"
        "every caveat narrows what the macaroon is good for, and what is not understood denies"
        "read them: countersign inspect MACAROON";
    3031 ProofBeforeStart (Token, AuthenticationFailed, later, Denied)
        "the proof may be older than this process"
        "the process before it may have accepted it, and remembered that where nobody can ask"
        "make a new one and try again";
    3032 SignerMismatch (Token, AuthenticationFailed, never, Denied)
        "the issuer is not the name in its signing certificate"
        "whoever holds a valid certificate of its own could otherwise speak for everybody"
        "if the caller did not do this itself, somebody captured a token: countersign audit search --kind decision";
    3033 KeyProofRefused (Token, AuthenticationFailed, never, Denied)
        "the DPoP proof beside the access token does not count"
        "it must be made for this request and this token, with the key that the token is bound to, and be used once"
        "see which check failed: countersign explain DECISION";
    3034 KeyProofNonce (Token, AuthenticationFailed, later, Denied)
        "the DPoP proof carries no nonce of this gateway, or an old one"
        "a nonce shows that the proof was made just now, and for this gateway"
        "make the proof again with the value of the DPoP-Nonce header";

    // Of the token service; its callers speak OAuth, so each ends in an `error` of RFC 6749, 8693 or 9449.
    3101 ClientUnknown (Token, InvalidClient, never, Denied)
        "the client of the token service proved no identity"
        "a token is given to a workload that is known, never to whoever asks"
        "connect with an X.509-SVID, or send a client assertion (private_key_jwt) signed by a certified or registered key";
    3102 ClientAssertionRefused (Token, InvalidClient, never, Denied)
        "the client assertion does not count"
        "it must be signed by a certified or registered key of the client, name this issuer alone, and be used once"
        "see which check failed: countersign explain DECISION";
    3103 SubjectTokenRefused (Token, ExchangeRefused, never, Denied)
        "the subject token cannot be exchanged"
        "only a token that counts here and now, and that was meant for the client, becomes another one"
        "see which check failed: countersign explain DECISION";
    3104 ActorTokenRefused (Token, ExchangeRefused, never, Denied)
        "the actor token does not count, or names another than the client"
        "nobody acts in the name of somebody who did not ask"
        "send a JWT-SVID of the client itself, or none: the client is the actor anyway";
    3105 TargetUnknown (Token, InvalidTarget, never, Denied)
        "the token is asked for somebody who does not exist"
        "a token names its one recipient by SPIFFE ID"
        "compare audience or resource with countersign service list";
    3106 ScopeWider (Token, InvalidScope, never, Denied)
        "more scope is asked for than the subject token has"
        "an exchange narrows, it never widens"
        "ask for a part of the scope of the subject token, or for none in particular";
    3107 DpopProofRefused (Token, InvalidDpopProof, never, Denied)
        "the DPoP proof does not count"
        "it must be made for this request, now, with the key that the token is to be bound to, and be used once"
        "see which check failed: countersign explain DECISION";
    3108 DpopNonceNeeded (Token, UseDpopNonce, later, Denied)
        "the DPoP proof carries no nonce of ours, or an old one"
        "a nonce shows that the proof was made just now"
        "make the proof again with the value of the DPoP-Nonce header";

    // --- policy ------------------------------------------------------------------------------------------
    4001 NotPermitted (Policy, AccessDenied, never, Denied)
        "no policy permits this call"
        "what no policy permits is denied"
        "see the nearest rule and what it lacks: countersign explain DECISION";
    4002 Forbidden (Policy, AccessDenied, never, Denied)
        "a policy forbids this call"
        "a forbid wins over every permit"
        "see which one: countersign explain DECISION";
    4003 PolicyError (Policy, AccessDenied, never, Denied)
        "a policy could not be evaluated"
        "a policy that errors denies: it might have been the one that forbids"
        "see which one and why: countersign explain DECISION";
    4004 NoPolicies (Policy, AccessDenied, never, Denied)
        "the target has no policies"
        "a service that names nobody accepts nobody"
        "write a policy file for the target";
    4005 PolicyInvalid (System, InvalidRequest, never, Usage)
        "a policy file cannot be loaded"
        "it does not fit the schema, or two policies have one id; the old generation stays"
        "correct the file at the named place";
    4006 AdminNotPermitted (Policy, AccessDenied, never, Denied)
        "this caller may not use this route of the administration"
        "each route is one action, default deny; an application token or a service certificate is never an administrator"
        "use the admin socket as its owner, or a route that your role permits";
    // Of the token service.
    4101 ExchangeNotPermitted (Policy, InvalidTarget, never, Denied)
        "no policy lets this client exchange for this target"
        "each exchange is decided by sts.cedar, default deny"
        "permit it in sts.cedar, or see what the nearest rule lacks: countersign explain DECISION";
    4102 ClientNotPermitted (Policy, UnauthorizedClient, never, Denied)
        "no policy lets this client use the token service so"
        "without a rule in sts.cedar nobody exchanges anything"
        "write sts.cedar, or see what the nearest rule lacks: countersign explain DECISION";

    // --- upstream and availability -----------------------------------------------------------------------
    5001 UpstreamUnreachable (Upstream, BadGateway, later, Unreachable)
        "the service behind cannot be reached"
        "nobody listens at its address, or the connection broke"
        "check that it runs: countersign status";
    5002 UpstreamTimeout (Upstream, GatewayTimeout, later, Unreachable)
        "the service behind did not answer in time"
        "waiting is bounded everywhere"
        "look at its log, or raise the timeout of the route";
    5003 UpstreamProtocol (Upstream, BadGateway, later, Unreachable)
        "the service behind answered something that is not HTTP, or too much of it"
        "what cannot be read is not passed on"
        "look at the log of the service";
    5004 UpstreamIdentity (Upstream, BadGateway, never, Denied)
        "whoever answers at the address of the service is not that service"
        "its certificate names another identity, does not count, or was revoked"
        "see which check failed: countersign explain last";
    5005 UpstreamUnknown (Upstream, BadGateway, never, Usage)
        "no address is known for the service"
        "services are called by their registered name only"
        "register it: [[service]] in the configuration file";
    5006 Overloaded (Upstream, Unavailable, later, Unreachable)
        "too many requests are in flight"
        "queues are bounded, so that the system refuses instead of collapsing"
        "try again, or add capacity";
    5007 ShuttingDown (Upstream, Unavailable, later, Unreachable)
        "this process is ending"
        "requests in flight are finished, new ones go elsewhere"
        "repeat the request, it will meet another process";
    5008 Internal (Upstream, InternalError, never, CheckFailed)
        "something failed that should not have"
        "this is a defect or a broken machine, not your request"
        "look for the decision id in the log and report it";
    5009 UpstreamDown (Upstream, Unavailable, later, Unreachable)
        "no endpoint of the upstream is usable"
        "discovery names none, or checks and failed requests have taken out all of them"
        "see what the reason says of them; check dns, srv or file, and the health path by hand";
    5010 UpstreamFull (Upstream, Unavailable, later, Unreachable)
        "every endpoint of the upstream has as much to do as it may"
        "what waits without a bound takes the next one down with it, so the breaker refuses"
        "add endpoints, or raise the breaker setting that the reason names";
    5101 CredentialAbsent (Upstream, Unavailable, later, Unreachable)
        "there is nothing to prove ourselves with to the service behind"
        "what is sent in this mode comes through the agent from the authority, and it did not come"
        "check that the agent reaches the authority: countersign check; see what is sent: countersign service list";
    5102 UserNotExchanged (Upstream, Unavailable, later, Unreachable)
        "the user's token could not be exchanged for the service behind"
        "a token for another hop never goes in its place, so the call was refused"
        "check that the authority's token service can be reached: countersign check";
    5103 UserRefused (Upstream, AccessDenied, never, Denied)
        "the token service refused to let this user go on to the service behind"
        "it sees each hop, and decides each by policy"
        "see why: countersign audit search --kind token_exchanged, and sts.cedar";
    5104 AnswerUnproven (Upstream, BadGateway, never, Denied)
        "the answer of the service behind does not prove who gave it to what"
        "in this mode answers are signed, and this one was not, or by another, or was changed"
        "look at the log of the service, and at what stands between";

    // --- control plane -----------------------------------------------------------------------------------
    6001 AuthorityUnreachable (System, Unavailable, later, Unreachable)
        "the authority cannot be reached"
        "it does not run, or another address is configured; credentials at hand stay valid until they expire"
        "countersign up, or compare --state-dir with the one that it was started with";
    6002 AgentUnreachable (System, Unavailable, later, Unreachable)
        "the agent's socket cannot be reached"
        "a workload gets its identity from the agent of its machine"
        "check SPIFFE_ENDPOINT_SOCKET and that the agent runs";
    6003 SnapshotStale (System, Unavailable, later, Unreachable)
        "the snapshot is older than its grace period"
        "revocations and policies may have changed since"
        "check that the agent reaches the authority: countersign check";
    6004 SnapshotSignature (System, Unavailable, never, CheckFailed)
        "the snapshot is not signed by a key of this authority"
        "somebody may be offering forged policies; the old snapshot stays"
        "look at the log of the agent, and who else can write to its socket";
    6005 SnapshotBackwards (System, Unavailable, never, CheckFailed)
        "the snapshot is older than the one at hand"
        "an attacker could bring back a revoked identity that way; the old snapshot stays"
        "after a restore from backup the authority must begin a new epoch";
    6006 SnapshotCritical (System, Unavailable, never, CheckFailed)
        "the snapshot needs something that this version does not understand"
        "ignoring it could permit what it forbids; the old snapshot stays"
        "update this binary";
    6007 LedgerRolledBack (System, InternalError, never, CheckFailed)
        "the ledger is shorter than it was"
        "events that were acknowledged are gone: a restore, or somebody removed them"
        "countersign audit verify --head SAVED names the place; restore the newer copy";
    6008 LedgerForked (System, InternalError, never, CheckFailed)
        "the ledger is another one than it was"
        "at the same size it has another hash: history was rewritten"
        "countersign audit verify --head SAVED names the place; keep both copies as evidence";
    6009 LedgerBroken (System, InternalError, never, CheckFailed)
        "an event of the ledger does not fit the chain"
        "it was changed, removed or moved"
        "countersign audit verify names the first bad event; keep the file as evidence";
    6010 LedgerGap (System, InternalError, never, CheckFailed)
        "events of a writer are missing"
        "a writer lost its spool, or somebody removed a part of it"
        "the gap is recorded; look at the writer's log around that time";
    6011 VersionMismatch (System, Unavailable, never, CheckFailed)
        "agent and authority speak no common version"
        "each names the oldest and the newest version that it speaks"
        "update the older one";
    6012 NotReady (System, Unavailable, later, Unreachable)
        "the process is not ready yet"
        "it waits for an identity or a snapshot"
        "wait, or see what it waits for: /readyz on its admin listener";
    6013 EvidenceUnwritable (System, Unavailable, later, CheckFailed)
        "the ledger cannot be written"
        "a refusal or an issuance must be durable before it is answered"
        "free disk space, and check the owner of the state directory";
    6014 ClockSteppedBack (System, Unavailable, never, CheckFailed)
        "the clock has stepped back"
        "what had expired must not become valid again"
        "repair time synchronisation, then restart";
    6015 PeerWaiting (System, Unavailable, later, Unreachable)
        "something did not start in time"
        "every wait has a limit"
        "look at the log that is named";

    // --- store and keys ----------------------------------------------------------------------------------
    7001 MasterKeyMissing (System, InternalError, never, Usage)
        "the master key is not there"
        "the database holds keys that only it can open, so nothing was made and nothing changed"
        "put the key file back, or set authority.master_key to where it is";
    7002 MasterKeyWrong (System, InternalError, never, Usage)
        "the master key does not open this database"
        "it is the key of another deployment, so nothing was made and nothing changed"
        "find the key file that belongs to this state directory";
    7003 MasterKeyUnreadable (System, InternalError, never, Usage)
        "the master key file cannot be used"
        "it is damaged, or readable by group or others"
        "restore it from its backup, then chmod 600";
    7004 SealedKeyInvalid (System, InternalError, never, Usage)
        "a sealed key does not open"
        "it was moved from another row or changed: its seal binds trust domain, purpose, row and version"
        "restore the database from its backup";
    7005 DatabaseUnreachable (System, Unavailable, later, Unreachable)
        "the database cannot be opened"
        "the file or server is not there, or may not be used"
        "check authority.database, and that the server runs";
    7006 DatabaseNotDurable (System, InternalError, never, Usage)
        "the database would not keep what it acknowledges"
        "synchronous=FULL (SQLite) or synchronous_commit=on (PostgreSQL) does not hold on a connection"
        "remove the setting that weakens it from the server or the connection URL";
    7007 DatabaseNewer (System, InternalError, never, Usage)
        "the database was migrated by a newer version"
        "this version does not know what the newer one stores"
        "run the newer version";
    7008 DatabaseBusy (System, Unavailable, later, Unreachable)
        "the database did not answer in time"
        "another process holds it, or it is overloaded; waits are bounded"
        "try again; a second authority on one SQLite file is not possible, use PostgreSQL";
    7009 DatabaseCorrupt (System, InternalError, never, CheckFailed)
        "the database holds something that cannot be read"
        "a row does not have the form that this version wrote"
        "restore the database from its backup";
    7010 TrustDomainMismatch (System, InternalError, never, Usage)
        "the database belongs to another trust domain"
        "a state directory has one trust domain for its whole life"
        "use another --state-dir, or the trust domain of this one";

    // --- configuration and command line ------------------------------------------------------------------
    8001 ConfigUnreadable (System, InternalError, never, Usage)
        "the configuration file cannot be read"
        "it is not there, or may not be read"
        "name it with --config, or run countersign up";
    8002 ConfigSyntax (System, InternalError, never, Usage)
        "the configuration file is not TOML"
        "a part of it cannot be understood, so none of it is used"
        "correct the line that is named";
    8003 ConfigUnknownKey (System, InternalError, never, Usage)
        "the configuration file has an unknown key"
        "a typo must not silently turn a protection off"
        "use the suggested key, or remove it";
    8004 ConfigValue (System, InternalError, never, Usage)
        "a value in the configuration file is not acceptable"
        "each key has a form or a range"
        "correct the key that is named";
    8005 AddressInUse (System, InternalError, never, Usage)
        "a port or socket is in use"
        "another process listens there"
        "stop it, or configure another address";
    8006 CleartextExposed (System, InternalError, never, Usage)
        "plain HTTP would be reachable from other machines"
        "tokens would cross the network in the clear"
        "listen on 127.0.0.1, or use listen_tls";
    8007 Usage (System, InvalidRequest, never, Usage)
        "the command cannot be understood"
        "an argument is missing, unknown, or contradicts another"
        "countersign help, or COMMAND --help";
    8008 CheckFailed (System, InternalError, never, CheckFailed)
        "a check of the deployment failed"
        "something is not as it should be"
        "countersign check says what and how to repair it";
    8009 FileExposed (System, InternalError, never, Usage)
        "a secret file can be read by group or others"
        "whoever reads it becomes its owner"
        "chmod 600 the file, and 700 its directory";
    8010 StateDirectory (System, InternalError, never, Usage)
        "the state directory cannot be used"
        "it is not there, not writable, or belongs to somebody else"
        "choose another one with --state-dir, or correct its owner";
    8011 InsecureSetting (System, InternalError, never, Usage)
        "an insecure setting is on"
        "it exists for measuring and migration, and protects nobody"
        "remove it before real traffic";
}
