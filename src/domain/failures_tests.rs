use std::collections::HashMap;
use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

/// One address alone is answered exactly as its own bucket would have it.
#[test]
fn the_burst_then_the_rate() {
    let failures = Failures::new(RandomState::new());
    let plain = |millis| failures.count(address(1), at(millis));
    assert!((0..20).all(|_| plain(0).is_ok()));
    assert_eq!(plain(0), Err(Duration::from_secs(6)));
    assert_eq!(plain(5_999), Err(Duration::from_millis(1)));
    assert_eq!(plain(6_000), Ok(()));
    assert_eq!(plain(6_000), Err(Duration::from_secs(6)));
    // Ten in a minute, and a full burst after two.
    assert_eq!((6_001..66_000).filter(|millis| plain(*millis).is_ok()).count(), 9);
    assert_eq!((0..30).filter(|_| plain(1_000_000).is_ok()).count(), 20);
    // Others are none the worse.
    assert_eq!(failures.count(address(2), at(0)), Ok(()));
}

#[test]
fn an_ipv6_customer_is_one_address() {
    let failures = Failures::new(RandomState::new());
    let v6 = |net: u16, host: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, net, host, 0, 0, 1));
    assert!((0..20).all(|host| failures.count(v6(7, host), at(0)).is_ok()));
    assert!(failures.count(v6(7, 99), at(0)).is_err());
    assert!(failures.count(v6(8, 0), at(0)).is_ok());
}

/// A clock that is set back does not lock anybody out for longer than an empty bucket does.
#[test]
fn a_clock_set_back_is_survived() {
    let failures = Failures::new(RandomState::new());
    let day = 86_400_000;
    while failures.count(address(1), at(day)).is_ok() {}
    assert!(failures.count(address(1), at(0)).unwrap_err() <= EVERY);
    assert!(failures.count(address(1), at(6_000)).is_ok());
}

#[test]
fn the_memory_is_what_is_written() {
    let failures = Failures::new(RandomState::new());
    let buckets: usize =
        failures.shards.iter().map(|shard| shard.lock().unwrap().0.iter().map(|row| row.len()).sum::<usize>()).sum();
    assert_eq!(buckets * size_of::<i64>(), 512 * 1024);
}

/// An attacker with many addresses gets for each of them what it would have had alone, not more:
/// going round never gives a bucket back.
#[test]
fn other_addresses_win_nothing_back() {
    let failures = Failures::sized(RandomState::new(), 1, 8);
    let mut answered: HashMap<u8, u32> = HashMap::new();
    for round in 0..50 {
        for number in 0..200 {
            if failures.count(address(number), at(round)).is_ok() {
                *answered.entry(number).or_default() += 1;
            }
        }
    }
    assert!(answered.values().all(|&count| count <= BURST));
    // Nor do all of them together get more than all buckets hold.
    assert!(answered.values().sum::<u32>() <= 2 * 8 * BURST);
}

proptest! {
    /// In every window of time, an address gets at most the burst and its rate, whatever others do
    /// and however crowded the table is; alone, it gets no less.
    #[test]
    fn never_more_than_the_bound(
        buckets in 1usize..5,
        steps in prop::collection::vec((0u8..4, prop_oneof![Just(0i64), 0i64..200, 0i64..20_000]), 1..400),
    ) {
        let crowded = Failures::sized(RandomState::new(), 1, buckets);
        let roomy = Failures::new(RandomState::new());
        let mut answered: HashMap<u8, Vec<i64>> = HashMap::new();
        let mut own: HashMap<u8, i64> = HashMap::new();
        let mut now = 0;
        for (number, pause) in steps {
            now += pause;
            if crowded.count(address(number), at(now)).is_ok() {
                answered.entry(number).or_default().push(now);
            }
            // The plain definition of a bucket with a burst of 20 and 6 s for each.
            let full_at = own.entry(number).or_insert(0);
            *full_at = (*full_at).max(now);
            let expected = *full_at - now <= 19 * 6_000;
            if expected {
                *full_at += 6_000;
            }
            if number == 0 {
                prop_assert_eq!(roomy.count(address(number), at(now)).is_ok(), expected);
            }
        }
        for times in answered.values() {
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let allowed = 20 + (to - from) / 6_000;
                    prop_assert!(i64::try_from(last - first + 1).unwrap() <= allowed, "{times:?}");
                }
            }
        }
    }
}
