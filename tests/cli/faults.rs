//! The authority at the worst moment: killed before any write, on a disk that is full or read-only,
//! with a clock that is wrong. What was said to be done is done, what failed changed nothing, and
//! the next attempt works.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::{run_with, stderr, stdout};

/// Every call that changes something on a disk.
/// A kill before a sync leaves the files that a kill after it does: those calls are left out.
const CHANGES: [&str; 13] = [
    "write",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "ftruncate",
];
const SIGKILL: i32 = 9;

/// A state directory that can be put back.
struct Place {
    dir: TempDir,
}

impl Place {
    /// With an authority, and a certificate of bob.
    fn with_authority() -> Self {
        let place = Self::empty();
        place.done(&["ca", "init", "--trust-domain", "corp.example"]);
        place.done(&["cert", "issue", "bob", "--out", "certs"]);
        place
    }

    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        run_with(self.path(), &[arguments, &["--state", "state"]].concat())
    }

    fn done(&self, arguments: &[&str]) -> Output {
        let done = self.try_run(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
        done
    }

    /// The same files, somewhere else.
    fn copy(&self) -> Self {
        let copy = Self::empty();
        let done = Command::new("cp").arg("-a").arg(self.path().join(".")).arg(copy.path()).status().unwrap();
        assert!(done.success());
        copy
    }

    /// Runs a verb that is killed as it enters its `nth` call of a kind; true when it was.
    fn killed(&self, arguments: &[&str], call: &str, nth: usize) -> bool {
        let kill = format!("inject={call}:signal=SIGKILL:when={nth}");
        let done = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &kill])
            .arg(env!("CARGO_BIN_EXE_doorward"))
            .args(arguments)
            .args(["--state", "state"])
            .current_dir(self.path())
            .env_remove("DOORWARD_CONFIG")
            .output()
            .unwrap();
        let killed = done.status.signal() == Some(SIGKILL);
        assert!(killed || done.status.success(), "{arguments:?} {call} {nth}: {}", stderr(&done));
        killed
    }

    /// Kills a verb at each of its changes on disk, each time from the same start, and looks at
    /// what is left.
    fn at_every_change(&self, arguments: &[&str], look: impl Fn(&Self, &str)) {
        if !can_trace() {
            skipped("this machine allows no tracing");
            return;
        }
        let mut killed = 0;
        // The calls of each kind are counted by themselves.
        for call in CHANGES {
            for nth in 1.. {
                let place = self.copy();
                if !place.killed(arguments, call, nth) {
                    break;
                }
                look(&place, &format!("killed at {call} {nth}"));
                killed += 1;
            }
        }
        assert!(killed > 8, "{arguments:?} was killed {killed} times only");
    }

    /// The serial numbers on record, and the states of their certificates.
    fn listed(&self) -> Vec<(String, String)> {
        let listed: Value = serde_json::from_slice(&self.done(&["cert", "list", "--output", "json"]).stdout).unwrap();
        let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        listed.as_array().unwrap().iter().map(|one| (text(one, "serial"), text(one, "state"))).collect()
    }

    /// The authority issues what openssl verifies with the roots that were handed out before.
    fn still_issues(&self) {
        self.done(&["cert", "issue", "probe", "--out", "probe"]);
        fs::copy(self.path().join("certs/ca.crt"), self.path().join("probe/old.crt")).unwrap();
        openssl(
            &self.path().join("probe"),
            "verify -x509_strict -purpose sslclient -CAfile ca.crt -untrusted probe.crt probe.crt",
        );
    }

    fn files(&self) -> BTreeSet<String> {
        names_in(&self.path().join("state"))
    }
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn openssl(dir: &Path, arguments: &str) -> String {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", stderr(&done));
    stdout(&done)
}

#[expect(clippy::print_stderr, reason = "what was not tested is said")]
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

