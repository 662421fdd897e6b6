"""Read configuration files as Snakemake reads them, and write one complete file that makes the study again."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml

from sparseft.errors import InputError, one_line
from sparseft.storage.reading import read_text
from sparseft.study.config import Config, TaskData, split_mdl
from sparseft.study.section import parse_section

DEFAULT = Path(__file__).parents[3] / "config/config.yaml"
HEAD = """\
# The complete configuration of a study, every key with its value: `snakemake --configfile THIS_FILE` makes the study again.
# Each task has its whole schedule in tasks.NAME.training, so a change of `training` below changes no task.
"""
# The folders of a study, whose files are targets.
GENERATED = ("models", "data", "masks", "pruned", "results", "modelzoo")
# The spellings of an option, by its name. If you give an option twice, Snakemake uses only the last one.
ONE_LIST = {"--configfile": {"--configfile", "--configfiles"}, "--config": {"--config", "-C"}}


def read_configuration(files: list[Path]) -> Config:
    """Return the default configuration with `files` laid over it, in their order. Raises InputError."""
    from snakemake.utils import update_config

    content: dict = {}
    for file in (DEFAULT, *files):
        update_config(content, read_sections(file))
    return parse_section(Config, content, "configuration")


def read_sections(file: Path) -> dict:
    """Return the sections of one configuration file.

    Raises InputError if the file is not YAML, if a key is given twice, or if YAML reads a number as another one."""
    text = read_text(file, "correct the path")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        sections = yaml.safe_load(text)
    # A date may have a thirteenth month, which is a ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}, line {mark.line + 1}" if mark else file
        problem = one_line(getattr(error, "problem", None) or error)
        raise InputError(f"{place}: not YAML of plain values ({problem})", "correct it") from None
    _check_nodes(root, file)
    if not isinstance(sections, dict):
        raise InputError(f"{file}: holds no sections", "write a study like config/config.yaml")
    if "__use_yte__" in sections:
        raise InputError(f"{file}: __use_yte__ makes Snakemake run expressions of the file", "leave it out")
    return sections


def check_command(arguments: list[str]) -> None:
    """Raise InputError if Snakemake would refuse or ignore a part of the configuration that its command gives."""
    for option, names in ONE_LIST.items():
        given = [words for name, words in _options(arguments) if name in names]
        if len(given) > 1:
            every_word = shlex.join(word for words in given for word in words)
            raise InputError(
                f"{option} is given {len(given)} times, and Snakemake takes the last one only",
                f"write all after one: {option} {every_word}",
            )
        if option == "--config":
            for words in given:
                _check_settings(words)


def check_configfiles(arguments: list[str]) -> None:
    """Raise InputError if a word after --configfile is not a configuration file. Snakemake reads every word there as one."""
    words = _configfile_words(arguments)
    swallowed = [word for word in words if not _is_configuration(Path(word))]
    if not swallowed:
        for word in words:
            read_sections(Path(word))
        return
    misspelled = [word for word in swallowed if word.endswith((".yaml", ".yml"))]
    if misspelled:
        raise InputError(f"--configfile {misspelled[0]}: no such file", "correct the path")
    others = [word for word in arguments[1:] if word not in swallowed]
    raise InputError(
        f"--configfile takes every word after it for a configuration file, and {shlex.join(swallowed)} is not one",
        f"put the target before --configfile: {shlex.join(['snakemake', *swallowed, *others])}",
    )


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
    """Return the text of configuration.yaml: the complete configuration as YAML, below two lines that say what it is."""
    content = complete(config, folder).model_dump(mode="json")
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def with_normal_places(config: Config, folder: Path) -> Config:
    """Return the configuration with one spelling of each path, so that another spelling of the same path reruns nothing.

    A path in `folder` is relative to it, and every other path is absolute."""
    return _with_places(config, partial(_normal, folder=folder))


def _with_places(config: Config, spell: Callable[[str], str]) -> Config:
    """Return the configuration with `spell` applied to every path from which examples or weights are read."""
    models = {
        name: model.model_copy(update={"source": _spelled_source(model.source, spell)})
        for name, model in config.models.items()
    }
    tasks = {name: _with_task_places(data, spell) for name, data in config.tasks.items()}
    perplexity = config.perplexity
    if perplexity and perplexity.local:
        perplexity = perplexity.model_copy(update={"local": spell(perplexity.local)})
    texts = {
        name: text.model_copy(update={"text": spell(text.local)}) if text.local else text
        for name, text in config.masks.calibration.items()
    }
    imported = {
        name: {percent: _spelled_source(source, spell) for percent, source in sources.items()}
        for name, sources in config.masks.imported.items()
    }
    masks = config.masks.model_copy(update={"calibration": texts, "imported": imported})
    return config.model_copy(update={"models": models, "tasks": tasks, "perplexity": perplexity, "masks": masks})


def _with_task_places(data: TaskData, spell: Callable[[str], str]) -> TaskData:
    """Return a task's data with `spell` applied to its folder and to its YAML file."""
    places = {"local": spell(data.local)} if data.local else {}
    if data.lm_eval_file:
        places["lm_eval"] = spell(data.lm_eval_file)
    return data.model_copy(update=places)


