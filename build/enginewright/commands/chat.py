"""`enginewright chat`: a conversation with a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from enginewright_errors import EnginewrightError, UsageError

from enginewright.answer_screen import AnswerScreen, Thinking, harmless, thinking_mode
from enginewright.commands import connection, options

if TYPE_CHECKING:
    from rich.console import Console

    from enginewright.chat_session import ChatSession

__all__ = ["chat"]

_HELP = """\
/new              forget what was said
/retry            ask the last question again
/undo             take the last question and answer back
/system TEXT      instructions for the model; without TEXT, none
/set NAME=VALUE   temperature, top_p, top_k, max_tokens, seed, ...
/thinking         show the last answer's thinking
/thinking HOW     show, fold or hide it from now on
/save FILE        write the conversation as JSON
/load FILE        go on with one
/exit             or Ctrl-D
Ctrl-C stops an answer. Alt-Enter begins a new line."""


def chat(
    server: connection.Server = connection.SERVER,
    model: connection.Model = connection.MODEL,
    system: Annotated[str | None, typer.Option("--system", help="Instructions for the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Length of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    max_reasoning_tokens: options.ReasoningBudget = None,
    thinking: options.ThinkingOption = "fold",
    load: Annotated[Path | None, typer.Option("--load", help="Go on with a saved conversation.")] = None,
    token_file: connection.TokenFile = None,
    tls_ca: connection.TlsCa = None,
    tls_cert: connection.TlsCert = None,
    tls_key: connection.TlsKey = None,
) -> None:
    """Talk with a running server. Ctrl-C stops the answer and not the program; /help lists the commands.

    \b
    Examples:
        enginewright chat
        enginewright chat --system "Answer in one sentence." --temperature 0.6
        enginewright chat --thinking show --max-reasoning-tokens 500
    """
    from enginewright_client import SamplingParams, TritonClient
    from rich.console import Console

    from enginewright.chat_session import ChatSession

    console = Console(highlight=False)
    if not console.is_terminal:
        raise UsageError("chat needs a terminal", code="no-terminal", hint='enginewright ask "..." < file')
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    secured = connection.Secured(token_file, tls_ca, tls_cert, tls_key)
    with TritonClient(server, model=model, token=secured.token, tls=secured.tls) as client:
        name = client.model_config().parameters.get("model", client.model)  # also: is there a server?
        session = ChatSession(client, system, sampling, max_reasoning_tokens)
        if load is not None:
            session.load(load)
        console.print(f"{name} at {server}; /help lists the commands", style="dim", markup=False)
        _Conversation(session, console, thinking_mode(thinking)).run()


class _Conversation:
    """The loop: a line is a question or, with a slash, a command."""

    def __init__(self, session: ChatSession, console: Console, thinking: Thinking) -> None:
        self._session = session
        self._console = console
        self._thinking: Thinking = thinking
        self._commands = {
            "exit": self._exit,
            "help": lambda _: self._say(_HELP),
            "load": self._load,
            "new": lambda _: self._session.forget(),
            "retry": lambda _: self._answer(self._session.retry()),
            "save": self._save,
            "set": lambda text: self._session.set(text),
            "system": self._system,
            "thinking": self._think,
            "undo": lambda _: self._say(f"took back: {self._session.undo().question}"),
        }

    def run(self) -> None:
        lines = _line_editor()
        while True:
            try:
                self._line(lines.prompt("> ").strip())
            except KeyboardInterrupt:  # at the prompt: the line is thrown away
                continue
            except EOFError:
                return
            except EnginewrightError as error:
                self._say(f"error: {error.message}\nhint: {error.hint}" if error.hint else error.message)

    def _line(self, line: str) -> None:
        if line.startswith("/"):
            name, _, text = line[1:].partition(" ")
            if name not in self._commands:
                raise UsageError(f"/{name} is not a command", code="no-command", hint="/help lists them")
            self._commands[name](text.strip())
        elif line:
            self._answer(line)

    def _answer(self, question: str) -> None:
        screen, deltas = AnswerScreen(self._console, self._thinking), self._session.ask(question)
        try:
            for delta in deltas:
                screen.show(delta.content, delta.reasoning)
                if delta.finish_reason == "length":
                    screen.end()
                    self._say("cut off at the limit of tokens: /set max_tokens=...")
        except KeyboardInterrupt:
            screen.end()
            self._say("stopped")
        finally:
            screen.end()
            deltas.close()

    def _exit(self, text: str) -> None:
        raise EOFError

    def _system(self, text: str) -> None:
        self._session.system = text or None

    def _think(self, text: str) -> None:
        if text:
            self._thinking = thinking_mode(text)
        elif self._session.turns:
            self._say(harmless(self._session.turns[-1].reasoning) or "there was no thinking")

    def _save(self, text: str) -> None:
        self._session.save(_file(text))
        self._say(f"saved: {text}")

    def _load(self, text: str) -> None:
        self._session.load(_file(text))
        self._say(f"turns loaded: {len(self._session.turns)}")

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)


def _line_editor() -> Any:
    """Arrow keys, history, and Alt-Enter for a new line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(key_bindings=keys)


def _file(text: str) -> Path:
    if not text:
        raise UsageError("no file", code="no-file", hint="give its name, like /save rivers.json")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{text}: there is no such user", code="no-file", hint="give another name") from None
