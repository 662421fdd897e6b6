"""Hash files, so that a later step can check that it reads what an earlier step wrote."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(files: Iterable[Path]) -> dict[str, str]:
    """Return the sha256 of each file by its name."""
    return {file.name: sha256(file) for file in files}


def sha256_of_text(text: str) -> str:
    """Return the sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
