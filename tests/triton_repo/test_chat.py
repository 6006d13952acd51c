"""The template renders as transformers renders it, and what users write stays what they wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_front.chat_template import ChatTemplate, read_chat_template
from enginewright_front.messages import Message
from enginewright_front.prompt import PromptEncoder
from enginewright_front.refusal import InvalidRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from triton_repo.spelling import SAMPLES, byte_fallback

QWQ_LIKE = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" and not message.tool_calls %}
        {%- set content = message.content %}
        {%- if not loop.last %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}{{ content }}{% endgeneration %}{{ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
{%- endif %}
{%- if tools or documents or custom is defined %}
    {{- raise_exception('a variable that nobody may set') }}
{%- endif %}
"""
CHATS = [
    [("user", "Hello")],
    [
        ("system", "Be brief."),
        ("user", "\n\n  Hi \n"),
        ("assistant", "<think>hm</think>\n\nHi!"),
        ("user", SAMPLES[3]),
    ],
    [
        ("user", "a < b > c & \"d\" 'e' {{ x }} {% if %}"),
        ("assistant", "open <think> stays"),
        ("user", "日本語"),
    ],
]


@pytest.fixture(scope="module")
def reasoning_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reasoning") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(QWQ_LIKE)
    return folder


@pytest.fixture(scope="module")
def encoder(reasoning_checkpoint: Path) -> PromptEncoder:
    return PromptEncoder(reasoning_checkpoint)


@pytest.fixture(scope="module")
def theirs(reasoning_checkpoint: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(reasoning_checkpoint))


def turns(chat: list[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in chat]


def control_ids(folder: Path) -> set[int]:
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    return {i for i, token in tokens.items() if token.special}


@pytest.mark.parametrize("chat", CHATS)
def test_the_ids_of_a_chat_are_those_of_transformers(
    encoder: PromptEncoder, theirs: Any, chat: list[tuple[str, str]]
) -> None:
    expected = theirs.apply_chat_template(
        [{"role": role, "content": content} for role, content in chat],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert encoder.encode_messages(turns(chat)) == expected


@given(content=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_content_without_control_tokens_has_the_ids_of_transformers(
    encoder: PromptEncoder, theirs: Any, content: str
) -> None:
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert encoder.encode_messages([Message("user", content)]) == expected


PIECES = [
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<|im_",
    "end|>",
    "<|",
    "|>",
    "\n",
    "system",
    "x",
    " ",
]


@given(content=st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_control_tokens_in_a_message_never_become_control_ids(
    encoder: PromptEncoder, reasoning_checkpoint: Path, content: str
) -> None:
    control = control_ids(reasoning_checkpoint)
    structure = [i for i in encoder.encode_messages([Message("user", "x")]) if i in control]
    ids = encoder.encode_messages([Message("user", content)])
    assert [i for i in ids if i in control] == structure
    text = Tokenizer.from_file(str(reasoning_checkpoint / "tokenizer.json")).decode(
        ids, skip_special_tokens=True
    )
    assert text == f"user\n{content}\nassistant\n<think>\n"


def test_control_tokens_are_text_for_a_byte_fallback_tokenizer_too(tmp_path: Path) -> None:
    tokenizer = byte_fallback()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    ids = PromptEncoder(tmp_path).encode_messages([Message("user", "a</s><s>b")])
    end, begin = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<s>")
    assert [ids.count(end), ids.count(begin)] == [1, 0]
    assert "</s>" in tokenizer.decode(ids[:-1], skip_special_tokens=False)


def test_a_raw_prompt_keeps_its_control_tokens(encoder: PromptEncoder, reasoning_checkpoint: Path) -> None:
    ids = encoder.encode_text("<|im_start|>user\nHi<|im_end|>")
    assert [i for i in ids if i in control_ids(reasoning_checkpoint)] == [1, 2]


def test_a_raw_prompt_gets_one_bos_even_when_it_brings_its_own(checkpoint: Path, tmp_path: Path) -> None:
    from tokenizers import processors

    shutil.copytree(checkpoint, tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(tmp_path / "c" / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|endoftext|> $0", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save(str(tmp_path / "c" / "tokenizer.json"))
    encoder = PromptEncoder(tmp_path / "c")
    assert encoder.encode_text("Hi")[0] == 0
    assert encoder.encode_text("<|endoftext|>Hi") == encoder.encode_text("Hi")


def test_what_the_template_refuses_is_the_callers_mistake() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(InvalidRequest, match=r"messages .*roles must alternate"):
        template.render([Message("user", "x")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 10**15 }}",
        "\ud800",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox_or_break_the_program(source: str) -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate(source, {}).render([Message("user", "x")])


@pytest.mark.parametrize("source", ["{% if %}", "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"])
def test_a_template_that_does_not_parse_is_the_checkpoints_mistake(source: str) -> None:
    with pytest.raises(CheckpointError, match="chat template does not parse"):
        ChatTemplate(source, {})


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_in_another_encoding_is_named(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes('{"chat_template": "é"}'.encode("latin-1"))
    with pytest.raises(CheckpointError, match=f"{file}: is not UTF-8"):
        read_chat_template(tmp_path)


def test_template_and_special_tokens_come_from_tokenizer_config(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<s>"},
        "chat_template": [
            {"name": "rag", "template": "no"},
            {"name": "default", "template": "{{ bos_token }}!"},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = read_chat_template(tmp_path)
    assert template is not None
    assert template.render([Message("user", "x")]) == "<s>!"


def test_a_model_without_a_template_refuses_messages_by_name(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copyfile(checkpoint / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(InvalidRequest, match="messages cannot be used"):
        PromptEncoder(tmp_path).encode_messages([Message("user", "x")])
