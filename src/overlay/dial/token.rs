//! The local token: what tells the tools of one user from those of others on the same machine.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::{constant_time, digest, rand};
use zeroize::Zeroizing;

use crate::ca::files;
use crate::domain::base64url;

/// The file in the state directory.
pub const FILE: &str = "dial.token";
const PREFIX: &str = "dial_";

/// A token.
#[derive(Clone)]
pub struct LocalToken(Zeroizing<String>);

impl LocalToken {
    /// A token that somebody chose.
    #[must_use]
    pub fn given(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The token that is kept in `dir`; it is made if there is none.
    ///
    /// # Errors
    ///
    /// When it can be neither read nor written, or others can read it.
    pub fn kept(dir: &Path) -> Result<Self, String> {
        let path = dir.join(FILE);
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => {
                let mode = files::mode(&path).map_err(failed)?;
                if mode & 0o077 != 0 {
                    let path = path.display();
                    return Err(format!("{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}"));
                }
                let token = text.trim_ascii();
                let sound = token.strip_prefix(PREFIX).and_then(|rest| base64url::decode(rest.as_bytes()));
                if sound.is_none_or(|bytes| bytes.len() != 32) {
                    return Err(format!("{} does not hold a token; remove it, and another is made", path.display()));
                }
                Ok(Self::given(token))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = Zeroizing::new([0; 32]);
                rand::fill(&mut *secret).map_err(|_| "there is no randomness to make a token of".to_owned())?;
                let token = Self(Zeroizing::new(format!("{PREFIX}{}", base64url::encode(&*secret))));
                files::write_new(&path, format!("{}\n", *token.0).as_bytes(), files::SECRET).map_err(failed)?;
                Ok(token)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The token, for whoever may use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True when `presented` is this token. How long it takes does not depend on where they differ.
    #[must_use]
    pub fn is(&self, presented: &[u8]) -> bool {
        let hash = |bytes| digest::digest(&digest::SHA256, bytes);
        constant_time::verify_slices_are_equal(hash(self.0.as_bytes()).as_ref(), hash(presented).as_ref()).is_ok()
    }
}

impl fmt::Debug for LocalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let token = LocalToken::kept(dir.path()).unwrap();
        assert_eq!(LocalToken::kept(dir.path()).unwrap().reveal(), token.reveal());
        assert!(token.reveal().starts_with("dial_") && token.reveal().len() == 48, "no tool may take it for a key");
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(LocalToken::kept(dir.path()).unwrap_err().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for broken in ["", "dial_", "hunter2"] {
            fs::write(&path, broken).unwrap();
            assert!(LocalToken::kept(dir.path()).unwrap_err().contains("does not hold a token"), "{broken}");
        }
        let other = tempfile::tempdir().unwrap();
        assert_ne!(LocalToken::kept(other.path()).unwrap().reveal(), token.reveal());
        assert!(LocalToken::kept(&dir.path().join("none")).is_err());
    }

    #[test]
    fn it_is_itself_and_is_not_printed() {
        let token = LocalToken::given("hunter2hunter2hunter2");
        assert!(token.is(b"hunter2hunter2hunter2"));
        for other in [&b""[..], b"hunter2hunter2hunter", b"hunter2hunter2hunter2 ", b"Hunter2hunter2hunter2"] {
            assert!(!token.is(other));
        }
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
