"""Find and read the task definitions of lm-eval (docs/task_guide.md in its repository). No code of a user's file runs.

lm-eval's YAML files name Python functions with the tag !function. Functions in lm-eval's own package are trusted, as the package
is. A user's file is searched for tags before lm-eval's loader reads it, and so is every file outside the package that it includes.
The result is JSON. In it {"!function": "FOLDER/MODULE.NAME"} stands for a function, with a folder of lm-eval's tasks.
"""

import difflib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.config.task import TaskConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import _import_func_in_yml, load_yaml

from sparseft.errors import InputError, one_line
from sparseft.storage.reading import read_bytes

# The folder of lm-eval's own definitions.
FOLDER = Path(lm_eval.tasks.__file__).resolve().parent
FUNCTION = "!function"
# Bytes of a definition. lm-eval's largest has 80 kB.
_LIMIT = 10**6
# The loader that lm-eval uses, so that both read the same.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in "null bool int float str seq map merge timestamp binary omap pairs set".split()
)
# Keys with which a definition would run code, or would need other input than text.
_REFUSED = ("class", "group", "custom_dataset", "use_prompt", "unsafe_code", "doc_to_image", "doc_to_audio")
# Keys whose value is a function.
_FUNCTION_KEYS = ("process_docs", "process_results")
_UNUSED = ("tag", "task_alias", "task_list", "metadata", "should_decontaminate", "doc_to_decontamination_query")


@dataclass(frozen=True)
class Definition:
    """Hold a definition of lm-eval as JSON, and its file in lm-eval's folder; None for a user's file."""

    config: dict
    file: str | None


def read_definition(source: str, place: str) -> Definition:
    """Return the definition that `source` names: a YAML file, or one of lm-eval's tasks.

    `place` is the key of the configuration, for errors. Raises InputError if there is none, or if it would run a user's code."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if source.endswith((".yaml", ".yml")):
        path = Path(source).resolve()
        _check_plain(path, source, set())
        config = _load(path, source)
        _refuse_remote_code(config, source)
        file = None
    else:
        path = _file_of(source, place)
        config = _load(path, source)
        file = path.relative_to(FOLDER).as_posix()
    _check_keys(config, source)
    kept = {key: value for key, value in config.items() if key not in _UNUSED}
    try:
        return Definition(json.loads(json.dumps(kept)), file)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: holds more than text and numbers ({error})", "put dates in quotes") from None


def with_functions(value: object) -> object:
    """Return a JSON value with lm-eval's functions in the place of their names.

    Raises InputError if a name leads out of lm-eval's folder."""
    if isinstance(value, list):
        return [with_functions(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {FUNCTION}:
        return {key: with_functions(item) for key, item in value.items()}
    folder, _, name = value[FUNCTION].rpartition("/")
    base = (FOLDER / folder).resolve()
    module = name.rpartition(".")[0]
    is_beside = (base / f"{module.replace('.', '/')}.py").is_file()
    if not base.is_relative_to(FOLDER) or not (is_beside or module.startswith("lm_eval.")):
        raise InputError(f"{value[FUNCTION]}: no function of lm-eval", "prepare the task again with prepare_task.py")
    return _import_func_in_yml(name, base)


def is_function(value: object) -> bool:
    """Return whether a JSON value stands for a function of lm-eval."""
    return isinstance(value, dict) and value.keys() == {FUNCTION}


def _load(path: Path, source: str) -> dict:
    """Return the content of a file with that of the files that it includes, by lm-eval's own loader."""
    try:
        config = load_yaml(path, resolve_func=False)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{source}: lm-eval cannot read it ({one_line(error)[:200]})", "correct the file") from None
    return _marked(config)


def _marked(value: object) -> object:
    """Return a value with FUNCTION at each function. lm-eval's loader gives a function as text: its folder and its name."""
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if isinstance(value, str) and value.startswith(f"{FOLDER}/"):
        return {FUNCTION: value.removeprefix(f"{FOLDER}/")}
    return value


def _check_plain(path: Path, source: str, checked: set[Path]) -> None:
    """Raise InputError unless a user's file, and every file outside lm-eval's folder that it includes, is plain data."""
    if path in checked or path.is_relative_to(FOLDER):
        return
    checked.add(path)
    try:
        content = read_bytes(path, _LIMIT)
        node = yaml.compose(content, Loader=_LOADER)
        if node is not None:
            _check_nodes(node, source)
        config = yaml.load(content, Loader=_LOADER)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file", "correct lm_eval or include") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML ({one_line(error)[:200]})", "correct the file") from None
    if not isinstance(config, dict):
        raise InputError(f"{source}: not a YAML file of keys and values", "write a task of lm-eval")
    _refuse_folder({key: value for key, value in config.items() if key != "include"}, source)
    included = config.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        _check_plain((path.parent / str(name)).resolve(), f"{source}, include {name}", checked)


def _check_nodes(root: yaml.Node, source: str) -> None:
    """Raise InputError if a node of a YAML file has a tag that makes more than data."""
    queue = [root]
    checked = set()
    while queue:
        node = queue.pop()
        # An alias repeats a node, and may even contain itself.
        if id(node) in checked:
            continue
        checked.add(id(node))
        line = node.start_mark.line + 1
        if node.tag not in _PLAIN_TAGS:
            value = f" {one_line(node.value)[:200]}" if isinstance(node, yaml.ScalarNode) else ""
            raise InputError(
                f"{source}, line {line}: {node.tag}{value} is code, and only lm-eval's own files may have code",
                "write a Jinja template instead",
            )
        if not isinstance(node, yaml.ScalarNode):
            # A mapping node has pairs, a sequence node has nodes.
            queue += [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]


def _refuse_folder(value: object, source: str) -> None:
    """Raise InputError if a text in a user's file looks like a function of lm-eval, which `_marked` would take it for."""
    if isinstance(value, str) and value.startswith(f"{FOLDER}/"):
        raise InputError(f"{source}: a text begins with the folder of lm-eval", "change the text")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _refuse_folder(part, source)


def _refuse_remote_code(config: dict, source: str) -> None:
    """Raise InputError if a user's file asks for the code of a data set."""
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict) and kwargs.get("trust_remote_code"):
        raise InputError(f"{source}: dataset_kwargs.trust_remote_code is not supported", "leave it out")


