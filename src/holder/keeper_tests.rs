use super::*;
use crate::ca::exchange::{Code, Refused};
use crate::holder::renew::renew;
use crate::holder::testing::{Desk, House, Reply};

const HOUR: Duration = Duration::from_secs(3600);

async fn kept(house: &House, desk: &Desk) -> Kept {
    Kept::new(house.joined(desk).await, house.options(desk)).unwrap()
}

fn refusal(code: Code) -> Reply {
    Reply::Status(code.status(), serde_json::to_string(&Refused::new(code, "no")).unwrap())
}

fn standing(kept: &Kept) -> Standing {
    kept.standing_at(kept.clock.now())
}

#[tokio::test]
async fn it_is_renewed_when_it_is_due_and_not_before() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let kept = kept(&house, &desk).await;
    let (first, changes) = (kept.current.load_full(), kept.changes.subscribe());
    // 73.3 % of a day and a minute, from a minute ago.
    house.clock.advance(HOUR * 17);
    kept.look().await;
    assert_eq!(desk.seen().len(), 1);
    assert!(!changes.has_changed().unwrap());
    house.clock.advance(HOUR);
    kept.look().await;
    assert_eq!(desk.seen().len(), 2);
    assert!(changes.has_changed().unwrap());
    let second = kept.current.load_full();
    assert!(!second.is_same_as(&first) && second.span().not_after > first.span().not_after);
    assert_eq!(standing(&kept), Standing::Good);
    // Not again at once, and again when the new one is due.
    kept.look().await;
    assert_eq!(desk.seen().len(), 2);
    house.clock.advance(HOUR * 18);
    kept.look().await;
    assert_eq!(desk.seen().len(), 3);
}

#[tokio::test]
async fn a_gateway_that_is_away_is_asked_again_until_it_is_back() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let kept = kept(&house, &desk).await;
    desk.answer(Box::new(|_, _| refusal(Code::Unavailable)));
    house.clock.advance(HOUR * 18);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let now = house.clock.now();
        kept.look().await;
        assert!(matches!(standing(&kept), Standing::Failing(why) if why.contains("unavailable")));
        let due = kept.plan().due;
        pauses.push(due.since(now).as_secs());
        // Nothing happens before.
        let asked = desk.seen().len();
        house.clock.advance(due.since(now) - Duration::from_millis(1));
        kept.look().await;
        assert_eq!(desk.seen().len(), asked);
        house.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480, 600]);
    desk.answer(house.grants());
    kept.look().await;
    assert_eq!((standing(&kept), kept.plan().failures), (Standing::Good, 0));
}

#[tokio::test]
async fn a_refusal_for_good_is_said_and_somebody_may_still_change_it() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let kept = kept(&house, &desk).await;
    desk.answer(Box::new(|_, _| refusal(Code::CertificateRevoked)));
    house.clock.advance(HOUR * 18);
    kept.look().await;
    assert!(
        matches!(standing(&kept), Standing::Refused(why) if why.contains("certificate_revoked") && why.contains("bundle"))
    );
    assert_eq!(kept.plan().due, house.clock.now().after(HOPELESS_PAUSE));
    house.clock.advance(HOPELESS_PAUSE);
    kept.look().await;
    assert_eq!(desk.seen().len(), 3, "it goes on asking");
    desk.answer(house.grants());
    house.clock.advance(HOPELESS_PAUSE);
    kept.look().await;
    assert_eq!(standing(&kept), Standing::Good);
}

#[tokio::test]
async fn its_end_is_said_and_is_not_asked_about() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let kept = kept(&house, &desk).await;
    house.clock.advance(HOUR * 24);
    // Before the next look already.
    assert!(matches!(standing(&kept), Standing::Expired(why) if why.contains("ended at")));
    kept.look().await;
    assert!(matches!(standing(&kept), Standing::Expired(_)));
    assert_eq!(desk.seen().len(), 1, "what has ended is not renewed");
    // Joining again into the same place helps without a restart.
    let place = house.place();
    let (key, certificate) = (place.files().key, place.files().certificate);
    std::fs::remove_file(key).unwrap();
    std::fs::remove_file(certificate).unwrap();
    house.joined(&desk).await;
    kept.look().await;
    assert_eq!(standing(&kept), Standing::Good);
}

#[tokio::test]
async fn what_somebody_else_has_renewed_is_taken_over() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let kept = kept(&house, &desk).await;
    house.clock.advance(HOUR * 18);
    let newer = renew(&house.place(), &house.origin(&desk), &Reach::default(), &house.clock).await.unwrap();
    kept.look().await;
    assert!(kept.current.load().is_same_as(&newer));
    assert_eq!(desk.seen().len(), 2, "and is not renewed a second time");
}

#[tokio::test]
async fn another_identity_or_an_older_one_is_not_taken_over() {
    let (house, other) = (House::new(), House::new());
    let desk = Desk::start(&house, house.grants()).await;
    let kept = kept(&house, &desk).await;
    let first = house.place().read().unwrap();
    house.clock.advance(HOUR * 18);
    kept.look().await;
    let second = kept.current.load_full();
    let write = |contents: &crate::holder::files::Contents| {
        let place = house.place();
        let new = crate::holder::files::NewFiles {
            key: &contents.key,
            certificate: &contents.certificate,
            roots: &contents.roots,
            origin: None,
        };
        place.write(&new, &place.lock().unwrap()).unwrap();
    };
    write(&first);
    kept.look().await;
    assert!(kept.current.load().is_same_as(&second), "a backup that was put back");
    let other_desk = Desk::start(&other, {
        let authority = Arc::clone(&other.authority);
        Box::new(move |seen, now| {
            let spki = crate::holder::testing::request_of(seen);
            Reply::Granted(crate::holder::testing::grant(
                &authority,
                &spki,
                (crate::domain::identity::Role::Connector, "alice"),
                now,
            ))
        })
    })
    .await;
    let mut bundle = other.bundle(vec![other_desk.address.clone()]);
    bundle.role = crate::domain::identity::Role::Connector;
    crate::holder::join::join(&bundle, other.place(), &Reach::default(), &other.clock).await.unwrap();
    write(&other.place().read().unwrap());
    kept.look().await;
    assert!(kept.current.load().is_same_as(&second), "a connector's certificate");
}

#[tokio::test]
async fn without_an_origin_it_is_watched() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    let kept = Kept::new(place, Options { origin: None, ..house.options(&desk) }).unwrap();
    house.clock.advance(HOUR * 18);
    kept.look().await;
    assert!(matches!(standing(&kept), Standing::Refused(why) if why.contains("--gateway")));
    assert_eq!(desk.seen().len(), 1);
}

#[tokio::test]
async fn a_keeper_looks_by_itself() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    house.clock.advance(HOUR * 18);
    let mut options = house.options(&desk);
    options.chance = Chance::Fixed(0);
    let keeper = Keeper::start(place, options).unwrap();
    let mut changes = keeper.changes();
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap().unwrap();
    assert_eq!(keeper.standing(), Standing::Good);
    assert_eq!(desk.seen().len(), 2);
}
