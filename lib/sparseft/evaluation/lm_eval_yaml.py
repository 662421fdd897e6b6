"""Find and read the task definitions of lm-eval (docs/task_guide.md in its repository). No code of a user's file runs.

lm-eval's YAML files name Python functions with the tag !function. Functions in lm-eval's own package are trusted, as the package
is. A user's file is searched for tags before lm-eval's loader reads it, and so is every file outside the package that it includes.
The result is JSON. In it {"!function": "FOLDER/MODULE.NAME"} stands for a function, with a folder of lm-eval's tasks. A manifest
may have a function only at a key where lm-eval's own files have it. A task whose functions run texts as code is refused.
"""

import difflib
import inspect
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.config.task import TaskConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import _import_func_in_yml, load_yaml

from sparseft.errors import InputError, one_line

# The folder of lm-eval's own definitions.
FOLDER = Path(lm_eval.tasks.__file__).resolve().parent
FUNCTION = "!function"
# Bytes of a definition. lm-eval's largest has 80 kB.
# Values in a user's file, each alias counted as a copy, and lists in lists.
_NODES = 100_000
_DEPTH = 100
# What a module has that runs a text as code, or another program.
_RUNNING = re.compile(r"(?<![.\w])(?:exec|eval|Popen)\(|\bsubprocess\.|\bos\.(?:system|popen)\(|code_eval")
# The loader that lm-eval uses, so that both read the same.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in "null bool int float str seq map merge timestamp binary omap pairs set".split()
)
# Keys with which a definition would run code, or would need other input than text.
_REFUSED = ("class", "group", "custom_dataset", "use_prompt", "doc_to_image", "doc_to_audio")
# Keys whose value is a function.
_FUNCTION_KEYS = ("process_docs", "process_results")
_UNUSED = ("tag", "task_alias", "task_list", "metadata", "should_decontaminate", "doc_to_decontamination_query")


@dataclass(frozen=True)
class Definition:
    """Hold a definition of lm-eval as JSON, and its file in lm-eval's folder; None for a user's file.

    `included` are the files of lm-eval's folder that a user's file includes."""

    config: dict
    file: str | None
    included: list[str]


def read_definition(source: str, place: str) -> Definition:
    """Return the definition that `source` names: a YAML file, or one of lm-eval's tasks.

    `place` is the key of the configuration, for errors. Raises InputError if there is none, or if it would run a user's code."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if source.endswith((".yaml", ".yml")):
        path = Path(source).resolve()
        checked: set[Path] = set()
        _check_plain(path, source, checked)
        included = sorted(_in_folder(path) for path in checked if path.is_relative_to(FOLDER))
        config = _load(path, source)
        _refuse_remote_code(config, source)
        file = None
    else:
        path = _file_of(source, place)
        config = _load(path, source)
        file = _in_folder(path)
        included = []
    for own in [file] if file else included:
        _refuse_unsafe(FOLDER / own, source, set())
    _check_keys(config, source)
    kept = {key: value for key, value in config.items() if key not in _UNUSED}
    try:
        return Definition(json.loads(json.dumps(kept)), file, included)
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
    return _function(value[FUNCTION])


def _function(reference: str) -> object:
    """Return the function of lm-eval that `reference` names. Raises InputError if it is another's, or if it may run code."""
    folder, _, name = reference.rpartition("/")
    base = (FOLDER / folder).resolve()
    module = name.rpartition(".")[0]
    beside = base / f"{module.replace('.', '/')}.py"
    if not base.is_relative_to(FOLDER) or not (beside.is_file() or module.startswith("lm_eval.")):
        raise InputError(f"{reference}: no function of lm-eval", "prepare the task again with prepare_task.py")
    function = _import_func_in_yml(name, base)
    origin = _file_with(function)
    if origin is None or not origin.is_relative_to(FOLDER.parent):
        raise InputError(f"{reference}: no function of lm-eval", "name a function that lm-eval defines")
    if any(_RUNNING.search(path.read_text(encoding="utf-8")) for path in {origin, beside} if path.is_file()):
        raise InputError(
            f"{reference}: its module may run texts as code, or other programs", "name a task without such a function"
        )
    return function


def _file_with(function: object) -> Path | None:
    """Return the file that defines a function or a class; None for another object."""
    while isinstance(function, partial):
        function = function.func
    try:
        return Path(inspect.getfile(inspect.unwrap(function))).resolve()
    except (TypeError, OSError):
        return None


def check_functions(definition: dict) -> None:
    """Raise InputError unless lm-eval's own files have every function of a manifest's definition at the same key.

    These are the file that defines the task, or those that a user's file includes."""
    files = [definition["file"]] if definition["file"] else definition["included"]
    own = {pair for file in files for pair in _references(_load(_own_file(file), str(file)))}
    for place, reference in _references(definition["yaml"]):
        if (place, reference) not in own:
            raise InputError(
                f"{'.'.join(place)}: lm-eval does not have the function {reference} there",
                "prepare the task again with prepare_task.py",
            )


