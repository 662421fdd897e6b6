"""The records of a run, JSON files that carry a digest of themselves, and what they record, checked before it is used.

    train.json   outputs.adapter: the digest of the adapter beside it
    merge.json   outputs: sha256 of every file that decides what the merged model beside it computes

A record's last key, `record_sha256`, is the sha256 of its text without that key: one altered bit is found.
"""

import hashlib
import json
import re
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.files import atomic_file, read_bytes, read_json

_END = re.compile(rb',\n  "record_sha256": "([0-9a-f]{64})"\n}\n\Z')
_LENGTH = 91  # bytes of it
ADAPTER, MODEL = "adapter", "model_dir"  # folders in that of a run


def write_record(path: Path | str, content: dict) -> None:
    """Write `content` as `write_json` does, its digest after it."""
    text = json.dumps(content, indent=2, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    begin = text.removesuffix("\n}")
    with atomic_file(path) as temporary:
        temporary.write_text(f'{begin},\n  "record_sha256": "{digest}"\n}}\n')


def unaltered(content: bytes) -> bool:
    """Whether a record's bytes are those that were written."""
    end = _END.search(content, max(0, len(content) - _LENGTH))
    return end is not None and hashlib.sha256(content[: end.start()] + b"\n}").hexdigest() == end[1].decode()


def read_record(path: Path) -> dict:
    """Return a record's content without its digest. Raises InputError if it is missing, or not as it was written."""
    content = read_json(path, again(path))
    if not unaltered(read_bytes(path)):
        raise InputError(f"{path}: altered since it was written", again(path))
    return {key: value for key, value in content.items() if key != "record_sha256"}


def again(path: Path | str) -> str:
    """How to mend a damaged product of the workflow."""
    return f"make it again: rm -r {path} && snakemake"


def check_adapter(folder: Path, digest: str) -> None:
    """Raise InputError if an adapter with this digest is not the one that the train.json beside it records.

    Without a train.json beside it, it may be any adapter."""
    path = folder.parent / "train.json"
    if folder.name != ADAPTER or not path.is_file():
        return
    if digest != read_record(path)["outputs"]["adapter"]:
        raise InputError(f"{folder}: not the adapter that train.json records", again(folder))


def check_model(folder: Path, hashes: dict[str, str]) -> None:
    """Raise InputError where a merged model is not the one that the merge.json beside it records.

    `hashes` are those of its files as they are now, from `Checkpoint.hashes`. A model without merge.json passes."""
    path = folder.parent / "merge.json"
    if folder.name != MODEL or not path.is_file():
        return
    recorded = read_record(path)["outputs"]
    altered = [name for name in hashes.keys() | recorded.keys() if hashes.get(name) != recorded.get(name)]
    if altered:
        raise InputError(f"{folder / min(altered)}: not the file that merge.json records", again(folder))
