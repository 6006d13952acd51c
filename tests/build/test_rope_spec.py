"""The rope of a config.json as transformers 4 and 5 write it, and configs that must not be guessed about."""

from __future__ import annotations

from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_model.rope_spec import RopeSpec, read_rope_spec

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"rope_theta": 1e6, "rope_scaling": YARN}, id="transformers 4"),
        pytest.param(
            {
                "rope_theta": 1000000,
                "rope_scaling": {**{k: v for k, v in YARN.items() if k != "rope_type"}, "type": "yarn"},
            },
            id="the older key type",
        ),
        pytest.param({"rope_parameters": {**YARN, "rope_theta": 1e6}}, id="transformers 5"),
        pytest.param({"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {}}, id="an empty one"),
        pytest.param(
            {"rope_theta": 1e6, "rope_scaling": YARN, "rope_parameters": {**YARN, "rope_theta": 1e6}},
            id="both",
        ),
    ],
)
def test_every_spelling_gives_the_same_yarn(config: dict[str, Any]) -> None:
    expected = RopeSpec("yarn", 1e6, factor=4.0, original_max_position_embeddings=32768)
    assert read_rope_spec(config) == expected


def test_plain_rope_is_read_without_scaling() -> None:
    assert read_rope_spec({"rope_theta": 1e4, "rope_scaling": None}) == RopeSpec("default", 1e4)


def test_the_original_context_defaults_to_max_position_embeddings_as_in_transformers() -> None:
    config = {
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0},
    }
    assert read_rope_spec(config).original_max_position_embeddings == 4096


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({}, "rope-theta-missing", "rope_theta"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope-theta-missing", "rope_theta"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "config-invalid", "rope_theta"),
        (
            {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "config-invalid",
            "rope_type",
        ),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "longrope"}}, "config-invalid", "longrope"),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "config-invalid",
            "dynamic",
        ),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear"}}, "config-invalid", "factor"),
        ({"rope_theta": 1e4, "rope_scaling": {**YARN, "factor": "4"}}, "config-invalid", "factor"),
        ({"rope_theta": float("nan")}, "config-invalid", "rope_theta"),
        ({"rope_theta": -1e4}, "config-invalid", "rope_theta"),
        ({"rope_theta": True}, "config-invalid", "rope_theta"),
        ({"rope_theta": "1e4"}, "config-invalid", "rope_theta"),
        ({"rope_theta": 1e4, "rope_scaling": "yarn"}, "config-invalid", "rope_scaling"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": ["yarn"]}}, "config-invalid", "rope_type"),
        ({"rope_theta": 1e4, "rope_scaling": {"factor": 4.0}}, "config-invalid", "rope_type"),
        (
            {"rope_theta": 1e4, "rope_scaling": YARN, "rope_parameters": {**YARN, "beta_fast": 16}},
            "config-invalid",
            "beta_fast is 16, expected None, as in rope_scaling",
        ),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "config-invalid", "partial_rotary_factor"),
    ],
)
def test_a_rope_that_would_be_guessed_is_refused_by_name(
    config: dict[str, Any], code: str, named: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_rope_spec(config)
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.hint


def test_a_theta_that_only_the_caller_knows_stands_in_for_none_and_never_for_another() -> None:
    assert read_rope_spec({}, default_theta=1e4) == RopeSpec("default", 1e4)
    assert read_rope_spec({"rope_theta": 1e6}, default_theta=1e4) == RopeSpec("default", 1e6)


@pytest.mark.parametrize("rope", [YARN, {"rope_type": "linear", "factor": 2.0}, {}])
def test_both_generations_of_transformers_are_told_the_same(rope: dict[str, Any]) -> None:
    spec = read_rope_spec({"rope_theta": 1e6, "rope_scaling": rope})
    assert spec.scaling == (rope or None)
    assert read_rope_spec({"rope_theta": 1e6, "rope_scaling": spec.scaling}) == spec
    assert read_rope_spec({"rope_parameters": spec.as_json()}) == spec


def test_plain_rope_may_be_named_in_one_place_alone() -> None:
    config = {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_theta": 1e6}}
    assert read_rope_spec(config) == RopeSpec("default", 1e6)
