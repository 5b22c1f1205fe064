use proptest::prelude::*;
use serde_json::Value;

use super::*;

static FIELDS: [Field; 5] = [
    Field { name: "model", kind: Kind::String },
    Field { name: "stream", kind: Kind::Bool },
    Field { name: "max_tokens", kind: Kind::Cap { least: 0 } },
    Field { name: "stream_options", kind: Kind::Object(&[Field { name: "include_usage", kind: Kind::Bool }]) },
    Field { name: "options", kind: Kind::Object(&[Field { name: "num_predict", kind: Kind::Cap { least: -2 } }]) },
];

fn read(body: &[u8]) -> Result<Vec<(&'static str, String)>, Fault> {
    let mut values = Vec::new();
    scan(body, &FIELDS, &mut |name, range| {
        values.push((name, String::from_utf8(body[range].to_vec()).unwrap()));
    })?;
    Ok(values)
}

/// `expected` is the beginning of the fault's `Debug`, or "" when the body is fine.
#[track_caller]
fn check(body: impl AsRef<[u8]>, expected: &str) {
    let shown = String::from_utf8_lossy(&body.as_ref()[..body.as_ref().len().min(120)]).into_owned();
    match read(body.as_ref()) {
        Ok(_) => assert_eq!(expected, "", "accepted: {shown}"),
        Err(fault) => {
            let name = format!("{fault:?}");
            assert!(!expected.is_empty() && name.starts_with(expected), "{shown}: {name}, not {expected}");
        }
    }
}

#[test]
fn takes_exactly_one_object() {
    check("{}", "");
    check(" \t\r\n{ } \n", "");
    check(r#"{"a":[1,-2.5e-3,true,false,null,"x",{},[]]}"#, "");
    check("", "Empty");
    check("  ", "Empty");
    for other in ["[]", "1", "\"{}\"", "null", "true", "}", "//{}", "'a'", "\0{}"] {
        check(other, "NotAnObject");
    }
    for more in ["{}{}", "{} x", "{},", "{}\0", "{}]", "{}\n{}", "{}\u{feff}"] {
        check(more, "Trailing");
    }
}

#[test]
fn takes_utf8_only() {
    check("\u{feff}{}", "ByteOrderMark");
    check(b"\xff\xfe{\0}\0", "NotUtf8");
    check(b"\xfe\xff\0{\0}", "NotUtf8");
    check(b"{\0}\0", "Syntax");
    check(b"\0{\0}", "NotAnObject");
    check(b"{\"a\":\"\xff\"}", "NotUtf8");
    check(b"{\"a\":\"\xc0\xaf\"}", "NotUtf8");
    check(b"{\"a\":\"\xed\xa0\x80\"}", "NotUtf8");
    check(b"{\"a\":\"\xf4\x90\x80\x80\"}", "NotUtf8");
    check(b"{\"a\":\"\xe2\x82", "NotUtf8");
    check("{\"ключ\":\"значение 😀\u{7f}\"}", "");
}

#[test]
fn keeps_to_the_grammar() {
    for wrong in [
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":[1}",
        "{\"a\":{\"b\":1]}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":-Infinity}",
        "{\"a\":nan}",
        "{\"a\":True}",
        "{\"a\":nul}",
        "{\"a\":truex}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":+1}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":0x1}",
        "{\"a\":1_0}",
        "{\"a\":--1}",
        "{\"a\":1.2.3}",
        "{\"a\":\"",
        "{\"a\":\"\\",
        "{\"a\":\"\\\"}",
        "{\"a\":\"\\x41\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\U0041\"}",
        "{\"a\":\"\\u+123\"}",
        "{\"a\":'b'}",
        "{\"a\":1/**/}",
        "{\"a\":1//\n}",
        "{\"a\":\u{a0}1}",
        "{\u{c}}",
        "{\"a\":\"\\'\"}",
        "{\"a\":\"x\ny\"}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\0\"}",
        "{\"a\":\"\u{1f}\"}",
        "{\"a\n\":1}",
        "{\"a\":undefined}",
        "{1:2}",
        "{null:1}",
    ] {
        check(wrong, "Syntax");
    }
    check(r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}"#, "");
    check(r#"{"a":-0,"b":0.0,"c":0e0,"d":1E+2,"e":-1.5e-10}"#, "");
}

