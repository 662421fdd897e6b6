"""Write the pages of docs/reference/ and config/schema.json from the code that they describe.

    .venv/bin/python docs/generate.py            write the files whose content changed
    .venv/bin/python docs/generate.py --check    exit with code 1 if one differs

The configuration comes from the fields of sparseft.study.config, the tables from those of sparseft.records, the scripts from
their own argument parsers, the importances from sparseft.importances, and the models from sparseft.architectures.
"""

import argparse
import json
import re
import runpy
import sys
import textwrap
from pathlib import Path
from unittest.mock import patch

from sparseft.analysis import baseline, tables, throughput
from sparseft.analysis.results import FILES
from sparseft.architectures import ARCHITECTURES
from sparseft.importances import DEFAULT, IMPORTANCES
from sparseft.patterns import PATTERNS
from sparseft.study.backends import BACKENDS, backend_sections
from sparseft.study.config import LARGEST, SEEDS, Config, schema

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
    "reconstruction": "Reconstruction",
    "perplexity": "Perplexity",
    "evaluation": "Evaluation",
    "resources": "Resources",
    "throughput": "Throughput",
    "analysis": "Analysis",
    **{name: section.__name__ for name, section in backend_sections().items()},
}
PLAIN_TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
# The page states these limits once, at its top.
UNSAID = {LARGEST, SEEDS}
ESCAPED = {"*": "\\*", "<": "&lt;"}
CONFIGURATION = """# Configuration

A study is described in YAML. `config/config.yaml` is the default. A file that you give with `--configfile` is laid over it:
sections are merged, and lists are replaced. You only write the keys that differ.

```yaml title="my_study.yaml"
models:
  mine: {source: "path:/data/llama-7b", dtype: bfloat16}
grid:
  models: [mine]
  tasks: [boolq_mini]
  sparsities: [0, 50]
training: {batch_size: 16}
```

```
.venv/bin/snakemake analyze --configfile my_study.yaml
```

An unknown key, or a value of another type, is refused before anything runs. Counts are at most 1,000,000,000, and seeds are
below 2⁶³.

`config/schema.json` has the same content for your editor. To use it, start your file with
`# yaml-language-server: $schema=PATH/config/schema.json`.
"""
TABLE_PAGE = """# Tables

`results/analysis/` has comma-separated tables in UTF-8, with one header line, which pandas reads with their types. Numbers have
ten significant digits. A field without a value is empty. A name stands for the same thing, in the same unit, in every table. The
tables join on `study`, `model`, `task`, `metric`, `method`, `sparsity`, `mode`, `setting` and `training`, which name a cell.

Peak memory on a CPU is the largest resident set of a process, with Python and its libraries. On a GPU it is the most that torch
allocated there. Do not compare the two.
"""
# The tables with a row of what each, and their columns.
TABLES = {
    "summary.csv": "run",
    "grouped_summary.csv": "cell: the runs that differ in the seed alone",
    "comparisons.csv": "pair of cells that is compared",
    "sparsity_vs_performance.csv": "point of a curve, which is a reported cell; dense stands once",
    "missing.csv": "run that lacks something, or that cannot be read",
}
SETTINGS = """## settings.csv

A row per run. `training.`, `masks.`, `reconstruction.` and `evaluation.` begin the settings, which are fields of the records of a
run (`lib/sparseft/records/`). `sha256.` begins the hashes of the chain, and `version.` the versions that trained."""
MEASURED = "one per metric of the study's tasks, per `wikitext2_ppl_N` or `local_text_ppl_N`, and per `probe_NAME`"
# The ends of the generated block of a page that is written by hand.
BLOCK = ("<!-- generated -->", "<!-- end -->")
SCRIPT_PAGE = """# Scripts

Snakemake calls these programs, and you can run each by hand. `--help` prints what is below. The exit code is 0 if the work is
done, 1 if it is done and the answer is no, and 2 if the input is wrong. Wrong input gives one line, `error: WHAT; WHAT TO DO`,
and changes no file.
"""


class _ParserFoundError(Exception):
    """Carry the parser out of a script's parse_args."""


