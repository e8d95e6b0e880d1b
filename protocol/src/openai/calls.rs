//! Tool calls of an OpenAI-compatible server, put together from the parts in which they come.
//!
//! Servers differ in how they cut a call: two of them under one index, none with an index at all, a name that
//! follows the arguments, an id and a name in every part, another id in every part, `{}` before the true
//! arguments, parts of several calls mixed with each other. Clients read one call after another, and cannot
//! take a call back. So a call is handed out in the order in which it began, as soon as its arguments are
//! known to be an object with something in it, and lives on part by part; what follows it waits until it is
//! whole. A call without arguments is only known for one at the end of the reply.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::said::Said;
use crate::{
    body::Text,
    json,
    sse::EVENT_MAX,
    translate::piece::{Arguments, CallPiece, Reason},
};

/// What one call, or one text that waits, counts for beside its letters.
const ENTRY_BYTES: usize = 128;

/// The calls of a stream so far.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    all: Vec<Call>,
    /// The first that is not whole: the one that is being handed out, or comes next.
    current: usize,
    /// What was said in the middle of the current call, and follows it.
    said: Vec<Said>,
    /// How many bytes are held.
    held: usize,
}

/// A call as far as it is known.
#[derive(Debug, Default)]
struct Call {
    index: Option<usize>,
    id: Option<String>,
    name: String,
    /// Its arguments so far; empty again when it has been handed out whole.
    text: String,
    /// How much of them has been handed out.
    told: usize,
    scan: Scan,
    /// The arguments so far are an object.
    is_object: bool,
    is_whole: bool,
}

/// Where in a JSON object its text has come to.
#[derive(Debug, Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

/// A call or a part of one, as it stands in the text.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Reads a whole list of calls. A call that is none is left out where the reply was cut off; `None` where
/// it was not.
pub(crate) fn whole(raw: &RawValue, reason: Reason) -> Option<Vec<CallPiece<'_>>> {
    let mut calls = Vec::new();
    for raw in serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok()? {
        let part: Part<'_> = json::read_object(raw.get())?;
        let id = part.id.map(|Text(id)| id).filter(|id| !id.is_empty());
        match one(part.function.unwrap_or_default(), calls.len(), id) {
            Some(call) => calls.push(call),
            None if reason.is_cut() => {}
            None => return None,
        }
    }
    Some(calls)
}

/// Reads the one call of OpenAI's older shape, which has neither a list nor an id.
pub(crate) fn whole_function(raw: &RawValue, reason: Reason) -> Option<Vec<CallPiece<'_>>> {
    match one(json::read_object(raw.get())?, 0, None) {
        None if !reason.is_cut() => None,
        call => Some(call.into_iter().collect()),
    }
}

fn one<'a>(
    function: Function<'a>,
    index: usize,
    id: Option<Cow<'a, str>>,
) -> Option<CallPiece<'a>> {
    let Text(name) = function.name?;
    let arguments = arguments_of(function.arguments)?;
    (!name.is_empty()).then_some(CallPiece { index, id, name: Some(name), arguments })
}

/// All the arguments of a call, however a server gives them: as an object, as a text of one, as nothing.
pub(crate) fn arguments_of(raw: Option<&RawValue>) -> Option<Arguments<'_>> {
    let Some(raw) = raw else { return Some(Arguments::Empty) };
    match raw.get().as_bytes() {
        [b'{', ..] => Some(Arguments::Object(raw)),
        [b'"', ..] => {
            let text = json::text_of(raw.get())?;
            if text.trim_start().starts_with('{') {
                return is_json(&text).then_some(Arguments::Text(raw));
            }
            arguments_in(&text)
        }
        [b'[', inner @ .., b']'] if inner.trim_ascii().is_empty() => Some(Arguments::Empty),
        b"null" => Some(Arguments::Empty),
        _ => None,
    }
}

