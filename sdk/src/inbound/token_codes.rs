//! What is wrong with a certificate or a token → its code. Every kind of evidence has its function here, without a
//! catch-all where a new reason could hide.

use countersign_pki::{
    CrlError,
    verify::{ChainError, IdentityError, PeerError, RevocationError, UsageError, ValidityError},
};
use countersign_token::{
    AccessTokenError, BearerError, ExchangedTokenError, ForeignTokenError, JwsError, JwtSvidError,
    ReplayError, ServiceTokenError, SignatureError, TimeError, TxnTokenError, WitError, WptError,
    macaroon::{ChainError as MacaroonChainError, MacaroonError, PredicateError},
};
use countersign_wire::codes::Code;

/// The code of a peer that is not believed.
pub(super) fn code_of_peer(error: &PeerError) -> Code {
    match error {
        PeerError::Usage(UsageError::NoCertificate) => Code::CertificateMissing,
        PeerError::Usage(_) => Code::CertificateUsage,
        PeerError::Validity(ValidityError::Expired { .. }) => Code::CertificateExpired,
        PeerError::Validity(ValidityError::NotYetValid { .. }) => Code::CertificateNotYetValid,
        PeerError::Chain(ChainError::NoBundle { .. }) => Code::TrustDomainForeign,
        PeerError::Chain(ChainError::Path(_)) => Code::CertificateUntrusted,
        PeerError::Revocation(RevocationError::Revoked { .. }) => Code::CertificateRevoked,
        PeerError::Revocation(RevocationError::NoCrl) => Code::CrlMissing,
        PeerError::Revocation(RevocationError::Crl(CrlError::Expired { .. })) => Code::CrlExpired,
        PeerError::Revocation(RevocationError::Crl(_)) => Code::CrlMissing,
        PeerError::Identity(IdentityError::Unexpected { .. } | IdentityError::OtherThumbprint { .. }) => {
            Code::PeerUnexpected
        }
        PeerError::Identity(_) => Code::CertificateIdentity,
    }
}

pub(super) fn code_of_txn_token(error: &TxnTokenError) -> Code {
    match error {
        TxnTokenError::Jws(jws) => code_of_jws(jws),
        TxnTokenError::WrongKind { .. } => Code::TokenKind,
        TxnTokenError::UnknownKey { .. } => Code::TokenKeyUnknown,
        TxnTokenError::Claim(_) | TxnTokenError::NotAWorkload { .. } => Code::TokenClaims,
        TxnTokenError::WrongTrustDomain { .. } => Code::TokenAudience,
        TxnTokenError::NotOwner { .. }
        | TxnTokenError::NotAnIssuer { .. }
        | TxnTokenError::NotRequester { .. } => Code::TokenRequester,
        TxnTokenError::Lifetime { .. } => Code::TokenLifetime,
        TxnTokenError::NotYetValid { .. } => Code::TokenNotYetValid,
        TxnTokenError::Expired { .. } => Code::TokenExpired,
    }
}

pub(super) fn code_of_access_token(error: &AccessTokenError) -> Code {
    match error {
        AccessTokenError::Jws(jws) => code_of_jws(jws),
        AccessTokenError::WrongKind { .. } => Code::TokenKind,
        AccessTokenError::UnknownKey { .. } => Code::TokenKeyUnknown,
        AccessTokenError::Claim(_) => Code::TokenClaims,
        AccessTokenError::WrongIssuer { .. } => Code::TokenIssuer,
        AccessTokenError::WrongAudience { .. } => Code::TokenAudience,
        AccessTokenError::Lifetime { .. } => Code::TokenLifetime,
        AccessTokenError::NotYetValid { .. } => Code::TokenNotYetValid,
        AccessTokenError::Expired { .. } => Code::TokenExpired,
        AccessTokenError::Confirmation(_) => Code::TokenOfOtherHolder,
    }
}

