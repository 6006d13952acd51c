"""The OpenAI API as the official `openai` package sees it, in front of a real Triton."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from enginewright_client import AsyncTritonClient, TritonClient
from enginewright_gateway import create_app
from enginewright_serve import TritonServer
from runtime.conftest import THINKING, eventually

KEY = "sk-secret"


@contextmanager
def running(address: str, api_key: str | None = None, **options: int) -> Iterator[str]:
    """The URL of a gateway to `address`."""
    app = create_app(AsyncTritonClient(address), api_key=api_key, **options)
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on")
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        eventually(lambda: server.started, "the gateway did not start")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(fake_repository: Callable[..., Path]) -> Iterator[TritonServer]:
    """A Triton with a model that thinks where it is told to."""
    with TritonServer(fake_repository(**THINKING)) as server:
        yield server


@pytest.fixture(scope="module")
def url(server: TritonServer) -> Iterator[str]:
    with running(server.grpc_address) as url:
        yield url


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def triton(server: TritonServer) -> Iterator[TritonClient]:
    with TritonClient(server.grpc_address) as client:
        yield client


def user(text: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_a_chat_is_answered_with_its_usage(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(model="qwq-tiny", messages=user("Grüße 👩‍🚀 an alle"))
    assert answer.choices[0].message.content == "Grüße 👩‍🚀 an alle "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        4,
        4,
        8,
    )
    assert answer.model == "qwq-tiny"


def test_a_streamed_chat_is_the_same_text_and_usage_comes_only_when_asked_for(api: openai.OpenAI) -> None:
    chunks = list(api.chat.completions.create(model="llm", messages=user("count 5 1"), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "0 1 2 3 4 "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    *_, last = api.chat.completions.create(
        model="llm", messages=user("count 5 1"), stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5


def test_a_cut_off_answer_says_length(api: openai.OpenAI) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = api.chat.completions.create(model="llm", messages=user("count 9 0"), **limit)
        assert answer.choices[0].message.content == "0 1 2 "
        assert answer.choices[0].finish_reason == "length"


def test_thinking_is_apart_from_the_answer(api: openai.OpenAI) -> None:
    messages = user("<think>well let me see</think> Paris")
    message = api.chat.completions.create(model="llm", messages=messages).choices[0].message
    assert message.model_extra == {"reasoning_content": "well let me see"}
    assert message.content == "Paris "
    thought = said = ""
    for chunk in api.chat.completions.create(model="llm", messages=messages, stream=True):
        thought += (chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "")
        said += chunk.choices[0].delta.content or ""
    assert (thought, said) == ("well let me see", "Paris ")


def test_a_text_is_continued_without_a_template(api: openai.OpenAI) -> None:
    answer = api.completions.create(model="llm", prompt="Once upon")
    assert answer.choices[0].text == "Once upon "
    chunks = api.completions.create(model="llm", prompt=["count 3 0"], stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "0 1 2 "


def test_every_setting_reaches_the_model(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(
        model="llm",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "sh"}, {"type": "text", "text": "ow"}]},
        ],
        max_tokens=500,
        temperature=0.5,
        top_p=0.25,
        presence_penalty=1,
        frequency_penalty=2,
        seed=7,
        stop="END",
        extra_body={"top_k": 5, "min_p": 0.125, "repetition_penalty": 1.5, "min_tokens": 1},
    )
    inputs = json.loads(answer.choices[0].message.content or "")
    assert json.loads(inputs.pop("messages")) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "show"},
    ]
    inputs.pop("stream")
    assert inputs == {
        "max_tokens": 500,
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 1.0,
        "frequency_penalty": 2.0,
        "seed": 7,
        "stop_words": "END",
        "top_k": 5,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "min_tokens": 1,
    }


def test_models_are_listed_by_the_names_that_requests_may_use(api: openai.OpenAI) -> None:
    assert [model.id for model in api.models.list()] == ["qwq-tiny", "llm"]
    assert api.models.retrieve("qwq-tiny").id == "qwq-tiny"
    for ask in (
        lambda: api.models.retrieve("gpt-4"),
        lambda: api.chat.completions.create(model="gpt-4", messages=user("Hi")),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert "qwq-tiny" in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("n", 2),
        ("logprobs", True),
        ("logprobs", 0),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("temprature", 1),
        ("temperature", "hot"),
        ("max_tokens", 1.5),
        ("seed", True),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(api: openai.OpenAI, field: str, value: object) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="llm", messages=user("Hi"), extra_body={field: value})
    assert caught.value.param == field
    assert field in caught.value.message
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0.type"),
        ("messages", [{"role": "user", "content": 5}], "messages.0.content"),
        ("messages", [{"role": "user", "content": None}], "messages.0"),
        ("messages", [{"role": "user", "content": []}], "messages.0"),
        ("messages", [{"role": "user"}], "messages.0"),
        ("stop", ["a", 1], "stop.1"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(
    api: openai.OpenAI, field: str, value: object, param: str
) -> None:
    body = {"messages": user("Hi"), "model": "llm", field: value}
    with pytest.raises(openai.BadRequestError) as caught:
        api.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.param == param
    assert caught.value.message.count(f"{param}: ") == 1


def test_prompts_as_token_ids_are_refused_by_name(api: openai.OpenAI) -> None:
    for prompt, param in (([1, 2], "prompt.0"), (["a", "b"], "prompt"), ([], "prompt")):
        with pytest.raises(openai.BadRequestError) as caught:
            api.completions.create(model="llm", prompt=prompt)
        assert caught.value.param == param


def test_a_field_that_the_server_refuses_has_openais_name(api: openai.OpenAI) -> None:
    said = "stop_words has a word of 300 bytes; at most 256 are allowed [invalid-request]"
    with pytest.raises(openai.BadRequestError, match="stop has a word") as caught:
        api.chat.completions.create(model="llm", messages=user(f"fail {said}"))
    assert caught.value.param == "stop"


def test_an_answer_goes_back_into_the_history_however_the_package_writes_it(api: openai.OpenAI) -> None:
    said = api.chat.completions.create(model="llm", messages=user("Hi")).choices[0].message
    for answer in (said, said.model_dump(), said.model_dump(exclude_none=True)):
        history = [*user("Hi"), answer, {"role": "user", "content": [{"type": "text", "text": "Bye"}]}]
        assert api.chat.completions.create(model="llm", messages=history).choices[0].message.content == "Bye "  # type: ignore[arg-type]


def test_what_asks_for_nothing_is_taken(api: openai.OpenAI) -> None:
    api.chat.completions.create(
        model="llm",
        messages=user("Hi"),
        n=1,
        logprobs=False,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        user="me",
        metadata={"a": "b"},
    )


@pytest.mark.parametrize(
    ("said", "kind", "param"),
    [
        ("temperature is -1; give 0 to 2 [invalid-request]", openai.BadRequestError, "temperature"),
        ("the queue is full; try again later [queue-full]", openai.RateLimitError, None),
        ("the engine broke; see the log [engine-broken]", openai.InternalServerError, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_server_is_openais_error_before_anything_was_streamed(
    api: openai.OpenAI, said: str, kind: type[openai.APIStatusError], param: str | None, stream: bool
) -> None:
    with pytest.raises(kind) as caught:
        api.chat.completions.create(model="llm", messages=user(f"fail {said}"), stream=stream)
    assert caught.value.param == param
    assert said.partition(";")[0] in caught.value.message


def test_an_error_after_the_first_token_is_raised_and_does_not_look_like_an_end(api: openai.OpenAI) -> None:
    text = ""
    with pytest.raises(openai.APIError, match="the engine broke"):
        for chunk in api.chat.completions.create(model="llm", messages=user("break"), stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text == "a"


@pytest.mark.parametrize(
    ("order", "stream"), [("count 100000 5", True), ("count 2 100000", True), ("count 2 100000", False)]
)
def test_whoever_hangs_up_cancels_the_request(
    url: str, triton: TritonClient, order: str, stream: bool
) -> None:
    def report() -> str:
        return triton.generate("report").text

    def cancelled() -> int:
        return int(report().rpartition("cancelled=")[2])

    before = cancelled()
    body = {"model": "llm", "stream": stream, "messages": user(order)}

    def hang_up_when_it_runs() -> None:
        with (
            httpx.Client(timeout=None) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json=body),
        ):
            pass  # the head has come; leaving closes the connection

    if order == "count 100000 5":
        hang_up_when_it_runs()
    else:  # there is no head before the first token

        async def cancel() -> None:
            async with httpx.AsyncClient(timeout=None) as client:
                task = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body))
                while "running=1" not in await asyncio.to_thread(report):
                    pass
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(cancel())
    eventually(lambda: cancelled() == before + 1, "the request ran on")
    assert "running=0" in report()


def test_a_key_is_asked_for_where_there_is_one_and_never_shown(server: TritonServer) -> None:
    with running(server.grpc_address, KEY) as url:
        for key in ("wrong", KEY + "x"):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as api:
                with pytest.raises(openai.AuthenticationError) as caught:
                    api.models.list()
                assert KEY not in str(caught.value)
                with pytest.raises(openai.AuthenticationError):
                    api.chat.completions.create(model="llm", messages=user("Hi"))
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as api:
            assert api.completions.create(model="llm", prompt="Hi").choices[0].text == "Hi "
        assert httpx.post(f"{url}/v1/completions", json={}).status_code == 401
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "json_invalid"),
        (b"[]", 400, None),
        (b'{"model": "llm", "messages": []}', 400, "too_short"),
        (b'{"model": "llm", "messages": [{"role": "tool", "content": ""}]}', 400, "literal_error"),
        (b'{"model": "llm", "messages": "' + b"x" * 2000 + b'"}', 413, "body_too_large"),
        (b'{"model": "llm", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "json_invalid"),
        (b'{"model": "\\ud800", "messages": [{"role": "user", "content": "Hi"}]}', 400, "json_invalid"),
        (b'{"\\ud800": 1}', 400, "json_invalid"),
        (b"\xff\xfe", 400, "json_invalid"),
        (b"", 400, "json_invalid"),
        (b"[" * 900, 400, "json_invalid"),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_openais_form(
    server: TritonServer, content: bytes, status: int, code: str | None
) -> None:
    with running(server.grpc_address, max_body_bytes=1000) as url:
        answer = httpx.post(
            f"{url}/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code in (None, error["code"])


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_web_page_elsewhere_cannot_ask_through_its_readers_browser(url: str, given: str | None) -> None:
    """It may send these types to any address without asking that first; JSON it may not."""
    answer = httpx.post(
        f"{url}/v1/completions",
        content=b'{"model": "llm", "prompt": "Hi"}',
        headers={} if given is None else {"Content-Type": given},
    )
    assert answer.status_code == 415
    assert "send application/json" in answer.json()["error"]["message"]


def test_a_fault_of_the_gateway_itself_is_an_error_in_openais_form(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(AsyncTritonClient, "model_config", lambda self: 1 / 0)
    answer = httpx.get(f"{url}/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


def test_an_unknown_path_is_refused_in_openais_form(url: str) -> None:
    assert httpx.get(f"{url}/v1/embeddings").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{url}/v1/chat/completions").json()["error"]["code"] == "method_not_allowed"


def test_a_hundred_callers_at_once_get_their_own_answers(url: str) -> None:
    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as api:
            answers = await asyncio.gather(
                *(
                    api.chat.completions.create(model="llm", messages=user(f"number {index}"))
                    for index in range(100)
                )
            )
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask_all()) == [f"number {index} " for index in range(100)]


def test_without_a_server_callers_are_told_to_try_again(url: str) -> None:
    with running("127.0.0.1:1") as url:
        answer = httpx.post(f"{url}/v1/completions", json={"model": "llm", "prompt": "Hi"})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert "no connection to 127.0.0.1:1" in answer.json()["error"]["message"]
        assert httpx.get(f"{url}/health").status_code == 503
