"""Fetch models from the Hugging Face hub with its own client. A place on the hub is ORG/NAME[@REVISION]."""

import errno
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_json

# How long a plan waits for the hub's answer, in seconds.
PLAN_TIMEOUT = 3
_CONFIG = "config.json"


def fetch_snapshot(place: str, wanted: Iterable[str]) -> Path:
    """Return a folder with the files of a place that fit the patterns `wanted`. Raises InputError if they cannot be fetched."""
    from huggingface_hub import snapshot_download

    return Path(_fetch(place, snapshot_download, allow_patterns=list(wanted)))


def fetch_config(place: str) -> dict:
    """Return the config.json of a place, and fetch nothing else. Raises InputError if it cannot be fetched."""
    from huggingface_hub import hf_hub_download

    return read_json(Path(_fetch(place, hf_hub_download, filename=_CONFIG)))


@cache
def known_config(place: str) -> dict | None:
    """Return the config.json of a place: from the hub's cache here, else from the hub; None if neither has it now."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    name, _, revision = place.partition("@")
    cached = try_to_load_from_cache(name, _CONFIG, revision=revision or None)
    if isinstance(cached, str):
        return read_json(Path(cached))
    was_quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        fetched = _fetch(place, hf_hub_download, filename=_CONFIG, etag_timeout=PLAN_TIMEOUT)
    except (InputError, OSError):
        return None
    finally:
        if not was_quiet:
            enable_progress_bars()
    return read_json(Path(fetched))


def _fetch(place: str, download: Callable[..., str], **options: object) -> str:
    """Return the path that a function of the hub's client gives for a place. Raises InputError if it fails."""
    name, _, revision = place.partition("@")
    try:
        return download(name, revision=revision or None, **options)
    # The client of the hub raises a dozen kinds of errors.
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise _hub_error(name, revision, error) from None


def _hub_error(name: str, revision: str, error: Exception) -> InputError:
    """Return why a model of the hub cannot be fetched, and what to do about it."""
    from huggingface_hub import constants, errors

    log_in = "then run `hf auth login` or set HF_TOKEN"
    # The first that fits counts: the error of a gated repository is a subclass of that of a missing one.
    reasons = {
        errors.GatedRepoError: (
            "gated: only those who accepted its licence may fetch it",
            f"accept it on {constants.ENDPOINT}/{name}, {log_in}",
        ),
        errors.RepositoryNotFoundError: (
            "no such repository, or a private one",
            f"check the name; if it is private, ask its owner for access, {log_in}",
        ),
        errors.RevisionNotFoundError: (
            f"it has no revision {revision or 'main'}",
            "name one of its branches, tags or commits",
        ),
        errors.LocalEntryNotFoundError: (
            "the hub cannot be reached",
            "connect to the network and unset HF_HUB_OFFLINE, or use path:DIR",
        ),
        # A subclass of it is above.
        errors.EntryNotFoundError: (
            f"it has no {_CONFIG}",
            "name a repository that holds a model of Hugging Face's transformers",
        ),
    }
    for kind, (what, advice) in reasons.items():
        if isinstance(error, kind):
            return InputError(f"hub:{name}: {what}", advice)
    first_line = str(error).splitlines()[:1]
    what = ": ".join([type(error).__name__, *first_line])
    return InputError(f"hub:{name}: {what}", "check name, access and network, or use path:DIR")
