//! Codes of tokens and policies.

macro_rules! decisions {
    ($($before:tt)*) => { operations! { $($before)*
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
        4007 FilterRefused (Policy, AccessDenied, never, Denied)
            "a filter of the operator's own refused what the policy permits"
            "filters are asked last, and each can only say no"
            "see which filter in the record's checks, and that filter's own log";
        // Of the token service.
        4101 ExchangeNotPermitted (Policy, InvalidTarget, never, Denied)
            "no policy lets this client exchange for this target"
            "each exchange is decided by sts.cedar, default deny"
            "permit it in sts.cedar, or see what the nearest rule lacks: countersign explain DECISION";
        4102 ClientNotPermitted (Policy, UnauthorizedClient, never, Denied)
            "no policy lets this client use the token service so"
            "without a rule in sts.cedar nobody exchanges anything"
            "write sts.cedar, or see what the nearest rule lacks: countersign explain DECISION";
    }};
}
