"""Read configuration files as Snakemake reads them, and write one complete file that makes the study again."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from sparseft.errors import InputError, one_line
from sparseft.storage.reading import read_text
from sparseft.study.config import Config
from sparseft.study.section import depth, parse_section
from sparseft.study.sources import split_mdl

DEFAULT = Path(__file__).parents[3] / "config/config.yaml"
CONFIGFILE = ("--configfile", "--configfiles")
HEAD = """\
# The complete configuration of a study, every key with its value: `snakemake --configfile THIS_FILE` makes the study again.
# Each task has its whole schedule in tasks.NAME.training, so a change of `training` below changes no task.
"""


class _Loader(yaml.SafeLoader):
    """Refuse what YAML would read as something else than you do: the first of two equal keys, and 010, which it reads as 8.

    It also refuses what has no end, because an alias stands inside of what it names."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """Return a node. That of an alias must have ended."""
        node = super().compose_node(parent, index)
        if node and not node.end_mark:
            raise yaml.composer.ComposerError(None, None, "an alias stands in what it names", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return a mapping, whose keys must differ."""
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        """Return an integer, which must be the one that its digits say."""
        number = self.construct_yaml_int(node)
        digits = node.value.replace("_", "").lstrip("+-")
        if ":" in digits or (digits.isdigit() and int(digits) != abs(number)):
            what = f"YAML reads {node.value} as {number}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def read_configuration(files: Sequence[Path], values: Sequence[str] = ()) -> Config:
    """Return the default configuration with `files` laid over it, in their order, and then `values`, each as KEY=YAML.

    Raises InputError."""
    from snakemake.utils import update_config

    content: dict = {}
    for file in (DEFAULT, *files):
        update_config(content, read_sections(file))
    given: dict = {}
    for key, _, text in (value.partition("=") for value in values):
        update_config(given, {key: _parsed(text, f"--config {key}")})
    update_config(content, given)
    return parse_study(content, list(files), given)


def parse_study(content: dict, files: list[Path], given: Mapping = MappingProxyType({})) -> Config:
    """Return a configuration, checked. Raises InputError, with the lines of `files` where its faults are.

    `given` is what the command line sets, over all files."""
    return parse_section(Config, content, "configuration", partial(_line_of, files, given))


def _line_of(files: list[Path], given: Mapping, place: tuple) -> str:
    """Return the file and the line that set the key at a place; empty if the default study or no file sets it."""
    if not place or depth(dict(given), place) == len(place):
        return " (--config)" if place else ""
    for file in reversed(files):
        node: Any = yaml.compose(read_text(file, "correct the path"), Loader=_Loader)
        line = 0
        for part in place:
            is_list = isinstance(node, yaml.SequenceNode)
            pairs = [(None, item) for item in node.value] if is_list else getattr(node, "value", [])
            keys = [str(number) if is_list else key.value for number, (key, _) in enumerate(pairs)]
            if str(part) not in keys:
                break
            key, node = pairs[keys.index(str(part))]
            line = (key or node).start_mark.line + 1
        else:
            return f" ({file}, line {line})"
    return ""


def read_sections(file: Path) -> dict:
    """Return the sections of one configuration file. Raises InputError if it is not YAML, or if YAML reads it otherwise."""
    sections = _parsed(read_text(file, "correct the path, or save the file as UTF-8"), str(file))
    if not isinstance(sections, dict):
        raise InputError(f"{file}: holds no sections", "write a study like config/config.yaml")
    if "__use_yte__" in sections:
        raise InputError(f"{file}: __use_yte__ makes Snakemake run expressions of the file", "leave it out")
    return sections


def _parsed(text: str, place: str) -> Any:
    """Return what a YAML text says. Raises InputError with its `place` and line, if YAML cannot, or reads something else."""
    try:
        return yaml.load(text, Loader=_Loader)
    # A date may have a thirteenth month, which is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{place}{line}: {one_line(getattr(error, 'problem', None) or error)}", "correct it") from None