fn can_trace() -> bool {
    Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

#[test]
fn a_killed_init_leaves_nothing_or_an_authority() {
    Place::empty().at_every_change(&["ca", "init", "--trust-domain", "corp.example"], |place, nth| {
        let shown = place.try_run(&["ca", "show"]);
        if !shown.status.success() {
            assert!(stderr(&shown).contains("there is no authority"), "{nth}: {}", stderr(&shown));
            place.done(&["ca", "init", "--trust-domain", "corp.example"]);
            assert!(!place.files().contains(".ca.new"), "{nth}: {:?}", place.files());
        }
        place.done(&["cert", "issue", "probe", "--out", "probe"]);
    });
}

#[test]
fn a_killed_rotation_of_the_issuer_leaves_an_authority_that_works() {
    a_killed_rotation("--issuer");
}

#[test]
fn a_killed_rotation_of_the_root_leaves_an_authority_that_old_clients_know() {
    a_killed_rotation("--root");
}

fn a_killed_rotation(what: &str) {
    Place::with_authority().at_every_change(&["ca", "rotate", what], |place, nth| {
        place.still_issues();
        // Bob's certificate still leads to a root that is trusted.
        place.done(&["cert", "inspect", "certs/bob.crt"]);
        let bundle = place.done(&["ca", "bundle"]);
        fs::write(place.path().join("bundle.crt"), &bundle.stdout).unwrap();
        openssl(place.path(), "verify -x509_strict -CAfile bundle.crt -untrusted certs/bob.crt certs/bob.crt");
        // The next change sweeps up.
        if !place.try_run(&["ca", "rotate", "--issuer"]).status.success() {
            place.done(&["ca", "rotate", "--finish", "--force"]);
        }
        assert!(!place.files().contains(".ca.new"), "{nth}: {:?}", place.files());
    });
}

#[test]
fn a_killed_issue_leaves_no_certificate_off_the_record() {
    let issue = ["cert", "issue", "alice", "--out", "out"];
    Place::with_authority().at_every_change(&issue, |place, nth| {
        let out = place.path().join("out");
        for file in names_in(&out) {
            let mode = fs::metadata(out.join(&file)).unwrap().mode() & 0o777;
            assert!(!file.contains("key") || mode == 0o600, "{nth}: {file} {mode:o}");
        }
        // Under a name of its own, or under the one that it had while it was written.
        for file in ["alice.crt", ".alice.crt.new"] {
            if fs::read(out.join(file)).is_ok_and(|text| text.ends_with(b"-----END CERTIFICATE-----\n")) {
                let serial = openssl(&out, &format!("x509 -in {file} -noout -serial")).to_lowercase();
                let serial = serial.trim().strip_prefix("serial=").unwrap().trim_start_matches('0').to_owned();
                let listed = place.listed();
                assert!(listed.iter().any(|(known, _)| known.trim_start_matches('0') == serial), "{nth}: {listed:?}");
            }
        }
        if out.join("alice.crt").exists() {
            let (certified, own) =
                (openssl(&out, "x509 -in alice.crt -noout -pubkey"), openssl(&out, "pkey -in alice.key -pubout"));
            assert_eq!(certified, own, "{nth}");
        }
        let again = place.try_run(&issue);
        if !again.status.success() {
            assert!(stderr(&again).contains("exists already"), "{nth}: {}", stderr(&again));
            place.done(&["cert", "issue", "alice", "--out", "elsewhere"]);
            fs::rename(&out, place.path().join("before")).unwrap();
            fs::rename(place.path().join("elsewhere"), &out).unwrap();
        }
        openssl(&out, "verify -x509_strict -CAfile ca.crt -untrusted alice.crt alice.crt");
    });
}

#[test]
fn a_killed_revocation_is_in_force_or_never_was() {
    Place::with_authority().at_every_change(&["cert", "revoke", "--name", "bob"], |place, nth| {
        let inspected = stdout(&place.done(&["cert", "inspect", "certs/bob.crt", "--output", "json"]));
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let states: BTreeSet<String> = place.listed().into_iter().map(|(_, state)| state).collect();
        // Name and certificates together, or neither.
        let revoked = inspected["accepted"] == false;
        assert_eq!(states, BTreeSet::from([if revoked { "revoked" } else { "active" }.to_owned()]), "{nth}");
        place.done(&["cert", "revoke", "--name", "bob"]);
        assert!(place.listed().iter().all(|(_, state)| state == "revoked"), "{nth}");
    });
}

/// Runs a script as root of a namespace in which it may mount; `None` where that is not allowed.
fn in_namespace(dir: &Path, script: &str) -> Option<Output> {
    let shell = |script: &str| {
        let done = Command::new("unshare").args(["-Urm", "sh", "-euc", script]).current_dir(dir).output();
        done.unwrap()
    };
    if !shell("mkdir -p probe && mount -t tmpfs -o size=8k none probe").status.success() {
        skipped("this machine allows no mounts in a namespace");
        return None;
    }
    Some(shell(&script.replace("DOORWARD", env!("CARGO_BIN_EXE_doorward"))))
}

/// Each verb with so much space left, then again with plenty. Prints a line for each attempt.
const FULL: &str = r#"
mkdir -p mnt; mount -t tmpfs -o size=900k none mnt
for free in 0 8 24 64; do
  for verb in "ca init --trust-domain a.example --state mnt/new" "ca rotate --issuer --state mnt/state" \
              "ca rotate --root --state mnt/state" "cert issue alice --out out-$free --state mnt/state" \
              "cert issue carol --out mnt/out --state mnt/state" "cert revoke --name bob --state mnt/state" \
              "ca csr --trust-domain corp.example --state mnt/state"; do
    rm -rf mnt/* mnt/.[!.]* out-$free; cp -a state mnt/state
    available=$(df -k --output=avail mnt | tail -1)
    head -c $(( (available - free) * 1024 )) /dev/zero > mnt/filler || true
    code=0; DOORWARD $verb > said 2>&1 || code=$?
    left=$(find mnt -name '.*.new' | tr '\n' ' ')
    rm mnt/filler
    again=0; DOORWARD $verb > again 2>&1 || again=$?
    listed=$(DOORWARD cert list --state mnt/state | awk 'NR > 1 { print $3 }' | sort | uniq -c | tr '\n' ' ')
    DOORWARD cert issue dave --out mnt/dave --state mnt/state > /dev/null
    echo "$free|$verb|$code|$again|$left|$listed|$(tr '\n' ' ' < said)|$(tr '\n' ' ' < again)"
  done
done
"#;

#[test]
fn a_full_disk_changes_nothing_and_says_so() {
    let place = Place::with_authority();
    let Some(done) = in_namespace(place.path(), FULL) else { return };
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let mut refused = BTreeSet::new();
    let text = stdout(&done);
    for line in text.lines() {
        let [_, verb, code, again, left, listed, said, said_again] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let what = verb.split(" --").next().unwrap();
        if code == "0" {
            // A second one finds what the first has made.
            let done_before = ["exists already", "rotated before"].iter().any(|why| said_again.contains(why));
            assert!(again == "0" || done_before, "{line}");
            continue;
        }
        refused.insert(what);
        assert_eq!(code, "1", "{line}");
        assert!(said.contains("full") || said.contains("No space left"), "{line}");
        assert!(said.contains("hint: ") && said.contains("free some space"), "{line}");
        assert_eq!(left, "", "nothing lies about: {line}");
        assert_eq!(again, "0", "with space it works: {line}");
        // Bob's, and what the second attempt has issued; what nobody got does not count as good.
        let active = if what.starts_with("cert issue") { "2 active" } else { "1 active" };
        let good = if what == "cert revoke" { listed.contains("1 revoked") } else { listed.contains(active) };
        assert!(good, "{line}");
    }
    assert_eq!(text.lines().count(), 4 * 7);
    assert_eq!(refused.len(), 6, "{refused:?}");
}

/// Each verb where nothing can be written, then where it can.
const READ_ONLY: &str = r#"
mkdir -p mnt; mount -t tmpfs none mnt
for verb in "ca init --trust-domain a.example --state mnt/new" "ca rotate --issuer --state mnt/state" \
            "ca rotate --root --state mnt/state" "ca csr --trust-domain corp.example --state mnt/state" \
            "cert issue alice --out out --state mnt/state" "cert issue carol --out mnt/out --state state" \
            "cert revoke --name bob --state mnt/state" "ca crl --state mnt/state"; do
  rm -rf mnt/* mnt/.[!.]* out; cp -a state mnt/state
  before=$(cd mnt && find . -type f | grep -v db- | sort | xargs sha256sum | sha256sum)
  mount -o remount,ro mnt
  code=0; DOORWARD $verb > said 2>&1 || code=$?
  shown=0; DOORWARD ca show --state mnt/state > /dev/null || shown=$?
  mount -o remount,rw mnt
  after=$(cd mnt && find . -type f | grep -v db- | sort | xargs sha256sum | sha256sum)
  same=no; if [ "$before" = "$after" ]; then same=yes; fi
  again=0; DOORWARD $verb > again 2>&1 || again=$?
  echo "$verb|$code|$shown|$same|$again|$(tr '\n' ' ' < said)|$(tr '\n' ' ' < again)"
done
"#;

#[test]
fn a_read_only_disk_changes_nothing_and_says_so() {
    let place = Place::with_authority();
    let Some(done) = in_namespace(place.path(), READ_ONLY) else { return };
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let text = stdout(&done);
    for line in text.lines() {
        let [_, code, shown, same, again, said, _] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!((code, shown, same, again), ("1", "0", "yes", "0"), "{line}");
        assert!(said.to_lowercase().contains("read-only") && said.contains("hint: check the mount"), "{line}");
    }
    assert_eq!(text.lines().count(), 8);
    // What went to a read-only place was never on record.
    let states: Vec<String> = place.listed().into_iter().map(|(_, state)| state).collect();
    assert_eq!(states.iter().filter(|state| *state == "active").count(), 2, "bob and the second carol: {states:?}");
}

/// A verb by a clock that is wrong by so much.
fn by_clock(place: &Place, wrong: &str, arguments: &[&str]) -> Option<Output> {
    let done = Command::new("faketime")
        .args(["-f", wrong, env!("CARGO_BIN_EXE_doorward")])
        .args(arguments)
        .args(["--state", "state"])
        .current_dir(place.path())
        .env_remove("DOORWARD_CONFIG")
        .output();
    if done.is_err() {
        skipped("there is no faketime");
    }
    done.ok()
}

#[test]
fn a_clock_that_is_wrong_is_named() {
    let place = Place::with_authority();
    // Behind: the authority begins in what this machine takes for the future.
    for arguments in
        [&["cert", "issue", "alice", "--out", "a"][..], &["ca", "rotate", "--issuer"], &["ca", "rotate", "--root"]]
    {
        let Some(done) = by_clock(&place, "-1h", arguments) else { return };
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {}", stdout(&done));
        assert!(stderr(&done).contains("clock"), "{arguments:?}: {}", stderr(&done));
    }
    assert!(!place.path().join("a").exists());
    let early = by_clock(&place, "-1h", &["cert", "inspect", "certs/bob.crt"]).unwrap();
    assert!(stdout(&early).contains("clock"), "{}{}", stdout(&early), stderr(&early));
    let late = by_clock(&place, "+25h", &["cert", "inspect", "certs/bob.crt"]).unwrap();
    assert!(stdout(&late).contains("ended at") && stdout(&late).contains("clock"), "{}", stdout(&late));
    // So far ahead that the issuer has ended.
    let over = by_clock(&place, "+400d", &["cert", "issue", "alice", "--out", "a"]).unwrap();
    assert!(stderr(&over).contains("ca rotate --issuer") && stderr(&over).contains("clock"), "{}", stderr(&over));
    // Ahead: what this machine issues now begins in everybody else's future.
    let ahead = by_clock(&place, "+1h", &["cert", "issue", "carol", "--out", "c"]).unwrap();
    assert!(ahead.status.success(), "{}", stderr(&ahead));
    let seen = place.done(&["cert", "inspect", "c/carol.crt"]);
    assert!(stdout(&seen).contains("clock"), "{}", stdout(&seen));
    // Nothing is spoilt.
    place.still_issues();
}
