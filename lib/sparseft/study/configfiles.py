"""Make a configuration of files as Snakemake does, and write one file that makes the study again."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from sparseft.common.section import parse_section
from sparseft.study.config import Config
from sparseft.study.yaml_file import parsed, read_sections

DEFAULT = Path(__file__).parents[3] / "config/config.yaml"
HEAD = """\
# The configuration of a study: `snakemake --configfile THIS_FILE` makes the study again. Its paths are as you wrote
# them, so give the command in a folder in which they hold.
"""


def read_configuration(files: Sequence[Path], values: Sequence[str] = ()) -> Config:
    """Return the default configuration with `files` laid over it, in their order, and then `values`, each as KEY=YAML.

    Raises InputError."""
    from snakemake.utils import update_config

    content: dict = {}
    for file in (DEFAULT, *files):
        update_config(content, read_sections(file))
    for key, _, text in (value.partition("=") for value in values):
        update_config(content, {key: parsed(text, f"--config {key}")})
    return parse_section(Config, content, "configuration")


def written(config: Config) -> str:
    """Return the text of configuration.yaml: what the user set as YAML, below lines that say what it is.

    The revisions are those that the study has fetched, so they are added when it is written."""
    content = config.model_dump(mode="json", exclude_unset=True, exclude={"revisions"})
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
