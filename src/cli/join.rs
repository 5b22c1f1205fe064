//! `doorward enroll join`

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::runtime;
use zeroize::Zeroizing;

use crate::ca::bundle::{self, Bundle};
use crate::ca::leaf_files::LeafFiles;
use crate::ca::plan::Span;
use crate::cli::output::{self, Failure, Format};
use crate::cli::usage;
use crate::clock::Clock;
use crate::domain::gateway_address::GatewayName;
use crate::domain::identity::Role;
use crate::domain::timestamp::Timestamp;
use crate::holder::credentials::Credentials;
use crate::holder::fault::HolderFault;
use crate::holder::files::Place;
use crate::holder::join;
use crate::holder::reach::{ProxyUrl, Reach};

/// A clock that differs more from the gateway's is worth a word.
const SKEW: Duration = Duration::from_secs(120);
/// Certificates begin this much before they are made.
const BACKDATED: Duration = Duration::from_secs(60);

/// Turns a bundle into a key and a certificate: `NAME.crt`, `NAME.key`, `ca.crt` and `gateway.toml`.
#[derive(Debug, Args)]
pub struct Join {
    /// The bundle that `doorward enroll create` printed: a file, - for stdin, or the text itself
    #[arg(env = "DOORWARD_BUNDLE", hide_env_values = true)]
    bundle: String,
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Reach the gateway through this proxy: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    identity: String,
    serial: String,
    not_after: String,
    certificate: PathBuf,
    key_file: PathBuf,
    ca: PathBuf,
}

impl Join {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let reach = reach_by(self.proxy.as_deref())?;
        let bundle = read_bundle(&self.bundle)?;
        let (place, clock) = (Place::new(&self.out, &bundle.name), Clock::System);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let joined = runtime.block_on(join::join(&bundle, place, &reach, &clock))?;
        warn_of_clock(err, joined.span, clock.now())?;
        let credentials = Credentials::load(&joined.place, &clock)?;
        let LeafFiles { certificate, key, roots } = joined.place.files();
        match self.output {
            Format::Json => {
                let shown = Shown {
                    name: bundle.name.to_string(),
                    identity: joined.identity.to_string(),
                    serial: credentials.serial().to_owned(),
                    not_after: joined.span.not_after.to_string(),
                    certificate,
                    key_file: key,
                    ca: roots,
                };
                output::json(out, &shown)
            }
            Format::Table => {
                writeln!(out, "{} until {}, serial {}", joined.identity, joined.span.not_after, credentials.serial())?;
                for file in [&certificate, &key, &roots] {
                    writeln!(out, "  {}", file.display())?;
                }
                if bundle.role == Role::Client {
                    let files = LeafFiles { certificate, key, roots };
                    writeln!(out, "\n{}", usage::lines(&url_of(&bundle), &files, "certificate"))?;
                }
                Ok(())
            }
        }
    }
}

/// How the gateway is reached: straight, or through a proxy. The text is not repeated when it is wrong:
/// people put passwords into URLs.
///
/// # Errors
///
/// When it is not the URL of a proxy.
pub fn reach_by(proxy: Option<&str>) -> Result<Reach, Failure> {
    let proxy = proxy.map(ProxyUrl::parse).transpose();
    Ok(Reach { proxy: proxy.map_err(|why| Failure::Usage(vec![format!("--proxy: {why}")]))? })
}

/// The identity of this role in a state directory; where there is none yet, the one that a bundle gives.
///
/// # Errors
///
/// When there is neither, the bundle is for another role, or joining fails.
pub async fn identity_in(
    dir: &Path,
    (role, bundle): (Role, Option<&str>),
    reach: &Reach,
    clock: &Clock,
) -> Result<Place, Failure> {
    let role = role.as_str();
    match (Place::only(dir), bundle) {
        (Ok(place), _) => Ok(place),
        (Err(HolderFault::Missing(_)), Some(bundle)) => {
            let bundle = read_bundle(bundle)?;
            // Before it is used up.
            if bundle.role.as_str() != role {
                return Err(Failure::with_hint(
                    format!("the bundle is for the {} {}", bundle.role.as_str(), bundle.name),
                    format!("a {role}'s is made with `doorward enroll create NAME --role {role}`"),
                ));
            }
            let joined = join::join(&bundle, Place::new(dir, &bundle.name), reach, clock).await?;
            tracing::info!(identity = %joined.identity, until = %joined.span.not_after, "joined");
            Ok(joined.place)
        }
        (Err(fault @ HolderFault::Missing(_)), None) => Err(Failure::with_hint(
            fault,
            format!(
                "the first start needs a bundle: --bundle BUNDLE; `doorward enroll create NAME --role {role}` at the \
                 gateway makes one"
            ),
        )),
        (Err(fault), _) => Err(fault.into()),
    }
}

