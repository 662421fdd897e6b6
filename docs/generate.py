"""Write config/schema.json, and the generated blocks of the pages that describe what is in the code.

    .venv/bin/python docs/generate.py            write the files whose content changed
    .venv/bin/python docs/generate.py --check    exit with code 1 if one differs

The configuration comes from the fields of sparseft.study, the tables from those of sparseft.records, the scripts from
their main functions, the importances from sparseft.importances, and the models from sparseft.architectures.
"""

import json
import re
import runpy
import sys
import textwrap
import tomllib
from collections import Counter
from pathlib import Path

import yaml
from packaging.markers import Marker, default_environment
from sparseft.analysis import baseline, tables, throughput
from sparseft.architectures import ARCHITECTURES
from sparseft.command import run
from sparseft.errors import one_line
from sparseft.importances import DEFAULT, IMPORTANCES
from sparseft.patterns import PATTERNS
from sparseft.records.throughput_record import BatchRecord, RepeatRecord, ThroughputRecord
from sparseft.study.backends import BACKENDS
from sparseft.study.backends.cerebras import Cerebras
from sparseft.study.config import Config, schema
from sparseft.study.grid import SEEDS
from sparseft.study.schedule import Training
from sparseft.study.section import LARGEST, Role
from sparseft.study.sources import TaskData

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
# Sections by their place in a configuration file. NAME stands for a name of your own.
SECTIONS = {
    "models.NAME": "Model",
    "tasks.NAME": "TaskData",
    "grid": "Grid",
    "masks": "Masks",
    "masks.calibration.NAME": "CalibrationText",
    "training": "Training",
    "training.distillation": "Distillation",
    "reconstruction": "Reconstruction",
    "perplexity": "Perplexity",
    "evaluation": "Evaluation",
    "resources": "Resources",
    "throughput": "Throughput",
    "analysis": "Analysis",
    "export": "Export",
    "cerebras": "Cerebras",
}
# What a change of a key makes again, by its section, or by the key if it differs from its section.
# tests/workflow/test_reruns.py compares with plans.
NOTHING, TRAININGS, EVALUATIONS = "nothing", "trainings", "evaluations"
MASKS, MEASUREMENTS = "masks of methods that use it", "measurements of the speed, if you ask for them"
RERUNS = {
    ".backend": TRAININGS,
    ".evaluation_batch_size": EVALUATIONS,
    ".perplexity": EVALUATIONS,
    ".models": "what its keys say",
    ".tasks": "what its keys say",
    "grid.trainings": "trainings whose keys change",
    ".results": "everything but models, data and masks, in another folder",
    "models.NAME": "the model",
    "tasks.NAME": "the rows, masks from them, trainings and evaluations",
    "grid": "only what is added",
    "masks": MASKS,
    "masks.calibration.NAME": MASKS,
    "training": TRAININGS,
    "training.distillation": TRAININGS,
    "reconstruction": "reconstructions",
    "perplexity": EVALUATIONS,
    "evaluation": EVALUATIONS,
    "resources.threads": "what computes on examples, because the last bits change",
    "resources.processes": TRAININGS,
    "throughput": MEASUREMENTS,
    "analysis": "the analysis",
    "export": "exports and their checks, if you ask for them",
}
OTHER_DATA = {
    "training": TRAININGS,
    "validation_examples": "the rows and the evaluations",
    "selection_examples": "the selection rows and their evaluations",
}
PLAIN_TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}
# The page states these limits once, at its top.
UNSAID = {LARGEST, SEEDS}
# The Python of the conda environment.
CONDA_PYTHON = "3.11"
# More choices than these are not listed: they are the methods, which docs/methods.md lists.
MOST_CHOICES = 20
# The unit and the meaning of each column that is not one field of one record.
COLUMNS = yaml.safe_load(Path(__file__).with_name("columns.yaml").read_text())
# What a row of each table of the analysis is.
ROWS = {
    "summary.csv": "run",
    "grouped_summary.csv": "cell: the runs that differ only in the seed",
    "comparisons.csv": "pair of cells that is compared",
    "sparsity_vs_performance.csv": "point of a curve, which is a reported cell; dense stands once",
    "missing.csv": "run that lacks something, or that cannot be read",
}
# What a row of each table is, and the table's columns.
TABLES = {
    **{file: (row, tables.FILES[file][1]) for file, row in ROWS.items()},
    "baseline_comparison.csv": ("number of the baseline and cell of yours", baseline.TABLE),
    "throughput_vs_batch_size.csv": ("cell and batch size", throughput.COLUMNS),
}
MEASURED = (
    "one per metric of the study's tasks, per `wikitext2_ppl_N` or `local_text_ppl_N`, per `probe_NAME`, and"
    " six per engine of an `engines.json`"
)


