use proptest::prelude::*;

use super::*;

const CHAT: Endpoint = Endpoint::OpenAiChatCompletions;

/// Runs `input` through in the given pieces; what came out, and what was noticed.
fn run<'a>(mut rewriter: Rewriter, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, (bool, bool)) {
    let mut out = VecDeque::new();
    for piece in pieces {
        rewriter.push(Bytes::copy_from_slice(piece), &mut out);
    }
    rewriter.finish(&mut out);
    assert!(out.iter().all(|piece| !piece.is_empty()));
    (Vec::from(out).concat(), (rewriter.saw_event(), rewriter.saw_terminator()))
}

/// `input` becomes `expected`, in one piece, byte by byte, and cut in two at every place.
#[track_caller]
fn check(mode: Mode, input: &str, expected: &str) {
    let rewriter = || Rewriter::new(mode, Some("alias"), Some(CHAT));
    let (whole, noticed) = run(rewriter(), [input.as_bytes()]);
    assert_eq!(String::from_utf8_lossy(&whole), expected);
    assert_eq!(run(rewriter(), input.as_bytes().chunks(1)), (whole.clone(), noticed), "byte by byte: {input:?}");
    for at in 0..input.len() {
        let (head, tail) = input.as_bytes().split_at(at);
        assert_eq!(run(rewriter(), [head, tail]), (whole.clone(), noticed), "cut at {at}: {input:?}");
    }
    let untouched = Rewriter::new(mode, None, Some(CHAT));
    assert_eq!(run(untouched, [input.as_bytes()]).0, input.as_bytes());
}

#[track_caller]
fn unchanged(mode: Mode, input: &str) {
    check(mode, input, input);
}

