"""Make a configuration of files as Snakemake does, and write one complete file that makes the study again."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from sparseft.common.section import parse_section
from sparseft.study.config import Config
from sparseft.study.yaml_file import parsed, read_sections

DEFAULT = Path(__file__).parents[3] / "config/config.yaml"
HEAD = """\
# The complete configuration of a study, every key with its value: `snakemake --configfile THIS_FILE` makes the study
# again. Each task has its whole schedule in tasks.NAME.training, so a change of `training` below changes no task.
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


def complete(config: Config, folder: Path) -> Config:
    """Return the configuration with everything that decides a result spelled out.

    Each task has its whole schedule. Paths are absolute; relative ones begin in `folder`."""
    sections = config.model_dump(context=partial(_absolute, folder=folder))
    for name, task in sections["tasks"].items():
        task["training"] = config.training_of(name).model_dump()
    return parse_section(Config, sections, "configuration")


def complete_text(config: Config, folder: Path) -> str:
    """Return the text of configuration.yaml: the complete configuration as YAML, below two lines that say what it is.

    The revisions are those that the study has fetched, so they are added when it is written."""
    content = complete(config, folder).model_dump(mode="json", exclude={"revisions"})
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def with_normal_places(config: Config, folder: Path) -> Config:
    """Return the configuration with one spelling of each path, so that another spelling of the same path reruns
    nothing.

    A path in `folder` is relative to it, and every other path is absolute."""

    def spell(place: str) -> str:
        path, root = Path(_absolute(place, folder)), folder.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    # What the user did not set stays so, because `training_of` asks for that.
    return parse_section(Config, config.model_dump(exclude_unset=True, context=spell), "configuration")


def _absolute(place: str, folder: Path) -> str:
    """Return an absolute path. Links to its folder are resolved, but its last part stays, even if it is a link."""
    path = folder / place
    return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)
