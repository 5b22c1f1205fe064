//! Cuts the control stream into lines.
//!
//! Invariant: what comes out depends on the bytes and not on how they were cut, and no more than
//! one object and the chunk at hand are ever held.

use bytes::{Buf, Bytes, BytesMut};

use crate::overlay::protocol::{Fault, MAX_OBJECT};

/// Bytes on their way to becoming lines.
#[derive(Default, Debug)]
pub struct Lines {
    buffer: BytesMut,
    /// Bytes at the front that hold no line feed.
    searched: usize,
}

impl Lines {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its line feed. To be called until it gives `None` before more
    /// is pushed.
    ///
    /// # Errors
    ///
    /// [`Fault::TooLong`], for a line that is or must become too long. The stream is to be ended
    /// then.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, Fault> {
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        match memchr::memchr(b'\n', unsearched) {
            Some(at) => {
                let length = self.searched + at;
                self.searched = 0;
                let line = self.buffer.split_to(length).freeze();
                self.buffer.advance(1);
                if line.len() > MAX_OBJECT { Err(Fault::TooLong) } else { Ok(Some(line)) }
            }
            None if self.buffer.len() > MAX_OBJECT => Err(Fault::TooLong),
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }

    /// True when a line has begun and not ended.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(bytes: &[u8], at: usize) -> Result<(Vec<Vec<u8>>, bool), Fault> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in bytes.chunks(at.max(1)) {
            lines.push(chunk);
            while let Some(line) = lines.next_line()? {
                found.push(line.to_vec());
            }
        }
        Ok((found, lines.is_inside()))
    }

    #[test]
    fn lines_have_a_longest_length() {
        let mut bytes = vec![b'x'; MAX_OBJECT];
        assert_eq!(cut(&bytes, 1000).unwrap(), (vec![], true));
        bytes.push(b'\n');
        assert_eq!(cut(&bytes, 1000).unwrap().0[0].len(), MAX_OBJECT);
        bytes.insert(0, b'x');
        for at in [1, 1000, bytes.len()] {
            assert_eq!(cut(&bytes, at), Err(Fault::TooLong));
        }
        // Without a line feed it is too long as soon as it cannot become short enough.
        assert_eq!(cut(&vec![b'x'; MAX_OBJECT + 1], 1), Err(Fault::TooLong));
    }

    proptest! {
        /// However the bytes are cut, the lines are those of the text.
        #[test]
        fn cuts_do_not_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), at in 1usize..64) {
            let (found, inside) = cut(&bytes, at).unwrap();
            let mut expected: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            let rest = expected.pop().unwrap();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(inside, !rest.is_empty());
        }
    }
}
