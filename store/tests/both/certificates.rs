use std::time::Duration;

use countersign_identity::CLOCK_SKEW;
use countersign_pki::revocation::RevocationReason;
use countersign_store::StoreError;
use countersign_store::certificates::{CertificateQuery, Revocation, StoredCrl};

use crate::ground::{Ground, NOW, certificate, event, later};

fn revoked_now(reason: RevocationReason) -> Revocation {
    Revocation { at: NOW, by: "uid:0".to_owned(), reason }
}

fn crl(number: u64) -> StoredCrl {
    StoredCrl {
        issuer: "ca01".to_owned(),
        number,
        der: vec![0x30, u8::try_from(number).unwrap()],
        this_update: NOW,
        next_update: later(600),
        entries: 3,
    }
}

both! {
    async fn a_certificate_and_its_event_are_stored_together(ground: &Ground) {
        let ads = certificate("0a", &ground.id("ads"));
        ground.db.issue_and_record(&ads, &[ground.record()], NOW).await.unwrap();
        let reopened = ground.reopened().await;
        assert_eq!(reopened.certificate("0a").await.unwrap(), Some(ads));
        assert_eq!(reopened.log_state().await.unwrap().size(), 1);
        assert_eq!(reopened.certificate("0b").await.unwrap(), None);
    }

    async fn no_event_tells_of_a_certificate_that_was_not_stored(ground: &Ground) {
        let ads = certificate("0a", &ground.id("ads"));
        ground.db.issue_and_record(&ads, &[], NOW).await.unwrap();
        assert_eq!(
            ground.db.issue_and_record(&ads, &[ground.record()], NOW).await,
            Err(StoreError::Conflict { what: "a certificate with this serial" })
        );
        assert_eq!(ground.db.log_state().await.unwrap().size(), 0);
    }

    async fn no_certificate_is_stored_without_its_event(ground: &Ground) {
        let mut writer = ground.writer();
        let record = event(&mut writer);
        ground.db.append(std::slice::from_ref(&record), NOW).await.unwrap();
        let mut other = record;
        other.bytes = b"{\"another\":\"event\"}".to_vec();
        let issued =
            ground.db.issue_and_record(&certificate("0a", &ground.id("ads")), &[other], NOW).await;
        assert!(matches!(issued, Err(StoreError::LedgerConflict { sequence: 1, .. })), "{issued:?}");
        assert_eq!(ground.db.certificate("0a").await.unwrap(), None);
    }

    async fn a_certificate_is_revoked_once_and_recorded(ground: &Ground) {
        let ads = ground.id("ads");
        for serial in ["01", "02"] {
            ground.db.issue_and_record(&certificate(serial, &ads), &[], NOW).await.unwrap();
        }
        let first = revoked_now(RevocationReason::KeyCompromise);
        let serials = ["01".to_owned(), "ff".to_owned()];
        assert_eq!(
            ground.db.revoke_and_record(&serials, &first, &[ground.record()]).await.unwrap(),
            ["01"]
        );
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);

        let second = revoked_now(RevocationReason::Superseded);
        let again = ground.db.revoke_and_record(&["01".to_owned(), "02".to_owned()], &second, &[]).await;
        assert_eq!(again.unwrap(), ["02"]);
        let kept = ground.db.certificate("01").await.unwrap().unwrap().revocation;
        assert_eq!(kept, Some(first), "the first revocation stays as it was");
    }

    async fn every_reason_survives_the_store(ground: &Ground) {
        use RevocationReason as R;
        let reasons = [
            R::Unspecified, R::KeyCompromise, R::CaCompromise, R::AffiliationChanged, R::Superseded,
            R::CessationOfOperation, R::PrivilegeWithdrawn,
        ];
        for (serial, reason) in reasons.into_iter().enumerate() {
            let mut row = certificate(&format!("{serial:02x}"), &ground.id("ads"));
            row.revocation = Some(revoked_now(reason));
            ground.db.issue_and_record(&row, &[], NOW).await.unwrap();
            assert_eq!(ground.db.certificate(&row.serial).await.unwrap().unwrap(), row);
        }
    }

    async fn listings_are_bounded_filtered_and_go_on_where_they_ended(ground: &Ground) {
        let (ads, users) = (ground.id("ads"), ground.id("users"));
        for number in 0..7_i64 {
            let mut row = certificate(&format!("{number:02x}"), if number == 6 { &users } else { &ads });
            // Two and two in the same moment: the listing must neither skip nor repeat one.
            row.issued_at = later(number / 2);
            ground.db.issue_and_record(&row, &[], NOW).await.unwrap();
        }
        let mut query =
            CertificateQuery { spiffe_id: Some(ads), limit: 2, ..CertificateQuery::default() };
        let mut seen = Vec::new();
        loop {
            let part = ground.db.certificates(&query).await.unwrap();
            assert!(part.len() <= 2);
            let Some(last) = part.last() else { break };
            query.after = Some((last.issued_at, last.serial.clone()));
            seen.extend(part.into_iter().map(|row| row.serial));
        }
        assert_eq!(seen, ["04", "05", "02", "03", "00", "01"]);
    }

    async fn the_link_from_an_identity_to_its_keys_is_kept(ground: &Ground) {
        let ads = ground.id("ads");
        ground.db.issue_and_record(&certificate("01", &ads), &[], NOW).await.unwrap();
        let query = CertificateQuery { spiffe_id: Some(ads), limit: 10, ..CertificateQuery::default() };
        let keys: Vec<String> =
            ground.db.certificates(&query).await.unwrap().into_iter().map(|row| row.key).collect();
        assert_eq!(keys, ["key-of-01"]);
    }

    async fn live_means_neither_expired_nor_revoked(ground: &Ground) {
        let ads = ground.id("ads");
        let mut expired = certificate("02", &ads);
        expired.not_after = later(-1);
        let mut revoked = certificate("03", &ads);
        revoked.revocation = Some(revoked_now(RevocationReason::Unspecified));
        let mut edge = certificate("04", &ads);
        edge.spiffe_id = None;
        for row in [certificate("01", &ads), expired, revoked, edge] {
            ground.db.issue_and_record(&row, &[], NOW).await.unwrap();
        }
        let query = CertificateQuery { spiffe_id: Some(ads), live_at: Some(NOW), limit: 10, after: None };
        let live = ground.db.certificates(&query).await.unwrap();
        assert_eq!(live.iter().map(|row| row.serial.as_str()).collect::<Vec<_>>(), ["01"]);
        assert_eq!(ground.db.live_certificates(NOW).await.unwrap(), 1);
    }

    async fn a_revoked_certificate_stays_on_the_list_until_nobody_can_accept_it(ground: &Ground) {
        let mut row = certificate("01", &ground.id("ads"));
        row.revocation = Some(revoked_now(RevocationReason::KeyCompromise));
        ground.db.issue_and_record(&row, &[], NOW).await.unwrap();
        let end = row.not_after;
        let listed = |now| async move { ground.db.revoked("ca01", now).await.unwrap().len() };
        assert_eq!(listed(NOW).await, 1);
        assert_eq!(listed(end).await, 1, "a slow clock still accepts it");
        assert_eq!(listed(end.saturating_add(CLOCK_SKEW)).await, 0);
        assert!(ground.db.revoked("another-ca", NOW).await.unwrap().is_empty());
    }

    async fn tidying_never_drops_a_live_revocation(ground: &Ground) {
        let ads = ground.id("ads");
        let mut live = certificate("01", &ads);
        live.revocation = Some(revoked_now(RevocationReason::KeyCompromise));
        let mut within_skew = certificate("02", &ads);
        within_skew.not_after = later(-59);
        within_skew.revocation = Some(revoked_now(RevocationReason::KeyCompromise));
        let mut expired = certificate("03", &ads);
        expired.not_after = later(-61);
        expired.revocation = Some(revoked_now(RevocationReason::KeyCompromise));
        for row in [live, within_skew, expired] {
            ground.db.issue_and_record(&row, &[], NOW).await.unwrap();
        }
        assert_eq!(ground.db.tidy_certificates(NOW, Duration::from_secs(3600)).await.unwrap(), 0);
        assert_eq!(ground.db.tidy_certificates(NOW, Duration::ZERO).await.unwrap(), 1);
        let still: Vec<String> =
            ground.db.revoked("ca01", NOW).await.unwrap().into_iter().map(|row| row.serial).collect();
        assert_eq!(still, ["01", "02"]);
        assert_eq!(ground.db.certificate("03").await.unwrap(), None);
    }

    async fn the_number_of_a_published_crl_never_goes_back_also_after_a_restart(ground: &Ground) {
        ground.db.publish_crl(&crl(5), &[ground.record()], NOW).await.unwrap();
        ground.db.close().await;
        let reopened = ground.reopened().await;
        for old in [4, 5] {
            assert_eq!(
                reopened.publish_crl(&crl(old), &[ground.record()], NOW).await,
                Err(StoreError::NotNewer { what: "crlNumber", got: old, newest: 5 })
            );
        }
        assert_eq!(reopened.log_state().await.unwrap().size(), 1, "no event tells of a list that is not kept");
        reopened.publish_crl(&crl(6), &[], NOW).await.unwrap();
        assert_eq!(reopened.crl("ca01").await.unwrap(), Some(crl(6)));
        assert_eq!(reopened.crls().await.unwrap(), [crl(6)]);
        assert_eq!(reopened.crl("another-ca").await.unwrap(), None);
    }
}