/// The arguments in a text: an object, nothing in one of its spellings, or a string with such a text in it.
fn arguments_in(text: &str) -> Option<Arguments<'static>> {
    match text.trim() {
        "" | "null" | "[]" => Some(Arguments::Empty),
        text if text.starts_with('{') => is_json(text).then(|| Arguments::Held(text.to_owned())),
        text if text.starts_with('"') => arguments_in(&json::text_of(text)?),
        _ => None,
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

// === impl Calls ===

impl Calls {
    /// Takes a list of parts, and gives back what may be handed out; `None` where they are none.
    pub(crate) fn take<'a>(&mut self, raw: &'a RawValue) -> Option<Vec<CallPiece<'a>>> {
        let mut out = Vec::new();
        for raw in serde_json::from_str::<Vec<&'a RawValue>>(raw.get()).ok()? {
            let Part { index, id, function } = json::read_object(raw.get())?;
            let index = index.and_then(|raw| raw.get().trim_matches('"').parse().ok());
            self.part(index, id.map(|Text(id)| id), function.unwrap_or_default(), &mut out)?;
        }
        Some(out)
    }

    /// The same of OpenAI's older shape.
    pub(crate) fn take_function<'a>(&mut self, raw: &'a RawValue) -> Option<Vec<CallPiece<'a>>> {
        let mut out = Vec::new();
        self.part(Some(0), None, json::read_object(raw.get())?, &mut out)?;
        Some(out)
    }

    /// Whether a part of a call has been handed out, and its end has not come: nothing else may stand between.
    pub(crate) fn is_open(&self) -> bool {
        self.all.get(self.current).is_some_and(|call| call.told > 0)
    }

    /// Whether more waits than a stream may hold.
    pub(crate) fn is_too_long(&self) -> bool {
        self.held > EVENT_MAX
    }

    /// Keeps what was said in the middle of a call.
    pub(crate) fn hold(&mut self, said: Said) {
        self.held += said.text.get().len() + ENTRY_BYTES;
        self.said.push(said);
    }

    /// What was said in the middle of a call that is whole now.
    pub(crate) fn release(&mut self) -> Vec<Said> {
        for said in &self.said {
            self.held -= said.text.get().len() + ENTRY_BYTES;
        }
        std::mem::take(&mut self.said)
    }

    /// The calls that waited for the end of the reply; `None` where one is not whole, unless the reply was cut
    /// off in the middle of it.
    pub(crate) fn finish(&mut self, reason: Reason) -> Option<Vec<CallPiece<'static>>> {
        let (mut out, count, is_cut) = (Vec::new(), self.all.len(), reason.is_cut());
        for (at, call) in self.all.iter_mut().enumerate().skip(self.current) {
            let arguments = if call.told > 0 { None } else { arguments_in(&call.text) };
            let is_blank = call.text.trim().is_empty();
            match arguments {
                // It may have been cut off before the first letter of its arguments.
                Some(_) if is_cut && is_blank && at + 1 == count => {}
                Some(arguments) if !call.name.is_empty() => out.push(CallPiece {
                    index: at,
                    id: call.id.take().map(Cow::Owned),
                    name: Some(std::mem::take(&mut call.name).into()),
                    arguments,
                }),
                // Some servers say no more of it than another id.
                Some(_) if is_blank && count > 1 => {}
                _ if is_cut => {}
                _ => return None,
            }
        }
        self.current = count;
        Some(out)
    }

    fn part<'a>(
        &mut self,
        index: Option<usize>,
        id: Option<Cow<'a, str>>,
        function: Function<'a>,
        out: &mut Vec<CallPiece<'a>>,
    ) -> Option<()> {
        let id = id.filter(|id| !id.is_empty());
        let name = function.name.map(|Text(name)| name).filter(|name| !name.is_empty());
        let (arguments, more) = match function.arguments {
            None => (None, Cow::Borrowed("")),
            Some(raw) => match raw.get().as_bytes() {
                [b'"', ..] => (Some(Arguments::Text(raw)), json::text_of(raw.get())?),
                [b'{', ..] => (Some(Arguments::Object(raw)), json::compact(raw.get())),
                // Nothing, in one of its spellings.
                _ => (None, arguments_of(Some(raw)).map(|_| Cow::Borrowed(""))?),
            },
        };
        if id.is_none() && name.is_none() && more.is_empty() {
            return Some(());
        }
        let at = self.place(index, id.as_deref(), name.as_deref());
        let call = &mut self.all[at];
        if call.told == 0 {
            if call.id.is_none() {
                call.id = id.map(Cow::into_owned);
            }
            call.named(name);
        }
        let is_next = at == self.current && call.told == call.text.len();
        let before = call.text.len();
        call.push(&more)?;
        self.held = (self.held + call.text.len()).saturating_sub(before);
        if let Some(arguments) = arguments.filter(|_| is_next && call.told < call.text.len())
            && call.is_ready()
        {
            out.push(call.piece(at, arguments));
        }
        self.hand_out(out);
        Some(())
    }

    /// Hands out what need not wait any more.
    fn hand_out(&mut self, out: &mut Vec<CallPiece<'_>>) {
        while let Some(call) = self.all.get_mut(self.current)
            && call.is_ready()
        {
            if call.told < call.text.len() {
                let rest = Arguments::Held(call.text[call.told..].to_owned());
                out.push(call.piece(self.current, rest));
            }
            if !call.is_whole {
                return;
            }
            self.held = self.held.saturating_sub(call.text.len());
            (call.text, call.told) = (String::new(), 0);
            self.current += 1;
        }
    }

    /// Which call a part belongs to: the last that began under its index or id, unless it begins another.
    fn place(&mut self, index: Option<usize>, id: Option<&str>, name: Option<&str>) -> usize {
        let last = |is: &dyn Fn(&Call) -> bool| self.all.iter().rposition(is);
        let found = match index {
            Some(_) => last(&|call| call.index == index),
            None => {
                let same = id.and_then(|id| last(&|call| call.id.as_deref() == Some(id)));
                same.or_else(|| self.all.len().checked_sub(1))
            }
        };
        match found.filter(|at| self.all[*at].has_part(index, id, name)) {
            Some(at) => at,
            None => {
                self.held += ENTRY_BYTES;
                let id = id.map(str::to_owned);
                self.all.push(Call { index, id, ..Call::default() });
                self.all.len() - 1
            }
        }
    }
}

