"""Keep the sha256 of files between two starts, so that a plan hashes only what may have changed."""

import os
from collections.abc import Iterable
from pathlib import Path

from sparseft.storage.atomic import write_json
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.reading import read_json


class KnownHashes:
    """Keep the sha256 of files in `record`, a JSON file, so that only a file that may have changed is hashed again.

    A file may have changed if its size, its inode or one of its two dates is another one, older or newer. A program can
    set the date of the content (mtime) back, but not that of the last change (ctime)."""

    def __init__(self, record: Path) -> None:
        self._record = record
        kind = dict[str, tuple[int, int, int, int, str]]
        self._known = read_json(record, f"delete {record}", kind) if record.exists() else {}

    def of(self, files: Iterable[Path | str]) -> dict[str, str]:
        """Return path -> sha256 of those `files` that are regular files. The job that reads another one reports it."""
        states = {}
        for file in filter(os.path.isfile, map(str, files)):
            status = os.stat(file)
            states[file] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        changed = {file: state for file, state in states.items() if self._known.get(file, [None])[:-1] != state}
        if changed:
            self._known |= {file: [*state, sha256(Path(file))] for file, state in changed.items()}
            write_json(self._record, self._known)
        return {file: self._known[file][-1] for file in states}

    def joint(self, files: Iterable[Path | str]) -> str:
        """Return one digest of the names and contents of the files that exist. Their folders do not count."""
        lines = sorted(f"{Path(file).name} {digest}\n" for file, digest in self.of(files).items())
        return sha256_of_text("".join(lines))
