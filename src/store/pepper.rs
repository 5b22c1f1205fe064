//! The pepper file: the secret under which keys are hashed.
//!
//! Invariant: while one key exists, its pepper is never made anew. A missing or foreign pepper
//! would turn every key into a refusal that nobody understands, so it refuses to start instead.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::domain::key::Pepper;
use crate::store::Store;
use crate::store::directory;
use crate::store::error::StoreError;

/// Name of the file in the state directory.
pub const FILE: &str = "pepper";

/// Reads the pepper of a state directory whose store is `store`, and makes it at the first use.
///
/// # Errors
///
/// When keys exist and the pepper is missing or another one; when the file is not a pepper or is
/// open to other users; when the store or the file cannot be read or written.
pub fn load(state_dir: &Path, store: &mut Store) -> Result<Pepper, StoreError> {
    let Store::Sqlite(engine) = store;
    // Inside the store's write lock: two processes that start at once must not make two peppers.
    engine.settle_pepper(|stored, keys_exist| {
        let path = state_dir.join(FILE);
        let pepper = match read(&path)? {
            Some(pepper) => pepper,
            None if keys_exist => return Err(StoreError::PepperMissing(path)),
            None => make(state_dir)?,
        };
        let found = pepper.id();
        if keys_exist && stored.as_ref() != Some(&found) {
            let needed = stored.unwrap_or_else(|| "an unknown one".to_owned());
            return Err(StoreError::PepperOther { path, found, needed });
        }
        Ok((pepper, found))
    })
}

fn read(path: &Path) -> Result<Option<Pepper>, StoreError> {
    let failed = |source| StoreError::file(path, source);
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(StoreError::PepperMalformed(path.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), mode, wanted: 0o600 });
    }
    let secret = from_hex(text.trim_ascii_end()).ok_or_else(|| StoreError::PepperMalformed(path.to_owned()))?;
    Ok(Some(Pepper::new(&secret)))
}

fn make(state_dir: &Path) -> Result<Pepper, StoreError> {
    let mut secret = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(secret.as_mut()).map_err(|_| StoreError::NoRandomness)?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in secret.iter() {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')));
    }
    text.push('\n');
    directory::write_private(state_dir, FILE, text.as_bytes())?;
    Ok(Pepper::new(&secret))
}

fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut secret = Zeroizing::new([0; 32]);
    if pairs.len() != secret.len() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, [high, low]) in secret.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::store::conformance_tests::{Fixture, new_key};

    fn message(result: Result<Pepper, StoreError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn is_made_at_the_first_use_and_kept() {
        let fixture = Fixture::new();
        let first = load(fixture.dir(), &mut fixture.open()).unwrap().id();
        let text = fs::read_to_string(fixture.dir().join(FILE)).unwrap();
        assert!(text.len() == 65 && text.trim_end().bytes().all(|b| b.is_ascii_hexdigit()), "not 32 bytes in hex");
        assert_eq!(fs::metadata(fixture.dir().join(FILE)).unwrap().mode() & 0o777, 0o600);
        fixture.open().create_key(&new_key(1)).unwrap();
        assert_eq!(load(fixture.dir(), &mut fixture.open()).unwrap().id(), first);
    }

    #[test]
    fn is_never_made_anew_while_keys_exist() {
        let fixture = Fixture::new();
        load(fixture.dir(), &mut fixture.open()).unwrap();
        fixture.open().create_key(&new_key(1)).unwrap();
        let path = fixture.dir().join(FILE);
        fs::rename(&path, fixture.dir().join("kept")).unwrap();
        assert!(message(load(fixture.dir(), &mut fixture.open())).contains("never made while keys exist"));
        assert!(!path.exists());

        let other = Fixture::new();
        load(other.dir(), &mut other.open()).unwrap();
        fs::copy(other.dir().join(FILE), &path).unwrap();
        assert!(message(load(fixture.dir(), &mut fixture.open())).contains("not the pepper that the keys"));

        fs::rename(fixture.dir().join("kept"), &path).unwrap();
        load(fixture.dir(), &mut fixture.open()).unwrap();
    }

    #[test]
    fn keys_of_an_unknown_pepper_are_refused() {
        let fixture = Fixture::new();
        fixture.open().create_key(&new_key(1)).unwrap();
        assert!(message(load(fixture.dir(), &mut fixture.open())).contains("is missing"));
        fs::write(fixture.dir().join(FILE), "0".repeat(64)).unwrap();
        fs::set_permissions(fixture.dir().join(FILE), Permissions::from_mode(0o600)).unwrap();
        assert!(message(load(fixture.dir(), &mut fixture.open())).contains("need an unknown one"));
    }

    #[test]
    fn another_pepper_is_fine_before_the_first_key() {
        let fixture = Fixture::new();
        let first = load(fixture.dir(), &mut fixture.open()).unwrap().id();
        fs::remove_file(fixture.dir().join(FILE)).unwrap();
        let second = load(fixture.dir(), &mut fixture.open()).unwrap().id();
        assert_ne!(first, second);
        fixture.open().create_key(&new_key(1)).unwrap();
        assert_eq!(load(fixture.dir(), &mut fixture.open()).unwrap().id(), second);
    }

    #[test]
    fn a_malformed_or_exposed_file_is_refused() {
        let fixture = Fixture::new();
        let path = fixture.dir().join(FILE);
        for wrong in [&b""[..], b"00", &[b'g'; 64], &[b'0'; 66], &[0xff; 64], "é".repeat(32).as_bytes()] {
            fs::write(&path, wrong).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(message(load(fixture.dir(), &mut fixture.open())).contains("not a pepper"), "{wrong:?}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(message(load(fixture.dir(), &mut fixture.open())).contains("chmod 600"));
    }

    #[test]
    fn two_first_starts_make_one_pepper() {
        let fixture = Fixture::new();
        let start = Barrier::new(8);
        let ids: Vec<_> = thread::scope(|scope| {
            let racing = || {
                start.wait();
                load(fixture.dir(), &mut fixture.open()).unwrap().id()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(racing)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    }
}
