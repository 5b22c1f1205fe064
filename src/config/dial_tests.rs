use super::*;

const EXAMPLE: &str = include_str!("../../config/dial.toml");

fn parse(text: &str) -> Result<Dial, Vec<Problem>> {
    let environment = |name: &str| (name == "SECRET").then(|| "hunter2hunter2hunter2".to_owned());
    parse_dial(text, Path::new("/nowhere/dial.toml"), &environment)
}

/// Every `# name = value` uncommented, but those in `besides`.
fn uncommented(besides: &[&str]) -> String {
    let is_setting = |line: &str| {
        line.split_once(" = ").is_some_and(|(name, _)| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !besides.contains(&name)
        })
    };
    let lines = EXAMPLE.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_loads_and_its_comments_are_the_defaults() {
    let plain = parse(EXAMPLE).unwrap();
    assert_eq!(plain.warnings, []);
    assert_eq!(plain.state_dir, Path::new("/nowhere/dial-state"));
    assert_eq!(plain.listen, DialListen::Loopback("127.0.0.1:11434".parse().unwrap()));
    let gateway = plain.gateway.as_ref().unwrap();
    assert_eq!(
        (gateway.addresses[0].to_string(), gateway.name.to_string()),
        ("gw.corp.example:8443".into(), "llm.corp.example".into())
    );
    let spelled_out = parse(&uncommented(&["key", "proxy"])).unwrap();
    assert_eq!(format!("{spelled_out:?}"), format!("{plain:?}"));
}

#[test]
fn every_commented_setting_is_known() {
    for problem in parse(&uncommented(&[])).unwrap_err() {
        assert!(problem.to_string().contains("No such file"), "{problem}");
    }
}

#[test]
fn an_empty_file_is_enough() {
    let dial = parse("").unwrap();
    assert!(dial.gateway.is_none() && dial.key.is_none() && dial.origins.is_none() && dial.proxy.is_none());
    assert!(matches!(dial.token, DialToken::Kept));
}

#[test]
fn a_socket_needs_no_token_and_may_have_one() {
    let dial = |more: &str| parse(&format!("listen = \"unix:run/llm.sock\"\n{more}")).unwrap();
    assert_eq!(dial("").listen, DialListen::Unix("/nowhere/run/llm.sock".into()));
    assert!(matches!(dial("").token, DialToken::Off));
    assert!(matches!(dial("token = true").token, DialToken::Kept));
    assert!(matches!(parse("token = false").unwrap().token, DialToken::Off));
    assert!(matches!(parse("token = \"${env:SECRET}\"").unwrap().token, DialToken::Given(_)));
}

#[track_caller]
fn wrong(text: &str, parts: &[&str]) {
    let problems = parse(text).unwrap_err();
    let said = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(problems.len(), parts.len(), "{said}");
}

#[test]
fn what_others_could_reach_is_refused() {
    for listen in ["0.0.0.0:11434", "[::]:11434", "10.0.0.1:11434", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
        wrong(&format!("listen = \"{listen}\""), &["other machines"]);
    }
    for listen in ["", "11434", "unix:", "unix://", "localhost", "gw.corp.example:1", "127.0.0.1"] {
        wrong(&format!("listen = \"{listen}\""), &["listen: "]);
    }
    for listen in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1"] {
        assert!(
            matches!(parse(&format!("listen = \"{listen}\"")).unwrap().listen, DialListen::Loopback(_)),
            "{listen}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    wrong(
        r#"
        proxy = "https://u:hunter2@proxy:3128"
        gateway = { address = "gw", name = "A", x = 1 }
        key = "${env:SECRET}"
        token = "short"
        allowed_origins = ["*"]
        tokens = 1
        "#,
        &[
            "proxy: ",
            "gateway.address: ",
            "gateway.name: ",
            "gateway.x: is not a setting",
            "key: is not a Doorward key",
            "token: has fewer",
            "allowed_origins[0]",
            "tokens: is not a setting",
        ],
    );
    wrong("gateway = { address = \"a:1\", addresses = [\"b:1\"], name = \"a\" }", &["not both"]);
    wrong("gateway = {}", &["gateway.address: is missing", "gateway.name: is missing"]);
    wrong("token = \"dw_hunter2hunter2hunter2\"", &["begins like a Doorward key"]);
}
