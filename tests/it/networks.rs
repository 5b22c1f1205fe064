//! Where callers may come from: real sockets from several addresses, in both families.

use std::net::IpAddr;

use doorward::domain::network::Networks;

use crate::support::{OPEN, Setup, Stub, chat};

/// Every network against every address, over a socket that takes both families: an IPv4 caller
/// comes in as a mapped address there, and is one all the same.
#[tokio::test]
async fn promise_04_networks_in_both_families() {
    const SOURCES: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.1.2.3", "::1"];
    const NETWORKS: [&[&str]; 8] = [
        &["*"],
        &["127.0.0.1"],
        &["127.0.0.0/30"],
        &["127.0.0.0/16"],
        &["127.0.0.0/8"],
        &["::1"],
        &["10.0.0.0/8", "fd00::/8"],
        &["127.1.2.3/32", "::1/128"],
    ];
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub).grants(&OPEN.replace("networks = [\"127.0.0.0/8\"]", "networks = [\"*\"]"));
    setup.address = "[::]:0";
    let world = setup.start().await;
    for networks in NETWORKS {
        let key = world.key_with("acme/x", None, networks, &[], &[]).await;
        let parsed = Networks::parse(networks).unwrap();
        for source in SOURCES {
            let source: IpAddr = source.parse().unwrap();
            let answer = world.caller().key(&key).calling_from(source).chat(&chat("llama")).await;
            // The oracle is the definition, by way of the family that the caller has.
            let listed = networks.iter().any(|network| match network.split_once('/') {
                None => *network == "*" || network.parse::<IpAddr>().unwrap() == source,
                Some((base, length)) => shares_prefix(base.parse().unwrap(), source, length.parse().unwrap()),
            });
            assert_eq!(parsed.admit(source), listed, "{source} {networks:?}");
            let id = answer.request_id().to_owned();
            if listed {
                answer.assert_served();
            } else {
                answer.assert_refused(&world, 403, "network_not_allowed").await;
            }
            assert_eq!(world.record(&id).await["client_ip"], source.to_string());
        }
    }
}

fn shares_prefix(base: IpAddr, address: IpAddr, length: u32) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let ((width, base), (other, address)) = (bits(base), bits(address));
    width == other && (length == 0 || (base ^ address) >> (width - length) == 0)
}

/// What a caller writes about its own address decides nothing.
#[tokio::test]
async fn headers_are_no_address() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).start().await;
    let key = world.key_with("acme/x", None, &["127.0.0.2"], &[], &[]).await;
    for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"] {
        let value = if name == "forwarded" { "for=127.0.0.2" } else { "127.0.0.2" };
        let caller = world.caller().key(&key).header(name, value);
        caller.chat(&chat("llama")).await.assert_refused(&world, 403, "network_not_allowed").await;
    }
    stub.assert_untouched();
}
