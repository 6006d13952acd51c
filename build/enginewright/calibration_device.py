"""Where ModelOpt calibrates: on a GPU that has room for the weights, else on the CPU."""

from __future__ import annotations

__all__ = ["calibration_device"]

# Of the weights: AWQ holds a second copy of the layer that it searches, and activations of a batch.
_ROOM = 1.15


def calibration_device(weight_bytes: int) -> str:
    """torch's name of the device for a model of so many bytes, "cuda" or "cpu"."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    free, _ = torch.cuda.mem_get_info()
    return "cuda" if free >= _ROOM * weight_bytes else "cpu"
