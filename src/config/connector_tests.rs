use super::*;

const EXAMPLE: &str = include_str!("../../config/connector.toml");

fn parse(text: &str) -> Result<Connector, Vec<Problem>> {
    parse_connector(text, Path::new("/nowhere/connector.toml"), &|_| None)
}

/// Every `# name = value` uncommented whose value names no file.
fn uncommented() -> String {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting)
            if [
                "state_dir =",
                "drain =",
                "connections =",
                "level =",
                "format =",
                "allow =",
                "max_concurrent =",
                "probe =",
                "timeouts =",
            ]
            .iter()
            .any(|name| setting.starts_with(name)) =>
        {
            setting
        }
        Some(_) | None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_loads_and_its_comments_are_the_defaults() {
    let plain = parse(EXAMPLE).unwrap();
    assert_eq!(plain.warnings, []);
    assert_eq!(plain.state_dir, Path::new("/nowhere/connector-state"));
    let gateway = plain.gateway.clone().unwrap();
    assert_eq!(gateway.addresses[0].to_string(), "gw.corp.example:8443");
    assert_eq!((gateway.name.as_str(), gateway.connections), ("connect.llm.corp.example", 2));

    let spelled_out = parse(&uncommented()).unwrap();
    // The words of `allow` are kept as written, so equal settings print alike; the rest too.
    let shown = |connector: &Connector| format!("{connector:?}");
    assert_eq!(shown(&spelled_out), shown(&plain));
    assert_eq!(spelled_out.backends[0].max_concurrent, 64);
}

#[test]
fn every_commented_setting_is_known() {
    // Uncommented without exception, only files that do not exist are wrong.
    let is_setting = |line: &str| {
        line.split_once(" = ").is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            || line.starts_with('[')
    };
    let text: Vec<_> =
        EXAMPLE.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line)).collect();
    for problem in parse(&text.join("\n")).unwrap_err() {
        let message = problem.to_string();
        assert!(message.contains("No such file") || message.contains("goes with an https URL"), "{message}");
    }
}

#[track_caller]
fn wrong(text: &str, parts: &[&str]) {
    let problems = parse(text).unwrap_err();
    let said = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert_eq!(problems.len(), parts.len(), "{said}");
}

#[test]
fn all_problems_are_told_at_once() {
    wrong("", &["backend: is missing"]);
    wrong("backend = []", &["backend: an empty list serves nothing"]);
    wrong(
        r#"
        proxy = "https://u:hunter2@proxy:3128"
        gateway = { addresses = ["gw", "gw:0", "[::1]:443"], name = "a b", connections = 9, x = 1 }
        [[backend]]
        name = "a/b"
        url = "http://127.0.0.1:1"
        allow = ["@chats"]
        max_concurrent = 0
        probe = "health"
        "#,
        &[
            "proxy: is not the URL of a proxy",
            "gateway.addresses[0]",
            "gateway.addresses[1]",
            "gateway.name",
            "gateway.connections: must be from 1 to 8",
            "gateway.x: is not a setting",
            "backend[0].name",
            "backend[0].allow[0]",
            "backend[0].max_concurrent",
            "backend[0].probe",
        ],
    );
    wrong(
        "[[backend]]\nname = \"a\"\nurl = \"http://a\"\n[[backend]]\nname = \"a\"\nurl = \"http://b\"",
        &["backend[1].name: \"a\" is already the name"],
    );
}

#[test]
fn a_password_in_the_proxy_is_not_repeated() {
    let text = "proxy = \"http://user:hunter2@proxy:3128\"\n[[backend]]\nname = \"a\"\nurl = \"http://a\"";
    assert!(!format!("{:?}", parse(text).unwrap_err()).contains("hunter2"));
}
