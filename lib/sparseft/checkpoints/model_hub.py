"""Fetch models from the Hugging Face hub with its own client. A place on the hub is ORG/NAME[@REVISION]."""

import errno
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from sparseft.errors import InputError, one_line
from sparseft.storage.reading import parse_json, read_json

# How long a plan waits for the hub's answer, in seconds.
PLAN_TIMEOUT = 3
_CONFIG = "config.json"
_GIVE_MODEL = "name a repository that holds a model of Hugging Face's transformers"


def fetch_snapshot(place: str, wanted: Iterable[str]) -> Path:
    """Return a folder with the files of a place that fit the patterns `wanted`. Raises InputError if they cannot be fetched."""
    from huggingface_hub import snapshot_download

    name, _, revision = place.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(wanted)))
    # The client of the hub raises a dozen kinds of errors.
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise _hub_error(name, revision, error) from None


def fetch_config(place: str) -> dict:
    """Return the config.json of a place, and fetch nothing else. Raises InputError if it cannot be fetched."""
    file = fetch_snapshot(place, [_CONFIG]) / _CONFIG
    if not file.exists():
        raise InputError(f"hub:{place.partition('@')[0]}: it has no {_CONFIG}", _GIVE_MODEL)
    return read_json(file, _GIVE_MODEL)


@cache
def known_config(place: str) -> dict | None:
    """Return the config.json of a place: from the hub's cache here, else from the hub; None if neither has it now."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    name, _, revision = place.partition("@")
    cached = try_to_load_from_cache(name, _CONFIG, revision=revision or None)
    if isinstance(cached, str):
        return read_json(Path(cached), _GIVE_MODEL)
    url = hf_hub_url(name, _CONFIG, revision=revision or None)
    try:
        # hf_hub_download would repeat the request for half a minute on a machine without a network.
        answer = get_session().get(url, headers=build_hf_headers(), timeout=PLAN_TIMEOUT, follow_redirects=True)
        hf_raise_for_status(answer)
        return parse_json(answer.text, place, _GIVE_MODEL)
    # The job that prepares the model reports the error.
    except Exception:
        return None


def _hub_error(name: str, revision: str, error: Exception) -> InputError:
    """Return why a model of the hub cannot be fetched, and what to do about it."""
    from huggingface_hub import constants, errors

    log_in = "then run `hf auth login` or set HF_TOKEN"
    # The first that fits counts: the error of a gated repository is a subclass of that of a missing one.
    reasons = {
        errors.GatedRepoError: ("gated", f"accept its licence on {constants.ENDPOINT}/{name}, {log_in}"),
        errors.RepositoryNotFoundError: ("no such repository, or a private one", f"check the name, {log_in}"),
        errors.RevisionNotFoundError: (f"it has no revision {revision or 'main'}", "name a branch, a tag or a commit"),
        errors.LocalEntryNotFoundError: (
            "the hub cannot be reached",
            "connect to the network and unset HF_HUB_OFFLINE, or use path:DIR",
        ),
        Exception: (f"{type(error).__name__}: {one_line(error)}", "check name, access and network, or use path:DIR"),
    }
    what, advice = next(reason for kind, reason in reasons.items() if isinstance(error, kind))
    return InputError(f"hub:{name}: {what}", advice)
