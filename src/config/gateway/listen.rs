//! `[listen]` and `[admin]`: where the gateway listens, under which names, and how much it takes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use toml::de::DeValue;

use crate::config::document::{Place, Table, Value};
use crate::config::gateway::reachable::read_advertise;
use crate::config::upstream::is_host_name;
use crate::config::{ClientAuth, Listen, Names, ServerCertificate};
use crate::domain::network::Networks;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Which authorities the config has.
#[derive(Clone, Copy)]
pub(super) struct Authority {
    /// There is a `[ca]`, which alone can issue the "internal" certificate.
    pub(super) built_in: bool,
    /// There is a `[[trust]]`.
    pub(super) external: bool,
}

/// Reads `[listen]`.
pub(super) fn read_listen(section: &Value<'_>, authority: Authority) -> Option<Listen> {
    section.table(|table| {
        let address = table.require("address", "where to listen, such as \"0.0.0.0:8443\"");
        let address = address.and_then(|value| read_address(&value));
        let advertise = read_advertise(table);
        let names = table.require("names", "the host names of callers, such as { api = [\"llm.corp.example\"] }");
        let names = names.and_then(|value| read_names(&value));
        let client_auth = table.require(
            "client_auth",
            "\"required\", \"optional\" or \"off\": whether callers must present certificates is yours to say",
        );
        let client_auth = client_auth.and_then(|value| read_client_auth(&value, authority));
        let certificate = read_certificate(table, authority.built_in);
        let tls12 = table.get("min_version").map_or(Some(false), |v| v.choice(&[("1.3", false), ("1.2", true)]));
        let bodies = read_body_bounds(table);
        let connections = |name, default| table.get(name).map_or(Some(default), |v| v.number(1..=1_000_000));
        let max_connections = connections("max_connections", 20_000);
        let max_connections_per_address = connections("max_connections_per_address", 256);
        let drain = Duration::ZERO..=Duration::from_secs(600);
        let drain = table.get("drain").map_or(Some(Duration::from_secs(30)), |v| v.span(drain));

        let proxies = read_proxies(table);

        table.later("max_connection_age", |_| false);

        let (max_body_bytes, max_buffered_bytes) = bodies?;
        Some(Listen {
            address: address?,
            advertise: advertise?,
            names: names?,
            client_auth: client_auth?,
            certificate: certificate?,
            tls12: tls12?,
            max_body_bytes,
            max_buffered_bytes,
            max_connections: max_connections?,
            max_connections_per_address: max_connections_per_address?,
            proxies: proxies?,
            drain: drain?,
        })
    })
}

/// Reads `proxy_protocol` and `trusted_proxies`, which say something together only.
fn read_proxies(table: &Table<'_>) -> Option<Option<Networks>> {
    let on = table.get("proxy_protocol").map_or(Some(false), |value| value.boolean());
    let setting = table.get("trusted_proxies");
    let listed = setting.as_ref().filter(|value| !is_empty_list(value.raw()));
    let proxies = listed.map_or(Some(None), |value| match value.list(Networks::parse)? {
        Networks::Any => value.refuse("\"*\" would let anybody claim any address; name the proxies"),
        proxies @ Networks::Listed(_) => Some(Some((proxies, &value.place))),
    });
    match (on?, proxies?, setting.as_ref()) {
        (true, Some((proxies, _)), _) => Some(Some(proxies)),
        (true, None, Some(empty)) => {
            empty.refuse("names no proxy, and with proxy_protocol = true callers come through these only")
        }
        (true, None, None) => {
            let how = "the addresses of the proxies, such as [\"10.0.0.10\", \"10.0.1.0/28\"]";
            table.missing("trusted_proxies", how);
            None
        }
        (false, Some((_, place)), _) => {
            place.warn("says nothing as long as proxy_protocol is false");
            Some(None)
        }
        (false, None, _) => Some(None),
    }
}

/// Reads `[admin]`: where metrics are, and where the admin API is.
pub(super) fn read_admin(
    section: Option<&Value<'_>>,
    authority: Authority,
) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8444));
    let Some(section) = section else { return Some((default, None)) };
    section.table(|table| {
        let address = table.get("address").map_or(Some(default), |value| {
            let address = read_address(&value)?;
            if !address.ip().to_canonical().is_loopback() {
                value.place.warn("not a loopback address: whoever reaches it reads the metrics, without a credential");
            }
            Some(address)
        });
        let api = table.get("api_address").map_or(Some(None), |value| {
            let api = read_address(&value)?;
            if !authority.built_in {
                return value.refuse("needs a [ca]: only the built-in authority makes operators");
            }
            if Some(api) == address && api.port() != 0 {
                return value.refuse("is that of admin.address too");
            }
            Some(Some(api))
        });
        Some((address?, api?))
    })
}

/// True for `[]`: a list of a later feature that asks for nothing.
pub(super) fn is_empty_list(value: &DeValue<'_>) -> bool {
    value.as_array().is_some_and(|list| list.is_empty())
}

