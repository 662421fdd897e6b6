"""Write and check the records of a run: JSON files that carry a digest of themselves.

    train.json   outputs.adapter: the digest of the adapter, or of the trained weights, beside it
    merge.json   outputs: the sha256 of every file that decides what the merged model beside it computes

The first key, `record`, says what kind of record of a run it is. The last key, `record_sha256`, is the sha256 of its
text without that key. So one altered bit is noticed."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from sparseft.storage.atomic import atomic_file
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.outputs import claim

# The folder of the merged model in the folder of a run.
MODEL = "model_dir"
# The file of the tensors that a full training has changed.
TRAINED_TENSORS = "model.safetensors"
# The name of the metadata that say which run an adapter or trained tensors come from.
ORIGIN = "sparseft"
# The files of an adapter.
WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# What a training hands on (axes/modes/mode.py) -> its files, that of the tensors first, and the text by which this is
# known.
FILES_OF = {"adapter": (WEIGHTS, ADAPTER_CONFIG), "weights": (TRAINED_TENSORS,)}
TRAINED_BY_US = f'"{ORIGIN}": "'
# What stands before the digest of a record.
_DIGEST = b',\n  "record_sha256": "'


def write_record(path: Path, content: dict) -> None:
    """Write `content` as `write_json` does, and its digest as the last key."""
    head = json.dumps(content, indent=2, allow_nan=False).removesuffix("\n}").encode()
    with atomic_file(path) as temporary:
        temporary.write_bytes(head + _DIGEST + _end(head))


def claim_record(path: Path, kind: str, inputs: Iterable[Path | None]) -> None:
    """Hold the place of a record. Raises InputError if it is an input, or if a file of another kind is there."""
    claim(path, path, first_key(kind), inputs)


def first_key(kind: str) -> str:
    """Return the text with which a record of this kind begins."""
    return f'{{\n  "record": "{kind}",\n'


def write_record_of(folder: Path, path: Path, content: dict) -> None:
    """Write the record of a folder that was just written. If that fails, delete the folder, which proves nothing by
    itself."""
    try:
        write_record(path, content)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def unaltered(content: bytes) -> bool:
    """Return whether a record's bytes are those that were written."""
    head, _, end = content.rpartition(_DIGEST)
    return end == _end(head)


def _end(head: bytes) -> bytes:
    """Return the digest of a record that begins with `head`, and the end of its text."""
    return hashlib.sha256(head + b"\n}").hexdigest().encode() + b'"\n}\n'


def remake_advice(path: Path) -> str:
    """Return the advice for a damaged output of the workflow."""
    return f"make it again: rm -r {path} && snakemake"


def trained_digest(folder: Path) -> str:
    """Return the digest of what a training left in a folder, as it is now: an adapter, or the trained tensors."""
    if (folder / TRAINED_TENSORS).is_file():
        return sha256(folder / TRAINED_TENSORS)
    return joint_digest(sha256(folder / WEIGHTS), sha256(folder / ADAPTER_CONFIG))


def joint_digest(weights: str, configuration: str) -> str:
    """Return the digest of an adapter from the sha256 of its two files. Both count, because the configuration holds r
    and alpha."""
    return sha256_of_text(f"{weights}\n{configuration}")
