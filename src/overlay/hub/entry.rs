//! Who may enter: the clone rule.
//!
//! Invariant: pure. Among the tunnels of one identity there are never more processes than its
//! config allows, and no two links with the same process and number.

/// A tunnel that is open, or wants to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link<'l> {
    /// Which process dialled.
    pub instance: &'l str,
    /// Which of its links.
    pub index: u32,
}

/// What becomes of a newcomer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It enters.
    Enter,
    /// It enters, in the place of the open link at this position: the same process has dialled it
    /// anew, so it is dead though nobody has noticed.
    Replace(usize),
    /// Other processes have all the places: are they still there?
    Full,
}

/// Decides about `newcomer`, beside the `open` links of the same identity.
#[must_use]
pub fn decide(open: &[Link<'_>], newcomer: Link<'_>, max_instances: u32) -> Verdict {
    if let Some(position) = open.iter().position(|link| *link == newcomer) {
        return Verdict::Replace(position);
    }
    if open.iter().any(|link| link.instance == newcomer.instance) {
        return Verdict::Enter;
    }
    let instances = open
        .iter()
        .enumerate()
        .filter(|(at, link)| open.iter().position(|first| first.instance == link.instance) == Some(*at));
    if instances.count() < max_instances as usize { Verdict::Enter } else { Verdict::Full }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const fn link(instance: &str, index: u32) -> Link<'_> {
        Link { instance, index }
    }

    #[test]
    fn a_second_process_waits_for_a_place() {
        let open = [link("a", 0), link("a", 1)];
        assert_eq!(decide(&[], link("a", 0), 1), Verdict::Enter);
        assert_eq!(decide(&open, link("a", 2), 1), Verdict::Enter);
        assert_eq!(decide(&open, link("a", 1), 1), Verdict::Replace(1));
        assert_eq!(decide(&open, link("b", 0), 1), Verdict::Full);
        assert_eq!(decide(&open, link("b", 0), 2), Verdict::Enter);
    }

    proptest! {
        /// Whatever comes in whatever order, the bounds hold.
        #[test]
        fn bounds_hold(max in 1u32..4, comers in prop::collection::vec((0usize..6, 0u32..3), 0..30)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let mut open: Vec<Link<'_>> = Vec::new();
            for (name, index) in comers {
                let newcomer = link(names[name], index);
                match decide(&open, newcomer, max) {
                    Verdict::Enter => open.push(newcomer),
                    Verdict::Replace(at) => open[at] = newcomer,
                    Verdict::Full => prop_assert!(open.iter().all(|link| link.instance != newcomer.instance)),
                }
                let instances: HashSet<_> = open.iter().map(|link| link.instance).collect();
                prop_assert!(instances.len() <= max as usize);
                let links: HashSet<_> = open.iter().map(|link| (link.instance, link.index)).collect();
                prop_assert_eq!(links.len(), open.len());
            }
        }
    }
}