#[test]
fn control_characters_are_found_wherever_they_hide() {
    for length in [0, 1, 7, 8, 31, 32, 63, 64, 65, 127, 128, 500] {
        for at in [0, length / 2, length] {
            for control in ['\0', '\u{1}', '\n', '\u{1f}'] {
                let text = format!("{{\"a\":\"{}{control}{}\"}}", "x".repeat(at), "é".repeat(length - at));
                check(&text, "Syntax");
                check(text.replace(control, "\u{7f}"), "");
            }
        }
    }
}

#[test]
fn nests_64_deep_and_no_deeper() {
    let arrays = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    check(arrays(64), "");
    check(arrays(65), "TooDeep");
    check(objects(64), "");
    check(objects(65), "TooDeep");
    check(arrays(1_000_000), "TooDeep");
    check(format!("{{\"a\":{}", "[".repeat(1_000_000)), "TooDeep");
    check(format!("{{\"a\":{}", "{\"a\":".repeat(1_000_000)), "TooDeep");
    check(format!("{{\"options\":{}}}", objects(64)), "TooDeep");
    check(format!("{{\"a\":[{}[]]}}", "[],".repeat(100_000)), "");
}

#[test]
fn refuses_a_key_twice_at_any_level_in_any_spelling() {
    for wrong in [
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","model":"a"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"mod\u0065l":"a","model":"b"}"#,
        r#"{"\u006d\u006F\u0064\u0065\u006c":"a","model":"b"}"#,
        r#"{"a\/b":1,"a/b":2}"#,
        r#"{"😀":1,"\ud83d\ude00":2}"#,
        r#"{"":1,"":2}"#,
        r#"{"a":{"b":1,"c":2,"b":3}}"#,
        r#"{"a":[[{"b":1,"b":2}]]}"#,
        r#"{"options":{"num_predict":1,"num_predict":2}}"#,
        r#"{"stream":null,"stream":true}"#,
        r#"{"a":{"x":1},"b":2,"a":3}"#,
    ] {
        check(wrong, "DuplicateKey");
    }
    check(r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}"#, "");
    check("{\"\u{e9}\":1,\"e\u{301}\":2}", "");
    for count in [10, 31, 32, 33, 34, 100] {
        let keys: Vec<_> = (0..count).map(|n| format!("\"k{n}\":0")).collect();
        check(format!("{{{}}}", keys.join(",")), "");
        for twice in [0, 1, count / 2, count - 1] {
            check(format!("{{{},\"\\u006b{twice}\":0}}", keys.join(",")), "DuplicateKey");
            check(format!("{{\"x\":[{{\"k\":0,{},\"k{twice}\":0}}]}}", keys.join(",")), "DuplicateKey");
        }
    }
}

#[test]
fn keys_are_bounded_and_not_quadratic() {
    let object = |range: Range<usize>| {
        let keys: Vec<_> = range.map(|n| format!("\"{n}\":0")).collect();
        format!("{{{}}}", keys.join(","))
    };
    check(object(0..65_536), "");
    check(object(0..65_537), "TooManyKeys");
    check(object(0..1_000_000), "TooManyKeys");
    check(format!("{{\"a\":{},\"b\":{}}}", object(0..65_535), object(0..65_534)), "");
    // Around and inside count together, so that many half-read objects cannot pile up.
    check(format!("{{\"a\":{}}}", object(0..65_536)), "TooManyKeys");
    let small = object(0..32);
    check(format!("{{\"a\":[{}]}}", vec![small.as_str(); 10_000].join(",")), "");
}

#[test]
fn numbers_stay_finite() {
    for wrong in ["1e999", "-1e999", "1e309", "1E+400", "123456e9999999999999999999", "0.1e310"] {
        check(format!("{{\"a\":{wrong}}}"), "NumberTooLarge");
    }
    check(format!("{{\"a\":{}}}", "9".repeat(400)), "NumberTooLarge");
    check(format!("{{\"a\":-{}.5}}", "9".repeat(400)), "NumberTooLarge");
    for fine in ["1e308", "1e-999", "0e999", "-1.7e308", "12345678901234567890123"] {
        check(format!("{{\"a\":{fine}}}"), "");
    }
    check(format!("{{\"a\":{}}}", "9".repeat(300)), "");
    check(format!("{{\"a\":1{}e-400}}", "0".repeat(400)), "");
    check(format!("{{\"a\":0.{}}}", "3".repeat(1000)), "");
}

