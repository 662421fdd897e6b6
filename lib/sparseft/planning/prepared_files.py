"""Compare the prepared models, tasks and texts of a study with the sha256 that their manifests record.

Snakemake compares dates only, so it does not see a prepared file that was edited or replaced with its date kept.
"""

from collections.abc import Iterator
from pathlib import Path

from sparseft.errors import InputError
from sparseft.planning.known_hashes import KnownHashes
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.grid import CALIBRATION, DATA, MANIFEST, WIKITEXT2
from sparseft.tasks.documents import source_file
from sparseft.tasks.selection_rows import MANIFEST_FILE, ROWS_FILE


def check_prepared(config: Config, hashes: KnownHashes) -> None:
    """Raise InputError if a prepared file of the study is not the one that was prepared."""
    for manifest in _manifests(config):
        if manifest.exists():
            recorded = _recorded(manifest)
            for file, digest in hashes.of(recorded).items():
                if digest != recorded[Path(file)]:
                    raise InputError(
                        f"{file}: not the file that {manifest.name} beside it records",
                        f"delete {manifest} to prepare it again, or name your file as a source in the configuration",
                    )


def _manifests(config: Config) -> Iterator[Path]:
    """Yield the places of the manifests of all that the study prepares."""
    yield from (Path(MANIFEST.format(model=name)) for name in config.grid.models)
    for task in dict.fromkeys([*config.grid.tasks, *config.evaluation.probes]):
        yield Path(DATA.format(task=task), "manifest.json")
        yield Path(DATA.format(task=task), MANIFEST_FILE)
    yield from (source_file(Path(CALIBRATION.format(text=text))) for text in config.calibration_texts())
    if config.perplexity:
        yield source_file(Path(WIKITEXT2))


def _recorded(manifest: Path) -> dict[Path, str]:
    """Return file -> sha256 of the files that a manifest records. The jobs report a manifest of another form."""
    content = read_json(manifest, "delete it to prepare it again")
    match content:
        case {"files": dict(files)}:
            return {manifest.with_name(name): entry["sha256"] for name, entry in files.items() if "sha256" in entry}
        case {"sha256": dict(splits)}:
            return {manifest.with_name(f"{split}.jsonl"): digest for split, digest in splits.items()}
        case {"sha256": str(digest)} if manifest.name == MANIFEST_FILE:
            return {manifest.with_name(ROWS_FILE): digest}
        case {"sha256": str(digest)}:
            return {manifest.with_suffix(""): digest}
    return {}
