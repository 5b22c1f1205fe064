//! The file of records: whole lines, rotation, and what to do when the disk says no.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::{memchr, memrchr};

use crate::config;

/// A chunk's buffer is kept for the next lines unless one burst made it larger than this.
const KEEP_CAPACITY: usize = 1 << 20;

/// Lines on their way to the file, and how far they got.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    lines: usize,
    written: usize,
}

impl Chunk {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes over the lines of a shard, and leaves it the empty buffer of this chunk.
    pub(super) fn fill(&mut self, bytes: &mut Vec<u8>, lines: &mut usize) {
        mem::swap(&mut self.bytes, bytes);
        self.lines = mem::take(lines);
    }

    /// Forgets lines that are written; gives how many lines and bytes they were.
    pub(super) fn clear(&mut self) -> (usize, usize) {
        let done = (mem::take(&mut self.lines), self.bytes.len());
        self.written = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_CAPACITY {
            self.bytes = Vec::new();
        }
        done
    }

    /// Goes back to the start of a line that was written in part; gives the length of that part.
    pub(super) fn rewind(&mut self) -> u64 {
        let written = self.bytes.get(..self.written).unwrap_or_default();
        let torn = written.len() - memrchr(b'\n', written).map_or(0, |at| at + 1);
        self.written -= torn;
        torn as u64
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn is_torn(&self) -> bool {
        self.written.checked_sub(1).and_then(|last| self.bytes.get(last)).is_some_and(|byte| *byte != b'\n')
    }
}

/// Where records go.
pub(super) struct Output {
    file: File,
    /// `None` for standard output.
    place: Option<OnDisk>,
}

/// What a file at a path needs beyond being written to.
struct OnDisk {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// Device and inode of the open file.
    id: (u64, u64),
    /// False for devices and pipes, which cannot be rotated or cut.
    regular: bool,
    size: u64,
    /// The last line of the file has no end: a crash, or a disk that was full.
    torn: bool,
    /// The open file is not the right one any more; nothing is written until another is open.
    stale: bool,
    /// Why the last rotation failed.
    unrotated: Option<io::ErrorKind>,
    /// False until the next check, after a rotation failed.
    may_rotate: bool,
}

impl Output {
    pub(super) fn open(settings: &config::Record) -> io::Result<Self> {
        let Some(path) = &settings.file else {
            let stdout = io::stdout().as_fd().try_clone_to_owned()?;
            return Ok(Self { file: File::from(stdout), place: None });
        };
        let mut place = OnDisk {
            path: path.clone(),
            max_bytes: settings.max_bytes,
            keep: settings.keep,
            id: (0, 0),
            regular: false,
            size: 0,
            torn: false,
            stale: true,
            unrotated: None,
            may_rotate: true,
        };
        Ok(Self { file: place.open().map_err(|error| explain("open", &place.path, &error))?, place: Some(place) })
    }

    /// Has the file opened anew before anything else is written.
    pub(super) fn must_reopen(&mut self) {
        if let Some(place) = &mut self.place {
            place.stale = true;
        }
    }

    /// Notices that the file was moved away, removed or cut by others.
    pub(super) fn check(&mut self) {
        if let Some(place) = &mut self.place {
            place.stale |= !place.is_in_place();
            place.may_rotate = true;
            if place.regular {
                place.size = self.file.metadata().map_or(place.size, |metadata| metadata.len());
            }
        }
    }

