"""Requests that cannot be right for a context of 2048 tokens, and what a front must say of each."""

from __future__ import annotations

from typing import Any

# What takes engines down that hold answers to a grammar. name: sampling_parameters, a part of the answer
GRAMMARS: dict[str, tuple[str, str]] = {
    "regex that backtracks": ('{"guided_regex": "(a+)+$"}', "answers are not held to a schema"),
    "regex that is none": ('{"guided_regex": "foo**"}', "answers are not held to a schema"),
    "deep schema": (
        '{"guided_json": ' + '{"items": ' * 1000 + "{}" + "}" * 1001,
        "sampling_parameters is nested too deeply",
    ),
    "schema of 1 MB": ('{"guided_json": {"const": "' + "x" * 2**20 + '"}}', "sampling_parameters has 1048"),
}
# name: inputs, a part of the answer
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"text_input": ""}, "text_input is empty"),
    "no prompt": ({"max_tokens": 1}, "text_input and messages are both missing"),
    "max_tokens 0": ({"text_input": "x", "max_tokens": 0}, "max_tokens is 0"),
    "max_tokens negative": ({"text_input": "x", "max_tokens": -1}, "max_tokens is -1"),
    "too long": ({"text_input": "x", "max_tokens": 2048}, "max_tokens is 2048 after a prompt of 1 tokens"),
    "long prompt": ({"text_input": "zq" * 3000}, "text_input has 6000 tokens; at most 2047"),
    "NaN": ({"text_input": "x", "temperature": float("nan")}, "temperature is nan"),
    "inf": ({"text_input": "x", "top_p": float("inf")}, "top_p is inf"),
    "temperature negative": ({"text_input": "x", "temperature": -0.5}, "temperature is -0.5"),
    "top_p 0": ({"text_input": "x", "top_p": 0.0}, "top_p is 0"),
    "min_tokens above": ({"text_input": "x", "max_tokens": 2, "min_tokens": 3}, "min_tokens is 3"),
    "repetition 0": ({"text_input": "x", "repetition_penalty": 0.0}, "repetition_penalty is 0"),
    "top_k": ({"text_input": "x", "top_k": -2}, "top_k is -2"),
    "negative": ({"text_input": "x", "min_p": -1.0}, "min_p is -1"),
    "stop words": ({"text_input": "x", "stop_words": ["y"] * 10_000}, "stop_words has 10000 words"),
    "long stop word": ({"text_input": "x", "stop_words": ["y" * 257]}, "stop_words has a word of 257 bytes"),
    "NUL in a stop word": ({"text_input": "x", "stop_words": ["y\0"]}, "stop_words[0] holds NUL"),
    "invalid UTF-8": ({"text_input": b"\xff\xfe"}, "text_input is not UTF-8"),
    "NUL": ({"text_input": "a\0"}, "text_input holds NUL"),
    "surrogate": (
        {"messages": '[{"role":"user","content":"\\udfff"}]'},
        "messages[0].content holds the lone",
    ),
    "depth bomb": ({"messages": "[" * 100_000}, "messages is nested too deeply"),
    "settings no JSON": ({"text_input": "x", "sampling_parameters": "{"}, "sampling_parameters is not JSON"),
    "unknown setting": (
        {"text_input": "x", "sampling_parameters": '{"temprature": 1}'},
        "did you mean 'temperature'",
    ),
    "end_id": ({"text_input": "x", "end_id": 2**30}, "end_id is 1073741824"),
    "two prompts": ({"text_input": "x", "messages": "[]"}, "text_input and messages are both given"),
    "wrapped integer": ({"text_input": "x", "top_k": 1294967296}, "top_k is 1294967296"),
    "n": ({"text_input": "x", "sampling_parameters": '{"n": 20000}'}, "num_return_sequences is 20000"),
    **{
        f"grammar: {name}": ({"text_input": "x", "sampling_parameters": settings}, expected)
        for name, (settings, expected) in GRAMMARS.items()
    },
    "100 MB prompt": ({"text_input": "x" * 100_000_000}, "text_input has 100000000 bytes"),
}
