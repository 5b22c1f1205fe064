//! How a gateway is reached from elsewhere: what bundles and certificates say of it.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::document::Table;
use crate::config::gateway::listen::{read_address, read_names};
use crate::config::gateway::part::read_part;
use crate::config::parse::whole;
use crate::config::{Listen, Names, Problem};
use crate::domain::gateway_address::GatewayAddress;

/// What of `[listen]` matters to those who are elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reachable {
    /// Where to connect to: `advertise`, or else `address`, if that is one address. May be empty.
    pub addresses: Vec<GatewayAddress>,
    /// The port, if it is known before the listener is bound.
    pub port: Option<u16>,
    /// The names by role.
    pub names: Names,
}

impl Reachable {
    /// As a config that was read as a whole has it.
    #[must_use]
    pub fn of(listen: &Listen) -> Self {
        Self::new(listen.address, &listen.advertise, &listen.names)
    }

    fn new(address: SocketAddr, advertise: &[GatewayAddress], names: &Names) -> Self {
        let specific = (advertise.is_empty() && !address.ip().is_unspecified())
            .then(|| GatewayAddress::parse(&SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()));
        let addresses = match specific {
            Some(Ok(own)) => vec![own],
            // An address without a port is none yet.
            Some(Err(_)) | None => advertise.to_owned(),
        };
        let port =
            addresses.first().map(GatewayAddress::port).or_else(|| Some(address.port()).filter(|port| *port != 0));
        Self { addresses, port, names: names.clone() }
    }

    /// Where on the `enroll` name something is; `None` where there is no such name, or no known port.
    #[must_use]
    pub fn enroll_url(&self, path: &str) -> Option<String> {
        let name = self.names.enroll.first()?;
        Some(match self.port? {
            443 => format!("https://{name}{path}"),
            port => format!("https://{name}:{port}{path}"),
        })
    }
}

/// How the gateway of a config file is reached, whatever else is in the file: verbs that make bundles
/// and certificates must not need the secrets that serving needs.
///
/// # Errors
///
/// When the file cannot be read, is not TOML, or says something wrong about this.
pub fn reachable(file: &Path) -> Result<Reachable, Vec<Problem>> {
    let (found, mut problems) = read_part(file, |root| root.get("listen")?.table(read))?;
    let ours = |path: &str| {
        ["listen.address", "listen.advertise", "listen.names"]
            .iter()
            .any(|name| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    };
    problems.retain(|problem| ours(&problem.path));
    match found {
        Some(found) if problems.is_empty() => Ok(found),
        None if problems.is_empty() => Err(vec![whole("it has no [listen] with address and names".to_owned())]),
        Some(_) | None => Err(problems),
    }
}

fn read(table: &Table<'_>) -> Option<Reachable> {
    let address = table.get("address").and_then(|value| read_address(&value));
    let names = table.get("names").and_then(|value| read_names(&value));
    let advertise = read_advertise(table);
    Some(Reachable::new(address?, &advertise?, &names?))
}

/// Reads `advertise`. An empty list says nothing.
pub(super) fn read_advertise(table: &Table<'_>) -> Option<Vec<GatewayAddress>> {
    let Some(value) = table.get("advertise") else { return Some(Vec::new()) };
    if value.raw().as_array().is_some_and(|list| list.is_empty()) {
        return Some(Vec::new());
    }
    let addresses = value.each("", |entry| entry.parsed(GatewayAddress::parse))?;
    if addresses.len() > MAX_ADDRESSES {
        return value.refuse(&format!("has more than {MAX_ADDRESSES} addresses, which a bundle cannot carry"));
    }
    Some(addresses)
}

/// As many as a bundle carries.
const MAX_ADDRESSES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Reachable, Vec<Problem>> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("doorward.toml");
        std::fs::write(&file, text).unwrap();
        reachable(&file)
    }

    fn listen(settings: &str) -> String {
        format!(
            "[listen]\nnames = {{ api = [\"llm.x\"], enroll = [\"enroll.x\"] }}\n{settings}\n\
             certificate = {{ chain = \"missing.pem\", key = \"${{env:MISSING}}\" }}\nclient_auth = \"off\"\n"
        )
    }

    #[test]
    fn is_read_without_the_secrets_of_serving() {
        for (settings, addresses, url) in [
            ("address = \"10.0.0.1:8443\"", vec!["10.0.0.1:8443"], Some("https://enroll.x:8443/crl")),
            ("address = \"0.0.0.0:443\"", vec![], Some("https://enroll.x/crl")),
            ("address = \"[::]:8443\"", vec![], Some("https://enroll.x:8443/crl")),
            ("address = \"[fd00::1]:8443\"", vec!["[fd00::1]:8443"], Some("https://enroll.x:8443/crl")),
            ("address = \"127.0.0.1:0\"", vec![], None),
            (
                "address = \"0.0.0.0:8443\"\nadvertise = [\"gw.x:443\", \"10.0.0.1:8443\"]",
                vec!["gw.x:443", "10.0.0.1:8443"],
                Some("https://enroll.x/crl"),
            ),
            ("address = \"10.0.0.1:8443\"\nadvertise = []", vec!["10.0.0.1:8443"], Some("https://enroll.x:8443/crl")),
        ] {
            let read = read_text(&listen(settings)).unwrap();
            let shown: Vec<_> = read.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(
                (shown, read.enroll_url("/crl").as_deref()),
                (addresses.iter().map(ToString::to_string).collect(), url),
                "{settings}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        let nine = format!("address = \"0.0.0.0:1\"\nadvertise = [{}]", "\"a:1\", ".repeat(9));
        for (settings, why) in [
            ("address = \"0.0.0.0\"", "listen.address"),
            ("address = \"0.0.0.0:1\"\nadvertise = [\"gw.x\"]", "HOST:PORT"),
            ("address = \"0.0.0.0:1\"\nadvertise = \"gw.x:1\"", "listen.advertise"),
            (&nine, "more than 8"),
            ("", "no [listen] with address"),
        ] {
            let problems = read_text(&listen(settings)).unwrap_err();
            assert!(problems.iter().any(|problem| problem.to_string().contains(why)), "{settings}: {problems:?}");
        }
        assert!(read_text("").is_err());
    }
}
