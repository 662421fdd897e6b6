"""Say what the licence of a dense model wants of a model that is made from it.

The licence is what README.md of the dense model states in its metadata, or what `export.license` says. Of a licence's
text, only the title is read, and only to find one of Creative Commons without derivatives.
"""

import re
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import metadata_load
from packaging.utils import canonicalize_name
from pydantic import TypeAdapter

from sparseft.common.errors import InputError, one_line
from sparseft.models.checkpoints.checkpoint import README, TERMS, files_like

# The metadata of the base that hold for what is made from it.
_STATED = ("license", "license_name", "license_link")
# How Creative Commons spells that nothing changed may be shared, as `_normal` returns it: in an identifier, in an
# address, and in a title.
_NO_DERIVATIVES = re.compile(r"\bby-(?:nc-)?nd\b|\battribution\W+(?:non-?commercial\W+)?no-?deriv\w*")
# The bytes of a file in which a title is looked for.
_TITLE = 500


class Terms(NamedTuple):
    """Say what a licence of Meta wants of a derived model that is given away.

    The words of its card and the beginning of its name are in 1.b.i of each licence, and the sentence of a text file
    "Notice" in 1.b.iii. The licence of Llama 2 wants none of them."""

    title: str
    words: str = "Built with Llama"
    name: str = "Llama"

    @property
    def notice(self) -> str:
        """Return the sentence."""
        licence = f"{self.title} Community License"
        return f"{self.title} is licensed under the {licence}, Copyright © Meta Platforms, Inc. All Rights Reserved.\n"

    def named(self, model: str) -> str:
        """Return a name that begins as the licence wants it."""
        return model if model.startswith(self.name) else f"{self.name}-{model}"


def _normal(text: str) -> str:
    """Return a text in small letters, with one hyphen in the place of blanks, dots, hyphens and underscores."""
    return canonicalize_name("-".join(text.split()))


# The hub's identifier of a licence, as `_normal` returns it -> what it wants.
_META = {_normal(f"llama{version}"): Terms(f"Llama {version}") for version in ("3.1", "3.2", "3.3", "4")}
_META["llama3"] = Terms("Meta Llama 3", "Built with Meta Llama 3", "Llama-3")


def stated_licence(base: Path) -> dict[str, str]:
    """Return what the README.md of a prepared base says of its licence, by key. Raises InputError if it cannot be
    read."""
    card = base / README
    try:
        stated = (card.exists() and metadata_load(card)) or {}
        return TypeAdapter(dict[str, str]).validate_python({name: stated[name] for name in _STATED if stated.get(name)})
    # A file of a stranger raises a dozen kinds of errors.
    except Exception as error:
        what = f"{card}: its metadata state no licence that can be read ({one_line(error)})"
        raise InputError(what, "read its licence, and write the identifier in export.license") from None


def terms_of(licence: dict[str, str]) -> Terms | None:
    """Return what a stated licence wants; None if nothing is known of it."""
    return next((_META[name] for name in map(_normal, licence.values()) if name in _META), None)


def check_derivatives(base: Path, licence: dict[str, str]) -> None:
    """Raise InputError if the stated licence, or the title of a licence file of the base, forbids to share a changed
    model."""
    # A text in UTF-16 has a zero in each second byte.
    read = {file.name: file.read_bytes()[:_TITLE].replace(b"\0", b"") for file in sorted(files_like(base, TERMS))}
    titles = {name: text.decode(errors="replace") for name, text in read.items()}
    for place, text in ({README: " ".join(licence.values())} | titles).items():
        if forbidden := _NO_DERIVATIVES.search(_normal(text)):
            what = f"{base / place}: the licence of the dense model ({forbidden[0]}) forbids to share a changed model"
            raise InputError(what, "do not export its runs, or choose another model")