pub(super) fn code_of_jws(error: &JwsError) -> Code {
    match error {
        JwsError::WrongKey | JwsError::BadSignature => Code::TokenSignature,
        _ => Code::TokenMalformed,
    }
}

pub(super) fn code_of_bearer(error: &BearerError) -> Code {
    match error {
        BearerError::NotBearer | BearerError::Checksum | BearerError::BadId => Code::TokenMalformed,
        BearerError::Unknown { .. } => Code::TokenKeyUnknown,
        BearerError::WrongSecret { .. } => Code::TokenSignature,
        BearerError::Expired { .. } => Code::TokenExpired,
    }
}

pub(super) fn code_of_wit(error: &WitError) -> Code {
    match error {
        WitError::Jws(jws) => code_of_jws(jws),
        WitError::WrongKind { .. } => Code::TokenKind,
        WitError::UnknownKey { .. } => Code::TokenKeyUnknown,
        WitError::WrongTrustDomain { .. } | WitError::WrongIssuer { .. } => Code::TokenIssuer,
        WitError::Times(times) => code_of_times(times),
        _ => Code::TokenClaims,
    }
}

pub(super) fn code_of_wpt(error: &WptError) -> Code {
    match error {
        WptError::Jws(jws) => code_of_jws(jws),
        WptError::WrongKind { .. } => Code::TokenKind,
        WptError::WrongAlgorithm { .. } => Code::TokenSignature,
        WptError::WitExpired { .. } => Code::TokenExpired,
        WptError::Times(times) => code_of_times(times),
        WptError::WrongAudience { .. } => Code::ProofOfOtherRequest,
        WptError::WrongChannel => Code::ProofOfOtherConnection,
        WptError::WrongHash { .. }
        | WptError::Uncovered { .. }
        | WptError::TokenGone { .. }
        | WptError::UnknownOther { .. } => Code::EvidenceCombination,
        WptError::Claim(_) | WptError::Id { .. } => Code::TokenClaims,
    }
}

pub(super) fn code_of_macaroon(error: &MacaroonError) -> Code {
    match error {
        MacaroonError::NotBase64Url
        | MacaroonError::Format(_)
        | MacaroonError::NotAName
        | MacaroonError::BadKeyId
        | MacaroonError::Owner(_) => Code::TokenMalformed,
        MacaroonError::UnknownKey { .. } => Code::TokenKeyUnknown,
        MacaroonError::WrongLocation { .. } => Code::TokenAudience,
        MacaroonError::Chain(MacaroonChainError::Predicate(PredicateError::TooLate { .. })) => {
            Code::TokenExpired
        }
        MacaroonError::Chain(MacaroonChainError::Predicate(_)) => Code::CaveatNotMet,
        MacaroonError::Chain(_) => Code::TokenSignature,
    }
}

pub(super) fn code_of_signature(error: &SignatureError) -> Code {
    match error {
        SignatureError::BadSignature => Code::TokenSignature,
        SignatureError::WrongAudience { .. } | SignatureError::WrongRequest => Code::ProofOfOtherRequest,
        SignatureError::WrongDigest | SignatureError::NoDigest => Code::BodyChanged,
        SignatureError::WitExpired { .. } => Code::TokenExpired,
        SignatureError::Times(times) => code_of_times(times),
        SignatureError::WrongWit | SignatureError::Uncovered { .. } => Code::EvidenceCombination,
        _ => Code::TokenMalformed,
    }
}

