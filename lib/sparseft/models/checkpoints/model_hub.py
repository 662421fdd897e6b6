"""Fetch models from the Hugging Face hub with its own client. A place on the hub is ORG/NAME[@REVISION].

Also say which repositories of the hub this machine may not read, before anything runs.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from sparseft.common.errors import InputError, is_full, naming, one_line
from sparseft.data.settings import HUB
from sparseft.storage.reading import parse_json, read_json
from sparseft.storage.revisions import fixed

# How long a plan waits for the hub's answer, in seconds.
PLAN_TIMEOUT = 3
_CONFIG = "config.json"
_GIVE_MODEL = "name a repository that holds a model of Hugging Face's transformers"
_REMEDY = (
    "check the name and the network, accept the licence on its page and run `hf auth login` or set HF_TOKEN,"
    " or use path:DIR"
)


def fetch_snapshot(place: str, wanted: Iterable[str]) -> Path:
    """Return a folder with the files of a place that fit the patterns `wanted`. Raises InputError if they cannot be
    fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    name, _, revision = fixed(f"{HUB}{place}").removeprefix(HUB).partition("@")
    try:
        with naming(Path(HF_HUB_CACHE)):
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(wanted)))
    # The client of the hub raises a dozen kinds of errors.
    except Exception as error:
        if is_full(error):
            raise
        raise InputError(f"hub:{name}: {type(error).__name__}: {one_line(error)}", _REMEDY) from None


@cache
def known_config(place: str) -> dict | None:
    """Return the config.json of a place: from the hub's cache here, else from the hub; None if neither has it now."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    name, _, revision = fixed(f"{HUB}{place}").removeprefix(HUB).partition("@")
    cached = try_to_load_from_cache(name, _CONFIG, revision=revision or None)
    if isinstance(cached, str):
        return read_json(Path(cached), _GIVE_MODEL)
    url = hf_hub_url(name, _CONFIG, revision=revision or None)
    try:
        return parse_json(_answer(url), place, _GIVE_MODEL)
    # The job that prepares the model reports the error.
    except Exception:
        return None


def check_access(places: dict[str, str]) -> None:
    """Raise InputError with all models of the hub that this machine may not read. Without a network, nothing is known.

    places: a key of the configuration -> ORG/NAME[@REVISION]"""
    from huggingface_hub import constants, errors

    faults = []
    for key, place in places.items():
        name = place.partition("@")[0]
        try:
            _answer(f"{constants.ENDPOINT}/api/models/{name}/auth-check")
        except errors.RepositoryNotFoundError as error:
            is_gated = isinstance(error, errors.GatedRepoError)
            faults.append(f"{key}: hub:{name} is {'gated' if is_gated else 'missing or private'}")
        # The job that fetches the place reports any other error.
        except Exception:
            break
    if faults:
        raise InputError(", ".join(faults), _REMEDY)


def _answer(url: str) -> str:
    """Return what the hub answers. Raises the errors of its client.

    hf_hub_download would repeat the request for half a minute on a machine without a network."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    answer = get_session().get(url, headers=build_hf_headers(), timeout=PLAN_TIMEOUT, follow_redirects=True)
    hf_raise_for_status(answer)
    return answer.text