def _own_file(file: object) -> Path:
    """Return the path of a file in lm-eval's folder. Raises InputError if the name leads elsewhere."""
    path = (FOLDER / str(file)).resolve()
    if not path.is_relative_to(FOLDER):
        raise InputError(f"{file}: no file of lm-eval", "prepare the task again with prepare_task.py")
    return path


def _references(value: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the keys that lead to each function in a JSON value, without the numbers in lists, and its name."""
    if isinstance(value, list):
        for item in value:
            yield from _references(item, place)
    elif is_function(value):
        yield place, str(value[FUNCTION])
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _references(item, (*place, str(key)))


def is_function(value: object) -> bool:
    """Return whether a JSON value stands for a function of lm-eval."""
    return isinstance(value, dict) and value.keys() == {FUNCTION}


def _load(path: Path, source: str) -> dict:
    """Return the content of a file with that of the files that it includes, by lm-eval's own loader."""
    return _marked(_read(path, source, recursive=True))


def _read(path: Path, source: str, *, recursive: bool) -> dict:
    """Return the content of a file as lm-eval's own loader reads it. Raises InputError if it cannot."""
    try:
        return load_yaml(path, resolve_func=False, recursive=recursive)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{source}: lm-eval cannot read it ({one_line(error)[:200]})", "correct the file") from None


def _in_folder(path: Path) -> str:
    """Return the name of a file in lm-eval's folder."""
    return path.relative_to(FOLDER).as_posix()


def _refuse_unsafe(path: Path, source: str, checked: set[Path]) -> None:
    """Raise InputError if a file of lm-eval, or one that it includes, says that its task runs code.

    A file that includes it may change the key, but not what its functions do."""
    if path in checked:
        return
    checked.add(path)
    config = _read(path, source, recursive=False)
    if config.get("unsafe_code"):
        raise InputError(f"{source}: unsafe_code is not supported ({path.name})", "name a task that runs no code")
    for name in _includes(config, source):
        _refuse_unsafe((path.parent / name).resolve(), source, checked)


def _includes(config: dict, source: str) -> list[str]:
    """Return the names of the files that a file includes. Raises InputError if they are not text."""
    if "include" not in config:
        return []
    included = config["include"]
    names = included if isinstance(included, list) else [included]
    if not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise InputError(f"{source}: include is {included!r}", "give the name of a file, or a list of names")
    return names


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
    if path in checked:
        return
    checked.add(path)
    if path.is_relative_to(FOLDER):
        return
    try:
        content = path.read_bytes()
        node = yaml.compose(content, Loader=_LOADER)
        if node is not None:
            _check_nodes(node, source)
        config = yaml.load(content, Loader=_LOADER)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file", "correct lm_eval or include") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})", "correct lm_eval or include") from None
    # A date may have a thirteenth month.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: not valid YAML ({one_line(error)[:200]})", "correct the file") from None
    if not isinstance(config, dict):
        raise InputError(f"{source}: not a YAML file of keys and values", "write a task of lm-eval")
    _refuse_folder({key: value for key, value in config.items() if key != "include"}, source)
    if config.get("unsafe_code"):
        raise InputError(f"{source}: unsafe_code is not supported", "name a task that runs no code")
    for name in _includes(config, source):
        _check_plain((path.parent / name).resolve(), f"{source}, include {name}", checked)


def _check_nodes(root: yaml.Node, source: str) -> None:
    """Raise InputError if a node of a YAML file makes more than data, or if aliases make the data large or endless."""
    queue = [(root, 0)]
    count = 0
    while queue:
        node, depth = queue.pop()
        count += 1
        if count > _NODES or depth > _DEPTH:
            raise InputError(
                f"{source}: more than {_NODES} values or {_DEPTH} levels, with the copies that aliases make",
                "write a smaller file",
            )
        _check_node(node, source)
        if not isinstance(node, yaml.ScalarNode):
            # A mapping node has pairs, a sequence node has nodes.
            parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
            queue += [(part, depth + 1) for part in parts]


def _check_node(node: yaml.Node, source: str) -> None:
    """Raise InputError if a node has a tag that makes more than data, or if a key says that its value is a function."""
    text = one_line(node.value)[:200] if isinstance(node, yaml.ScalarNode) else ""
    is_function_key = isinstance(node, yaml.MappingNode) and any(key.value == FUNCTION for key, _ in node.value)
    if node.tag not in _PLAIN_TAGS or is_function_key:
        what = FUNCTION if is_function_key else f"{node.tag} {text}".rstrip()
        raise InputError(
            f"{source}, line {node.start_mark.line + 1}: {what} is code, and only lm-eval's own files may have code",
            "write a Jinja template instead",
        )


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
