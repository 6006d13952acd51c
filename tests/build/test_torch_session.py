"""A torch session mutes the libraries it is for, and nobody else."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from enginewright.torch_session import torch_session


def test_only_the_thread_of_the_session_is_muted(capsys: pytest.CaptureFixture[str]) -> None:
    """A progress bar is drawn by a thread of its own while ModelOpt prints on the main one."""
    with torch_session(1):
        print("noise of a library")
        warnings.warn("noise of a library", stacklevel=1)
        bar = threading.Thread(target=print, args=("progress",))
        bar.start()
        bar.join()
    print("after")
    assert capsys.readouterr() == ("progress\nafter\n", "")


def test_threads_gradients_and_random_state_come_back_after_an_error() -> None:
    torch.set_num_threads(2)
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="inside"), torch_session(1):
        assert torch.get_num_threads() == 1 and not torch.is_grad_enabled()
        torch.rand(3)
        raise ValueError("inside")
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
