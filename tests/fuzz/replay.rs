//! The checks of the fuzzer, with its seeds: see `README.md` beside this file.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a check that panics is a failed test"
)]

mod checks;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Each seed as it is, cut short, and with a byte that is another: what a fuzzer would do first.
fn variants(seed: &[u8]) -> Vec<Vec<u8>> {
    let mut variants = vec![seed.to_vec()];
    for at in (0..seed.len()).step_by(1 + seed.len() / 16) {
        variants.push(seed[..at].to_vec());
        variants.push(seed.to_vec());
        variants.last_mut().unwrap()[at] ^= 1;
    }
    variants
}

#[test]
fn the_checks_hold_for_their_seeds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let mut failed = Vec::new();
    for (name, check) in checks::ALL {
        let files = entries(&seeds.join(name));
        assert!(!files.is_empty(), "{name} has no seeds");
        for file in files {
            let seed = fs::read(&file).unwrap();
            assert!(seed.len() <= 4096, "{} is too long for a seed", file.display());
            if catch_unwind(|| variants(&seed).iter().for_each(|input| check(input))).is_err() {
                failed.push(file);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn checks_targets_and_seeds_go_together() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let known: BTreeSet<_> = checks::ALL.into_iter().map(|(name, _)| name.to_owned()).collect();
    let names = |dir: &str| entries(&here.join(dir)).iter().map(|path| name_of(path)).collect::<BTreeSet<_>>();
    assert_eq!(names("targets"), known);
    assert_eq!(names("seeds"), known);
    let package = fs::read_to_string(here.join("Cargo.toml")).unwrap();
    for name in known {
        let target = fs::read_to_string(here.join(format!("targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("named({name:?})")) && package.contains(&format!("name = {name:?}")));
        checks::named(&name);
    }
}
