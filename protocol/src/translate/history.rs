//! The messages of a conversation, as every model server takes them.
//!
//! Clients replay what was said forever, and what they replay is not always in order: words stand between a call
//! and its result, a compaction has cut off one of the two, an assistant's turn has nothing in it. OpenAI's API,
//! DeepSeek's and the templates of many models refuse that, and the session of the client would end. So
//!
//! - the results of a turn's calls follow it directly, and what stood between them follows the results;
//! - what an assistant thinks, says and calls without a result in between is one turn;
//! - an assistant's turn with nothing in it is left out;
//! - OpenAI's dialect has no result without its call, and no call without a result, and tells who is meant by an
//!   id: a result whose call is gone becomes a user's text, a call that nobody answered gets a result that says so,
//!   and a call without an id gets one;
//! - OpenAI's dialect has one system message, at the beginning: a later one stands in a user's message, marked.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    body::BodyError,
    ollama::chat::{Message, ToolCall},
    route::{Route, UpstreamKind},
};

/// The result of a call that nobody answered.
const NO_RESULT: &str = "[There is no result of this call.]";

/// A message, and what was given back for its calls.
struct Turn<'a> {
    said: Message<'a>,
    /// The results in the order in which they came, each with the index of its call.
    results: Vec<(usize, Message<'a>)>,
    /// For each call whether it has a result.
    answered: Vec<bool>,
}

#[derive(Default)]
struct Turns<'a> {
    turns: Vec<Turn<'a>>,
    /// The turn that a call of that id was made in last, and its index there.
    by_id: HashMap<Cow<'a, str>, (usize, usize)>,
}

/// The messages in the order and with the roles that a model server takes.
///
/// # Errors
/// Where nothing is said: to Ollama that is an order to load the model.
pub(super) fn told(
    messages: Vec<Message<'_>>,
    kind: UpstreamKind,
    route: Route,
) -> Result<Vec<Message<'_>>, BodyError> {
    let messages = settled(messages, kind);
    if messages.is_empty() {
        let field = if route == Route::OpenAiResponses { "input" } else { "messages" };
        return Err(BodyError::invalid(field, "a list in which something is said"));
    }
    Ok(messages)
}

fn settled(messages: Vec<Message<'_>>, kind: UpstreamKind) -> Vec<Message<'_>> {
    let is_plain = |message: &Message<'_>| match &*message.role {
        "tool" => false,
        "assistant" => !message.content.is_empty() && message.tool_calls.is_empty(),
        _ => true,
    };
    let messages = if messages.iter().all(is_plain) {
        messages
    } else {
        let mut turns = Turns::default();
        for message in messages {
            match &*message.role {
                "assistant" => turns.assistant(message),
                "tool" => turns.result(message, kind),
                _ => turns.push(message),
            }
        }
        turns.settled(kind)
    };
    if kind == UpstreamKind::OpenAi { system_first(messages) } else { messages }
}

/// One system message at the beginning, and no other.
fn system_first(messages: Vec<Message<'_>>) -> Vec<Message<'_>> {
    let is_system = |message: &Message<'_>| message.role == "system";
    let first = messages.iter().take_while(|message| is_system(message)).count();
    if first <= 1 && !messages.iter().skip(1).any(is_system) {
        return messages;
    }
    let mut out: Vec<Message<'_>> = Vec::with_capacity(messages.len());
    for (at, mut message) in messages.into_iter().enumerate() {
        if is_system(&message) && at >= first {
            let text = format!("<system>\n{}\n</system>", message.content);
            message = Message { content: text.into(), ..Message::text("user", "") };
            if let Some(last) = out.last_mut().filter(|last| last.role == "user") {
                join_text(&mut last.content, message.content, "\n\n");
                continue;
            }
        } else if is_system(&message)
            && let Some(last) = out.last_mut()
        {
            join_text(&mut last.content, message.content, "\n\n");
            continue;
        }
        out.push(message);
    }
    out
}

/// Puts a text behind another one.
pub(super) fn join_text<'a>(text: &mut Cow<'a, str>, more: Cow<'a, str>, between: &str) {
    if text.is_empty() {
        *text = more;
    } else if !more.is_empty() {
        // In place: a turn may be put together of thousands of pieces.
        let text = text.to_mut();
        text.push_str(between);
        text.push_str(&more);
    }
}

/// Puts thoughts behind other ones.
pub(super) fn join_thinking<'a>(thinking: &mut Option<Cow<'a, str>>, more: Option<Cow<'a, str>>) {
    match (&mut *thinking, more) {
        (_, None) => {}
        (Some(text), Some(more)) => join_text(text, more, "\n\n"),
        (None, Some(more)) if more.is_empty() => {}
        (None, more) => *thinking = more,
    }
}

/// A result whose call is gone, told by the user.
fn by_user<'a>(result: Message<'a>) -> Message<'a> {
    let Message { content, images, tool_name, .. } = result;
    let name = tool_name.map(|name| format!(" `{name}`")).unwrap_or_default();
    let text =
        format!("[The result of a call of the tool{name} that is no longer here:]\n{content}");
    Message { images, ..Message::text("user", text) }
}

