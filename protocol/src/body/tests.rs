use proptest::prelude::*;

use super::*;

const KNOWN: [&str; 3] = ["model", "messages", "keep_alive"];

fn refusal(body: &str) -> (Code, Option<String>) {
    let error = Fields::of_body(body.as_bytes(), &KNOWN, None).map(drop).unwrap_err();
    (error.code, error.field)
}

#[test]
fn a_field_is_found_as_it_stands() {
    let body = br#" {"x":1,"model":"a\n","messages":[ {"model":2} ],"keep_alive":null} "#;
    let fields = Fields::of_body(body, &KNOWN, None).unwrap();
    assert_eq!(fields.get("messages").unwrap().get(), r#"[ {"model":2} ]"#);
    assert_eq!(fields.string("model").unwrap().unwrap(), "a\n");
    assert!(fields.get("keep_alive").is_none());
}

#[test]
fn a_second_field_or_another_case_is_ambiguous() {
    for (body, field) in [
        (r#"{"model":"a","model":"a"}"#, "model"),
        (r#"{"model":"a","MODEL":"b"}"#, "model"),
        (r#"{"Model":"a"}"#, "model"),
        (r#"{"mod\u0065l":"a","model":"b"}"#, "model"),
        (r#"{"me\u017fsages":[]}"#, "messages"),
        (r#"{"meſsages":[]}"#, "messages"),
        ("{\"\u{212a}eep_alive\":0}", "keep_alive"),
        (r#"{"model":null,"model":"b"}"#, "model"),
    ] {
        let expected = (Code::AmbiguousField, Some(field.to_owned()));
        assert_eq!(refusal(body), expected, "{body}");
    }
    assert!(Fields::of_body(br#"{"x":1,"x":2,"X":3}"#, &KNOWN, None).is_ok());
}

#[test]
fn only_one_json_object_and_nothing_after_it_is_read() {
    for body in [
        "",
        " \n",
        "{",
        "{}{}",
        "{} x",
        "[]",
        "null",
        "1",
        "\"a\"",
        "{\"a\":1,}",
        "{'a':1}",
        "\u{feff}{}",
        "{\"model\":\"a\"}\0",
        "{\"model\":+1}",
        "{\"x\":\"\u{1}\"}",
    ] {
        assert_eq!(refusal(body), (Code::InvalidJson, None), "{body:?}");
    }
    let invalid = Fields::of_body(b"{\"x\":\"\xff\"}", &KNOWN, None).map(drop).unwrap_err();
    assert_eq!(invalid.code, Code::InvalidJson);
    let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
    assert_eq!(refusal(&deep), (Code::InvalidJson, None));
}

#[test]
fn what_is_replaced_stays_in_its_place_and_what_is_new_stands_last() {
    let replaced = |body: &str| {
        let fields = Fields::of_body(body.as_bytes(), &KNOWN, None).unwrap();
        let changes = [("model", "\"b\"".to_owned()), ("keep_alive", "1".to_owned())];
        String::from_utf8(fields.replaced(body.as_bytes(), &changes)).unwrap()
    };
    assert_eq!(
        replaced(r#" {"model": "a" ,"x":[1 ]} "#),
        r#"{"model": "b" ,"x":[1 ],"keep_alive":1}"#
    );
    assert_eq!(
        replaced(r#"{"keep_alive":null,"x":1.0}"#),
        r#"{"keep_alive":1,"x":1.0,"model":"b"}"#
    );
    assert_eq!(replaced("{ }"), r#"{ "model":"b","keep_alive":1}"#);
}

#[test]
fn whole_numbers_are_read_in_any_spelling() {
    for (text, expected) in [
        ("3", Some(3)),
        ("-1", Some(-1)),
        ("3.0", Some(3)),
        ("3e2", Some(300)),
        ("-0", Some(0)),
        ("9223372036854775807", Some(i64::MAX)),
        ("9223372036854775808", None),
        ("1.5", None),
        ("1e300", None),
        ("\"3\"", None),
        ("true", None),
        ("[3]", None),
    ] {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        assert_eq!(integer(raw), expected, "{text}");
    }
}

#[test]
fn a_refusal_never_repeats_what_the_client_sent() {
    let body = br#"{"model":{"SECRET":1}}"#;
    let fields = Fields::of_body(body, &KNOWN, None).unwrap();
    let error = fields.string("model").unwrap_err();
    assert_eq!(error.message, "`model` must be a string.");
    let error = Fields::of_body(b"{\"SECRET\":SECRET}", &KNOWN, None).map(drop).unwrap_err();
    assert!(!error.message.contains("SECRET"), "{}", error.message);
}

proptest! {
    #[test]
    fn no_body_makes_the_scan_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Fields::of_body(&body, &KNOWN, None);
    }

    #[test]
    fn every_case_of_a_known_field_is_seen(bits in 1_u16..1 << 10) {
        let flip = |(at, c): (usize, char)| {
            if bits >> at & 1 == 1 { c.to_ascii_uppercase() } else { c }
        };
        let key: String = "keep_alive".chars().enumerate().map(flip).collect();
        prop_assume!(key != "keep_alive");
        prop_assert_eq!(refusal(&format!("{{\"{key}\":1}}")).0, Code::AmbiguousField);
    }
}