#[test]
fn the_alias_shows_at_the_three_paths() {
    for mode in [Mode::Json, Mode::Ndjson] {
        check(mode, r#"{"model":"own"}"#, r#"{"model":"alias"}"#);
        check(mode, r#"{"id":1,"model" : "own","x":[]}"#, r#"{"id":1,"model" : "alias","x":[]}"#);
        check(mode, r#"{"message":{"id":"x","model":"own"}}"#, r#"{"message":{"id":"x","model":"alias"}}"#);
        check(mode, r#"{"response":{"a":{},"model":"own"},"b":1}"#, r#"{"response":{"a":{},"model":"alias"},"b":1}"#);
        check(
            mode,
            r#"{"model":"a","message":{"model":"b"},"model":"c"}"#,
            r#"{"model":"alias","message":{"model":"alias"},"model":"alias"}"#,
        );
        check(mode, r#"{"model":"o\"w\\n\u0041"}"#, r#"{"model":"alias"}"#);
        check(mode, r#"{"model":""}"#, r#"{"model":"alias"}"#);
        check(
            mode,
            r#"{"data":[[0.1,-2e-3],{"model":"}"}],"model":"own"}"#,
            r#"{"data":[[0.1,-2e-3],{"model":"}"}],"model":"alias"}"#,
        );
    }
    let pretty = "{\n  \"data\" : [ ],\r\n\t\"model\"\n:\n\"own\"\n}\n";
    check(Mode::Json, pretty, &pretty.replace("own", "alias"));
    // A reply that breaks off, or breaks the grammar later, was edited up to there.
    check(Mode::Json, r#"{"model":"own","x"#, r#"{"model":"alias","x"#);
    check(Mode::Json, r#"{"model":"ow"#, r#"{"model":"alias""#);
    check(Mode::Json, "{\"model\":\"ow\nn\"}", "{\"model\":\"alias\"\nn\"}");
}

#[test]
fn other_models_stay() {
    for mode in [Mode::Json, Mode::Ndjson] {
        for input in [
            r#"{"model":null}"#,
            r#"{"model":1,"models":"own"}"#,
            r#"{"model":{"model":"own"}}"#,
            r#"{"model":["own"]}"#,
            r#"{"choices":[{"model":"own"}]}"#,
            r#"{"choices":{"model":"own"}}"#,
            r#"{"message":[{"model":"own"}]}"#,
            r#"{"message":{"x":{"model":"own"}}}"#,
            r#"{"a":{"message":{"model":"own"}}}"#,
            r#"{"x":"\"model\":\"own\""}"#,
            r#"{"Model":"own","modelx":"own","mode":"own","":"own","remodel":"own"}"#,
            r#"[{"model":"own"}]"#,
            r#""model""#,
            r#"{"message":{"message":{"model":"own"}}}"#,
            "{}",
            "null",
            r#"{"a\\":"model","b":"\\"}"#,
        ] {
            unchanged(mode, input);
        }
    }
}

#[test]
fn events_are_edited_and_nothing_else() {
    let data = r#"{"id":"x","model":"own","choices":[{"delta":{"content":"a \"model\" b"}}]}"#;
    let edited = data.replace("own", "alias");
    for end in ["\n", "\r\n", "\r"] {
        for prefix in ["data: ", "data:", "data:  \t"] {
            let stream = |data: &str| {
                [
                    ": hello",
                    "",
                    "event: x",
                    "id: 7",
                    &format!("{prefix}{data}"),
                    "",
                    &format!("{prefix}{data}"),
                    "",
                    "data: [DONE]",
                    "",
                    "",
                ]
                .join(end)
            };
            check(Mode::Sse, &stream(data), &stream(&edited));
            unchanged(Mode::Sse, &stream(r#"{"x":1}"#));
        }
    }
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"own\",\"usage\":{}}}\n\n";
    check(Mode::Sse, start, &start.replace("own", "alias"));
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"own\"}}\n\n";
    check(Mode::Sse, created, &created.replace("own", "alias"));
}

#[test]
fn lines_of_json_are_edited_each() {
    let lines =
        "{\"model\":\"own\",\"done\":false}\r\n\n{\"model\":\"own\",\"message\":{\"content\":\"\"},\"done\":true}";
    check(Mode::Ndjson, lines, &lines.replace("own", "alias"));
    check(Mode::Ndjson, &format!("{lines}\n"), &format!("{}\n", lines.replace("own", "alias")));
}

#[test]
fn data_may_go_on_over_lines() {
    let event = "data: {\"a\":[1,\ndata: 2],\n: comment\nid: 3\ndata:\"model\":\ndata: \"own\"}\n\ndata: {\"model\":\"own\"}\n\n";
    check(Mode::Sse, event, &event.replace("own", "alias"));
    check(Mode::Sse, &event.replace('\n', "\r\n"), &event.replace("own", "alias").replace('\n', "\r\n"));
    check(Mode::Sse, &event.replace('\n', "\r"), &event.replace("own", "alias").replace('\n', "\r"));
    // The end of the stream ends the event, too.
    check(Mode::Sse, "data: {\"model\":\ndata: \"own\"}", "data: {\"model\":\ndata: \"alias\"}");
    unchanged(Mode::Sse, "data: {\"model\":\"o\ndata: wn\"}\n\n");
}

#[test]
fn what_is_no_json_passes_byte_for_byte() {
    for data in [
        r#"{"model":"own""#,
        r#"{"model":"own"#,
        r#"{"model":"own"}}"#,
        r#"{"model":"own"} x"#,
        r#"{"model":"own",}"#,
        r#"{"model" "own"}"#,
        r#"{model:1,"model":"own"}"#,
        r#"x{"model":"own"}"#,
        r#"["model":"own"]"#,
        r#""model":"own""#,
        r#"{"model":"own";"x":1}"#,
        "{",
        "[DONE]",
        "",
        "\u{feff}{\"model\":\"own\"}",
        "{\"a\":\"\t\",\"model\":\"own\"}",
    ] {
        unchanged(Mode::Sse, &format!("data: {data}\n\n"));
        unchanged(Mode::Sse, &format!("data: {data}\r\n\r\ndata: x\r\n\r\n"));
        unchanged(Mode::Ndjson, &format!("{data}\n"));
    }
    for line in
        ["database: {\"model\":\"own\"}", ": {\"model\":\"own\"}", "event: {\"model\":\"own\"}", "{\"model\":\"own\"}"]
    {
        unchanged(Mode::Sse, &format!("{line}\n\n"));
    }
    unchanged(Mode::Opaque, "{\"model\":\"own\"}");
    unchanged(Mode::Json, "<html>{\"model\":\"own\"}");
    unchanged(Mode::Ndjson, "{\"a\":1,\n\"model\":\"own\"}\n");
}

#[test]
fn a_complete_line_comes_out_of_the_push_that_completes_it() {
    let mut rewriter = Rewriter::new(Mode::Sse, Some("alias"), None);
    let mut out = VecDeque::new();
    let mut push = |bytes: &str| {
        rewriter.push(Bytes::copy_from_slice(bytes.as_bytes()), &mut out);
        String::from_utf8(out.drain(..).flatten().collect()).unwrap()
    };
    assert_eq!(push(": pi"), "");
    assert_eq!(push("ng\nda"), ": ping\n");
    assert_eq!(push("ta: {\"model\":\"own\"}"), "");
    assert_eq!(push("\n"), "data: {\"model\":\"alias\"}\n");
    assert_eq!(push("\ndata: {\"x\":1}\n\ndata: {\"model\":\"ow"), "\ndata: {\"x\":1}\n\n");
    assert_eq!(push("n\"}\r"), "data: {\"model\":\"alias\"}\r");
    assert_eq!(push("\n\r\n"), "\n\r\n");
    assert_eq!(push("data: {\"a\":\n"), "");
    assert_eq!(push("data: 1}\n\nid: 1\n"), "data: {\"a\":\ndata: 1}\n\nid: 1\n");
}

#[test]
fn unchanged_bytes_are_not_copied() {
    let chunk = Bytes::from("data: {\"x\":1}\n\ndata: {\"model\":\"own\",\"y\":2}\n\ndata: {\"z\":3}\n\n");
    let mut out = VecDeque::new();
    Rewriter::new(Mode::Sse, Some("alias"), None).push(chunk.clone(), &mut out);
    assert_eq!(out.len(), 3);
    for piece in [&out[0], &out[2]] {
        assert!(chunk.as_ptr_range().contains(&piece.as_ptr()));
    }
    let quiet = Bytes::from("data: {\"x\":1}\n\ndata: {\"y\":1}\n\n");
    let mut out = VecDeque::new();
    Rewriter::new(Mode::Sse, Some("alias"), None).push(quiet.clone(), &mut out);
    assert_eq!((out.len(), out[0].as_ptr(), out[0].len()), (1, quiet.as_ptr(), quiet.len()));
}

#[test]
fn what_is_too_long_passes_unedited_and_the_next_is_edited() {
    let filler = "x".repeat(MAX_HELD);
    let short = "data: {\"model\":\"own\"}\n\n";
    for (mode, long, next) in [
        (Mode::Sse, format!("data: {{\"model\":\"own\",\"x\":\"{filler}\"}}\n\n"), short),
        (
            Mode::Sse,
            format!("data: {{\"model\":\"own\",\ndata: \"x\":\"{filler}\"}}\ndata: {{\"model\":\"own\"}}\n\n"),
            short,
        ),
        (Mode::Sse, format!(": {filler}\n"), short),
        (
            Mode::Sse,
            format!("data: {{\"model\":\"own\",\n{}\n", format!("data: {}\n", "1".repeat(1000)).repeat(1100)),
            short,
        ),
        (Mode::Ndjson, format!("{{\"model\":\"own\",\"x\":\"{filler}\"}}\n"), "{\"model\":\"own\"}\n"),
    ] {
        let input = format!("{long}{next}{next}");
        let expected = format!("{long}{}", format!("{next}{next}").replace("own", "alias"));
        for size in [input.len(), 1000, 65_536, 1_000_003] {
            let (output, _) = run(Rewriter::new(mode, Some("alias"), None), input.as_bytes().chunks(size));
            assert!(output == expected.as_bytes(), "{mode:?} in chunks of {size}");
        }
    }
    // A whole reply needs no holding, however long it is.
    let reply = format!("{{\"data\":\"{filler}\",\"model\":\"own\"}}");
    let (output, _) = run(Rewriter::new(Mode::Json, Some("alias"), None), reply.as_bytes().chunks(4096));
    assert!(output == reply.replace("own", "alias").as_bytes());
}

#[test]
fn first_events_and_terminators_are_noticed() {
    let chat = "data: {\"model\":\"own\"}\n\n";
    for (mode, endpoint, input, noticed) in [
        (Mode::Sse, CHAT, ": ping\n\nevent: x\nid: 1\nretry: 5\n\n", (false, false)),
        (Mode::Sse, CHAT, chat, (true, false)),
        (Mode::Sse, CHAT, "data: {}\n\ndata: [DONE]\n\n", (true, true)),
        (Mode::Sse, CHAT, "data:[DONE]\r\n\r\n", (true, true)),
        (Mode::Sse, CHAT, "data: [DONE]", (true, true)),
        (Mode::Sse, CHAT, "data: [DONE] \n\n", (true, false)),
        (Mode::Sse, CHAT, "data: \"[DONE]\"\n\n", (true, false)),
        (Mode::Sse, Endpoint::OpenAiResponses, "data: [DONE]\n\n", (true, false)),
        (Mode::Sse, Endpoint::OpenAiResponses, "event: response.completed\ndata: {}\n\n", (true, true)),
        (Mode::Sse, Endpoint::OpenAiResponses, "event: response.failed\ndata: {}\n\n", (true, true)),
        (Mode::Sse, Endpoint::OpenAiResponses, "event: response.created\ndata: {}\n\n", (true, false)),
        (Mode::Sse, Endpoint::AnthropicMessages, "event: message_stop\ndata: {}\n\n", (true, true)),
        (Mode::Sse, Endpoint::AnthropicMessages, "event: message_delta\ndata: {}\n\n", (true, false)),
        (Mode::Ndjson, Endpoint::OllamaChat, "\n", (false, false)),
        (Mode::Ndjson, Endpoint::OllamaChat, "{\"model\":\"own\",\"done\":false}\n", (true, false)),
        (Mode::Ndjson, Endpoint::OllamaChat, "{\"model\":\"own\",\"done\" : true}\n", (true, true)),
        (Mode::Ndjson, Endpoint::OllamaChat, "{\"done\":true}", (true, true)),
        (Mode::Ndjson, Endpoint::OllamaChat, "{\"message\":{\"done\":true}}\n", (true, false)),
        (Mode::Ndjson, Endpoint::OllamaChat, "{\"x\":\"\\\"done\\\":true\"}\n", (true, false)),
        (Mode::Json, CHAT, "{\"a\":[{}]", (true, false)),
        (Mode::Json, CHAT, "{\"a\":[{}]} \n", (true, true)),
        (Mode::Json, CHAT, "[1]", (true, true)),
        (Mode::Opaque, CHAT, "x", (true, false)),
        (Mode::Opaque, CHAT, "", (false, false)),
    ] {
        for alias in [None, Some("alias")] {
            for size in [1, 3, 1000] {
                let rewriter = Rewriter::new(mode, alias, Some(endpoint));
                assert_eq!(run(rewriter, input.as_bytes().chunks(size)).1, noticed, "{alias:?} {size} {input:?}");
            }
        }
        assert_eq!(run(Rewriter::new(mode, None, None), [input.as_bytes()]).1.0, noticed.0, "{input:?}");
    }
}

#[test]
fn an_error_stands_on_its_own() {
    for (mode, came, expected) in [
        (Mode::Sse, "", "E"),
        (Mode::Sse, "data: 1\n\n", "data: 1\n\n\nE"),
        (Mode::Sse, "data: 1\n", "data: 1\n\nE"),
        (Mode::Sse, "data: 1\n\ndata: {\"mod", "data: 1\n\n\nE"),
        (Mode::Sse, "data: 1\n\ndata: {\"model\":\n", "data: 1\n\n\nE"),
        (Mode::Ndjson, "", "E"),
        (Mode::Ndjson, "{}\n", "{}\nE"),
        (Mode::Ndjson, "{}\n{\"mod", "{}\nE"),
        (Mode::Json, "{\"a\"", "{\"a\""),
        (Mode::Opaque, "x", "x"),
    ] {
        let mut rewriter = Rewriter::new(mode, Some("alias"), None);
        let mut out = VecDeque::new();
        rewriter.push(Bytes::from(came), &mut out);
        rewriter.interrupt(Bytes::from("E"), &mut out);
        assert_eq!(String::from_utf8(Vec::from(out).concat()).unwrap(), expected, "{came:?}");
    }
    let mut off = Rewriter::new(Mode::Sse, None, None);
    let mut out = VecDeque::new();
    off.push(Bytes::from("data: {\"cut"), &mut out);
    off.interrupt(Bytes::from("E"), &mut out);
    assert_eq!(Vec::from(out).concat(), b"data: {\"cut\n\nE");
}

/// Streams made of parts that matter, whole and broken.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "data: ",
        "data:",
        "event: x",
        ": c",
        "\n",
        "\n",
        "\n\n",
        "\r\n",
        "\r\n\r\n",
        "\r",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\"model\"",
        "\"model\":\"own\"",
        "\"message\":{",
        "\"response\":{",
        "\"done\":true",
        "\"x\":1",
        "[DONE]",
        "é",
        " ",
        "{\"model\":\"own\"}",
        "data: {\"model\":\"own\",\"a\":[]}\n\n",
        "data: {\"message\":{\"model\":\"\\\"\"}}\r\n\r\n",
    ]);
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    /// What comes out, and what is noticed, does not depend on how the stream was cut.
    #[test]
    fn chunks_do_not_matter(stream in any_stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        for mode in [Mode::Json, Mode::Sse, Mode::Ndjson, Mode::Opaque] {
            for endpoint in [CHAT, Endpoint::OllamaChat] {
                let rewriter = || Rewriter::new(mode, Some("alias"), Some(endpoint));
                let whole = run(rewriter(), [stream.as_slice()]);
                prop_assert_eq!(&run(rewriter(), stream.chunks(1)), &whole);
                prop_assert_eq!(&run(rewriter(), cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]])), &whole);
                let untouched = run(Rewriter::new(mode, None, Some(endpoint)), stream.chunks(3));
                prop_assert_eq!(&untouched.0, &stream);
                prop_assert_eq!(untouched.1, whole.1);
                if !stream.windows(7).any(|window| window == b"\"model\"") {
                    prop_assert_eq!(&whole.0, &stream);
                }
            }
        }
    }

    /// Replies of real JSON: the edit is that of the parsed reply.
    #[test]
    fn an_edit_is_that_of_the_parsed_reply(
        before in "[ -~é]{0,20}", own in "\\PC{0,12}", depth in 0usize..4, after in prop::collection::vec(-1e9f64..1e9, 0..5), size in 1usize..20,
    ) {
        let mut inner = serde_json::json!({"a": before, "model": own, "b": after, "c": {"model": own}});
        for _ in 0..depth {
            inner = serde_json::json!([inner, {"x": "]"}]);
        }
        let value = serde_json::json!({"data": inner, "message": {"k": [{}], "model": own}, "model": own, "z": null});
        let mut expected = value.clone();
        expected["model"] = "alias".into();
        expected["message"]["model"] = "alias".into();
        let text = value.to_string();
        for (mode, prefix, suffix) in [(Mode::Json, "", ""), (Mode::Sse, "data: ", "\n\n"), (Mode::Ndjson, "", "\n")] {
            let input = format!("{prefix}{text}{suffix}");
            let (output, _) = run(Rewriter::new(mode, Some("alias"), None), input.as_bytes().chunks(size));
            prop_assert_eq!(String::from_utf8(output).unwrap(), format!("{prefix}{expected}{suffix}"));
        }
    }
}
