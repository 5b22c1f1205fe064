use std::fs;
use std::time::Duration;

use super::*;
use crate::ca::change::{Unlock, rotate_root};
use crate::ca::exchange::{Code, Granted, Refused};
use crate::domain::identity::Role;
use crate::holder::testing::{Desk, House, Reply, grant, leaf, request_of};

async fn renewed(house: &House, desk: &Desk) -> Result<Credentials, HolderFault> {
    renew(&house.place(), &house.origin(desk), &Reach::default(), &house.clock).await
}

#[tokio::test]
async fn a_renewal_has_a_new_key_and_is_proven_with_the_old_one() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    let before = place.read().unwrap();
    house.clock.advance(Duration::from_secs(60));
    let credentials = renewed(&house, &desk).await.unwrap();
    let after = place.read().unwrap();
    assert_ne!(*before.key, *after.key);
    assert_eq!(credentials.identity().uri(), "spiffe://corp.test/client/alice");
    assert_eq!(fs::read_to_string(place.files().certificate).unwrap(), after.certificate);
    let seen = desk.seen();
    assert_eq!(seen[1].line(), "POST /.doorward/v1/renew HTTP/1.1");
    assert_eq!(seen[1].certificate, Some(leaf(&before.certificate)));
    // And again at once: with the certificate of before.
    renewed(&house, &desk).await.unwrap();
    assert_eq!(desk.seen()[2].certificate, Some(leaf(&after.certificate)));
}

#[tokio::test]
async fn a_new_root_arrives_with_a_renewal() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    let rotated = rotate_root(&house.dir.path().join("ca"), Unlock::default(), house.clock.now()).unwrap();
    let rotated = std::sync::Arc::new(rotated);
    desk.answer({
        let rotated = std::sync::Arc::clone(&rotated);
        Box::new(move |seen, now| Reply::Granted(grant(&rotated, &request_of(seen), (Role::Client, "alice"), now)))
    });
    let credentials = renewed(&house, &desk).await.unwrap();
    assert_eq!(credentials.roots(), rotated.roots());
    assert_eq!(credentials.roots().len(), 2);
    assert_eq!(fs::read_to_string(place.files().roots).unwrap(), rotated.bundle_pem());
}

#[tokio::test]
async fn what_has_expired_is_not_even_sent() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    house.joined(&desk).await;
    house.clock.advance(Duration::from_secs(24 * 3600 - 61));
    assert!(renewed(&house, &desk).await.is_ok(), "a minute before the end");
    house.clock.advance(Duration::from_secs(24 * 3600));
    let fault = renewed(&house, &desk).await.unwrap_err();
    assert!(matches!(fault, HolderFault::Expired { .. }), "{fault}");
    assert!(fault.hint().unwrap().contains("enroll create"));
    assert_eq!(desk.seen().len(), 2);
}

#[tokio::test]
async fn a_refusal_changes_nothing() {
    let (house, stranger) = (House::new(), House::new());
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    let before = place.read().unwrap();
    let revoked = serde_json::to_string(&Refused::new(Code::CertificateRevoked, "revoked")).unwrap();
    desk.answer(Box::new(move |_, _| Reply::Status(403, revoked.clone())));
    let fault = renewed(&house, &desk).await.unwrap_err();
    assert!(fault.is_final() && fault.hint().unwrap().contains("new bundle"), "{fault}");
    let authority = std::sync::Arc::clone(&house.authority);
    desk.answer(Box::new(move |seen, now| {
        Reply::Granted(grant(&authority, &request_of(seen), (Role::Operator, "alice"), now))
    }));
    assert!(matches!(renewed(&house, &desk).await.unwrap_err(), HolderFault::Answer { .. }));
    let (authority, roots) = (std::sync::Arc::clone(&stranger.authority), house.authority.bundle_pem().to_owned());
    desk.answer(Box::new(move |seen, now| {
        let granted = grant(&authority, &request_of(seen), (Role::Client, "alice"), now);
        Reply::Granted(Granted { ca: roots.clone(), ..granted })
    }));
    assert!(matches!(renewed(&house, &desk).await.unwrap_err(), HolderFault::Answer { .. }));
    let after = place.read().unwrap();
    assert_eq!((&*before.key, &before.certificate, &before.roots), (&*after.key, &after.certificate, &after.roots));
}

#[tokio::test]
async fn somebody_else_with_a_public_or_private_certificate_is_not_asked() {
    let (house, stranger) = (House::new(), House::new());
    let desk = Desk::start(&house, house.grants()).await;
    house.joined(&desk).await;
    let other = Desk::start(&stranger, stranger.grants()).await;
    let fault = renewed(&house, &other).await.unwrap_err();
    assert!(fault.to_string().contains("does not come from a root in ca.crt"), "{fault}");
    assert!(other.seen()[0].request.is_empty());
    assert!(other.seen()[0].certificate.is_none(), "not even the certificate was shown");
}

#[tokio::test]
async fn one_renewal_at_a_time() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    let _lock = place.lock().unwrap();
    assert!(matches!(renewed(&house, &desk).await, Err(HolderFault::Busy(_))));
    assert_eq!(desk.seen().len(), 1);
}
