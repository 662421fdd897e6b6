"""Write what stands in the code and in no other form: tables of docs/methods.md, docs/models.md and
docs/reference/tables.md, and envs/sparseft.yaml.

    .venv/bin/python docs/generate.py
"""

import itertools
import re
import tomllib
from pathlib import Path

import yaml
from packaging.markers import Marker, default_environment
from sparseft.analysis import baseline, study, tables, throughput
from sparseft.axes.architectures import ARCHITECTURES
from sparseft.axes.importances import DEFAULT, IMPORTANCES
from sparseft.axes.patterns import PATTERNS
from sparseft.common.errors import one_line
from sparseft.evaluation.throughput_record import BatchRecord, RepeatRecord, ThroughputRecord
from sparseft.study.resources import Resources
from sparseft.training.settings import Throughput, Training
from sparseft.training.trainers.backends import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
# The Python of the conda environment.
CONDA_PYTHON = "3.11"
# The columns of every table of the analysis.
TABLES = [*(columns for _, columns in tables.FILES.values()), baseline.TABLE, throughput.COLUMNS]
# The page describes these columns by the beginning or the end of their names.
DERIVED = re.compile(r"(against|selection)_.*|.*_(low|high)")
# config/schema.json describes a column that has the name of a key.
KEYS = {"dtype", *Training.model_fields, *Throughput.model_fields, *Resources.model_fields}


def column_list() -> str:
    """Return a line per column of the tables that is not the name of a key: its name, its unit and what it is.

    docs/columns.yaml describes a column that is not one field of one record."""
    own: dict[str, list[str]] = yaml.safe_load((ROOT / "docs/columns.yaml").read_text())
    fields = RepeatRecord.model_fields | BatchRecord.model_fields | ThroughputRecord.model_fields | study.FIELDS
    names = [
        name
        for name in dict.fromkeys(itertools.chain(*TABLES))
        if name not in {study.MEASURED, *KEYS} and not DERIVED.fullmatch(name)
    ]
    lines = []
    for name in dict.fromkeys([*names, *own]):
        unit, meaning = own.get(name) or (fields[name].json_schema_extra["unit"], fields[name].description)
        lines.append(f"- `{name}`{f' ({unit})' if unit else ''}: {meaning}")
    return "\n".join(lines)


def architecture_table() -> str:
    """Return a table with a row per architecture."""
    rows = []
    for architecture in ARCHITECTURES:
        trained_by = (backend for backend in BACKENDS if architecture in (backend.architectures or ARCHITECTURES))
        name, names = f"`{architecture.class_name}`", ", ".join(backend.name for backend in trained_by)
        rows.append([architecture.models, name, architecture.differences or "nothing", names])
    return markdown_table(["models", "class in config.json", "beside LLaMA's decoder", "backends"], rows)


def importance_table() -> str:
    """Return a table with a row per importance."""
    rows = []
    for importance in IMPORTANCES:
        name = "(no name)" if importance is DEFAULT else f"`{importance.name}`"
        removed = ", ".join(dict.fromkeys(pattern.removes for pattern in PATTERNS if pattern.allows(importance)))
        source = f"{importance.name}: {importance.source}" if importance is DEFAULT else importance.source
        rows.append([name, importance.formula, removed, source])
    return markdown_table(["name", "score of the weight w with the input x", "removes", "source"], rows)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def with_block(name: str, block: str) -> str:
    """Return a page with another generated block. What stands around the block is written by hand."""
    start, end = "<!-- generated -->", "<!-- end -->"
    before, _, rest = (ROOT / name).read_text().partition(start)
    return f"{before}{start}\n\n{block}\n\n{end}{rest.partition(end)[2]}"


def conda_environment() -> str:
    """Return envs/sparseft.yaml, which `snakemake --sdm conda` reads: the dependencies of pyproject.toml as uv.lock
    pins them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = {**default_environment(), "python_full_version": f"{CONDA_PYTHON}.5", "sys_platform": "linux"}
    versions = {
        package["name"]: package.get("version")
        for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
        if any(Marker(marker).evaluate(place) for marker in package.get("resolution-markers", ["sys_platform != ''"]))
    }
    names = (re.match(r"([\w-]+)(\[.*\])?", dependency) for dependency in project["dependencies"])
    dependencies = "".join(f"      - {name[0]}=={versions[name[1]]}\n" for name in names if name)
    return f"""\
# `snakemake --sdm conda`: generated from pyproject.toml and uv.lock by docs/generate.py. The package itself comes from
# lib/.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python ={CONDA_PYTHON}
  - pip
  - pip:
{dependencies}"""


def generated() -> dict[str, str]:
    """Return the content of every file that has a generated part, by name."""
    return {
        "docs/methods.md": with_block("docs/methods.md", importance_table()),
        "docs/models.md": with_block("docs/models.md", architecture_table()),
        "docs/reference/tables.md": with_block("docs/reference/tables.md", column_list()),
        "envs/sparseft.yaml": conda_environment(),
    }


if __name__ == "__main__":
    for name, text in generated().items():
        (ROOT / name).write_text(text)