def argument_parser(script: Path) -> argparse.ArgumentParser:
    """Return the argument parser that a script builds. The script is imported and does not run."""

    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _ParserFoundError(parser)

    parse_args = runpy.run_path(str(script))["parse_args"]
    # The page must be the same on every machine, so a default that is the number of CPUs is left out.
    with patch.object(argparse.ArgumentParser, "parse_args", stop), patch("os.cpu_count", return_value=None):
        try:
            parse_args()
        except _ParserFoundError as error:
            return error.args[0]
    raise RuntimeError(f"{script}: parse_args builds no parser")


def configuration_page() -> str:
    """Return the page of every key of the configuration."""
    content = Config.model_json_schema()
    properties = content["properties"]
    top = {key: field for key, field in properties.items() if "$ref" not in field}
    parts = [CONFIGURATION, "## Top level", key_table(top)]
    for place, name in SECTIONS.items():
        section = content["$defs"][name]
        parts += [f"## {place}", section["description"], key_table(section["properties"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def key_table(properties: dict[str, dict]) -> str:
    """Return a table with a row per key."""
    rows = []
    for name, field in properties.items():
        default = "required" if "default" not in field else code(field["default"])
        rows.append([f"`{name}`", type_in_words(field), default, field["description"], example(name, field)])
    return markdown_table(["key", "type", "default", "description", "example"], rows)


def example(name: str, field: dict) -> str:
    """Return the example of a key as you would write it in YAML."""
    return f"`{name}: {as_yaml(field['examples'][0])}`"


def as_yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_yaml(part) for part in value) + "]"
    if isinstance(value, str):
        # Quotes are needed only if YAML would read something else, such as a colon.
        return json.dumps(value) if not value.replace("_", "").replace("/", "").isalnum() else value
    return json.dumps(value)


def code(value: object) -> str:
    """Return a default as code."""
    return f"`{as_yaml(value)}`"


def type_in_words(field: dict) -> str:
    """Return the type of a field of a JSON schema, with its limits, in words."""
    if "$ref" in field:
        return "section"
    if "anyOf" in field:
        return "; or ".join(type_in_words(option) for option in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        least = "list with at least one entry" if field.get("minItems") else "list"
        return f"{least}; each is {type_in_words(field['items'])}"
    if field["type"] == "object":
        return "section"
    limits = [words.format(f"{field[key]:,}") for key, words in LIMITS.items() if field.get(key, LARGEST) not in UNSAID]
    return ", ".join([PLAIN_TYPES[field["type"]], *limits])


def table_page() -> str:
    """Return the page of every column of every table."""
    described = [(file, f"A row per {what}.", FILES[file][1]) for file, what in TABLES.items()]
    described.append(("baseline_comparison.csv", "A row per number of the baseline and cell of yours.", baseline.TABLE))
    described.append(("throughput_vs_batch_size.csv", "A row per cell and batch size.", throughput.COLUMNS))
    parts = [TABLE_PAGE]
    for file, about, columns in described:
        rows = [[f"`{column}`", *tables.describe(column)] for column in columns if column != tables.MEASURED]
        rows += [["metrics", "", MEASURED]] if tables.MEASURED in columns else []
        parts += [f"## {file}", about, markdown_table(["column", "unit", "what it is"], rows)]
    return "\n\n".join(part.strip() for part in [*parts, SETTINGS]) + "\n"


def script_page() -> str:
    """Return the page of every script with its flags."""
    parts = [SCRIPT_PAGE]
    for script in SCRIPTS:
        parser = argument_parser(script)
        actions = [action for action in parser._actions if action.dest != "help"]
        rows = [[flag_name(action), flag_value(action), flag_default(action), flag_help(action)] for action in actions]
        table = markdown_table(["flag", "value", "default", "what it is"], rows)
        parts += [f"## {script.name}", docstring(parser.description or ""), table]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def methods_page() -> str:
    """Return docs/methods.md with the table of importances made anew."""
    return with_table("docs/methods.md", importance_table())


def models_page() -> str:
    """Return docs/models.md with the table of architectures made anew."""
    return with_table("docs/models.md", architecture_table())


def with_table(page: str, table: str) -> str:
    """Return a page that is written by hand, with another table in its generated block."""
    start, end = BLOCK
    before, _, rest = (ROOT / page).read_text().partition(start)
    return f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"


def architecture_table() -> str:
    """Return a table with a row per architecture."""
    header = ["models", "class in config.json", "beside LLaMA's decoder", "backends"]
    rows = []
    for architecture in ARCHITECTURES:
        backends = [
            backend.name
            for backend in BACKENDS
            if backend.architectures is None or architecture in backend.architectures
        ]
        name = f"`{architecture.class_name}`"
        rows.append([architecture.models, name, architecture.differences or "nothing", ", ".join(backends)])
    return markdown_table(header, rows)


def importance_table() -> str:
    """Return a table with a row per importance."""
    header = ["name", "score of the weight w with the input x", "looks at", "patterns", "source"]
    rows = []
    for importance in IMPORTANCES:
        name = "(no name)" if importance is DEFAULT else f"`{importance.name}`"
        looks_at = "examples" if importance.statistic else "the weights"
        patterns = [pattern.name for pattern in PATTERNS if pattern.allows(importance)]
        source = f"{importance.name}: {importance.source}" if importance is DEFAULT else importance.source
        rows.append([name, importance.formula, looks_at, ", ".join(patterns), source])
    return markdown_table(header, rows)


def docstring(text: str) -> str:
    """Return a script's description in Markdown: its indented lines are blocks of code."""
    paragraphs = re.split(r"\n{2,}", text.strip())
    return "\n\n".join(_as_code(part) if part.startswith("    ") else escaped(part) for part in paragraphs)


def _as_code(paragraph: str) -> str:
    """Return an indented paragraph as a block of code."""
    return f"```text\n{textwrap.dedent(paragraph)}\n```"


def escaped(text: str) -> str:
    """Return a text whose stars and angle brackets are plain characters in Markdown. Code in backticks is kept."""
    return re.sub(r"(`[^`]*`)|([*<])", lambda match: match[1] or ESCAPED[match[2]], text)


def flag_name(action: argparse.Action) -> str:
    """Return how a flag is written; only the name for a positional argument."""
    return f"`{action.option_strings[0] if action.option_strings else action.dest}`"


def flag_value(action: argparse.Action) -> str:
    """Return what a flag takes: one value, several, one of a list, or nothing."""
    if action.nargs == 0:
        return "no value"
    kind = ", ".join(f"`{choice}`" for choice in action.choices) if action.choices else "text"
    # A flag of a configuration key has no type, because its section checks the text. Its default shows the type.
    value_type = action.type or type(action.default)
    kind = {int: "integer", float: "number", Path: "path"}.get(value_type, kind)
    return f"{kind}; several" if action.nargs in ("+", "*") else kind


def flag_default(action: argparse.Action) -> str:
    """Return the default of a flag; empty if there is none."""
    if action.required:
        return "required"
    if action.nargs == 0 or action.default is None or action.default == []:
        return ""
    return code(str(action.default) if isinstance(action.default, Path) else action.default)


def flag_help(action: argparse.Action) -> str:
    """Return the help text of a flag, without the default that has a column of its own."""
    return escaped((action.help or "").replace("%%", "%").removesuffix(f" ({action.default})"))


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# By generated file, the function that returns its content.
GENERATED = {
    "config/schema.json": schema,
    "docs/reference/configuration.md": configuration_page,
    "docs/reference/tables.md": table_page,
    "docs/reference/scripts.md": script_page,
    "docs/methods.md": methods_page,
    "docs/models.md": models_page,
}


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with code 1 if a file differs")
    return parser.parse_args()


def main() -> int:
    """Write or check the generated files, and return the exit code."""
    args = parse_args()
    content = {name: make() for name, make in GENERATED.items()}
    outdated = [
        name for name, text in content.items() if not (ROOT / name).is_file() or (ROOT / name).read_text() != text
    ]
    if args.check and outdated:
        print(
            f"error: {', '.join(outdated)}: not what the code gives; run .venv/bin/python docs/generate.py",
            file=sys.stderr,
        )
        return 1
    for name in outdated:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(content[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
