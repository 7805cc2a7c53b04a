//! Figure 3.1: how a service gets its certificate, from the five events that the newest certificate of ads left.

use countersign_lab::sequence::Sequence;
use countersign_ledger::event::Event;
use serde::Deserialize;

use super::{Recorded, missing, recorded, short};
use crate::cli::At;
use crate::error::CliError;
use crate::output;

/// The service that is shown.
const SERVICE: &str = "/svc/ads";

pub(super) async fn figure(at: &At) -> Result<Sequence, CliError> {
    let signed = last(recorded(at, "certificate_signed", 0).await?, "certificate_signed", |event| {
        matches!(event, Event::CertificateSigned { spiffe_id, profile, requested_by, .. }
            if spiffe_id.to_string().ends_with(SERVICE) && profile == "workload" && requested_by.contains("/agent/"))
    })?;
    let Event::CertificateSigned { serial, key, requested_by, not_after, .. } = &signed.event else {
        return Err(missing("certificate_signed"));
    };
    let of_key = |event: &Event| matches!(event, Event::CsrBuilt { key: built, .. } if built == key);
    let built = last(recorded(at, "csr_built", 0).await?, "csr_built", of_key)?;
    let of_service = |event: &Event| matches!(event, Event::EnrolmentRequested { spiffe_id, .. } if spiffe_id.to_string().ends_with(SERVICE));
    let before = recorded(at, "enrolment_requested", 0).await?.into_iter().filter(|e| e.index < signed.index);
    let asked = last(before.collect(), "enrolment_requested", of_service)?;
    let of_serial =
        |event: &Event| matches!(event, Event::CertificateDelivered { serial: given, .. } if given == serial);
    let delivered =
        last(recorded(at, "certificate_delivered", 0).await?, "certificate_delivered", of_serial)?;
    let credentials = recorded(at, "bootstrap_credential_issued", 0).await?;
    let credential = last(credentials, "bootstrap_credential_issued", |_| true)?;

    let mut figure = Sequence::new("3.1", "How a service gets its certificate");
    for name in ["ads", "agent", "authority", "CA"] {
        figure.place(name);
    }
    if let Event::BootstrapCredentialIssued { credential: id, expires, .. } = &credential.event {
        let told =
            format!("credential {id} for this machine's agent, once, until {}", output::moment(*expires));
        figure.tells("authority", "agent", told, place(&credential));
    }
    if let Event::EnrolmentRequested { attestation, .. } = &asked.event {
        figure.tells(
            "ads",
            "agent",
            format!("asks for its identity; the kernel says {}", attested(attestation)),
            place(&asked),
        );
        figure.tells("agent", "authority", "asks in the name of ads, by its own certificate", place(&asked));
    }
    figure.tells(
        "authority",
        "CA",
        format!("request for key {}, made by ads itself", begun(key)),
        place(&built),
    );
    let told = format!(
        "certificate {serial}, until {}, as the {} asked",
        output::moment(*not_after),
        short(requested_by)
    );
    figure.tells("CA", "authority", told, place(&signed));
    figure.tells("authority", "agent", format!("the chain of {serial}"), place(&delivered));
    figure.tells("agent", "ads", "the chain, and every later one before this one ends", place(&delivered));
    Ok(figure)
}

fn last(events: Vec<Recorded>, kind: &str, is_it: impl Fn(&Event) -> bool) -> Result<Recorded, CliError> {
    events.into_iter().rev().find(|recorded| is_it(&recorded.event)).ok_or_else(|| missing(kind))
}

/// What the agent saw of a process, as far as it fits on an arrow.
#[derive(Deserialize)]
struct Seen {
    pid: i64,
    uid: u32,
    sha256: Option<String>,
}

/// `process 6332 of uid 0, program 519211d72000…`
fn attested(attestation: &str) -> String {
    let Ok(Seen { pid, uid, sha256 }) = serde_json::from_str(attestation) else {
        return "nothing that can be read".to_owned();
    };
    let program = sha256.map(|hash| format!(", program {}", begun(&hash)));
    format!("process {pid} of uid {uid}{}", program.unwrap_or_default())
}

/// As much of something long as tells it from others.
fn begun(long: &str) -> String {
    long.chars().take(12).chain(['…']).collect()
}

fn place(recorded: &Recorded) -> String {
    let kind = serde_json::to_value(&recorded.event).ok();
    let kind = kind.as_ref().and_then(|event| event.get("kind")).and_then(|kind| kind.as_str());
    format!("ledger {} ({} by {})", recorded.index, kind.unwrap_or_default(), short(&recorded.writer))
}

#[cfg(test)]
mod tests {
    use super::attested;

    #[test]
    fn a_process_is_told_without_the_path_of_its_program() {
        let seen = r#"{"pid":63,"uid":7,"started":47,"pinned":true,"sha256":"519211d72000ef2a","executable":"/home/eve/x"}"#;
        assert_eq!(attested(seen), "process 63 of uid 7, program 519211d72000…");
        assert_eq!(attested(r#"{"pid":63,"uid":7,"unknown":"gone"}"#), "process 63 of uid 7");
        assert_eq!(attested("?"), "nothing that can be read");
    }
}
