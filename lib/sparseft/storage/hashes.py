"""Hash files, so that a later step can check that it reads what an earlier step wrote."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


def sha256(path: Path | str) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_hashed(path: Path, blocks: Iterable[bytes]) -> str:
    """Write a file from blocks, and return the sha256 of its bytes.

    A second thread writes and hashes a block while the next one is computed. So at most three blocks are in memory."""
    digest = hashlib.sha256()

    def put(block: bytes) -> None:
        file.write(block)
        digest.update(block)

    with open(path, "wb") as file, ThreadPoolExecutor(1) as thread:
        last: Future | None = None
        for block in blocks:
            if last:
                last.result()
            last = thread.submit(put, block)
        if last:
            last.result()
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """Return the sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
