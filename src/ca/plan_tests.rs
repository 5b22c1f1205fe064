use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_500)
}

fn issuer(left: Duration) -> Span {
    let begin = now().before(24 * HOUR);
    Span {
        not_before: Timestamp::from_seconds(begin.as_seconds()),
        not_after: Timestamp::from_seconds(now().as_seconds()).after(left),
    }
}

fn plan(ttl: Option<Duration>, left: Duration) -> Result<LeafPlan, PlanFault> {
    let domain = TrustDomain::parse("corp.example").unwrap();
    let name = IdentityName::parse("alice").unwrap();
    LeafPlan::new((&domain, Role::Client, &name), ttl, Serial::from_random([7; 16]), issuer(left), now())
}

#[test]
fn a_leaf_lives_a_day_unless_told_otherwise() {
    let plan = plan(None, 1000 * HOUR).unwrap();
    assert_eq!(plan.identity().uri(), "spiffe://corp.example/client/alice");
    assert_eq!(plan.span().not_before, Timestamp::from_seconds(1_800_000_000 - 60));
    assert_eq!(plan.span().not_after, Timestamp::from_seconds(1_800_000_000 + 86_400));
}

#[test]
fn an_explicit_life_is_kept_or_refused() {
    let second = Duration::from_secs(1);
    for good in [MIN_TTL, HOUR, MAX_TTL] {
        let span = plan(Some(good), MAX_TTL).unwrap().span();
        assert_eq!(span.not_after.since(Timestamp::from_seconds(now().as_seconds())), good);
    }
    for wrong in [Duration::ZERO, MIN_TTL - second, MAX_TTL + second] {
        assert_eq!(plan(Some(wrong), 2 * MAX_TTL), Err(PlanFault::Ttl(wrong)));
    }
    let fault = plan(Some(HOUR + second), HOUR).unwrap_err();
    assert!(fault.to_string().ends_with("choose --ttl 3600s or less"), "{fault}");
    // Nobody asked for a certain life, so the issuer's end will do.
    assert_eq!(plan(None, HOUR).unwrap().span().not_after, issuer(HOUR).not_after);
}

#[test]
fn an_issuer_out_of_its_time_issues_nothing() {
    assert!(matches!(plan(None, MIN_TTL - Duration::from_secs(1)), Err(PlanFault::IssuerEnds(_))));
    assert!(matches!(plan(None, Duration::ZERO), Err(PlanFault::IssuerEnds(_))));
    let future = Span { not_before: now().after(HOUR), not_after: now().after(1000 * HOUR) };
    let serial = Serial::from_random([7; 16]);
    assert!(matches!(ServerPlan::new(&["gw.example"], serial, future, now()), Err(PlanFault::IssuerBegins(_))));
}

#[test]
fn server_names_are_hosts_and_addresses() {
    let serial = Serial::from_random([7; 16]);
    let plan = |names: &[&str]| ServerPlan::new(names, serial, issuer(1000 * HOUR), now());
    let names = plan(&["gw.corp.example", "10.0.0.7", "::1", "localhost", "gw.corp.example"]).unwrap().names;
    assert_eq!(names.len(), 4);
    assert_eq!(plan(&[]), Err(PlanFault::NoNames));
    let long = "a".repeat(64);
    for wrong in ["", "*.example", "GW.example", "gw.example.", ".gw", "a..b", "-a", "a_b", "1.2.3", "ä", "a b", &long]
    {
        assert_eq!(plan(&[wrong]), Err(PlanFault::ServerName(wrong.to_owned())), "{wrong:?}");
    }
}

#[test]
fn serials_are_positive_and_written_without_leading_zeros() {
    assert_eq!(Serial::from_random([0; 16]).as_bytes(), [1]);
    let mut bytes = [0xff; 16];
    bytes[0] = 0;
    assert_eq!(Serial::from_random(bytes).as_bytes(), [0xff; 15]);
    assert_eq!(Serial::from_random([0xab; 16]).to_string(), "ab".repeat(16));
}

proptest! {
    /// No plan outlives its issuer, begins before it, or carries a name that nobody gave.
    #[test]
    fn plans_stay_within_their_issuer(
        ttl in prop::option::of(0u64..10_000_000),
        begin in 1_700_000_000i64..1_900_000_000,
        life in 0u64..400_000_000,
        at in 1_700_000_000_000i64..2_000_000_000_000,
        role in prop::sample::select(Role::ALL.to_vec()),
        name in "[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?",
        hosts in prop::collection::vec("[a-zA-Z0-9*.:-]{0,12}", 0..4),
        bits: [u8; 16],
    ) {
        let domain = TrustDomain::parse("corp.example").unwrap();
        let name = IdentityName::parse(&name).unwrap();
        let issuer = Span {
            not_before: Timestamp::from_seconds(begin),
            not_after: Timestamp::from_seconds(begin).after(Duration::from_secs(life)),
        };
        let now = Timestamp::from_millis(at);
        let serial = Serial::from_random(bits);
        let within = |span: Span| {
            issuer.not_before <= span.not_before
                && span.not_before <= now
                && now < span.not_after
                && span.not_after <= issuer.not_after
                && span.not_after.as_millis() % 1000 == 0
        };
        let ttl = ttl.map(Duration::from_secs);
        if let Ok(plan) = LeafPlan::new((&domain, role, &name), ttl, serial, issuer, now) {
            prop_assert!(within(plan.span()));
            prop_assert_eq!(plan.identity().uri(), format!("spiffe://corp.example/{}/{name}", role.as_str()));
            prop_assert!(plan.span().not_after.since(now) <= MAX_TTL);
        }
        if let Ok(plan) = ServerPlan::new(&hosts, serial, issuer, now) {
            prop_assert!(within(plan.span()));
            for name in plan.names() {
                let given = hosts.iter().any(|host| match name {
                    ServerName::Dns(dns) => dns == host,
                    ServerName::Ip(address) => host.parse() == Ok(*address),
                });
                prop_assert!(given);
            }
        }
    }
}
