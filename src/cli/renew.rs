//! `doorward cert renew`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tokio::runtime;

use crate::cli::join;
use crate::cli::output::{self, Failure, Format};
use crate::clock::Clock;
use crate::domain::gateway_address::{GatewayAddress, HostName};
use crate::domain::identity::IdentityName;
use crate::holder::fault::HolderFault;
use crate::holder::files::Place;
use crate::holder::origin::Origin;
use crate::holder::renew;

/// Renews a certificate on the machine of its holder: a new key, and a certificate for it from the
/// gateway. It is asked for at once, however long the old one is still good.
#[derive(Debug, Args)]
pub struct Renew {
    /// Whose certificate, when the directory holds several
    #[arg(value_parser = IdentityName::parse)]
    name: Option<IdentityName>,
    /// Where the files are that `enroll join` or `cert issue` wrote
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where the gateway is, instead of what gateway.toml says; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = GatewayAddress::parse)]
    gateway: Vec<GatewayAddress>,
    /// The gateway's name for enrollment, instead of what gateway.toml says
    #[arg(long, value_name = "NAME", value_parser = HostName::parse)]
    enroll_name: Option<HostName>,
    /// Reach the gateway through this proxy: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Shown {
    identity: String,
    serial: String,
    not_after: String,
    certificate: PathBuf,
    key_file: PathBuf,
    ca: PathBuf,
}

impl Renew {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let place = match &self.name {
            Some(name) => Place::new(&self.dir, name),
            None => Place::only(&self.dir)?,
        };
        let origin = self.origin()?;
        let (reach, clock) = (join::reach_by(self.proxy.as_deref())?, Clock::System);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let credentials = runtime.block_on(renew::renew(&place, &origin, &reach, &clock))?;
        let files = place.files();
        let (identity, ends) = (credentials.identity(), credentials.span().not_after);
        match self.output {
            Format::Json => {
                let shown = Shown {
                    identity: identity.to_string(),
                    serial: credentials.serial().to_owned(),
                    not_after: ends.to_string(),
                    certificate: files.certificate,
                    key_file: files.key,
                    ca: files.roots,
                };
                output::json(out, &shown)
            }
            Format::Table => {
                writeln!(out, "{identity} until {ends}, serial {}", credentials.serial())?;
                Ok(())
            }
        }
    }

    fn origin(&self) -> Result<Origin, Failure> {
        let found = Origin::read(&self.dir)?;
        let addresses = Some(self.gateway.clone()).filter(|addresses| !addresses.is_empty());
        match (found, addresses, &self.enroll_name) {
            (Some(found), addresses, name) => Ok(Origin {
                addresses: addresses.unwrap_or(found.addresses),
                enroll: name.clone().unwrap_or(found.enroll),
                ..found
            }),
            (None, Some(addresses), Some(enroll)) => {
                Ok(Origin { addresses, enroll: enroll.clone(), connect: None, api: None })
            }
            (None, _, _) => Err(HolderFault::NoOrigin(self.dir.clone()).into()),
        }
    }
}
