"""Say what the licence of a dense model wants of a model that is made from it.

The licence is what README.md of the dense model states in its metadata. Of a licence's text, only the title is read,
and only to find one of Creative Commons without derivatives.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import metadata_load
from pydantic import TypeAdapter

from sparseft.checkpoints.checkpoint import README
from sparseft.errors import InputError, one_line

# The metadata of the base that hold for what is made from it.
_STATED = ("license", "license_name", "license_link")
# How Creative Commons spells that nothing changed may be shared: in an identifier, in an address, and in a title.
_NO_DERIVATIVES = re.compile(r"\bby-(?:nc-)?nd\b|\bAttribution-(?:NonCommercial-)?NoDeriv\w*", re.IGNORECASE)
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


# The hub's identifier of a licence -> what it wants.
_META = {f"llama{version}": Terms(f"Llama {version}") for version in ("3.1", "3.2", "3.3", "4")}
_META["llama3"] = Terms("Meta Llama 3", "Built with Meta Llama 3", "Llama-3")


def stated_licence(base: Path) -> dict[str, str]:
    """Return what the README.md of a prepared base says of its licence, by key. If it cannot be read, say so on
    stderr."""
    card = base / README
    try:
        stated = (card.exists() and metadata_load(card)) or {}
        return TypeAdapter(dict[str, str]).validate_python({name: stated[name] for name in _STATED if stated.get(name)})
    # A file of a stranger raises a dozen kinds of errors.
    except Exception as error:
        print(f"warning: {card}: its metadata state no licence that can be read ({one_line(error)})", file=sys.stderr)
        return {}


def terms_of(licence: dict[str, str]) -> Terms | None:
    """Return what a stated licence wants; None if nothing is known of it."""
    return next((terms for name, terms in _META.items() if name in licence.values()), None)


def check_derivatives(base: Path, licence: dict[str, str]) -> None:
    """Raise InputError if the stated licence, or the title of a LICENSE file of the base, forbids to share a changed
    model."""
    files = sorted(file for file in base.glob("LICENSE*") if file.is_file())
    titles = {file.name: file.read_bytes()[:_TITLE].decode(errors="replace") for file in files}
    for place, text in ({README: " ".join(licence.values())} | titles).items():
        if found := _NO_DERIVATIVES.search(text):
            what = f"{base / place}: the licence of the dense model ({found[0]}) forbids to share a changed model"
            raise InputError(what, "do not export its runs, or choose another model")
