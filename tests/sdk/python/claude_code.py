"""Claude Code as the gateway sees it: the requests that version 2.1 sends, through anthropic-python.

It replays all that it was given, thinking first; lets the model look for tools (ToolSearch) whose results are
`tool_reference` blocks; and compacts the conversation when it hears that the prompt is too long.
Sources: https://docs.anthropic.com/en/api/messages, https://docs.anthropic.com/en/docs/claude-code/llm-gateway,
https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/tool-search-tool.
"""

import copy
import json
import re

import anthropic

BETAS = ["claude-code-20250219", "interleaved-thinking-2025-05-14", "context-management-2025-06-27",
         "advanced-tool-use-2025-11-20", "effort-2025-11-24", "mid-conversation-system-2026-04-07"]
HEADERS = {"x-app": "cli", "anthropic-dangerous-direct-browser-access": "true",
           "user-agent": "claude-cli/2.1.252 (external, cli)",
           "x-claude-code-session-id": "0c4d3c1e-5b0a-4f0e-9d53-0a3c52b3f7a1"}
TOO_LONG = re.compile(r"prompt is too long(: (\d+) tokens > (\d+) maximum)?")
SUMMARIZE = "Your task is to write a detailed summary of the conversation so far. Do not call any function."
CONTINUED = "This session is being continued from a previous conversation that ran out of context. Summary:\n"
SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.252; cc_entrypoint=cli;"},
    {"type": "text", "text": "You are Claude Code, a command line tool.", "cache_control": {"type": "ephemeral"}},
]


def tool(name: str, properties: tuple[str, ...], **more) -> dict:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
              "properties": {name: {"type": "string"} for name in properties},
              "required": list(properties), "additionalProperties": False}
    return {"name": name, "description": f"The tool {name}.", "input_schema": schema, **more}


TOOLS = [tool("Bash", ("command",)), tool("Glob", ("pattern",)), tool("Grep", ("pattern",)),
         tool("ReadFile", ("file_path",)), tool("ToolSearch", ("query",)),
         tool("mcp__tracker__list_issues", ("project",), defer_loading=True),
         tool("ExitPlanMode", (), defer_loading=True)]


class Session:
    """A conversation. `run(name, input)` gives the content of a tool's result; a turn asks at most `rounds` times."""

    def __init__(self, url: str, key: str, model: str, run, rounds: int = 9, **more):
        # The gateway's key is the bearer's; the other is one of Anthropic's, as it is left over in its cache.
        self.client = anthropic.Anthropic(
            base_url=url, auth_token=key, max_retries=0, timeout=60,
            default_headers={**HEADERS, "x-api-key": "sk-ant-api03-left-over"})
        self.run, self.rounds = run, rounds
        self.messages, self.compacted, self.refused = [], 0, None
        who = {"device_id": "d", "account_uuid": "", "session_id": HEADERS["x-claude-code-session-id"]}
        self.asked = {
            "model": model, "max_tokens": 32000, "system": SYSTEM, "tools": TOOLS, "betas": BETAS,
            "thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "metadata": {"user_id": json.dumps(who)}, **more}

    def turn(self, prompt: str, reminder: str = "", system: str = "") -> str:
        """Says the prompt, runs what is called, and returns the answer. A reminder is forgotten when it compacts."""
        reminders = [block(f"<system-reminder>{reminder}</system-reminder>")] if reminder else []
        self.messages.append({"role": "user", "content": reminders + [block(prompt)]})
        if system:
            self.messages.append({"role": "system", "content": [block(system)]})
        for _ in range(self.rounds):
            try:
                reply = self.ask()
            except anthropic.BadRequestError as refused:
                if not TOO_LONG.search(refused.message):
                    raise
                self.refused = refused.message
                self.compact(prompt)
                continue
            self.messages.append({"role": "assistant", "content": [replayed(each) for each in reply.content]})
            calls = [each for each in reply.content if each.type == "tool_use"]
            if reply.stop_reason != "tool_use":
                assert not calls, calls
                return "".join(each.text for each in reply.content if each.type == "text")
            assert calls, "a turn ends with a call, and has none"
            self.messages.append({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": call.id, "content": self.run(call.name, call.input)}
                for call in calls]})
        self.messages.append({"role": "assistant", "content": [block("I was interrupted.")]})
        return ""

    def ask(self):
        messages = copy.deepcopy(self.messages)
        messages[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        with self.client.beta.messages.stream(messages=messages, **self.asked) as stream:
            return stream.get_final_message()

    def compact(self, prompt: str) -> None:
        """Goes on with a summary of what was said before the prompt."""
        while self.messages.pop()["content"][-1] != block(prompt):
            pass
        assert self.messages, "the prompt alone is too long"
        self.messages.append({"role": "user", "content": [block(SUMMARIZE)]})
        while (reply := self.summarized()) is None:
            # The oldest turn goes, up to the next that a user begins.
            self.messages.pop(0)
            while self.messages[0]["role"] != "user" or self.messages[0]["content"][0]["type"] != "text":
                self.messages.pop(0)
        summary = "".join(each.text for each in reply.content if each.type == "text")
        self.messages = [{"role": "user", "content": [block(CONTINUED + summary), block(prompt)]}]
        self.compacted += 1

    def summarized(self):
        """The summary; `None` where the prompt is too long even for that."""
        try:
            return self.ask()
        except anthropic.BadRequestError as refused:
            if not TOO_LONG.search(refused.message):
                raise
            return None

    def count(self) -> int:
        names = ("model", "system", "tools", "thinking", "betas")
        more = {name: self.asked[name] for name in names}
        return self.client.beta.messages.count_tokens(messages=self.messages, **more).input_tokens


def block(text: str) -> dict:
    return {"type": "text", "text": text}


def replayed(each) -> dict:
    """A block of a reply as it is said again."""
    names = {"thinking": ("thinking", "signature"), "text": ("text",), "tool_use": ("id", "name", "input")}
    return {"type": each.type, **{name: getattr(each, name) for name in names[each.type]}}
