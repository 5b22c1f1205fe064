//! Configs that must load, and configs that must not, with every word of what is said about them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use doorward::config::{Problem, load};

/// Every valid config loads, and says exactly the warnings of its `.warnings` file, if any.
#[test]
fn valid_configs_load() {
    for file in configs("valid") {
        let config = load(&file, &environment)
            .unwrap_or_else(|problems| panic!("{} does not load:\n{}", file.display(), lines(&problems)));
        compare(&file.with_extension("warnings"), &lines(&config.warnings));
    }
}

/// Every invalid config is refused with exactly the problems of its `.err` file.
#[test]
fn invalid_configs_say_every_reason() {
    for file in configs("invalid") {
        let Err(problems) = load(&file, &environment) else { panic!("{} loads", file.display()) };
        let said = lines(&problems);
        assert!(problems.is_sorted_by_key(|problem| problem.line), "{}:\n{said}", file.display());
        assert!(file.with_extension("err").exists() || updating(), "{} has no .err:\n{said}", file.display());
        compare(&file.with_extension("err"), &said);
    }
}

/// The value of every secret in the corpus: none may be in any message.
#[test]
fn no_message_shows_a_secret() {
    for file in configs("invalid").into_iter().chain(configs("valid")) {
        let said = match load(&file, &environment) {
            Ok(config) => format!("{}{config:?}", lines(&config.warnings)),
            Err(problems) => lines(&problems),
        };
        assert!(!said.contains("hunter2"), "{} shows a secret:\n{said}", file.display());
    }
}

/// The environment of every config in the corpus.
fn environment(name: &str) -> Option<String> {
    match name {
        "BACKEND_KEY" => Some("hunter2".to_owned()),
        "BACKEND_URL" => Some("http://[::1]:8000".to_owned()),
        "GATEWAY" => Some("gw-eu-1".to_owned()),
        "SECRET_WITH_SPACES" => Some("hunter2 hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn configs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut configs: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "toml")).collect();
    configs.sort();
    assert!(configs.len() >= 8, "{} holds {} configs: is the test stale?", folder.display(), configs.len());
    configs
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut lines, problem| {
        writeln!(lines, "{problem}").unwrap();
        lines
    })
}

/// Compares with what is expected; an absent file expects nothing. `UPDATE=1` writes the files.
fn compare(expected: &Path, found: &str) {
    if updating() && !found.is_empty() {
        fs::write(expected, found).unwrap();
    }
    let text = fs::read_to_string(expected).unwrap_or_default();
    assert_eq!(text, found, "{} (left) is not what was said (right)", expected.display());
}

#[expect(clippy::disallowed_methods, reason = "a switch of the test run, not of the program")]
fn updating() -> bool {
    std::env::var("UPDATE").is_ok()
}
