"""What a Hugging Face checkpoint's JSON files say about its model: one reader for every engine.

Imports nothing but the standard library and `enginewright_errors`.
"""

from enginewright_model.json_file import read_json_object
from enginewright_model.model_spec import Dtype, Family, ModelSpec, read_model_spec
from enginewright_model.rope_spec import RopeSpec
from enginewright_model.token_ids import TokenIds, read_token_ids

__all__ = [
    "Dtype",
    "Family",
    "ModelSpec",
    "RopeSpec",
    "TokenIds",
    "read_json_object",
    "read_model_spec",
    "read_token_ids",
]
