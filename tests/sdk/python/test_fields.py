"""Every field of the types that the SDKs have for requests is known to the gateway: it stands in a table of
docs/API.md, or among the parts of a conversation in tests/sdk/fields/parts.txt.

A new version of an SDK that brings a field fails here. What to do is said in tests/sdk/fields/README.md.
"""

import collections.abc
import functools
import itertools
import pathlib
import re
import types
import typing
import unittest

import anthropic.types
import anthropic.types.beta
import ollama._types
import openai.types
import openai.types.chat
import openai.types.responses
import typing_extensions
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

FOLDER = pathlib.Path(__file__).parent.parent / "fields"

# The types of requests, each with the table that its fields stand in.
TYPES = [
    ("openai", "chat", chat_create_params.CompletionCreateParamsNonStreaming),
    ("openai", "chat", chat_create_params.CompletionCreateParamsStreaming),
    ("openai", "completions", completion_create_params.CompletionCreateParamsNonStreaming),
    ("openai", "completions", completion_create_params.CompletionCreateParamsStreaming),
    ("openai", "embeddings", embedding_create_params.EmbeddingCreateParams),
    ("openai", "responses", response_create_params.ResponseCreateParamsNonStreaming),
    ("openai", "responses", response_create_params.ResponseCreateParamsStreaming),
    ("anthropic", "messages", message_create_params.MessageCreateParamsNonStreaming),
    ("anthropic", "messages", message_create_params.MessageCreateParamsStreaming),
    ("anthropic", "messages", message_count_tokens_params.MessageCountTokensParams),
    ("anthropic", "messages", beta_create_params.MessageCreateParamsNonStreaming),
    ("anthropic", "messages", beta_create_params.MessageCreateParamsStreaming),
    ("anthropic", "messages", beta_count_tokens_params.MessageCountTokensParams),
    ("ollama", "native-chat", ollama._types.ChatRequest),
    ("ollama", "native-generate", ollama._types.GenerateRequest),
    ("ollama", "native-embed", ollama._types.EmbedRequest),
    ("ollama", "native-embeddings", ollama._types.EmbeddingsRequest),
    ("ollama", "native-show", ollama._types.ShowRequest),
]

# What the SDK of Anthropic sends as a header, not in the body.
HEADERS = {"betas", "user_profile_id", "workspace_id"}

# Options of Ollama's client that no version of the server reads any more.
GONE = {"options.embedding_only"}

# Fields whose values are the client's own.
OF_THE_CLIENT = {"schema", "parameters", "input_schema", "output_schema"}

# Fields that hold what was said: the parts of them are in a list of their own.
CONVERSATIONS = {"messages", "system", "input", "part"}

# Deeper than any type goes that does not hold itself.
DEPTH_MAX = 12