// === impl Call ===

impl Call {
    /// Whether a part under the same index or id goes on with this call, and begins no other.
    fn has_part(&self, index: Option<usize>, id: Option<&str>, name: Option<&str>) -> bool {
        let is_other = id.is_some_and(|id| self.id.as_deref().is_some_and(|own| own != id));
        let is_same = id.is_some() && self.id.as_deref() == id;
        let is_begun = self.is_whole || !self.text.trim().is_empty();
        let Some(name) = name else {
            // Some servers make up another id for every part.
            return !is_other || !self.is_object && index.is_some();
        };
        if self.name.is_empty() {
            return !is_other || index.is_some() && !self.is_object;
        }
        let is_named_so = self.name == name;
        if is_same {
            return is_named_so || !is_begun;
        }
        // Some servers repeat the name in every part.
        is_named_so && !self.is_object && (is_begun || index.is_some() && !is_other)
    }

    /// Takes its name, or the next part of it.
    fn named(&mut self, name: Option<Cow<'_, str>>) {
        match name {
            Some(name) if name.starts_with(&self.name) => self.name = name.into_owned(),
            Some(name) if self.text.is_empty() => self.name.push_str(&name),
            _ => {}
        }
    }

    /// Takes the next part of its arguments; `None` where they cannot become an object.
    fn push(&mut self, more: &str) -> Option<()> {
        if more.trim().is_empty() && (self.is_object || more.is_empty()) {
            return Some(());
        }
        if self.is_whole {
            return None;
        }
        if matches!(self.text.trim(), "{}" | "null") && more.trim_start().starts_with('{') {
            // It stood there until the true ones came.
            self.text.clear();
            (self.scan, self.is_object) = (Scan::default(), false);
        }
        self.text.push_str(more);
        if self.told == 0 && !self.text.trim_start().starts_with('{') {
            return Some(());
        }
        if let Some(end) = self.scan.end(&self.text) {
            let is_right = self.text[end..].trim().is_empty() && is_json(&self.text);
            self.is_object = true;
            self.is_whole = is_right && self.is_filled();
            return is_right.then_some(());
        }
        Some(())
    }

    /// Whether it may be handed out: it has a name, and arguments with something in them.
    fn is_ready(&self) -> bool {
        self.told > 0 || (!self.name.is_empty() && self.is_filled())
    }

    fn is_filled(&self) -> bool {
        let inner = self.text.trim_start().strip_prefix('{').map(str::trim_start);
        inner.is_some_and(|inner| !inner.is_empty() && !inner.starts_with('}'))
    }

    /// What follows of it, up to where its text has come to.
    fn piece<'a>(&mut self, index: usize, arguments: Arguments<'a>) -> CallPiece<'a> {
        let is_first = self.told == 0;
        self.told = self.text.len();
        CallPiece {
            index,
            id: self.id.clone().filter(|_| is_first).map(Cow::Owned),
            name: is_first.then(|| self.name.clone().into()),
            arguments,
        }
    }
}

// === impl Scan ===

impl Scan {
    /// Goes on through the text, and tells where the object that it begins with ends.
    fn end(&mut self, text: &str) -> Option<usize> {
        let bytes = text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.at);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
