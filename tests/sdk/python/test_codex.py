"""A session of Codex against the gateway, and what of it reaches the model server."""

import os
import unittest

import codex
import upstream
from codex import message

THINKS = "qwen3:8b"
# What a session that is resumed brings along: words between calls and their outputs, and a call of another server's.
RESUMED = [
    message("user", "What do the docs say?"),
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I ask the docs."}], "encrypted_content": None},
    {"type": "function_call", "name": "lookup", "namespace": "mcp__docs__", "call_id": "call_1", "arguments": '{"q":"a"}'},
    {"type": "function_call", "name": "shell", "call_id": "call_2", "arguments": '{"command":"ls"}'},
    message("assistant", "I look at both."),
    {"type": "function_call_output", "call_id": "call_1", "output": "page one"},
    {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "README"}]},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Both are known."}],
     "encrypted_content": None},
    message("assistant", "They say little."),
]


def run(namespace: str | None, name: str, asked) -> str:
    return f"output of {namespace} and {name}"


def session() -> codex.Session:
    return codex.Session(os.environ["GATEWAY_URL"], os.environ["GATEWAY_KEY"], THINKS, run)


class Sessions(unittest.TestCase):
    def test_a_session_with_two_servers_of_mcp(self):
        told = session()
        told.input += RESUMED
        turns = [
            ("Ask mcp__docs__lookup first.", [("mcp__docs__", "lookup")]),
            ("Then mcp__wiki__lookup and shell at once.", [(None, "shell"), ("mcp__wiki__", "lookup")]),
            ("Edit with apply_patch.", [(None, "apply_patch")]),
            ("Say something.", []),
            ("Now update_plan.", [(None, "update_plan")]),
        ]
        for prompt, calls in turns:
            told.calls = []
            answer = told.turn(prompt)
            self.assertTrue(answer.startswith("This is the scripted Ollama:"), answer)
            self.assertEqual(told.calls, calls)
            self.assertGreater(told.usage["output_tokens"], 0)
            self.says_all(told, upstream.last())

    def says_all(self, told: codex.Session, body: dict):
        """The model server got everything of the conversation but its last answer, in order."""
        upstream.keeps_the_rules(body)
        self.assertEqual(upstream.tools(body), {
            "shell", "update_plan", "apply_patch", "mcp__docs__lookup", "mcp__docs__fetch", "mcp__wiki__lookup"})
        # The answer, and what was thought before it.
        history = told.input[:-2]
        thoughts = [part["text"] for item in history if item["type"] == "reasoning"
                    for part in item["summary"] + (item.get("content") or [])]
        upstream.in_order(list(dict.fromkeys(thoughts[:2])), upstream.thoughts(body))
        said = upstream.texts(body)
        words = [item["content"][0]["text"] for item in history if item["type"] == "message"]
        upstream.in_order(words, said)
        self.assertIn("You are Codex.", said)
        outputs = [item["output"] for item in history if item["type"].endswith("_output")]
        upstream.in_order([out if isinstance(out, str) else out[0]["text"] for out in outputs], said)
        calls = [call["function"]["name"] for each in body["messages"] for call in each.get("tool_calls") or []]
        self.assertEqual(calls, [(item.get("namespace") or "") + item["name"] for item in history
                                 if item["type"] in ("function_call", "custom_tool_call")])

    def test_words_that_no_model_server_knows_are_refused_by_place(self):
        told = session()
        told.asked["tools"] = codex.TOOLS + [{"type": "computer_use_preview"}]
        with self.assertRaises(AssertionError) as refused:
            told.turn("Say something.")
        self.assertIn(f"tools[{len(codex.TOOLS)}]", str(refused.exception))


if __name__ == "__main__":
    unittest.main()
