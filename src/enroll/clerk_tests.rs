use super::*;
use crate::ca::passphrase::Passphrase;
use crate::config::{self, WhenFull};
use crate::domain::audit::{Deed, Event};
use crate::domain::identity::TrustDomain;
use crate::telemetry::records;

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

/// A flood of requests, say, at the moment of a revocation: its line waits for room, and for nothing else.
#[test]
fn a_line_that_finds_no_room_comes_as_soon_as_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records.jsonl");
    let settings =
        config::Record { file: Some(file.clone()), when_full: WhenFull::Drop, max_bytes: 100 << 20, keep: 1 };
    let (records, writer) = Records::start(&settings, records::log).unwrap();
    Store::open(dir.path()).unwrap().note(&Event::new(BEGIN, Deed::CertificateRefused)).unwrap();
    let flood: Vec<_> = std::iter::from_fn(|| records.try_reserve()).collect();
    let mut lines = Lines::default();
    lines.look(&records, 1, dir.path());
    assert!(lines.queued.is_none());
    drop(flood);
    lines.look(&records, 1, dir.path());
    assert!(lines.queued.is_some(), "the same view, and a line still waits");
    assert_eq!(records.dropped(), 0);
    assert_eq!(writer.finish(Duration::from_secs(10)), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap().matches("certificate_refused").count(), 1);
}

#[test]
fn an_end_that_nobody_forced_leaves_no_line_to_be_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records.jsonl");
    let settings = config::Record { file: Some(file), when_full: WhenFull::Drop, max_bytes: 100 << 20, keep: 1 };
    let (records, _writer) = Records::start(&settings, records::log).unwrap();
    Store::open(dir.path()).unwrap().note(&Event::new(BEGIN, Deed::CertificateRefused)).unwrap();
    let mut lines = Lines::default();
    lines.look(&records, 1, dir.path());
    assert!(lines.queued.is_some());
    // Came since, and no view tells of it yet.
    Store::open(dir.path()).unwrap().note(&Event::new(BEGIN, Deed::CertificateRefused)).unwrap();
    lines.last_look(&records, 1, dir.path());
    assert!(Store::open_existing(dir.path()).unwrap().pending_events(1).unwrap().is_empty());
}
