"""A GPU calibrates when the weights fit on it; nothing else decides."""

from __future__ import annotations

import pytest
import torch
from enginewright.calibration_device import calibration_device


@pytest.mark.parametrize(
    ("available", "free", "device"),
    [(False, 0, "cpu"), (True, 80 * 10**9, "cuda"), (True, 66 * 10**9, "cpu")],
)
def test_the_weights_decide(monkeypatch: pytest.MonkeyPatch, available: bool, free: int, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80 * 10**9))
    assert calibration_device(65 * 10**9) == device
