//! What becomes of a refused credential when its address has presented too many.

use crate::domain::refusal::Refusal;
use crate::gate::Gateway;
use crate::gate::connection::Connection;

/// Counts a refusal of check 2 when it is for a secret that nothing proves; above the limit, the
/// refusal becomes `too_many_failures`.
///
/// Only what [`identify`](super::identify::identify) refused comes here. So no request with a
/// credential that is good is ever counted, looked up, or refused for others' sake.
#[must_use]
pub fn limited(gateway: &Gateway, connection: &Connection, refusal: Refusal) -> Refusal {
    let Refusal::InvalidCredentials(fault) = &refusal else { return refusal };
    if !fault.is_unproven_secret() {
        return refusal;
    }
    match gateway.failures.count(connection.address, gateway.clock.now()) {
        Ok(()) => refusal,
        Err(wait) => Refusal::TooManyFailures { fault: fault.clone(), wait },
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;
    use std::net::{IpAddr, Ipv4Addr};

    use crate::domain::failures::{BURST, Failures};
    use crate::domain::timestamp::Timestamp;

    /// Workers that count at the same time let no more pass than one after another.
    #[test]
    fn a_race_wins_nothing() {
        for _ in 0..20 {
            let failures = Failures::new(RandomState::new());
            let (address, now) = (IpAddr::from(Ipv4Addr::LOCALHOST), Timestamp::from_seconds(1_700_000_000));
            let plain = || (0..BURST).filter(|_| failures.count(address, now).is_ok()).count();
            let total: usize = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..8).map(|_| scope.spawn(plain)).collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            assert_eq!(total, BURST as usize);
        }
    }
}