pub(super) fn code_of_service_token(error: &ServiceTokenError) -> Code {
    match error {
        ServiceTokenError::Jws(jws) => code_of_jws(jws),
        ServiceTokenError::UnknownKey { .. } => Code::TokenKeyUnknown,
        ServiceTokenError::NotOwner { .. } => Code::SignerMismatch,
        ServiceTokenError::WrongAudience { .. } => Code::TokenAudience,
        ServiceTokenError::OtherMethod { .. } | ServiceTokenError::OtherPath => Code::ProofOfOtherRequest,
        ServiceTokenError::OtherConnection => Code::ProofOfOtherConnection,
        ServiceTokenError::UserTokenGone | ServiceTokenError::OtherUserToken => Code::EvidenceCombination,
        ServiceTokenError::Times(times) => code_of_times(times),
        ServiceTokenError::Claim(_)
        | ServiceTokenError::NotAnId { .. }
        | ServiceTokenError::IdLength { .. }
        | ServiceTokenError::SeveralUsers
        | ServiceTokenError::RegisteredName { .. }
        | ServiceTokenError::NotText { .. }
        | ServiceTokenError::Demanded { .. }
        | ServiceTokenError::OtherValue { .. } => Code::TokenClaims,
    }
}

pub(super) fn code_of_hop_token(error: &ExchangedTokenError) -> Code {
    match error {
        ExchangedTokenError::Jws(jws) => code_of_jws(jws),
        ExchangedTokenError::UnknownKey { .. } => Code::TokenKeyUnknown,
        ExchangedTokenError::WrongIssuer { .. } => Code::TokenIssuer,
        ExchangedTokenError::WrongAudience { .. } => Code::TokenAudience,
        ExchangedTokenError::OtherActor { .. } | ExchangedTokenError::Confirmation(_) => {
            Code::TokenOfOtherHolder
        }
        ExchangedTokenError::Times(times) => code_of_times(times),
        ExchangedTokenError::Claim(_)
        | ExchangedTokenError::Scope(_)
        | ExchangedTokenError::NotAWorkload { .. }
        | ExchangedTokenError::OtherClient => Code::TokenClaims,
    }
}

pub(super) fn code_of_jwt_svid(error: &JwtSvidError) -> Code {
    match error {
        JwtSvidError::Jws(jws) => code_of_jws(jws),
        JwtSvidError::UnknownKey { .. } => Code::TokenKeyUnknown,
        JwtSvidError::WrongAudience { .. } => Code::TokenAudience,
        JwtSvidError::Times(times) => code_of_times(times),
        JwtSvidError::Claim(_) | JwtSvidError::NotAnId { .. } => Code::TokenClaims,
    }
}

pub(super) fn code_of_foreign_token(error: &ForeignTokenError) -> Code {
    match error {
        ForeignTokenError::Jws(jws) => code_of_jws(jws),
        ForeignTokenError::WrongKind { .. } => Code::TokenKind,
        ForeignTokenError::UnknownKey { .. } => Code::TokenKeyUnknown,
        ForeignTokenError::Claim(_) | ForeignTokenError::Unnameable { .. } => Code::TokenClaims,
        ForeignTokenError::WrongIssuer { .. } => Code::TokenIssuer,
        ForeignTokenError::WrongAudience { .. } => Code::TokenAudience,
        ForeignTokenError::Times(times) => code_of_times(times),
        ForeignTokenError::Confirmation(_) => Code::TokenOfOtherHolder,
    }
}

pub(super) fn code_of_times(error: &TimeError) -> Code {
    match error {
        TimeError::Lifetime { .. } => Code::TokenLifetime,
        TimeError::NotYetValid { .. } => Code::TokenNotYetValid,
        TimeError::Expired { .. } => Code::TokenExpired,
    }
}

pub(super) fn code_of_replay(error: &ReplayError) -> Code {
    match error {
        ReplayError::Replayed => Code::ProofReplayed,
        ReplayError::IssuedBeforeStart { .. } => Code::ProofBeforeStart,
        ReplayError::DatedAhead { .. } => Code::TokenNotYetValid,
        ReplayError::Expired { .. } => Code::TokenExpired,
        ReplayError::LivesTooLong { .. } => Code::TokenLifetime,
        ReplayError::IssuerQuota { .. } | ReplayError::Full { .. } => Code::ProofMemoryFull,
    }
}
