//! Where the root's key and its passphrase come from. A passphrase is never an argument.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use crate::ca::change::Unlock;
use crate::ca::passphrase::{MAX_BYTES, Passphrase};
use crate::cli::output::Failure;
use crate::cli::process::environment;

/// The variable that a passphrase may be in.
const VARIABLE: &str = "DOORWARD_ROOT_PASSPHRASE";

/// The options of verbs that encrypt or open the root's key.
#[derive(Debug, Args)]
pub struct PassphraseFrom {
    /// The file that the root's passphrase is in; - for stdin [default: $DOORWARD_ROOT_PASSPHRASE]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// The options of verbs that sign with the root's key.
#[derive(Debug, Args)]
pub struct RootKeyFrom {
    /// The file of the root's key, when it was taken offline
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFrom,
}

impl PassphraseFrom {
    /// The passphrase, when there is one.
    ///
    /// # Errors
    ///
    /// When its file cannot be read, or it is too short.
    pub fn read(&self) -> Result<Option<Passphrase>, Failure> {
        let (text, from) = match &self.passphrase_file {
            None => match environment(VARIABLE) {
                None => return Ok(None),
                Some(text) => (Zeroizing::new(text), format!("${VARIABLE}")),
            },
            Some(file) if file == Path::new("-") => (read(io::stdin(), "stdin")?, "stdin".to_owned()),
            Some(file) => {
                let shown = file.display().to_string();
                let open = File::open(file).map_err(|error| Failure::new(format!("cannot read {shown}: {error}")))?;
                (read(open, &shown)?, shown)
            }
        };
        let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        let passphrase = Passphrase::new(Zeroizing::new(line.to_owned()));
        passphrase.map(Some).map_err(|why| Failure::new(format!("{from}: {why}")))
    }

    /// The passphrase, which there must be.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], and when there is none.
    pub fn require(&self) -> Result<Passphrase, Failure> {
        self.read()?.ok_or_else(|| {
            Failure::with_hint(
                "a passphrase for the root's key is needed",
                format!("--passphrase-file FILE reads it from a file (- for stdin), ${VARIABLE} from the environment"),
            )
        })
    }
}

impl RootKeyFrom {
    /// The passphrase, when there is one.
    ///
    /// # Errors
    ///
    /// As [`PassphraseFrom::read`].
    pub fn passphrase(&self) -> Result<Option<Passphrase>, Failure> {
        self.passphrase.read()
    }

    /// How the root's key is reached.
    #[must_use]
    pub fn unlock<'a>(&'a self, passphrase: Option<&'a Passphrase>) -> Unlock<'a> {
        Unlock { passphrase, file: self.root_key.as_deref() }
    }
}

fn read(from: impl Read, shown: &str) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(2);
    from.take(most)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("cannot read the passphrase from {shown}: {error}")))?;
    Ok(text)
}