def lines(name):
    """The lines of a list, without remarks."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def known_paths():
    """The paths that are known, and those below which everything is."""
    paths, whole = set(), []
    for line in lines("known.txt"):
        (whole.append(line[:-2]) if line.endswith(".*") else paths.add(line))
    for line in lines("parts.txt"):
        place, names = line.split(":")
        paths.add(place)
        paths.update(f"{place}.{name}" for name in names.split())
    return paths, tuple(whole)


def is_model(kind):
    return isinstance(kind, type) and hasattr(kind, "model_fields")


@functools.cache
def members(kind):
    """The members of a type of objects, by name: the type of each, and whether it must be there."""
    if is_model(kind):
        fields = kind.model_fields.items()
        return {field.alias or name: (field.annotation, field.is_required()) for name, field in fields}
    hints = typing_extensions.get_type_hints(kind)
    return {name: (hint, name in kind.__required_keys__) for name, hint in hints.items()}


def words(hint):
    """The words that a type allows, where it is one of words."""
    if typing_extensions.get_origin(hint) is typing.Literal:
        return typing_extensions.get_args(hint)
    found = (words(part) for part in typing_extensions.get_args(hint))
    return tuple(itertools.chain.from_iterable(found))


def labels(kind, in_list):
    """What may stand behind the path of such an object: one tuple of alternatives for each of its types."""
    plain = "[]" if in_list else ""
    hint, is_required = members(kind).get("type", (None, False))
    found = [f"[{word}]" for word in words(hint)] if hint else []
    if not found:
        # Any word: what is not said is a function.
        return [(plain, "[function]") if hint else (plain,)]
    return [(label,) if is_required and not is_model(kind) else (label, plain) for label in found]


def walk(hint, path, in_list=False, depth=0):
    """The paths of everything that a type holds: tuples of steps, each a tuple of alternatives."""
    if depth > DEPTH_MAX:
        return
    # A picture of Ollama's client is sent as a text.
    if hint is ollama._types.Image:
        return
    if typing_extensions.is_typeddict(hint) or is_model(hint):
        # What the members of a part are made of belongs to it.
        if path[0][0] in CONVERSATIONS and not in_list:
            return
        for label in labels(hint, in_list):
            # A block is the same wherever it stands.
            if in_list and path[0][0] in CONVERSATIONS and label[0] != "[]":
                path = (("part",),)
            yield (*path, label)
            for name, (inner, _) in members(hint).items():
                step = (f".{name}",)
                yield (*path, label, step)
                if name not in OF_THE_CLIENT:
                    yield from walk(inner, (*path, label, step), depth=depth + 1)
        return
    origin = typing_extensions.get_origin(hint)
    # The client's own: an object of whatever members.
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return
    is_list = isinstance(origin, type) and issubclass(origin, collections.abc.Iterable)
    if origin in (typing.Literal, types.UnionType) or not is_list:
        is_list = in_list
    for part in typing_extensions.get_args(hint):
        if not isinstance(part, str):
            yield from walk(part, path, in_list=is_list, depth=depth + 1)


def spellings(path):
    return ["".join(steps) for steps in itertools.product(*path)]


def fields(kind):
    """The paths of all fields of a request of that type, in all their spellings."""
    for name, (hint, _) in members(kind).items():
        yield ((name,),)
        yield from walk(hint, ((name,),))


class Fields(unittest.TestCase):
    def test_every_field_of_the_sdks_is_known(self):
        paths, whole = known_paths()

        def is_known(path):
            # The options of all routes of Ollama's stand in one table.
            if re.match("native-[a-z]+ options\\.", path):
                path = re.sub("^native-[a-z]+", "native-chat", path)
            below = (f"{path}.", f"{path}[")
            return path in paths or any(
                path == start or path.startswith((f"{start}.", f"{start}[")) or start.startswith(below)
                for start in whole
            )

        missing = set()
        for sdk, table, kind in TYPES:
            for path in fields(kind):
                found = [f"{table} {one}" for one in spellings(path)]
                is_header = sdk == "anthropic" and path[0][0] in HEADERS
                is_gone = sdk == "ollama" and set(spellings(path)) & GONE
                if not is_header and not is_gone and not any(map(is_known, found)):
                    missing.add(f"{sdk}: {kind.__module__}.{kind.__qualname__}: {found[0]}")
        self.assertFalse(
            missing,
            "fields that no table of docs/API.md knows (tests/sdk/fields/README.md says what to do):\n"
            + "\n".join(sorted(missing)),
        )

    def test_the_parts_of_a_conversation_are_the_sdks(self):
        found = set()
        for _, table, kind in TYPES:
            for path in fields(kind):
                found.update(f"{table} {one}" for one in spellings(path))
        gone = [line.split(":")[0] for line in lines("parts.txt") if line.split(":")[0] not in found]
        self.assertFalse(gone, "parts that no SDK has any more: take them out of tests/sdk/fields/parts.txt")


if __name__ == "__main__":
    unittest.main()
