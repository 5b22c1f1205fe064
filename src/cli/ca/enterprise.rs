//! `doorward ca csr` and `doorward ca import-issuer`: an issuer under a root of somebody else's.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{changed, directory, hinted, read_bounded};
use crate::ca::CaError;
use crate::ca::authority::Authority;
use crate::ca::change;
use crate::ca::request::Request;
use crate::cli::output::Failure;
use crate::cli::place::Place;
use crate::clock::Clock;
use crate::domain::identity::TrustDomain;

/// Most bytes of a chain that is imported.
const MAX_IMPORT: u64 = 1 << 20;

/// Prints a request (PKCS#10) for an issuer. Its key stays in the state directory; the same request
/// can be printed again until it is answered.
#[derive(Debug, Args)]
pub struct Csr {
    /// The domain of all identities [default: that of the authority]
    #[arg(long, value_name = "DOMAIN", value_parser = TrustDomain::parse)]
    trust_domain: Option<TrustDomain>,
    #[command(flatten)]
    place: Place,
}

/// Puts an issuer in force that was signed elsewhere. Callers that have certificates keep them.
#[derive(Debug, Args)]
pub struct ImportIssuer {
    /// PEM: the issuer, what is between, and the root, in this order; - for stdin
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

impl Csr {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let directory = directory(&self.place.state_dir()?);
        let domain = match (Authority::open(&directory), self.trust_domain) {
            (Ok(authority), Some(asked)) if asked != *authority.trust_domain() => {
                return Err(Failure::new(format!(
                    "the authority here is of the trust domain {}, which cannot change",
                    authority.trust_domain()
                )));
            }
            (Ok(authority), _) => authority.trust_domain().clone(),
            (Err(CaError::Missing(_)), Some(asked)) => asked,
            (Err(CaError::Missing(_)), None) => {
                return Err(Failure::with_hint(
                    "there is no authority that would tell the trust domain",
                    "name it: --trust-domain corp.example",
                ));
            }
            (Err(error), _) => return Err(Failure::new(error)),
        };
        let request = Request::make(&directory, &domain).map_err(|error| hinted(&error))?;
        write!(out, "{}", request.pem().map_err(Failure::new)?)?;
        Ok(())
    }
}

impl ImportIssuer {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let directory = directory(&self.place.state_dir()?);
        let text = read_bounded(&self.file, MAX_IMPORT)?;
        let text = String::from_utf8(text).map_err(|_| Failure::new(format!("{} is not PEM", self.file.display())))?;
        let authority =
            change::import_issuer(&directory, &text, Clock::System.now()).map_err(|error| changed(&error))?;
        writeln!(out, "the issuer of {} is in force until {}", authority.trust_domain(), authority.issuer_not_after())?;
        writeln!(err, "Clients verify the gateway with another root now: hand out `doorward ca bundle`.")?;
        Ok(())
    }
}
