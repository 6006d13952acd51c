"""Enginewright: from a Hugging Face checkpoint to a verified Triton model repository."""

__version__ = "0.1.0"