def configuration() -> str:
    """Return every key of the configuration, by section."""
    content = Config.model_json_schema()
    top = {key: field for key, field in content["properties"].items() if "$ref" not in field}
    parts = ["## Top level", key_list("", top)]
    for place, name in SECTIONS.items():
        section, usual = content["$defs"][name], most_reruns(place, content["$defs"][name]["properties"])
        parts += [f"## {place}", f"{section['description']} *Reruns: {usual}.*", key_list(place, section["properties"])]
    return joined(*parts)


def most_reruns(place: str, properties: dict[str, dict]) -> str:
    """Return what a change of most keys of the section at `place` makes again. Only the others say it themselves."""
    return Counter(reruns(place, key) for key in properties).most_common(1)[0][0]


def reruns(place: str, key: str) -> str:
    """Return what a change of a key of the section at `place` makes again in a finished study, without what follows
    from it.

    Where the keys of a section differ, the rules and this function ask the same code which of them decide."""
    if place == "tasks.NAME" and key not in TaskData().of_training:
        return OTHER_DATA[key]
    if place in ("training", "reconstruction") and key in Training.keys_of(Role.SAVING):
        return NOTHING
    if place.startswith("cerebras"):
        return TRAININGS if key not in Cerebras.keys_of(Role.PLACE) else NOTHING
    return RERUNS.get(f"{place}.{key}") or RERUNS.get(place, NOTHING)


def key_list(place: str, properties: dict[str, dict]) -> str:
    """Return a line per key of the section at `place`, which begins with the key and its default.

    It ends with what the key reruns, if this differs from most keys of the section."""
    lines = []
    usual = most_reruns(place, properties) if place else ""
    for name, field in properties.items():
        key = f"{name}: {as_yaml(field['default'])}" if "default" in field else name
        example = f" Example: {example_of(name, field)}" if "examples" in field else ""
        required = "" if "default" in field else ", required"
        rerun = reruns(place, name)
        text = one_line(field["description"]) + example + (f" *Reruns: {rerun}.*" if rerun != usual else "")
        lines.append(f"- `{key}` ({type_in_words(field)}{required}). {text}")
    return "\n".join(lines)


def example_of(name: str, field: dict) -> str:
    """Return the example of a key as you would write it in YAML."""
    return f"`{name}: {as_yaml(field['examples'][0])}`"


def as_yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_yaml(part) for part in value) + "]"
    # Quotes are needed only if YAML would read something else, such as a colon.
    is_plain = isinstance(value, str) and value.replace("_", "").replace("/", "").isalnum()
    return value if is_plain else json.dumps(value)


def type_in_words(field: dict) -> str:
    """Return the type of a field of a JSON schema, with its limits, in words. A default of null says itself that null
    is one."""
    if "anyOf" in field:
        options = (
            option for option in field["anyOf"] if option != {"type": "null"} or field.get("default", "") is not None
        )
        return " or ".join(type_in_words(option) for option in options)
    if "const" in field:
        return f"`{field['const']}`"
    if len(field.get("enum", [])) > MOST_CHOICES:
        return "a name of [Methods](../methods.md)"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type", "object")
    if kind == "array":
        return f"list of {type_in_words(field['items'])}"
    if kind == "object":
        return "section"
    limits = [words.format(f"{field[key]:,}") for key, words in LIMITS.items() if field.get(key, LARGEST) not in UNSAID]
    return ", ".join([PLAIN_TYPES[kind], *limits])


def columns_of_tables() -> str:
    """Return every column of every table. A column of several tables is described once."""
    count = Counter(column for _, columns in TABLES.values() for column in columns)
    shared = [column for column in count if count[column] > 1 and not is_derived(column)]
    parts = ["## Columns of several tables", column_list(shared)]
    parts += ["## Columns of each engine", column_list([name for name in COLUMNS if name.startswith("ENGINE_")])]
    for file, (row, columns) in TABLES.items():
        others = [column for column in columns if column in shared or is_derived(column)]
        names = ", ".join("metrics" if column == tables.MEASURED else f"`{column}`" for column in others)
        own = column_list([column for column in columns if column not in others])
        parts += [f"## {file}", f"A row per {row}. Columns described above: {names}.", own]
    return joined(*parts)


def is_derived(column: str) -> bool:
    """Return whether the head of the page describes a column by the beginning or the end of its name."""
    return column.startswith(("against_", "selection_")) or column.endswith(("_low", "_high"))