#[test]
fn keys_are_plain_text() {
    for wrong in [
        r#"{"a\u0000":1}"#,
        r#"{"\u001f":1}"#,
        r#"{"a\n":1}"#,
        r#"{"\u007f":1}"#,
        "{\"\u{7f}\":1}",
        "{\"\u{85}\":1}",
        r#"{"\u0085":1}"#,
        r#"{"\ud800":1}"#,
        r#"{"\udc00":1}"#,
        r#"{"a\ud83dx":1}"#,
        r#"{"\ude00\ud83d":1}"#,
        r#"{"a":{"\ud800\ud800":1}}"#,
        r#"{"model\u0000":"x"}"#,
    ] {
        check(wrong, "OddKey");
    }
    for fine in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc00\u0000"}"#, r#"{"😀 \"\\\u00e9":1}"#, r#"{"\ud83d\ude00":1}"#] {
        check(fine, "");
    }
}

#[test]
fn variants_of_reserved_keys_are_refused_where_they_count() {
    for wrong in [
        r#"{"Model":"a"}"#,
        r#"{"MODEL":"a"}"#,
        r#"{"model":"a","modeL":"b"}"#,
        r#"{"\u004dodel":"a"}"#,
        "{\"\u{17f}tream\":true}",
        r#"{"\u017ftream":true}"#,
        "{\"max_to\u{212a}ens\":1}",
        r#"{"max_to\u212aens":1}"#,
        r#"{"Options":{}}"#,
        r#"{"option\u017f":{}}"#,
        r#"{"options":{"Num_Predict":1}}"#,
        r#"{"stream_options":{"include_uſage":true}}"#,
        r#"{"stream_optionS":null}"#,
    ] {
        check(wrong, "CaseVariant");
    }
    for fine in [
        r#"{"tools":[{"function":{"parameters":{"properties":{"Model":{},"STREAM":{}}}}}]}"#,
        r#"{"options":{"Model":1,"stream":"x"},"stream_options":{"MODEL":1}}"#,
        r#"{"modelſ":"a"}"#,
        r#"{"a":{"options":{"NUM_PREDICT":"x"}}}"#,
        r#"{"models":1,"mode":2}"#,
    ] {
        check(fine, "");
    }
}

