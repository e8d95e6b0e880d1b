//! The words in a prompt that steer an answer: `[[pace 10]]`, `[[reset 3]]` and the like.
//!
//! They travel in the prompt because nothing else is sure to pass a gateway. Unknown words are
//! text like any other, so that a prompt with double brackets in it still works.

use std::time::Duration;

use crate::refusals::Refusal;

/// What a prompt asked for beside its answer. Where nothing was asked, the script decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Refuse with this status, before the first byte.
    pub(crate) status: Option<u16>,
    /// Refuse as a real server does that has this reason: before the first byte or, with an error line, there.
    pub(crate) refusal: Option<Refusal>,
    /// A refusal says that it may be asked again after so many seconds.
    pub(crate) retry_after: Option<usize>,
    /// Refuse with this status and a page of HTML.
    pub(crate) html: Option<u16>,
    /// Never answer.
    pub(crate) hang_head: bool,
    /// How the answer ends, where it does not end well.
    pub(crate) fault: Option<(Fault, usize)>,
    /// Content chunks in the answer.
    pub(crate) chunks: Option<usize>,
    /// The wait before every chunk.
    pub(crate) pace: Option<Duration>,
    /// The wait before the first byte.
    pub(crate) first_byte: Option<Duration>,
    /// Says all it has to say, whatever limit of tokens the client sets.
    pub(crate) unbound: bool,
    /// HTTP chunks of so many bytes, wherever the lines end.
    pub(crate) split: Option<usize>,
    /// Lines end in CR LF.
    pub(crate) crlf: bool,
    /// An empty line after every line.
    pub(crate) blank: bool,
    /// The last line has no line feed.
    pub(crate) no_newline: bool,
    /// The last line has no counts.
    pub(crate) no_counts: bool,
    /// The first chunk of content has so many bytes.
    pub(crate) long: Option<usize>,
    /// What to say, word for word.
    pub(crate) text: Option<String>,
}

/// How a stream ends when it does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A line that tells of an error, then the end.
    ErrorLine,
    /// Nothing more, the connection stays.
    Hang,
    /// A TCP reset.
    Reset,
    /// The end of the body, as if all were said.
    Eof,
    /// Half a line, then the end of the body.
    Half,
    /// The connection closed in the middle of the body.
    Cut,
}

// === impl Directives ===

impl Directives {
    /// Reads the words in `text` over these.
    pub(crate) fn read(&mut self, text: &str) {
        for word in words(text) {
            self.apply(word);
        }
    }

    /// The first word in brackets that means nothing.
    pub(crate) fn unknown_word(text: &str) -> Option<&str> {
        words(text).find(|word| !Self::default().apply(word))
    }

    /// Whether the word meant something.
    fn apply(&mut self, word: &str) -> bool {
        let (verb, argument) = word.split_once(' ').unwrap_or((word, ""));
        let count = || argument.trim().parse::<usize>().ok();
        match verb {
            "hang-head" => self.hang_head = true,
            "unbound" => self.unbound = true,
            "crlf" => self.crlf = true,
            "blank" => self.blank = true,
            "no-newline" => self.no_newline = true,
            "no-counts" => self.no_counts = true,
            "text" => self.text = Some(argument.to_owned()),
            "refuse" => match Refusal::parse(argument) {
                Some(refusal) => self.refusal = Some(refusal),
                None => return false,
            },
            _ => match count() {
                Some(count) => return self.apply_count(verb, count),
                None => return false,
            },
        }
        true
    }

    fn apply_count(&mut self, verb: &str, count: usize) -> bool {
        let wait = || Some(Duration::from_millis(count as u64));
        let status = || u16::try_from(count).ok().filter(|status| (400..600).contains(status));
        match verb {
            "status" => self.status = status(),
            "retry-after" => self.retry_after = Some(count),
            "html" => self.html = status(),
            "error-line" => self.fault = Some((Fault::ErrorLine, count)),
            "hang" => self.fault = Some((Fault::Hang, count)),
            "reset" => self.fault = Some((Fault::Reset, count)),
            "eof" => self.fault = Some((Fault::Eof, count)),
            "half" => self.fault = Some((Fault::Half, count)),
            "cut" => self.fault = Some((Fault::Cut, count)),
            "chunks" => self.chunks = Some(count),
            "pace" => self.pace = wait(),
            "first" => self.first_byte = wait(),
            "split" => self.split = Some(count.max(1)),
            "long" => self.long = Some(count),
            _ => return false,
        }
        true
    }
}

/// The text without its words in brackets.
pub(crate) fn without_words(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, word, after)) = next_word(rest) {
        plain.push_str(before);
        if !Directives::default().apply(word) {
            plain.push_str(&rest[before.len()..rest.len() - after.len()]);
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_before, word, after) = next_word(rest)?;
        rest = after;
        Some(word)
    })
}

fn next_word(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("[[")?;
    let (word, after) = rest.split_once("]]")?;
    Some((before, word, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_anywhere_in_the_text() {
        let mut found = Directives::default();
        found.read("Hello [[pace 20]] and [[reset 3]][[crlf]], [[text a ]b]]");
        assert_eq!(found.pace, Some(Duration::from_millis(20)));
        assert_eq!(found.fault, Some((Fault::Reset, 3)));
        assert!(found.crlf);
        assert_eq!(found.text.as_deref(), Some("a ]b"));
    }

    #[test]
    fn a_prompt_speaks_over_the_script() {
        let mut found = Directives::default();
        found.read("[[pace 20]][[chunks 5]]");
        found.read("[[pace 1]]");
        assert_eq!((found.pace, found.chunks), (Some(Duration::from_millis(1)), Some(5)));
    }

    #[test]
    fn other_brackets_are_text() {
        let mut found = Directives::default();
        found.read("[[1, 2]] [[status x]] [[");
        assert_eq!(found, Directives::default());
        assert_eq!(without_words("a [[1, 2]] b[[crlf]] c [["), "a [[1, 2]] b c [[");
    }
}