/// Reads a bundle: a file, `-` for stdin, or the text itself.
///
/// # Errors
///
/// When there is none. Nothing of the text is repeated.
fn read_bundle(given: &str) -> Result<Bundle, Failure> {
    let text = if given == "-" {
        read(&mut std::io::stdin(), Path::new("standard input"))?
    } else if is_literal(given) {
        Zeroizing::new(given.to_owned())
    } else {
        let path = Path::new(given);
        let failed = |error: std::io::Error| {
            Failure::with_hint(
                format!("the bundle cannot be read from {}: {error}", path.display()),
                "write the bundle itself (dwe1.…), a file that holds it, or - for standard input",
            )
        };
        read(&mut File::open(path).map_err(failed)?, path)?
    };
    Ok(Bundle::parse(text.trim_ascii()).map_err(HolderFault::Bundle)?)
}

/// A file may have any name, but who names one so is asked to write ./dwe1.….
fn is_literal(given: &str) -> bool {
    let version = given.strip_prefix("dwe").and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
    version.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
}

fn read(from: &mut impl Read, path: &Path) -> Result<Zeroizing<String>, Failure> {
    // White space around it is no part of it.
    const MOST: u64 = bundle::MAX_BYTES as u64 + 64;
    let mut text = Zeroizing::new(String::with_capacity(bundle::MAX_BYTES + 64));
    let failed = |error| Failure::new(format!("{}: {error}", path.display()));
    from.take(MOST).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Where callers reach the gateway.
fn url_of(bundle: &Bundle) -> String {
    let host = match &bundle.api {
        GatewayName::Ip(address) if address.is_ipv6() => format!("[{address}]"),
        GatewayName::Ip(_) | GatewayName::Dns(_) => bundle.api.to_string(),
    };
    let port = bundle.addresses.first().map_or(8443, |address| address.port());
    format!("https://{host}:{port}")
}

/// A certificate begins a minute before the gateway's clock said that it was made.
fn warn_of_clock(err: &mut impl Write, span: Span, now: Timestamp) -> Result<(), Failure> {
    let gateway = span.not_before.after(BACKDATED);
    let (ahead, behind) = (now.since(gateway), gateway.since(now));
    let (skew, word) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    if skew > SKEW {
        let minutes = skew.as_secs() / 60;
        writeln!(
            err,
            "warning: this machine's clock is about {minutes} min {word} the gateway's; set it, or renewals come at the wrong time"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_told_from_a_file() {
        for literal in ["dwe1.abc", "dwe2.", "dwe10.x/y"] {
            assert!(is_literal(literal), "{literal}");
        }
        for file in ["bundle", "./dwe1.abc", "dwe.txt", "dwex.1", "/run/secrets/bundle", "dwe1"] {
            assert!(!is_literal(file), "{file}");
        }
    }

    #[test]
    fn white_space_around_a_bundle_does_no_harm_and_a_fault_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bundle");
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read_bundle(&file.display().to_string()).unwrap_err().to_string()
        };
        assert!(said(" dwe1.c2VjcmV0\n").contains("damaged"), "the prefix was found behind the space");
        assert!(!said("hunter2").contains("hunter2"));
        assert!(said(&"x".repeat(100_000)).contains("too long"));
        assert!(read_bundle("no such file").unwrap_err().to_string().contains("hint: "));
    }

    #[test]
    fn a_clock_that_is_off_is_said() {
        let made = Timestamp::parse("2026-06-01T12:00:00Z").unwrap();
        let span = Span { not_before: made.before(BACKDATED), not_after: made.after(Duration::from_secs(86_400)) };
        let said = |now| {
            let mut err = Vec::new();
            warn_of_clock(&mut err, span, now).unwrap();
            String::from_utf8(err).unwrap()
        };
        assert_eq!(said(made), "");
        assert_eq!(said(made.after(SKEW)), "");
        assert!(said(made.after(Duration::from_secs(3600))).contains("60 min ahead of"));
        assert!(said(made.before(Duration::from_secs(3600))).contains("60 min behind"));
    }
}
