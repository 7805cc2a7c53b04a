//! Third-party caveats by ticket: who opens one, and what it is good for.

use countersign_token::macaroon::ticket::CONDITION_BYTES_MAX;
use countersign_token::macaroon::{ChainError, Macaroon, Ticket, TicketError, TicketKey, verify_chain};

use super::{exactly, key, plain};

const IDP: &str = "spiffe://td/countersign/authority";

fn shared() -> TicketKey {
    TicketKey::derive(b"of ads and the authority")
}

fn ticket(condition: &str) -> Ticket {
    Ticket::seal(&shared(), [5; 32], condition, [6; 24]).unwrap()
}

fn demanding(ticket: &Ticket) -> Macaroon<'static> {
    ticket.demand(plain(), IDP, [7; 24]).unwrap()
}

#[test]
fn a_discharger_opens_a_ticket_and_its_discharge_fits() {
    let root = demanding(&ticket("user = u_1"));
    let caveat = &root.caveats()[0];
    assert_eq!(caveat.discharger(), Some(IDP));
    let opened = Ticket::open(&shared(), caveat.id()).unwrap();
    assert_eq!(opened.condition(), "user = u_1");
    let discharge = opened.discharge(IDP).unwrap().attenuate("before = 1").unwrap().bound_to(&root);
    assert_eq!(verify_chain(&root, &[discharge], &key(), exactly(&["before = 1"])), Ok(()));
}

#[test]
fn rejects_a_discharge_from_another_ticket_with_the_same_condition() {
    let root = demanding(&ticket("user = u_1"));
    let other = Ticket::seal(&shared(), [8; 32], "user = u_1", [9; 24]).unwrap();
    let verdict = verify_chain(&root, &[other.discharge(IDP).unwrap().bound_to(&root)], &key(), exactly(&[]));
    assert_eq!(verdict, Err(ChainError::NoDischarge { location: IDP.into() }));
}

#[test]
fn rejects_a_ticket_for_another_discharger_or_damaged() {
    let root = demanding(&ticket("user = u_1"));
    let id = root.caveats()[0].id();
    let refused = Ticket::open(&TicketKey::derive(b"of somebody else"), id).unwrap_err();
    assert_eq!(refused, TicketError::DoesNotOpen);
    let mut damaged = id.to_vec();
    let last = damaged.len() - 2;
    damaged[last] = if damaged[last] == b'A' { b'B' } else { b'A' };
    assert_eq!(Ticket::open(&shared(), &damaged).unwrap_err(), TicketError::DoesNotOpen);
}

#[test]
fn rejects_what_is_no_ticket() {
    for text in [&b""[..], b"not base64!", b"AgAA", b"\xff"] {
        assert_eq!(Ticket::open(&shared(), text).unwrap_err(), TicketError::NotATicket);
    }
}

#[test]
fn accepts_the_longest_condition_and_rejects_one_byte_more() {
    let longest = "x".repeat(CONDITION_BYTES_MAX);
    assert_eq!(
        Ticket::open(&shared(), demanding(&ticket(&longest)).caveats()[0].id()).unwrap().condition(),
        longest
    );
    let refused = Ticket::seal(&shared(), [5; 32], &format!("{longest}x"), [6; 24]).unwrap_err();
    assert_eq!(refused, TicketError::ConditionTooLong { bytes: CONDITION_BYTES_MAX + 1 });
}

#[test]
fn a_ticket_prints_no_key() {
    let printed = format!("{:?} {:?}", ticket("user = u_1"), shared());
    assert!(!printed.contains("5, 5, 5") && printed.contains("Secret(..)"), "{printed}");
}