    /// True when another file was opened.
    pub(super) fn reopen_if_needed(&mut self) -> io::Result<bool> {
        match &mut self.place {
            Some(place) if place.stale => {
                self.file = place.open().map_err(|error| explain("reopen", &place.path, &error))?;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    /// A failure that does not keep lines from being written.
    pub(super) fn trouble(&self) -> io::Result<()> {
        match &self.place {
            Some(OnDisk { unrotated: Some(kind), path, .. }) => Err(explain("rotate", path, &io::Error::from(*kind))),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes what is left of a chunk. After an error the file ends with a whole line, if it can
    /// be cut, and the chunk knows what is in it: call again.
    pub(super) fn write(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        while !chunk.rest().is_empty() {
            let wanted = match &mut self.place {
                None => chunk.rest(),
                Some(place) => {
                    if !chunk.is_torn() && place.is_full_for(chunk.rest()) && place.rotate() {
                        self.file = place.open().map_err(|error| explain("reopen", &place.path, &error))?;
                    }
                    if place.torn && !chunk.is_torn() {
                        self.file.write_all(b"\n").map_err(|error| explain("write", &place.path, &error))?;
                        (place.torn, place.size) = (false, place.size + 1);
                    }
                    place.fitting(chunk)
                }
            };
            match self.file.write(wanted) {
                Ok(0) => return Err(self.cut(chunk, &io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    chunk.written += count;
                    if let Some(place) = &mut self.place {
                        place.size += count as u64;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cut(chunk, &error)),
            }
        }
        Ok(())
    }

    /// After a failed write: takes the part of a line that got through out of the file again, so
    /// that whoever reads it meanwhile finds whole lines.
    fn cut(&mut self, chunk: &mut Chunk, error: &io::Error) -> io::Error {
        let Some(place) = &mut self.place else {
            return explain("write", Path::new("standard output"), error);
        };
        if place.regular && chunk.is_torn() {
            let written = chunk.written;
            let torn = chunk.rewind();
            // The file's own length: others may have cut it since we looked.
            let length = self.file.metadata().map(|metadata| metadata.len().saturating_sub(torn));
            match length.and_then(|length| self.file.set_len(length).map(|()| length)) {
                Ok(length) => place.size = length,
                Err(_) => chunk.written = written,
            }
        }
        explain("write", &place.path, error)
    }
}

impl OnDisk {
    fn open(&mut self) -> io::Result<File> {
        self.stale = true;
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        let metadata = file.metadata()?;
        self.id = (metadata.dev(), metadata.ino());
        self.regular = metadata.is_file();
        self.size = metadata.len();
        let mut last = [b'\n'];
        if let (true, Some(end)) = (self.regular, self.size.checked_sub(1)) {
            file.read_exact_at(&mut last, end)?;
        }
        self.torn = last != [b'\n'];
        (self.stale, self.unrotated, self.may_rotate) = (false, None, true);
        Ok(file)
    }

    fn is_in_place(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.id)
    }

    fn room(&self) -> usize {
        usize::try_from(self.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX)
    }

    /// True when not even the first line of `rest` has room. An empty file has room for any line.
    fn is_full_for(&self, rest: &[u8]) -> bool {
        self.regular && self.size > 0 && first_line(rest).len() > self.room()
    }

    /// As many whole lines as have room, or the rest of a line that was begun.
    fn fitting<'a>(&self, chunk: &'a Chunk) -> &'a [u8] {
        let rest = chunk.rest();
        if !self.regular || rest.len() <= self.room() {
            return rest;
        }
        let room = rest.get(..self.room()).unwrap_or_default();
        match memrchr(b'\n', room) {
            Some(last) if !chunk.is_torn() => rest.get(..=last).unwrap_or(rest),
            // One line that is longer than a file may be, or a file that cannot be rotated.
            Some(_) | None => first_line(rest),
        }
    }

    /// Moves the file out of the way. False when that failed: the file grows on, and the next
    /// check lets it be tried again.
    fn rotate(&mut self) -> bool {
        if !mem::take(&mut self.may_rotate) {
            return false;
        }
        // If others moved it already, the file at the path is not ours to move.
        let moved = if self.is_in_place() { self.shift() } else { Ok(()) };
        self.unrotated = moved.err().map(|error| error.kind());
        self.may_rotate = self.unrotated.is_none();
        self.may_rotate
    }

    /// `records.jsonl.1` becomes `.2` and so on, the oldest goes, and the file becomes `.1`.
    fn shift(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    memchr(b'\n', bytes).and_then(|end| bytes.get(..=end)).unwrap_or(bytes)
}

fn explain(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", path.display()))
}