def _check_keys(config: dict, source: str) -> None:
    """Raise InputError for a key that lm-eval does not have, or with which a task needs more than text."""
    known = {field.name for field in fields(TaskConfig)} | {"class", "group", *_UNUSED}
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise InputError(f"{source}: lm-eval has no key {key!r}", f"write {near[0]!r}" if near else "leave it out")
    for key in _REFUSED:
        if config.get(key):
            raise InputError(f"{source}: {key} is not supported", "name a task of one prompt and one answer in text")
    for key in _FUNCTION_KEYS:
        if config.get(key) and not is_function(config[key]):
            raise InputError(f"{source}: {key} is not a function of lm-eval", "leave it out")


def _file_of(name: str, place: str) -> Path:
    """Return the file that defines one of lm-eval's tasks. Raises InputError if there is none, with what the name may mean.

    lm-eval would parse 14,000 files for it. Here only those that have the name are parsed, in lm-eval's order."""
    line = re.compile(rb"""^["']?task["']?[ \t]*:[ \t]*["']?%s["']?[ \t]*(#.*)?\r?$""" % re.escape(name.encode()), re.M)
    for path in sorted(FOLDER.glob("**/*.yaml"), key=lambda path: path.as_posix()):
        if line.search(path.read_bytes()):
            config = load_yaml(path, resolve_func=False)
            if config.get("task") == name and not {"class", "group"} & config.keys():
                return path
    return _file_in_index(name, place)


def _file_in_index(name: str, place: str) -> Path:
    """Return the file of a task from lm-eval's index of all files, which takes 8 s to make.

    Raises InputError if the name is that of several tasks or of none."""
    index = _index()
    entry = index.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, index, 5)
        names = f"such as {', '.join(near)}" if near else "of lm-eval (lm_eval ls tasks)"
        raise InputError(f"{place}: lm-eval has no task {name!r}", f"give a name {names}, or a .yaml file")
    if entry.kind == Kind.PY_TASK:
        raise InputError(f"{place}: lm-eval's {name} is written in Python, not in YAML", "name another task")
    if entry.kind != Kind.TASK:
        members = list(dict.fromkeys(_members(entry, index)))
        more = f" and {len(members) - 5} more" if len(members) > 5 else ""
        raise InputError(
            f"{place}: {name!r} is a group of lm-eval's tasks", f"name its members: {', '.join(members[:5])}{more}"
        )
    return entry.yaml_path


@cache
def _index() -> dict[str, Entry]:
    """Return lm-eval's index of its own tasks, groups and tags by name."""
    return TaskManager().task_index


def _members(entry: Entry, index: dict[str, Entry]) -> Iterator[str]:
    """Yield the names of the tasks of a group or a tag, and of those in it."""
    if entry.kind == Kind.TAG:
        members = sorted(entry.tags)
    else:
        listed = entry.cfg.get("task") or []
        members = [item if isinstance(item, str) else item.get("group") or item.get("task") for item in listed]
    for name in members:
        if name not in index:
            continue
        if index[name].kind in (Kind.TASK, Kind.PY_TASK):
            yield name
        else:
            yield from _members(index[name], index)
