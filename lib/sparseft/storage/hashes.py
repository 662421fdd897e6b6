"""Hash files, so that a later step can check that it reads what an earlier step wrote."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Return the sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
