//! `doorward cert revoke`

use std::io::Write;

use clap::Args;

use crate::cli::ca;
use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::identity::IdentityName;
use crate::manage::certificates::{RevokeCertificate, RevokeName};
use crate::store::rows::{Reason, Serial};

/// Revokes a certificate, or a name with all its certificates.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct Revoke {
    /// One certificate, by its serial number
    #[arg(long, group = "what", value_parser = Serial::parse)]
    serial: Option<Serial>,
    /// Every certificate of a name, in every role, now and later
    #[arg(long, group = "what", value_parser = IdentityName::parse)]
    name: Option<IdentityName>,
    /// Why: unspecified, key-compromise, affiliation-changed, superseded, cessation-of-operation, privilege-withdrawn
    #[arg(long, default_value = "unspecified", value_parser = Reason::parse)]
    reason: Reason,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Revoke {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let reason = Some(self.reason.as_str().to_owned());
        match (&self.serial, &self.name) {
            (Some(serial), _) => {
                let operation = RevokeCertificate { serial: serial.to_string(), reason };
                let done = self.reach.existing()?.perform(operation)?;
                let what = match (done.newly, done.compromised) {
                    (true, _) => "is revoked",
                    (false, true) => "was revoked before; its key counts as compromised from now on",
                    (false, false) => "was revoked before",
                };
                match self.output {
                    Format::Json => output::json(out, &done)?,
                    Format::Table => writeln!(out, "{serial} {what}")?,
                }
            }
            (None, Some(name)) => {
                if self.reach.is_local() {
                    // Says what is wrong with the authority when it cannot be read.
                    ca::open(&self.reach.place().state_dir()?)?;
                }
                let done = self.reach.any()?.perform(RevokeName { name: name.to_string(), reason })?;
                if done.newly && done.certificates == 0 {
                    writeln!(err, "warning: {name} had no certificate; from now on it gets none")?;
                }
                let ended = output::count(done.certificates, "certificate");
                let bundles = match done.bundles {
                    0 => String::new(),
                    bundles => format!(", and {} that nobody had used", output::count(bundles, "bundle")),
                };
                let compromised = match done.compromised {
                    0 => String::new(),
                    before => {
                        format!("; {} revoked before: compromised from now on", output::count(before, "certificate"))
                    }
                };
                let newly = if done.newly { "is revoked" } else { "was revoked before" };
                match self.output {
                    Format::Json => output::json(out, &done)?,
                    Format::Table => writeln!(out, "{name} {newly}; {ended} ended{bundles}{compromised}")?,
                }
            }
            (None, None) => return Err(Failure::Usage(vec!["name what to revoke: --serial or --name".to_owned()])),
        }
        Ok(())
    }
}
