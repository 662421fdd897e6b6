"""The schema and the generated tables are what the code gives, and the examples of the keys are valid."""

import re
import runpy
from collections.abc import Iterator

import pytest
from pages import ROOT
from pydantic import ValidationError
from sparseft.common.section import Section
from sparseft.study.config import Config, schema

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


def kinds(base: type[Section]) -> list[type[Section]]:
    return [base, *(kind for own in base.__subclasses__() for kind in kinds(own))]


EXAMPLES = [(kind, key) for kind in kinds(Section) for key, field in kind.model_fields.items() if field.examples]


@pytest.mark.parametrize(("section", "key"), EXAMPLES)
def test_the_example_of_a_key_is_valid_and_is_not_the_default(section, key):
    field = section.model_fields[key]
    try:
        section(**{key: field.examples[0]})
    except ValidationError as error:
        # It may need other keys.
        assert [fault for fault in error.errors() if fault["loc"][:1] == (key,)] == []
    assert field.examples[0] != field.default


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