/// Whether it says nothing, but for what was thought.
fn is_silent(message: &Message<'_>) -> bool {
    message.content.is_empty() && message.tool_calls.is_empty() && message.images.is_empty()
}

// === impl Turns ===

impl<'a> Turns<'a> {
    fn push(&mut self, said: Message<'a>) {
        let answered = vec![false; said.tool_calls.len()];
        self.turns.push(Turn { said, results: Vec::new(), answered });
    }

    fn assistant(&mut self, message: Message<'a>) {
        if is_silent(&message) && message.thinking.as_deref().unwrap_or_default().is_empty() {
            return;
        }
        let has_calls = !message.tool_calls.is_empty();
        let goes_on = |turn: &&mut Turn<'a>| {
            let is_open = has_calls || !turn.said.tool_calls.is_empty() || is_silent(&turn.said);
            turn.said.role == "assistant" && turn.results.is_empty() && is_open
        };
        let mut seen = 0;
        match self.turns.last_mut().filter(goes_on) {
            Some(turn) => {
                seen = turn.answered.len();
                turn.join(message);
            }
            None => self.push(message),
        }
        let at = self.turns.len() - 1;
        for (index, call) in self.turns[at].said.tool_calls.iter().enumerate().skip(seen) {
            if let Some(id) = &call.id {
                self.by_id.insert(id.clone(), (at, index));
            }
        }
    }

    fn result(&mut self, mut result: Message<'a>, kind: UpstreamKind) {
        let Some((at, index)) = self.call_of(&result) else {
            let is_told = kind == UpstreamKind::OpenAi;
            return self.push(if is_told { by_user(result) } else { result });
        };
        let turn = &mut self.turns[at];
        turn.answered[index] = true;
        if result.tool_name.is_none() {
            result.tool_name = Some(turn.said.tool_calls[index].function.name.clone());
        }
        turn.results.push((index, result));
    }

    /// The call that a result belongs to: that of its id; or without one the last turn's that waits for a
    /// result, the first of that function or the first at all.
    fn call_of(&self, result: &Message<'a>) -> Option<(usize, usize)> {
        let id = result.tool_call_id.as_ref().filter(|id| !id.is_empty());
        if let Some((at, index)) = id.and_then(|id| self.by_id.get(id)) {
            return (!self.turns[*at].answered[*index]).then_some((*at, *index));
        }
        let waits = |turn: &Turn<'a>, index: usize, call: &ToolCall<'a>| {
            // The call of another id is another call.
            !turn.answered[index] && (id.is_none() || call.id.is_none())
        };
        let find = |is_one: &dyn Fn(&ToolCall<'a>) -> bool| {
            self.turns.iter().enumerate().rev().find_map(|(at, turn)| {
                let mut calls = turn.said.tool_calls.iter().enumerate();
                let found = calls.find(|(index, call)| waits(turn, *index, call) && is_one(call));
                found.map(|(index, _)| (at, index))
            })
        };
        let name = result.tool_name.as_deref();
        let by_name = name.and_then(|name| find(&|call| call.function.name == name));
        by_name.or_else(|| find(&|_| true))
    }

    fn settled(self, kind: UpstreamKind) -> Vec<Message<'a>> {
        let mut out = Vec::with_capacity(self.turns.len());
        let mut made = 0;
        for Turn { mut said, results, answered } in self.turns {
            if kind == UpstreamKind::Ollama {
                out.push(said);
                out.extend(results.into_iter().map(|(_, result)| result));
                continue;
            }
            // Nobody takes a turn of thoughts alone.
            if said.role == "assistant" && is_silent(&said) {
                continue;
            }
            for call in said.tool_calls.iter_mut().filter(|call| call.id.is_none()) {
                let mut next = || {
                    made += 1;
                    format!("call_{made}")
                };
                let mut id = next();
                while self.by_id.contains_key(&*id) {
                    id = next();
                }
                call.id = Some(id.into());
            }
            let ids: Vec<_> = said.tool_calls.iter().map(|call| call.id.clone()).collect();
            out.push(said);
            for (index, result) in results {
                out.push(Message { tool_call_id: ids[index].clone(), ..result });
            }
            let unanswered = ids.into_iter().zip(answered).filter(|(_, is_answered)| !is_answered);
            out.extend(unanswered.map(|(tool_call_id, _)| Message {
                tool_call_id,
                ..Message::text("tool", NO_RESULT)
            }));
        }
        out
    }
}

// === impl Turn ===

impl<'a> Turn<'a> {
    /// What follows in the same turn.
    fn join(&mut self, more: Message<'a>) {
        let Message { content, thinking, images, tool_calls, .. } = more;
        join_thinking(&mut self.said.thinking, thinking);
        join_text(&mut self.said.content, content, "\n");
        self.said.images.extend(images);
        for mut call in tool_calls {
            call.function.index = self.said.tool_calls.len();
            self.said.tool_calls.push(call);
            self.answered.push(false);
        }
    }
}

#[cfg(test)]
mod tests;