def column_list(columns: list[str]) -> str:
    """Return a line per column of a table: its name, its unit and what it is."""
    lines = []
    for column in columns:
        unit, meaning = describe(column) if column != tables.MEASURED else ("", MEASURED)
        name = f"`{column}`" if column != tables.MEASURED else "metrics"
        lines.append(f"- {name}{f' ({unit})' if unit else ''}: {meaning}")
    return "\n".join(lines)


def describe(column: str) -> tuple[str, str]:
    """Return the unit and the meaning of a column: those of the field that it is, or those in columns.yaml."""
    if column in COLUMNS:
        return tuple(COLUMNS[column])
    for fields in (tables.FIELDS, *(part.model_fields for part in (ThroughputRecord, BatchRecord, RepeatRecord))):
        if field := fields.get(column):
            return field.json_schema_extra["unit"], field.description
    raise KeyError(f"{column}: describe it in docs/columns.yaml")


def scripts() -> str:
    """Return what every script does, with an example."""
    parts = []
    for script in SCRIPTS:
        names = runpy.run_path(str(script))
        first, example, *_ = [*names["__doc__"].strip().split("\n\n"), ""]
        sentence = re.split(r"(?<=[.:]) ", one_line(first))[0].rstrip(":.") + "."
        # In Markdown, stars and angle brackets would mean something.
        sentence = sentence.replace("*", "\\*").replace("<", "&lt;")
        block = f"```text\n{textwrap.dedent(example).strip()}\n```" if example.startswith("    ") else ""
        parts += [f"## {script.name}", sentence, block]
    return joined(*parts)


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
        looks_at = "examples" if importance.uses_examples else "the weights"
        removed = ", ".join(dict.fromkeys(pattern.removes for pattern in PATTERNS if pattern.allows(importance)))
        source = f"{importance.name}: {importance.source}" if importance is DEFAULT else importance.source
        rows.append([name, importance.formula, looks_at, removed, source])
    return markdown_table(["name", "score of the weight w with the input x", "looks at", "removes", "source"], rows)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def joined(*parts: str) -> str:
    """Return the parts of a page with a blank line between them."""
    return "\n\n".join(part.strip() for part in parts if part)


def with_block(name: str, block: str) -> str:
    """Return a page with another generated block. What stands around the block is written by hand."""
    start, end = "<!-- generated -->", "<!-- end -->"
    before, _, rest = (ROOT / name).read_text().partition(start)
    return f"{before}{start}\n\n{block}\n\n{end}{rest.partition(end)[2]}"


# By page, the function that returns its generated block.
BLOCKS = {
    "docs/reference/configuration.md": configuration,
    "docs/reference/tables.md": columns_of_tables,
    "docs/reference/scripts.md": scripts,
    "docs/methods.md": importance_table,
    "docs/models.md": architecture_table,
}


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


def configuration_readme() -> str:
    """Return config/README.md, which the Snakemake workflow catalog shows: what each section of a configuration is."""
    content = Config.model_json_schema()
    top = {key: field["description"] for key, field in content["properties"].items() if "$ref" not in field}
    sections = {place: content["$defs"][name]["description"] for place, name in SECTIONS.items()}
    rows = [[f"`{key}`", re.split(r"(?<=[.]) ", one_line(text))[0]] for key, text in {**top, **sections}.items()]
    return f"""\
# Configuration

<!-- Generated by docs/generate.py. -->

Edit `config.yaml`, or write a file of your own and give it with `--configfile`. `schema.json` completes and checks the
keys in your editor. `sweep.yaml` is a full study. [Tutorial](../docs/tutorial.md) begins with the shortest file, and
[Configuration](../docs/reference/configuration.md) describes every key.

{markdown_table(["key", "what it is"], rows)}
"""


def generated() -> dict[str, str]:
    """Return the content of every file that has a generated part, by name."""
    files = {
        "config/README.md": configuration_readme(),
        "config/schema.json": schema(),
        "envs/sparseft.yaml": conda_environment(),
    }
    return files | {name: with_block(name, make()) for name, make in BLOCKS.items()}


def main(*, check: bool = False) -> int:
    """Write or check the generated files.

    Args:
        check: write nothing; exit with code 1 if a file differs
    """
    outdated = {name: text for name, text in generated().items() if (ROOT / name).read_text() != text}
    if check and outdated:
        print(f"error: {', '.join(outdated)}: not what the code gives; run docs/generate.py", file=sys.stderr)
        return 1
    for name, text in outdated.items():
        (ROOT / name).write_text(text)
    return 0


if __name__ == "__main__":
    run(main)