pub(super) fn read_address(value: &Value<'_>) -> Option<SocketAddr> {
    value.parsed(|text| {
        text.parse().map_err(|_| {
            format!("{text:?} is not an IP address with a port, such as \"127.0.0.1:8443\" or \"[::]:8443\"")
        })
    })
}

fn read_client_auth(value: &Value<'_>, authority: Authority) -> Option<ClientAuth> {
    let client_auth = value.choice(&[
        ("required", ClientAuth::Required),
        ("optional", ClientAuth::Optional),
        ("off", ClientAuth::Off),
    ])?;
    if client_auth != ClientAuth::Off && !authority.built_in && !authority.external {
        return value.refuse("there is no [ca] and no [[trust]] to verify certificates with");
    }
    Some(client_auth)
}

fn read_body_bounds(table: &Table<'_>) -> Option<(u64, u64)> {
    let body = table.get("max_body_bytes");
    let buffered = table.get("max_buffered_bytes");
    let max_body = body.as_ref().map_or(Some(16 * MIB), |v| v.number(KIB..=GIB));
    let max_buffered = buffered.as_ref().map_or(Some(512 * MIB), |v| v.number(KIB..=1024 * GIB));
    let (max_body, max_buffered) = (max_body?, max_buffered?);
    if max_body > max_buffered {
        let culprit = body.as_ref().or(buffered.as_ref());
        let why = format!("max_body_bytes ({max_body}) exceeds max_buffered_bytes ({max_buffered}), which holds all");
        return culprit.and_then(|value| value.refuse(&why));
    }
    Some((max_body, max_buffered))
}

fn read_certificate(table: &Table<'_>, has_ca: bool) -> Option<ServerCertificate> {
    let needs_ca = |place: &Place<'_>| {
        place.wrong("\"internal\" needs a [ca] to issue it; or give { chain = \"…\", key = \"…\", roots = \"…\" }");
        None
    };
    let Some(value) = table.get("certificate") else {
        return if has_ca { Some(ServerCertificate::Internal) } else { needs_ca(&table.place_of("certificate")) };
    };
    if value.raw().is_table() {
        return value.table(read_certificate_files);
    }
    if !value.raw().is_str() {
        return value.mistyped("\"internal\" or a table of files");
    }
    value.parsed(|text| match text {
        "internal" => Ok(()),
        _ => {
            Err(format!("{text:?} is neither \"internal\" nor files: {{ chain = \"…\", key = \"…\", roots = \"…\" }}"))
        }
    })?;
    if has_ca { Some(ServerCertificate::Internal) } else { needs_ca(&value.place) }
}

fn read_certificate_files(table: &Table<'_>) -> Option<ServerCertificate> {
    let chain_setting = table.require("chain", "a PEM file, the server's own certificate first");
    let key_setting = table.require("key", "a PEM file with the private key");
    let chain = chain_setting.as_ref().and_then(Value::certificates);
    let key = key_setting.as_ref().and_then(Value::private_key);
    let roots = table.get("roots").map_or(Some(Vec::new()), |value| value.roots());
    let (chain, key) = key_setting?.belonging(chain?, key?, "chain")?;
    chain_setting?.doubt_server(&chain);
    Some(ServerCertificate::Files { chain, key, roots: roots? })
}

pub(super) fn read_names(value: &Value<'_>) -> Option<Names> {
    value.table(|table| {
        let mut taken = HashMap::new();
        let api = table.require("api", "the host names that callers use, such as [\"llm.corp.example\"]");
        let api = api.and_then(|value| read_role(&value, true, &mut taken));
        let mut later_role = |name| match table.get(name) {
            Some(value) => read_role(&value, false, &mut taken),
            None => Some(Vec::new()),
        };
        let connect = later_role("connect");
        let enroll = later_role("enroll");
        Some(Names { api: api?, connect: connect?, enroll: enroll? })
    })
}

/// Reads the names of one role; `taken` holds the names of all roles so far with their places.
fn read_role(value: &Value<'_>, may_be_addresses: bool, taken: &mut HashMap<String, String>) -> Option<Vec<String>> {
    value.each("an empty list serves nobody; leave the role out, or name a host", |entry| {
        let name = entry.parsed(|text| check_name(text, may_be_addresses))?;
        // Two spellings of one address are one name.
        let canonical = name.parse::<IpAddr>().map_or_else(|_| name.clone(), |ip| ip.to_canonical().to_string());
        if let Some(other) = taken.get(&canonical) {
            return entry.refuse(&format!("{name} is already at {other}; a name has one role"));
        }
        taken.insert(canonical, entry.place.pointer());
        Some(name)
    })
}

fn check_name(text: &str, may_be_address: bool) -> Result<String, String> {
    let is_address = text.parse::<IpAddr>().is_ok();
    if is_address && !may_be_address {
        return Err(format!("{text} is an address; this role is told from the others by its host name (SNI)"));
    }
    if is_address || is_host_name(text) {
        return Ok(text.to_owned());
    }
    let lower = text.to_ascii_lowercase();
    if is_host_name(&lower) {
        return Err(format!("host names are written in lower case: {lower:?}"));
    }
    Err(format!("{text:?} is not a host name such as llm.corp.example (without port, wildcard or final dot)"))
}
