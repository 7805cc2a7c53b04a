//! Callers for tests.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use countersign_identity::{
    Binding, Caller, Freshness, Possession, Proof, SpiffeId, UnixTime, User, UserProof, Verified, Workload,
    WorkloadProof,
};

pub fn workload(name: &str) -> Verified<Workload> {
    let id = SpiffeId::parse(&format!("spiffe://fleamarket.test/svc/{name}")).unwrap();
    Verified::vouch(Workload { id, certificate: None })
}

pub fn user(id: &str, roles: &[&str]) -> Verified<User> {
    named(id, "Somebody", roles)
}

pub fn named(id: &str, name: &str, roles: &[&str]) -> Verified<User> {
    Verified::vouch(User {
        id: id.to_owned(),
        name: name.to_owned(),
        roles: roles.iter().map(ToString::to_string).collect(),
        txn: "t1".to_owned(),
        requested_by: None,
        actors: Vec::new(),
        possession: Possession::None,
        not_after: UnixTime::from_secs(4_000_000_000),
    })
}

pub fn caller(workload: Option<Verified<Workload>>, user: Option<Verified<User>>) -> Caller {
    let proof = Proof {
        workload: WorkloadProof::Certificate,
        binding: Binding::CHANNEL,
        user: UserProof::InternalToken,
        user_possession: Possession::None,
        freshness: Freshness::Connection,
    };
    Caller::new(workload, user, Vec::new(), proof)
}

pub fn administrator(uid: u32) -> Caller {
    let person = user(&format!("uid:{uid}"), &[]);
    Caller::new(None, Some(person), Vec::new(), Proof { user: UserProof::LocalUid, ..Proof::NONE })
}

pub fn stranger() -> Caller {
    Caller::new(None, None, Vec::new(), Proof::NONE)
}
