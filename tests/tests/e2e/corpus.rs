//! The corpus of the fuzzers (`make fuzz`), through the same functions, without a fuzzer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use engine::http::router;

#[path = "../../../protocol/fuzz/src/bodies.rs"]
mod bodies;

type Target = (&'static str, fn(&[u8]), Option<&'static str>);

/// The targets, and which of the golden inputs they begin with (as `protocol/fuzz/run` has them).
const TARGETS: [Target; 5] = [
    ("key", bodies::key, None),
    ("ndjson", bodies::ndjson, Some("from_ollama")),
    ("request", bodies::request, Some("_request")),
    ("router", bodies::router, None),
    ("sse", bodies::sse, Some("from_openai")),
];

fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_corpus_of_every_fuzzer_passes() {
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol");
    let mut folders: Vec<_> = inside(&protocol.join("fuzz/targets"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_owned())
        .collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|(name, ..)| name), "a fuzzer whose corpus is not run here");
    for (name, body, golden) in TARGETS {
        let mut inputs = inside(&protocol.join("fuzz/corpus").join(name));
        for folder in inside(&protocol.join("src/golden")) {
            if golden.is_some_and(|ending| folder.to_string_lossy().ends_with(ending)) {
                inputs.extend(inside(&folder));
            }
        }
        assert!(inputs.len() > 3, "{name} has no corpus");
        for input in inputs {
            println!("{}", input.display());
            body(&fs::read(input).unwrap());
        }
    }
}