#[test]
fn reserved_keys_have_one_type() {
    for wrong in [
        r#"{"model":1}"#,
        r#"{"model":["a"]}"#,
        r#"{"model":true}"#,
        r#"{"model":{}}"#,
        r#"{"stream":"true"}"#,
        r#"{"stream":1}"#,
        r#"{"stream":[]}"#,
        r#"{"stream_options":[]}"#,
        r#"{"stream_options":"x"}"#,
        r#"{"stream_options":{"include_usage":"true"}}"#,
        r#"{"stream_options":{"include_usage":0}}"#,
        r#"{"max_tokens":"5"}"#,
        r#"{"max_tokens":-1}"#,
        r#"{"max_tokens":1.5}"#,
        r#"{"max_tokens":true}"#,
        r#"{"max_tokens":5e-1}"#,
        r#"{"max_tokens":1e30}"#,
        r#"{"options":1}"#,
        r#"{"options":{"num_predict":-3}}"#,
        r#"{"options":{"num_predict":"1"}}"#,
    ] {
        check(wrong, "WrongType");
    }
    for fine in [
        r#"{"model":null,"stream":null,"stream_options":null,"max_tokens":null,"options":null}"#,
        r#"{"max_tokens":5.0}"#,
        r#"{"max_tokens":5e0}"#,
        r#"{"max_tokens":0}"#,
        r#"{"options":{"num_predict":-2}}"#,
        r#"{"options":{"num_predict":-1.0,"temperature":"x"}}"#,
        r#"{"stream_options":{"include_usage":null}}"#,
    ] {
        check(fine, "");
    }
    check(r#"{"stream":nul}"#, "Syntax");
    check(r#"{"stream":tru}"#, "Syntax");
    check(r#"{"max_tokens":1e999}"#, "NumberTooLarge");
    assert_eq!(read(br#"{"stream":"true"}"#).unwrap_err().to_string(), "\"stream\" must be true or false.");
}

#[test]
fn reports_where_the_values_are() {
    let body = r#" { "a":[{"model":"no"}], "mod\u0065l" : "x\/y" ,"stream":true,"options":{"num_predict": -1,"model":2},
        "max_tokens":null }"#;
    let expected = [
        ("model", r#""x\/y""#),
        ("stream", "true"),
        ("num_predict", "-1"),
        ("options", r#"{"num_predict": -1,"model":2}"#),
        ("max_tokens", "null"),
    ];
    assert_eq!(read(body.as_bytes()).unwrap(), expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn faults_never_quote_the_body() {
    for body in
        [r#"{"secret":1,"secret":2}"#, r#"{"model":secret}"#, r#"{"a":"b"} secret"#, r#"{"max_tokens":"secret"}"#]
    {
        let message = read(body.as_bytes()).unwrap_err().to_string();
        assert!(!message.contains("secret") && message.ends_with('.'), "{message}");
    }
}

/// Any JSON value, with keys that now and then repeat or need escapes.
fn any_json() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[a-d]{0,2}", r#"[a-z \\"/\n\u{e9}\u{1F600}\u{7}]{0,40}"#];
    let quoted = text.prop_map(|text| serde_json::to_string(&text).unwrap());
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-1e300f64..1e300).prop_map(|n| format!("{n:e}")),
        quoted.clone(),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        let pair = (quoted.clone(), inner.clone()).prop_map(|(key, value)| format!("{key} :{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec(pair, 0..6).prop_map(|pairs| format!("{{ {}\n}}", pairs.join(", "))),
        ]
    })
}

/// What the scanner may refuse beyond the grammar, found the slow way on a parsed tree: serde_json
/// keeps one of two equal keys, so the tree is smaller than the text when there are duplicates.
fn keys_in(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len() + map.values().map(keys_in).sum::<usize>(),
        Value::Array(items) => items.iter().map(keys_in).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn control_keys(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| key.contains(char::is_control) || control_keys(value)),
        Value::Array(items) => items.iter().any(control_keys),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

static NOTHING: [Field; 0] = [];

proptest! {
    /// Accepts what serde_json accepts, except for what is refused on purpose.
    #[test]
    fn agrees_with_serde_json(text in any_json(), cut in any::<prop::sample::Index>(), with in any::<Option<u8>>(), damage: bool) {
        let mut body = text.into_bytes();
        if damage {
            let at = cut.index(body.len());
            match with {
                Some(byte) => body[at] = byte,
                None => drop(body.remove(at)),
            }
        }
        let ours = scan(&body, &NOTHING, &mut |_, _| ());
        match (serde_json::from_slice::<Value>(&body), ours) {
            (Ok(Value::Object(map)), ours) => {
                let value = Value::Object(map);
                // `" :"` follows each key and nothing else, unless the damage or a string made one.
                let written = body.windows(3).filter(|w| *w == b"\" :").count();
                match ours {
                    Ok(()) => prop_assert!(!control_keys(&value) && (damage || keys_in(&value) <= written)),
                    Err(Fault::DuplicateKey { .. }) => prop_assert!(damage || keys_in(&value) < written),
                    // The tree keeps the last of equal keys only: the odd one may have been in another.
                    Err(Fault::OddKey { .. }) => prop_assert!(damage || control_keys(&value) || keys_in(&value) < written),
                    Err(other) => prop_assert!(false, "refused with {other}: {}", String::from_utf8_lossy(&body)),
                }
            }
            (Ok(_), ours) => prop_assert!(matches!(ours, Err(Fault::NotAnObject))),
            // serde_json refuses lone surrogates in values, which pass here.
            (Err(error), Ok(())) => prop_assert!(error.to_string().contains("surrogate") || error.to_string().contains("hex escape"), "{error}"),
            (Err(_), Err(_)) => {}
        }
    }

    /// No input makes it panic, and what it accepts serde_json accepts as an object.
    #[test]
    fn survives_anything(body in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u0e1- n".to_vec())], 0..60)) {
        if scan(&body, &FIELDS, &mut |_, _| ()).is_ok() {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok());
        }
    }
}
