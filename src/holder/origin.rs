//! Where a certificate came from and is renewed: `gateway.toml`, beside it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ca::bundle::{Bundle, MAX_ADDRESSES};
use crate::domain::gateway_address::{GatewayAddress, GatewayName, HostName};
use crate::holder::fault::HolderFault;

/// The name of the file.
pub const FILE: &str = "gateway.toml";
/// Most bytes of it that are read.
const MAX_BYTES: u64 = 64 * 1024;

/// A gateway, as its holders know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Where to connect to, in the order in which to try.
    pub addresses: Vec<GatewayAddress>,
    /// Its name for enrollment and renewal.
    pub enroll: HostName,
    /// Its name for connectors.
    pub connect: Option<HostName>,
    /// Its first name for callers.
    pub api: Option<GatewayName>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    addresses: Vec<String>,
    enroll: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api: Option<String>,
}

impl Origin {
    /// The gateway that a bundle is for.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            addresses: bundle.addresses.clone(),
            enroll: bundle.enroll.clone(),
            connect: bundle.connect.clone(),
            api: Some(bundle.api.clone()),
        }
    }

    /// Reads the file in `dir`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or does not say what it should.
    pub fn read(dir: &Path) -> Result<Option<Self>, HolderFault> {
        let path = dir.join(FILE);
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > MAX_BYTES => return Err(HolderFault::file(&path, "it is too large")),
            Ok(_) | Err(_) => fs::read_to_string(&path).map_err(|error| HolderFault::file(&path, error))?,
        };
        Self::parse(&text).map(Some).map_err(|why| HolderFault::file(&path, why))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let spelled: Spelled = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if !(1..=MAX_ADDRESSES).contains(&spelled.addresses.len()) {
            return Err(format!("addresses has 1 to {MAX_ADDRESSES} entries"));
        }
        Ok(Self {
            addresses: spelled.addresses.iter().map(|text| GatewayAddress::parse(text)).collect::<Result<_, _>>()?,
            enroll: HostName::parse(&spelled.enroll)?,
            connect: spelled.connect.as_deref().map(HostName::parse).transpose()?,
            api: spelled.api.as_deref().map(GatewayName::parse).transpose()?,
        })
    }

    /// The file's text.
    ///
    /// # Errors
    ///
    /// Never, with what can be in an [`Origin`].
    pub fn text(&self) -> Result<String, HolderFault> {
        let spelled = Spelled {
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            enroll: self.enroll.to_string(),
            connect: self.connect.as_ref().map(ToString::to_string),
            api: self.api.as_ref().map(ToString::to_string),
        };
        let toml = toml::to_string(&spelled).map_err(|error| HolderFault::file(Path::new(FILE), error))?;
        Ok(format!("# Where this certificate came from. It is renewed there.\n{toml}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            addresses: vec![GatewayAddress::parse("[::1]:8443").unwrap()],
            enroll: HostName::parse("enroll.corp.example").unwrap(),
            connect: None,
            api: Some(GatewayName::parse("10.0.0.1").unwrap()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let with_all = Origin { connect: Some(HostName::parse("connect.corp.example").unwrap()), ..origin() };
        for origin in [origin(), with_all, Origin { api: None, ..origin() }] {
            assert_eq!(Origin::parse(&origin.text().unwrap()), Ok(origin));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Origin::read(dir.path()).unwrap().is_none());
        for (text, word) in [
            ("addresses = []\nenroll = \"e\"", "1 to 8"),
            ("addresses = [\"gw\"]\nenroll = \"e\"", "HOST:PORT"),
            ("addresses = [\"gw:1\"]", "enroll"),
            ("addresses = [\"gw:1\"]\nenroll = \"10.0.0.1\"", "host name"),
            ("addresses = [\"gw:1\"]\nenroll = \"e\"\nmore = 1", "more"),
            ("nothing", "no value"),
        ] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let why = Origin::read(dir.path()).unwrap_err().to_string();
            assert!(why.contains(word) && why.contains(FILE), "{why}");
        }
    }
}
