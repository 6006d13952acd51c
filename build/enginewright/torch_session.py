"""Use torch and its libraries without a trace: threads, gradients and printing are as before afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["torch_session"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def torch_session(threads: int | None = None) -> Iterator[None]:
    """No gradients, `threads` CPU threads (None: the cores this process may use), a fixed random state.

    What the libraries print goes to this module's logger, what they warn is dropped: the terminal is its
    owner's. Threads are pinned because a pool larger than the cores it gets spins: AWQ was seen to take
    thirty times as long.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    before, verbosity = torch.get_num_threads(), transformers_logging.get_verbosity()
    modelopt_log = logging.getLogger("modelopt")
    level = modelopt_log.level
    bars = transformers_logging.is_progress_bar_enabled()
    random_state = torch.random.get_rng_state()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    modelopt_log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _muted():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(verbosity)
        modelopt_log.setLevel(level)
        torch.random.set_rng_state(random_state)
        torch.set_num_threads(before)


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Log what this thread prints; other threads, such as one that draws a progress bar, print as before."""
    before = sys.stdout
    sys.stdout = _Muted(before, threading.get_ident())
    try:
        yield
    finally:
        sys.stdout = before


class _Muted:
    """A text stream that is `stream` for every thread but one."""

    def __init__(self, stream: TextIO, thread: int) -> None:
        self._stream = stream
        self._thread = thread

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            return self._stream.write(text)
        if text.strip():
            _log.debug("%s", text.rstrip())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
