"""A session of Claude Code against the gateway, and what of it reaches the model server."""

import os
import re
import unittest

import claude_code
import upstream
from claude_code import block

THINKS = "qwen3:8b"
THOUGHT = "The script says what to answer."
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
# What a session that is resumed brings along: thinking between the blocks of one turn, and words beside a call.
RESUMED = [
    {"role": "user", "content": [block("Where do we stand?")]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "First the branch.", "signature": "c2ln"}, block("I look at both."),
        {"type": "tool_use", "id": "toolu_01", "name": "Bash", "input": {"command": "git branch"}},
        {"type": "thinking", "thinking": "Then the log.", "signature": "c2ln"},
        {"type": "tool_use", "id": "toolu_02", "name": "Bash", "input": {"command": "git log"}}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_01", "content": "* main"},
        {"type": "tool_result", "tool_use_id": "toolu_02", "content": [block("abc first")]}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "That is all.", "signature": ""}, block("On main, at the first commit.")]},
]


def run(name: str, asked: dict):
    if name == "ToolSearch":
        return [{"type": "tool_reference", "tool_name": found} for found in ("mcp__tracker__list_issues", "ExitPlanMode")]
    if name == "ReadFile":
        return [block("screenshot.png"), IMAGE]
    return f"{name} was run with {sorted(asked.items())}"


def session() -> claude_code.Session:
    return claude_code.Session(os.environ["GATEWAY_URL"], os.environ["GATEWAY_KEY"], THINKS, run)


class Sessions(unittest.TestCase):
    def test_thirty_turns(self):
        told = session()
        told.messages = list(RESUMED)
        prompts = ["Look for the tracker with ToolSearch", "Call mcp__tracker__list_issues then",
                   "Open the screenshot with ReadFile", "Ask Glob and Grep at once", "Say something"]
        wanted = [["ToolSearch"], ["mcp__tracker__list_issues"], ["ReadFile"], ["Glob", "Grep"], []]
        for number in range(30):
            at = number % len(prompts)
            prompt = f"{prompts[at]}, number {number}."
            too_long = "[[refuse context]]" if number == 20 else ""
            agents = f"Agents there are: number {number}." if at == 4 else ""
            before = len(told.messages)
            answer = told.turn(prompt, reminder=too_long, system=agents)
            self.assertTrue(answer.startswith("This is the scripted Ollama:"), answer)
            self.assertEqual(told.compacted, 1 if number >= 20 else 0)
            self.says_all(told, upstream.last())
            made = [] if too_long else told.messages[before:]
            self.assertEqual(too_long or calls_of(made), too_long or wanted[at])
            if number % 10 == 0:
                self.assertGreater(told.count(), 0)
        first = told.messages[0]["content"][0]["text"]
        self.assertTrue(first.startswith(claude_code.CONTINUED + "This is the scripted Ollama:"), first)
        self.assertNotIn("UPSTREAM-WORDS", told.refused)
        numbers = re.search(r"(\d+) tokens > (\d+) maximum", told.refused)
        self.assertTrue(numbers and int(numbers[1]) > int(numbers[2]), told.refused)

    def says_all(self, told: claude_code.Session, body: dict):
        """The model server got everything of the conversation but its last answer, in order."""
        upstream.keeps_the_rules(body)
        history = told.messages[:-1]
        blocks = [each for message in history for each in message["content"] if message["role"] != "system"]
        results = [part for each in blocks if isinstance(each.get("content"), list) for part in each["content"]]
        thoughts = [each["thinking"] for each in blocks if each["type"] == "thinking"]
        upstream.in_order(thoughts, upstream.thoughts(body))
        said = upstream.texts(body)
        upstream.in_order([each["text"] for each in blocks if each["type"] == "text"], said)
        for message in history:
            if message["role"] == "system":
                self.assertIn(message["content"][0]["text"], said)
        self.assertIn("You are Claude Code", said)
        for each in blocks:
            if isinstance(each.get("content"), str):
                self.assertIn(each["content"], said)
        references = [part["tool_name"] for part in results if part["type"] == "tool_reference"]
        upstream.in_order(references, said)
        self.assertEqual(upstream.images(body), sum(part["type"] == "image" for part in results))
        self.assertEqual(upstream.tools(body), {tool["name"] for tool in claude_code.TOOLS})
        effort = body["think"] if upstream.KIND == "ollama" else body["reasoning_effort"]
        self.assertEqual(effort, "medium")

    def test_what_it_thinks_comes_before_what_it_says_and_calls(self):
        told = session()
        told.turn("Ask Glob and Grep at once.")
        kinds = [[each["type"] for each in message["content"]] for message in told.messages]
        self.assertEqual(kinds, [["text"], ["thinking", "tool_use", "tool_use"], ["tool_result"] * 2,
                                 ["thinking", "text"]])
        self.assertEqual(told.messages[1]["content"][0]["thinking"], THOUGHT)

    def test_the_foreign_key_alone_opens_nothing(self):
        told = session()
        told.client = told.client.copy(auth_token="nz_neither")
        with self.assertRaises(claude_code.anthropic.AuthenticationError):
            told.turn("Say something.")


def calls_of(messages: list[dict]) -> list[str]:
    return [each["name"] for message in messages if message["role"] == "assistant"
            for each in message["content"] if each["type"] == "tool_use"]


if __name__ == "__main__":
    unittest.main()
