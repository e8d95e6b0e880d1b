//! What becomes of every field of a request, on both kinds of upstream: the rows of the tables in
//! docs/API.md, each of which is asked and looked up in what is written.
//!
//! The rows are in `rows.rs`; the tables stand between `<!-- fields:NAME -->` and `<!-- /fields -->`, and
//! `make docs-api` writes them anew.

use std::{fmt::Write as _, fs};

use serde_json::{Map, Value};

use super::{super::fields, rows::SECTIONS};
use crate::{
    body::BodyError,
    error::Code,
    levers::Levers,
    route::{Route, UpstreamKind},
    translate::{
        Reply,
        request::{Request, Target},
    },
};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/API.md");

/// The longest line of the documentation, about.
const LINE_LENGTH_MAX: usize = 115;

/// What a row says of a field that a tenant may use only who may use all.
const TRUSTED: &str = "`--options all`";

/// The name under which every model is known to the upstream.
const MODEL: &str = "the-model";

/// A table: the fields of one route.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) route: Route,
    /// A request that is answered, to which the fields of a row are added.
    pub(super) base: &'static str,
    pub(super) rows: &'static [Row],
}

/// A field, or one use of it.
pub(super) struct Row {
    /// What the table calls it.
    pub(super) says: &'static str,
    /// The members of a body that use it: itself first, and what it needs to mean something.
    pub(super) with: &'static str,
    /// What stands for `TYPE` in them, one after another; none: it does not stand there.
    pub(super) types: &'static [&'static str],
    pub(super) ollama: Fate,
    pub(super) openai: Fate,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It stands in what is written, as it came.
    Passes,
    /// All is as it is without it.
    Ignored,
    /// It changes the reply, and not what is written.
    Reply,
    /// Its value stands there in what is written, as it came.
    To(&'static str),
    /// This stands there.
    Is(&'static str, &'static str),
    /// Nothing stands there.
    Without(&'static str),
    /// It names the model, as the upstream is to hear it.
    Named,
    /// `unsupported_parameter`, and what `param` says; the field itself where that is empty.
    Refused(&'static str),
    /// `invalid_request`, in the same way.
    Wrong(&'static str),
}

/// What an upstream would be sent, and how the reply would be read.
pub(super) struct Asked {
    body: Value,
    reply: Reply,
    stream: bool,
}

pub(super) fn object(members: &str) -> Map<String, Value> {
    let text = if members.starts_with('{') { members.to_owned() } else { format!("{{{members}}}") };
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn ask(route: Route, body: &Map<String, Value>, kind: UpstreamKind) -> Result<Asked, BodyError> {
    let body = Value::from(body.clone()).to_string();
    let request = Request::read(route, body.as_bytes())?;
    let target = Target { kind, model: Some(MODEL), tokens_max: None, levers: &Levers::OPEN };
    let written = request.write(&target)?.body.unwrap_or_else(|| body.clone().into_bytes());
    let body = serde_json::from_slice(&written).unwrap();
    Ok(Asked { body, reply: request.reply, stream: request.stream })
}

/// Why a row is not true; none where it is.
fn untrue(section: &Section, row: &Row, kind: UpstreamKind, fate: Fate) -> Option<String> {
    row.asked().iter().find_map(|with| untrue_of(section, with, kind, fate))
}

fn untrue_of(section: &Section, with: &str, kind: UpstreamKind, fate: Fate) -> Option<String> {
    let members = object(with);
    let (field, value) = members.iter().next().unwrap();
    let mut without = object(section.base);
    without.extend(members.iter().skip(1).map(|(name, value)| (name.clone(), value.clone())));
    let mut with = without.clone();
    with.insert(field.clone(), value.clone());
    let asked = match (ask(section.route, &with, kind), fate) {
        (Err(error), Fate::Refused(at) | Fate::Wrong(at)) => {
            let code = match fate {
                Fate::Refused(_) => Code::UnsupportedParameter,
                _ => Code::InvalidRequest,
            };
            let at = if at.is_empty() { field } else { at };
            let is_as_said = (error.code, error.field.as_deref()) == (code, Some(at));
            return (!is_as_said).then(|| format!("{error} ({:?})", error.field));
        }
        (Err(error), _) => return Some(format!("{error} ({:?})", error.field)),
        (Ok(asked), _) => asked,
    };
    let Asked { body, reply, stream } = &asked;
    // Compared as text: the order of keys and the spelling of numbers are kept.
    let text = |value: &Value| value.to_string();
    let is = |found: Option<&Value>, wanted: &Value| found.map(text) == Some(text(wanted));
    let is_true = match fate {
        Fate::Passes => is(body.get(field), value),
        Fate::To(place) => is(body.pointer(place), value),
        Fate::Is(place, wanted) => {
            body.pointer(place) == Some(&serde_json::from_str(wanted).unwrap())
        }
        Fate::Without(place) => body.pointer(place).is_none(),
        Fate::Named => is(body.get("model"), &MODEL.into()),
        Fate::Ignored | Fate::Reply => {
            let plain = ask(section.route, &without, kind).ok()?;
            let is_same = plain.reply == *reply && plain.stream == *stream;
            plain.body == *body && is_same == matches!(fate, Fate::Ignored)
        }
        Fate::Refused(_) | Fate::Wrong(_) => false,
    };
    (!is_true).then(|| format!("{body}\n    {reply:?}"))
}

/// A place in a body, as people write it: `messages[0].content`.
fn place(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1);
    let mut said = String::new();
    for part in parts {
        if part.starts_with(|first: char| first.is_ascii_digit()) {
            let _ = write!(said, "[{part}]");
        } else {
            said.push_str(if said.is_empty() { "" } else { "." });
            said.push_str(part);
        }
    }
    said
}

// === impl Fate ===

impl Fate {
    fn said(self) -> String {
        match self {
            Self::Passes => "as it came".to_owned(),
            Self::Ignored => "ignored".to_owned(),
            Self::Reply => "in the reply".to_owned(),
            Self::To(at) => format!("`{}`", place(at)),
            Self::Is(at, value) => format!("`{}`: `{value}`", place(at)),
            Self::Without(at) => format!("no `{}`", place(at)),
            Self::Named => "by its name there".to_owned(),
            Self::Refused(_) => "refused".to_owned(),
            Self::Wrong(_) => "an error".to_owned(),
        }
    }
}

// === impl Row ===

impl Row {
    /// The members of each body that it asks for.
    pub(super) fn asked(&self) -> Vec<String> {
        if self.types.is_empty() {
            return vec![self.with.to_owned()];
        }
        self.types.iter().map(|kind| self.with.replace("TYPE", kind)).collect()
    }

    /// What the table calls it.
    fn said(&self) -> String {
        let types: Vec<_> = self.types.iter().map(|kind| format!("`{kind}`")).collect();
        format!("{} {}", self.says, types.join(", ")).trim_end().to_owned()
    }
}

// === impl Section ===

impl Section {
    /// The table; rows that follow each other and say the same are one.
    fn table(&self) -> String {
        let mut lines: Vec<(String, [String; 2])> = Vec::new();
        for row in self.rows {
            let cells = [row.ollama.said(), row.openai.said()];
            match lines.last_mut() {
                Some((fields, last)) if *last == cells => {
                    let _ = write!(fields, ", {}", row.said());
                }
                _ => lines.push((row.said(), cells)),
            }
        }
        let mut table = "| field | Ollama | OpenAI's dialect |\n|---|---|---|\n".to_owned();
        for (fields, [ollama, openai]) in lines {
            let _ = writeln!(table, "| {fields} | {ollama} | {openai} |");
        }
        table + &self.harmless()
    }

    /// The fields that may stand there though nobody reads them.
    fn harmless(&self) -> String {
        let Some((first, rest)) = fields::harmless(self.route).split_first() else {
            return String::new();
        };
        let mut line = format!("\nTaken besides, and not read: `{first}`");
        let mut lines = String::new();
        for name in rest {
            line.push(',');
            if line.len() + name.len() > LINE_LENGTH_MAX {
                lines.push_str(&line);
                lines.push('\n');
                line.clear();
            } else {
                line.push(' ');
            }
            let _ = write!(line, "`{name}`");
        }
        lines + &line + ".\n"
    }
}

/// The text with the tables as they must be.
fn renewed(docs: &str) -> String {
    let mut rest = docs;
    let mut out = String::new();
    for section in &SECTIONS {
        let (begin, end) = (format!("<!-- fields:{} -->\n", section.name), "<!-- /fields -->");
        let (before, after) = rest.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
        let (_, after) = after.split_once(end).unwrap_or_else(|| panic!("no end of {begin}"));
        out.extend([before, &begin, "\n", &section.table(), "\n", end]);
        rest = after;
    }
    assert!(!rest.contains("<!-- fields:"), "a table that nobody knows, or in another order");
    out + rest
}

#[test]
fn every_field_becomes_what_the_tables_say() {
    let mut faults = Vec::new();
    for section in &SECTIONS {
        for row in section.rows {
            for (kind, fate) in
                [(UpstreamKind::Ollama, row.ollama), (UpstreamKind::OpenAi, row.openai)]
            {
                if let Some(found) = untrue(section, row, kind, fate) {
                    let Row { says, with, .. } = row;
                    faults.push(format!(
                        "{} {says} on {kind} is not {fate:?}\n    {with}\n    {found}",
                        section.name
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} rows:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_tenant_may_use_what_the_tables_do_not_say_only_a_trusted_one_may() {
    for section in &SECTIONS {
        for row in section.rows.iter().filter(|row| !matches!(row.openai, Fate::Wrong(_))) {
            let mut body = object(section.base);
            body.extend(object(row.with));
            let body = Value::from(body).to_string();
            let Ok(request) = Request::read(section.route, body.as_bytes()) else { continue };
            let levers = Levers { may_unload: true, ..Levers::default() };
            let may = request.keeps_to(&levers, false).is_ok();
            assert_eq!(may, !row.says.contains(TRUSTED), "{} {}", section.name, row.says);
        }
    }
}

#[test]
fn what_is_harmless_stands_nowhere_else() {
    for section in &SECTIONS {
        let harmless = fields::harmless(section.route);
        for (at, name) in harmless.iter().enumerate() {
            assert!(!harmless[..at].contains(name), "{} {name}", section.name);
            assert!(!fields::of(section.route).contains(name), "{} {name}", section.name);
        }
    }
}

#[test]
fn the_tables_of_fields_in_the_documentation_are_fresh() {
    let docs = fs::read_to_string(DOCS).unwrap();
    let renewed = renewed(&docs);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(DOCS, renewed).unwrap();
        return;
    }
    assert!(docs == renewed, "docs/API.md is stale: run `make docs-api`");
}
