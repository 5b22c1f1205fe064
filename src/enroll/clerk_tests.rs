use super::*;
use crate::ca::passphrase::Passphrase;
use crate::domain::identity::TrustDomain;

const DAY: Duration = Duration::from_secs(24 * 3600);
const BEGIN: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn domain() -> TrustDomain {
    TrustDomain::parse("corp.example").unwrap()
}

#[test]
fn an_issuer_is_replaced_in_time_where_the_roots_key_is() {
    let dir = tempfile::tempdir().unwrap();
    let ca_dir = dir.path().join("ca");
    let first = Authority::init(&ca_dir, &domain(), BEGIN).unwrap();
    assert_eq!(due(&first, BEGIN.after(244 * DAY)), Due::Nothing);
    assert_eq!(due(&first, BEGIN.after(246 * DAY)), Due::Replace);
    let mut issuer = Issuer::default();
    issuer.look(BEGIN.after(244 * DAY), &ca_dir);
    assert_eq!(Authority::open(&ca_dir).unwrap().issuer(), first.issuer());
    let now = BEGIN.after(246 * DAY);
    issuer.look(now, &ca_dir);
    let second = Authority::open(&ca_dir).unwrap();
    assert_ne!(second.issuer(), first.issuer());
    assert_eq!(second.root(), first.root());
    assert_eq!(second.issuer_not_after(), now.after(365 * DAY));
    // Once, and not every minute.
    issuer.look(now.after(2 * ISSUER_EVERY), &ca_dir);
    assert_eq!(Authority::open(&ca_dir).unwrap().issuer(), second.issuer());
}

#[test]
fn what_nobody_here_can_replace_is_said_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let ca_dir = dir.path().join("ca");
    let passphrase = Passphrase::new("a long passphrase".to_owned().into()).unwrap();
    let authority = Authority::init_with(&ca_dir, &domain(), Some(&passphrase), BEGIN).unwrap();
    assert_eq!(due(&authority, BEGIN.after(270 * DAY)), Due::Nothing);
    assert_eq!(due(&authority, BEGIN.after(276 * DAY)), Due::Warn);
    let mut issuer = Issuer::default();
    let now = BEGIN.after(276 * DAY);
    issuer.look(now, &ca_dir);
    assert_eq!(issuer.warned_at, Some(now));
    issuer.look(now.after(DAY / 2), &ca_dir);
    assert_eq!(issuer.warned_at, Some(now), "once a day");
    issuer.look(now.after(DAY), &ca_dir);
    assert_eq!(issuer.warned_at, Some(now.after(DAY)));
    assert_eq!(Authority::open(&ca_dir).unwrap().issuer(), authority.issuer());
    // A root that ends with its issuer makes no better one.
    let dying = BEGIN.after(3640 * DAY);
    let last = tempfile::tempdir().unwrap();
    let ca_dir = last.path().join("ca");
    Authority::init(&ca_dir, &domain(), BEGIN).unwrap();
    let rotated = change::rotate_issuer(&ca_dir, Unlock::default(), dying).unwrap();
    assert_eq!(due(&rotated, dying), Due::Warn);
}
