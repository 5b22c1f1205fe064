//! The order in which entries of a slab were used: a doubly linked list through the entries
//! themselves.
//!
//! Invariant: an entry is in a list at most once, and whoever removes it from the slab has unlinked
//! it before.

use slab::Slab;

/// Where an entry's neighbours are.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Links {
    newer: Option<usize>,
    older: Option<usize>,
}

/// The ends of a list.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct List {
    newest: Option<usize>,
    oldest: Option<usize>,
    length: usize,
}

impl List {
    /// How many entries are in it.
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// The entry that was not used for longest.
    pub(super) const fn last(&self) -> Option<usize> {
        self.oldest
    }

    /// Puts an entry in, as the one that was used last.
    pub(super) fn push<E>(&mut self, entries: &mut Slab<E>, place: usize, links: impl Fn(&mut E) -> &mut Links) {
        if let Some(entry) = entries.get_mut(place) {
            *links(entry) = Links { newer: None, older: self.newest };
        }
        match self.newest.and_then(|newest| entries.get_mut(newest)) {
            Some(newest) => links(newest).newer = Some(place),
            None => self.oldest = Some(place),
        }
        self.newest = Some(place);
        self.length += 1;
    }

    /// Takes an entry out.
    pub(super) fn unlink<E>(&mut self, entries: &mut Slab<E>, place: usize, links: impl Fn(&mut E) -> &mut Links) {
        let Some(Links { newer, older }) = entries.get_mut(place).map(|entry| *links(entry)) else { return };
        match newer.and_then(|newer| entries.get_mut(newer)) {
            Some(newer) => links(newer).older = older,
            None => self.newest = older,
        }
        match older.and_then(|older| entries.get_mut(older)) {
            Some(older) => links(older).newer = newer,
            None => self.oldest = newer,
        }
        self.length = self.length.saturating_sub(1);
    }

    /// Notes that an entry was used.
    pub(super) fn front<E>(&mut self, entries: &mut Slab<E>, place: usize, links: impl Fn(&mut E) -> &mut Links) {
        if self.newest != Some(place) {
            self.unlink(entries, place, &links);
            self.push(entries, place, links);
        }
    }
}