def _spelled_source(source: str, spell: Callable[[str], str]) -> str:
    """Return a model's source with `spell` applied to its path, if it has one."""
    kind, _, place = source.partition(":")
    if kind == "path":
        return f"path:{spell(place)}"
    if kind != "mdl":
        return source
    file, folder = split_mdl(place)
    # Without @FOLDER, split_mdl takes the file's own folder.
    is_own_folder = spell(str(file.parent)) == spell(str(folder))
    return f"mdl:{spell(str(file))}" + ("" if is_own_folder else f"@{spell(str(folder))}")


def _absolute(place: str, folder: Path) -> str:
    """Return an absolute path. Links to its folder are resolved, but its last part stays, even if it is a link."""
    path = folder / place
    return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)


def _normal(place: str, folder: Path) -> str:
    """Return a path relative to `folder` if it is in it, and absolute if not."""
    path = Path(_absolute(place, folder))
    root = folder.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _options(arguments: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each option of a command with the words after it, up to the next option."""
    name = ""
    words: list[str] = []
    for argument in arguments:
        if argument.startswith("-"):
            yield name, words
            name, _, value = argument.partition("=")
            words = [value] if value else []
            if re.match("-C.", argument):
                name = "-C"
                words = [argument[2:]]
        else:
            words.append(argument)
    yield name, words


def _configfile_words(arguments: list[str]) -> list[str]:
    """Return the words that Snakemake reads as configuration files; `--configfile=FILE` takes only one word."""
    words: list[str] = []
    takes_words = False
    for argument in arguments:
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            is_configfile = name in ONE_LIST["--configfile"]
            takes_words = is_configfile and not value
            if is_configfile and value:
                words.append(value)
        elif takes_words:
            words.append(argument)
    return words


def _is_configuration(path: Path) -> bool:
    """Return whether a path can be a configuration file: it exists, and is not a record or a table of a study."""
    if not path.exists() or path.is_dir():
        return False
    return Path(os.path.relpath(path)).parts[0] not in GENERATED or path.suffix in (".yaml", ".yml")


def _check_settings(settings: list[str]) -> None:
    """Raise InputError if a setting is not KEY=VALUE, or if settings name a key twice, at the top or inside a value."""
    names = [setting.partition("=")[0] for setting in settings]
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise InputError(
                f"--config takes every word after it for KEY=VALUE, and {setting} is not",
                "put the target before --config",
            )
        # Snakemake has this condition, but does not mention it.
        if not re.fullmatch(r"[a-zA-Z_][\w-]*\w", name):
            section, *keys = name.split(".")
            for key in reversed(keys):
                value = f"{{{key}: {value}}}"
            advice = f"write --config {shlex.quote(f'{section}={value}')}" if keys else "correct the name"
            raise InputError(f"--config: {name} is not a key of the configuration's first level", advice)
        if names.count(name) > 1:
            raise InputError(f"--config: {name} is given twice", f"write one {name}={{...}} with all of its keys")
        try:
            node = yaml.compose(value, Loader=yaml.BaseLoader)
        except yaml.YAMLError:
            continue  # The section that the key belongs to refuses the text.
        _check_nodes(node, f"--config {name}")


def _check_nodes(root: yaml.Node | None, place: Path | str) -> None:
    """Raise InputError if a mapping has a key twice, or if YAML reads a number as another one.

    YAML reads 010 as 8 and 1:30 as 90. Of two equal keys it uses the last."""
    waiting = [root]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            _check_number(node, place)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        else:
            _check_keys(node, place)
            waiting += [part for pair in node.value for part in pair]


def _check_keys(mapping: yaml.MappingNode, place: Path | str) -> None:
    """Raise InputError if a mapping has a key twice."""
    seen = set()
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            line = key.start_mark.line + 1
            raise InputError(f"{place}, line {line}: {key.value} is given twice", "keep one of them")
        seen.add(key.value)


def _check_number(node: yaml.ScalarNode, place: Path | str) -> None:
    """Raise InputError for numbers such as 010 and 1:30, which YAML reads as other numbers than you do."""
    if node.tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        return
    digits = node.value.replace("_", "")
    is_octal = re.fullmatch(r"[-+]?0[0-7]+", digits) and int(digits, 10) != int(digits, 8)
    if is_octal or ":" in digits:
        number = yaml.safe_load(node.value)
        raise InputError(
            f"{place}, line {node.start_mark.line + 1}: YAML reads {node.value} as {number}",
            f"write {number}, or the number without leading zeros and colons",
        )
