//! What is done with an input, a function for each target.
//!
//! They are included by their path in two places: here by the targets, and by the end-to-end tests, which
//! run the corpus through them. (The targets cannot be members of the workspace, so that it cannot depend
//! on them.)

use bytes::{Bytes, BytesMut};
use identity::{
    api_key::{self, PresentedKey},
    presented::presented,
};
use protocol::{
    levers::Levers,
    ndjson::{LINE_MAX, Lines, TooLong},
    route::{Dialect, Route, UpstreamKind},
    sse::{self, EVENT_MAX, Event, Events},
    translate::request::{Request, Target},
};
use serde_json::value::RawValue;

use super::router::{Endpoint, dialect, find};

/// A limit that inputs reach.
const SHORT: usize = 24;

/// The input in pieces, of a size that the fuzzer may choose by its length.
fn pieces(input: &[u8]) -> impl Iterator<Item = Bytes> {
    input.chunks(1 + input.len() % 13).map(Bytes::copy_from_slice)
}

/// Lines are what stands between newlines, wherever the network cuts.
pub fn ndjson(input: &[u8]) {
    let raw: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let expected = |raw: &[&[u8]]| -> Vec<Bytes> {
        raw.iter()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .map(Bytes::copy_from_slice)
            .collect()
    };
    for (limit, pieces) in [
        (LINE_MAX, vec![Bytes::copy_from_slice(input)]),
        (LINE_MAX, pieces(input).collect()),
        (SHORT, pieces(input).collect()),
    ] {
        let (found, fault) = lines(limit, pieces);
        let fitting = raw.iter().take_while(|line| line.len() <= limit).count();
        assert_eq!(found, expected(&raw[..fitting]));
        assert_eq!(fault.is_some(), fitting < raw.len());
    }
}

fn lines(limit: usize, pieces: Vec<Bytes>) -> (Vec<Bytes>, Option<TooLong>) {
    let (mut lines, mut found) = (Lines::new(limit), Vec::new());
    for piece in pieces {
        lines.push(piece);
        loop {
            match lines.next_line() {
                Ok(Some(line)) => found.push(line),
                Ok(None) => break,
                Err(fault) => return (found, Some(fault)),
            }
        }
    }
    found.extend(lines.finish());
    (found, None)
}

/// Events are the same wherever the network cuts, keep within their limit, and read back when written.
pub fn sse(input: &[u8]) {
    let whole = events(EVENT_MAX, vec![Bytes::copy_from_slice(input)]);
    assert_eq!(events(EVENT_MAX, pieces(input).collect()), whole);
    let (short, fault) = events(SHORT, pieces(input).collect());
    assert!(short.iter().all(|event| event.data.len() <= SHORT));
    assert_eq!(whole.0[..short.len()], short);
    // One that the end cut off and that is too long is none.
    assert!(fault.is_some() || whole.0.len() - short.len() <= 1);
    let is_line = |event: &&Event| !event.data.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    for event in whole.0.iter().filter(is_line) {
        let mut out = BytesMut::new();
        sse::event(&event.data, &mut out);
        let (read, _) = events(EVENT_MAX, vec![out.freeze()]);
        assert_eq!(read, [Event { kind: Bytes::new(), data: event.data.clone() }]);
    }
}

fn events(limit: usize, pieces: Vec<Bytes>) -> (Vec<Event>, Option<TooLong>) {
    let (mut events, mut found) = (Events::new(limit), Vec::new());
    for piece in pieces {
        events.push(piece);
        loop {
            match events.next_event() {
                Ok(Some(event)) => found.push(event),
                Ok(None) => break,
                Err(fault) => return (found, Some(fault)),
            }
        }
    }
    found.extend(events.finish());
    (found, None)
}

/// A text is a key by its form and its sum alone: one that is made of any randomness is, and is no more
/// when one of its characters is another.
pub fn key(input: &[u8]) {
    for (authorization, api_key) in [(Some(input), None), (None, Some(input))] {
        if let Ok(key) = presented(authorization, api_key) {
            assert_eq!(key.secret().expose().len(), api_key::LENGTH);
        }
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(key) = PresentedKey::parse(text)
    {
        assert_eq!(key.secret().expose(), text);
        assert!(text.starts_with(key.prefix()));
    }
    // A filling that never gives a fair byte would be asked for ever.
    let (mut next, mut asked) = (input.iter().cycle(), 0_u8);
    let minted = api_key::mint(|buffer| {
        asked = asked.saturating_add(1);
        buffer.fill_with(|| next.next().copied().filter(|_| asked < 8).unwrap_or(asked));
    });
    let key = minted.key.expose();
    assert!(PresentedKey::parse(key).is_ok_and(|key| key.prefix() == minted.prefix));
    let at = input.len() % key.len();
    let other = input.first().copied().filter(u8::is_ascii).unwrap_or_default();
    if key.as_bytes()[at] != other {
        let mut changed = key.as_bytes().to_vec();
        changed[at] = other;
        assert!(std::str::from_utf8(&changed).is_ok_and(|key| PresentedKey::parse(key).is_err()));
    }
}

/// A body is refused or becomes JSON, on every route and for both kinds of upstream.
pub fn request(input: &[u8]) {
    for route in Route::ALL {
        let Ok(request) = Request::read(*route, input) else { continue };
        for has_budget in [false, true] {
            let _ = request.keeps_to(&Levers::default(), has_budget);
            let _ = request.keeps_to(&Levers::OPEN, has_budget);
        }
        for kind in UpstreamKind::ALL {
            for (model, tokens_max) in [(None, None), (Some("the \"model\""), Some(7))] {
                let written = request.write(&Target {
                    kind: *kind,
                    model,
                    tokens_max,
                    levers: &Levers::default(),
                });
                let Some(body) = written.ok().and_then(|outgoing| outgoing.body) else { continue };
                assert!(serde_json::from_slice::<&RawValue>(&body).is_ok());
            }
        }
    }
}

/// A path means one thing, however it is spelled, and what is blocked cannot be spelled otherwise.
pub fn router(input: &[u8]) {
    let Ok(path) = std::str::from_utf8(input) else { return };
    let _ = dialect(path);
    let Some(found) = find(path) else { return };
    // Percent-encoding once more than needed is still once.
    if !path.contains('%') {
        let encoded: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(find(&encoded).as_ref(), Some(&found));
        assert_eq!(dialect(&encoded), dialect(path));
    }
    match &found.endpoint {
        Endpoint::Blocked => {
            for other in [format!("/./{path}"), format!("/x/../{path}"), path.to_ascii_uppercase()]
            {
                assert_eq!(find(&other).as_ref(), Some(&found), "{other}");
            }
        }
        Endpoint::Model(id) => assert!(!id.is_empty()),
        Endpoint::Keyed(route) => {
            let is_native = route.as_str().starts_with("ollama_");
            assert_eq!(dialect(path) == Dialect::Ollama, is_native);
        }
        _ => {}
    }
}
