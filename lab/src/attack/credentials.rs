//! Bearer tokens, macaroons and workload identity tokens, at a callee of the lab's own that accepts them.

use super::Attack;

pub(super) static ATTACKS: &[Attack] = &[];
