//! Every reason why evidence does not hold: the code for the operator, and the status and challenge for the caller.

use countersign_identity::{Mode, SpiffeId};
use countersign_pki::{PeerError, verify::UsageError};
use countersign_sdk::{
    authenticate::EvidenceError,
    inbound::{Challenge, Denial},
    signing_chains::ChainHeaderError,
};
use countersign_token::{
    AccessTokenError, BearerError, BodyError, ExchangedTokenError, JwsError, JwtSvidError, ReplayError,
    RevokedError, ServiceTokenError, SignatureError, TxnTokenError, WitError, WptError,
    macaroon::MacaroonError,
};
use countersign_wire::codes::Code;

#[test]
fn every_reason_has_its_code_its_status_and_what_would_help() {
    let id = |name: &str| SpiffeId::parse(&format!("spiffe://td/svc/{name}")).unwrap();
    let usage = || PeerError::Usage(UsageError::NoCertificate);
    let below = |mode, accepts: &[Mode]| EvidenceError::BelowFloor { mode, accepts: accepts.to_vec() };
    let wimse = Challenge::Mode(Mode::Wimse);
    let cases = [
        (EvidenceError::Peer(usage()), Code::CertificateMissing, Challenge::Certificate),
        (TxnTokenError::Expired { by_seconds: 1 }.into(), Code::TokenExpired, Challenge::TxnToken),
        (EvidenceError::TokenFromStranger, Code::CertificateMissing, Challenge::Certificate),
        (ExchangedTokenError::OtherClient.into(), Code::TokenClaims, Challenge::TxnToken),
        (JwtSvidError::NotAnId { sub: "x".into() }.into(), Code::TokenClaims, Challenge::BetterBearer),
        (AccessTokenError::Expired { by_seconds: 1 }.into(), Code::TokenExpired, Challenge::BetterBearer),
        (EvidenceError::NotBearer, Code::TokenMalformed, Challenge::BetterBearer),
        (EvidenceError::Combination("two"), Code::EvidenceCombination, Challenge::Proof),
        (EvidenceError::Unreadable(JwsError::NotThreeParts), Code::TokenMalformed, Challenge::BetterBearer),
        (EvidenceError::UnknownKind { typ: "x".into() }, Code::TokenKind, Challenge::BetterBearer),
        (EvidenceError::InTheClear, Code::TokenInTheClear, Challenge::Proof),
        (BearerError::Checksum.into(), Code::TokenMalformed, Challenge::BetterBearer),
        (WitError::Audience.into(), Code::TokenClaims, wimse),
        (WptError::WrongChannel.into(), Code::ProofOfOtherConnection, wimse),
        (ReplayError::Replayed.into(), Code::ProofReplayed, Challenge::Proof),
        (RevokedError::Key { kid: "k".into() }.into(), Code::TokenRevoked, Challenge::BetterBearer),
        (MacaroonError::NotAName.into(), Code::TokenMalformed, Challenge::Mode(Mode::Macaroon)),
        (SignatureError::BadSignature.into(), Code::TokenSignature, wimse),
        (ServiceTokenError::OtherPath.into(), Code::ProofOfOtherRequest, Challenge::Mode(Mode::Jwt)),
        (EvidenceError::Signer(usage()), Code::CertificateMissing, Challenge::SigningChain),
        (ChainHeaderError::Malformed.into(), Code::TokenMalformed, Challenge::SigningChain),
        (EvidenceError::SignerUnknown, Code::SigningChainMissing, Challenge::SigningChain),
        (
            EvidenceError::SignerMismatch { issuer: id("ads"), certified: id("chat") },
            Code::SignerMismatch,
            Challenge::Proof,
        ),
        (
            EvidenceError::OtherPeer { issuer: id("ads"), peer: id("chat") },
            Code::SignerMismatch,
            Challenge::Proof,
        ),
        (BodyError::Changed.into(), Code::BodyChanged, Challenge::Proof),
        (EvidenceError::BodyChanged, Code::BodyChanged, Challenge::Proof),
        (
            EvidenceError::NoClaims { name: "tenant".into(), mode: Mode::Mtls },
            Code::TokenClaims,
            Challenge::Mode(Mode::Jwt),
        ),
        (below(Mode::None, &[Mode::Mtls]), Code::CertificateMissing, Challenge::Certificate),
        (below(Mode::None, &[Mode::Jwt]), Code::ProofTooWeak, Challenge::Mode(Mode::Jwt)),
        (
            below(Mode::Bearer, &[Mode::None, Mode::MtlsJwt]),
            Code::ProofTooWeak,
            Challenge::Mode(Mode::MtlsJwt),
        ),
    ];
    for (error, code, challenge) in cases {
        let denial = Denial::from(&error);
        assert_eq!((denial.code, denial.challenge), (code, challenge), "{error}");
        assert_eq!(denial.status(), 401, "{error}");
        assert_eq!(denial.reason, error.to_string());
    }
    // Where there is no room, waiting helps and a better proof does not.
    let full = Denial::from(&EvidenceError::from(ReplayError::Full { live: 1 }));
    assert_eq!((full.code, full.status().as_u16()), (Code::ProofMemoryFull, 503));
}

#[test]
fn every_reason_says_what_is_wrong_in_words() {
    for error in [
        EvidenceError::TxnToken(TxnTokenError::Expired { by_seconds: 1 }),
        EvidenceError::HopToken(ExchangedTokenError::OtherClient),
        EvidenceError::JwtSvid(JwtSvidError::NotAnId { sub: "x".into() }),
        EvidenceError::AccessToken(AccessTokenError::Expired { by_seconds: 1 }),
        EvidenceError::Bearer(BearerError::Checksum),
        EvidenceError::Wit(WitError::Audience),
        EvidenceError::Wpt(WptError::WrongChannel),
        EvidenceError::Replay(ReplayError::Replayed),
        EvidenceError::Revoked(RevokedError::Key { kid: "k".into() }),
        EvidenceError::Macaroon(MacaroonError::NotAName),
        EvidenceError::Signature(SignatureError::BadSignature),
        EvidenceError::ServiceToken(ServiceTokenError::OtherPath),
        EvidenceError::ChainHeader(ChainHeaderError::Malformed),
        EvidenceError::Body(BodyError::Changed),
    ] {
        let text = error.to_string();
        assert!(!text.ends_with('.') && text.len() > 20, "{text}");
    }
}
