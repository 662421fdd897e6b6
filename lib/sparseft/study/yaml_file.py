"""Read configuration files as Snakemake reads them, and refuse what YAML would take otherwise than it is meant."""

from pathlib import Path
from typing import Any

import yaml

from sparseft.common.errors import InputError, one_line
from sparseft.storage.reading import read_text

# The aliases of a file stand for fewer values.
MOST = 100_000


class _Loader(yaml.SafeLoader):
    """Refuse what YAML would read as something else than you do: the first of two equal keys, and 010, which it reads
    as 8.

    It also refuses what has no end, because an alias stands inside of what it names, or hardly one, because aliases of
    aliases do."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[yaml.Node, int] = {}
        self._size = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """Return a node, and count the values in it. What an alias names must have ended, or it has no size yet."""
        before, is_alias = self._size, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._size += self._sizes.get(node, MOST) if is_alias else 1
        self._sizes[node] = self._size - before
        # Each node counts once as itself.
        if self._size - len(self._sizes) >= MOST:
            what = f"an alias stands in what it names, or makes {MOST:,} values of them"
            raise yaml.composer.ComposerError(None, None, what, node.start_mark)
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


def read_sections(file: Path) -> dict:
    """Return the sections of one configuration file. Raises InputError if it is not YAML, or if YAML reads it
    otherwise."""
    sections = parsed(read_text(file, "correct the path, or save the file as UTF-8"), str(file))
    if not isinstance(sections, dict):
        raise InputError(f"{file}: holds no sections", "write a study like config/config.yaml")
    if "__use_yte__" in sections:
        raise InputError(f"{file}: __use_yte__ makes Snakemake run expressions of the file", "leave it out")
    return sections


def parsed(text: str, place: str) -> Any:
    """Return what a YAML text says. Raises InputError with its `place` and line, if YAML cannot, or reads something
    else."""
    try:
        return yaml.load(text, Loader=_Loader)
    # A date may have a thirteenth month, which is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{place}{line}: {one_line(getattr(error, 'problem', None) or error)}", "correct it") from None


def check_command(arguments: list[str]) -> None:
    """Raise InputError if a part of the configuration is given twice, because Snakemake takes only the last one."""
    for names in (("--configfile", "--configfiles"), ("--config", "-C")):
        given = [word for word in arguments if word.partition("=")[0] in names]
        if len(given) > 1:
            what = f"{names[0]} is given {len(given)} times, and Snakemake takes the last one only"
            raise InputError(what, f"write all after one {names[0]}")