def check_command(arguments: list[str]) -> None:
    """Raise InputError if a part of the configuration is given twice, because Snakemake takes only the last one.

    Raise it too if a configuration file cannot be read. Snakemake would print a traceback, or no line."""
    names = [argument.partition("=")[0] for argument in arguments]
    for spellings in (CONFIGFILE, ("--config", "-C")):
        count = sum(map(names.count, spellings))
        if count > 1:
            what = f"{spellings[0]} is given {count} times, and Snakemake takes the last one only"
            raise InputError(what, f"write all after one {spellings[0]}")
    takes_words = False
    for word in chain.from_iterable(argument.split("=", argument.startswith(CONFIGFILE)) for argument in arguments):
        if word.startswith("-"):
            takes_words = word in CONFIGFILE
        elif takes_words and not Path(word).exists():
            what = f"--configfile {word}: no such file; it takes every word up to the next option"
            raise InputError(what, "correct the path, and write targets in front of it")
        elif takes_words:
            read_sections(Path(word))


def complete(config: Config, folder: Path) -> Config:
    """Return the configuration with everything that decides a result spelled out.

    Each task has its whole schedule. Paths are absolute; relative ones begin in `folder`. The backend adds what the
    environment decides."""
    placed = _with_places(config, partial(_absolute, folder=folder))
    tasks = {
        name: data.model_copy(update={"training": config.training_of(name).model_dump()})
        for name, data in placed.tasks.items()
    }
    sections = config.training_backend.complete_sections(config)
    return parse_section(Config, placed.model_copy(update={"tasks": tasks, **sections}).model_dump(), "configuration")


def complete_text(config: Config, folder: Path) -> str:
    """Return the text of configuration.yaml: the complete configuration as YAML, below two lines that say what it is.

    The revisions are those that the study has fetched, so they are added when it is written."""
    content = complete(config, folder).model_dump(mode="json", exclude={"revisions"})
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def with_normal_places(config: Config, folder: Path) -> Config:
    """Return the configuration with one spelling of each path, so that another spelling of the same path reruns nothing.

    A path in `folder` is relative to it, and every other path is absolute."""

    def spell(place: str) -> str:
        path, root = Path(_absolute(place, folder)), folder.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    return _with_places(config, spell)


def _with_places(config: Config, spell: Callable[[str], str]) -> Config:
    """Return the configuration with `spell` applied to every path from which examples or weights are read."""
    # What the user did not set stays so, because `training_of` asks for that.
    sections = config.model_dump(exclude_unset=True)
    for model in sections["models"].values():
        model["source"] = _spelled_source(model["source"], spell)
    for checkpoints in sections.get("masks", {}).get("imported", {}).values():
        for percent, source in checkpoints.items():
            checkpoints[percent] = _spelled_source(source, spell)
    for name, text in config.masks.calibration.items():
        if text.local:
            sections["masks"]["calibration"][name]["text"] = spell(text.local)
    for name, task in config.tasks.items():
        if task.local:
            sections["tasks"][name]["local"] = spell(task.local)
        if task.lm_eval_file:
            sections["tasks"][name]["lm_eval"] = spell(task.lm_eval_file)
    if config.perplexity and config.perplexity.local:
        sections["perplexity"]["local"] = spell(config.perplexity.local)
    return parse_section(Config, sections, "configuration")


def _spelled_source(source: str, spell: Callable[[str], str]) -> str:
    """Return the source of a model with `spell` applied to its paths."""
    kind, _, place = source.partition(":")
    if kind == "mdl" and (mdl := split_mdl(place)):
        file, folder = map(str, mdl)
        own = spell(str(Path(file).parent))
        return f"mdl:{spell(file)}" + ("" if spell(folder) == own else f"@{spell(folder)}")
    return f"path:{spell(place)}" if kind == "path" else source


def _absolute(place: str, folder: Path) -> str:
    """Return an absolute path. Links to its folder are resolved, but its last part stays, even if it is a link."""
    path = folder / place
    return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)
