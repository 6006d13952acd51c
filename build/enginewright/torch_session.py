"""Use torch and its libraries without a trace: threads, gradients and printing are as before afterwards."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

__all__ = ["torch_session"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def torch_session(threads: int | None = None) -> Iterator[None]:
    """No gradients, `threads` CPU threads (None: the cores this process may use), a fixed random state.

    What the libraries print and warn goes to this module's logger instead of the user's terminal. Threads are
    pinned because a pool larger than the cores it gets spins: AWQ was seen to take thirty times as long.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    before, verbosity = torch.get_num_threads(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    random_state = torch.random.get_rng_state()
    printed = io.StringIO()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(verbosity)
        torch.random.set_rng_state(random_state)
        torch.set_num_threads(before)
        for line in printed.getvalue().splitlines():
            _log.debug("%s", line)
