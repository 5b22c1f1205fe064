//! The program that is built without the gateway, as its users meet it: `cargo test --no-default-features`. That it
//! joins, connects and dials is in `tests/sdk`, with a real gateway at the other end.

#![cfg(not(feature = "gateway"))]
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

/// What a machine beside a backend, or that of a developer, needs: a verb more is a part more.
#[test]
fn it_has_the_verbs_of_holders_and_no_others() {
    assert_eq!(verbs(&["--help"]), ["connect", "dial", "cert", "enroll", "completions"]);
    assert_eq!(verbs(&["cert", "--help"]), ["renew"]);
    assert_eq!(verbs(&["enroll", "--help"]), ["join"]);
}

#[test]
fn it_says_which_build_it_is() {
    let version = concat!("doorward ", env!("CARGO_PKG_VERSION"), " (connector build, without the gateway)\n");
    assert_eq!(stdout(&run(Path::new("."), &["--version"])), version);
}

#[test]
fn who_asks_for_a_verb_of_the_gateway_is_told_why_it_is_not_here() {
    for verb in [["serve"].as_slice(), &["cert", "issue"], &["enroll", "create"]] {
        let refused = run(Path::new("."), verb);
        assert_eq!(refused.status.code(), Some(2), "{verb:?}");
        let said = stderr(&refused);
        assert!(said.contains("unrecognized subcommand") && said.contains("this is the connector build"), "{said}");
    }
}

#[test]
fn a_connector_without_an_identity_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let refused = run(dir.path(), &["connect", "--backend", "vllm-a=http://127.0.0.1:9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("hint: "), "{}", stderr(&refused));
}

#[test]
fn dial_keeps_a_token_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let print = || stdout(&run(dir.path(), &["dial", "--print-env", "--state", "state"]));
    let first = print();
    assert!(first.contains("export OLLAMA_HOST='http://127.0.0.1:11434'\n"), "{first}");
    assert_eq!(first, print());
}

/// The verbs in a help text.
fn verbs(arguments: &[&str]) -> Vec<String> {
    let help = stdout(&run(Path::new("."), arguments));
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(arguments).current_dir(dir).env_remove("DOORWARD_BUNDLE").env("COLUMNS", "100").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
