"""Refuse a study before anything runs, if a file that it needs is missing, was edited, or does not fit."""

from itertools import product
from pathlib import Path

from sparseft.architectures import find_architecture, tensor_shapes
from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.planning.known_hashes import KnownHashes
from sparseft.planning.local_files import data_files
from sparseft.planning.model_sizes import description
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.grid import CALIBRATION, DATA, MANIFEST, WIKITEXT2, base_manifest
from sparseft.study.sources import Model, split_mdl
from sparseft.tasks.documents import source_file
from sparseft.tasks.selection_rows import MANIFEST_FILE, ROWS_FILE


def check_inputs(config: Config, hashes: KnownHashes) -> None:
    """Raise InputError if a model, a task or a text of the study cannot be used, as far as this is known yet."""
    check_sources(config)
    _check_prepared(config, hashes)


def check_sources(config: Config) -> None:
    """Raise InputError if local files are missing, or if the study's backend and texts do not suit a model.

    One error names all files that are missing. A model that must be fetched is not known yet."""
    places = data_files(config) | {f"models.{name}": _needed(name, config.models[name]) for name in config.grid.models}
    places |= _imported(config)
    missing = [
        f"{place}: {file}: no such file"
        for place, files in places.items()
        for file in files
        if file and not Path(file).exists()
    ]
    if missing:
        raise InputError(", ".join(missing), "correct the source, or put the files there")
    for name in config.grid.models:
        content, place = description(name, config.models[name]) or (None, "")
        if content is None:
            continue
        architecture = find_architecture(content.get("architectures"), place)
        config.training_backend.check_architecture(architecture, f"models.{name}")
        tensor_shapes(content, place)
        window, limit = config.perplexity and config.perplexity.context, content.get("max_position_embeddings")
        # Otherwise the first evaluation would find it, after hours.
        if window and limit and window > limit:
            what = f"perplexity.context: windows of {window} tokens, but {name} takes {limit}"
            raise InputError(what, f"set it to at most {limit}")


def _needed(name: str, model: Model) -> list[Path]:
    """Return the files of a local source without which a model cannot be prepared. A prepared model needs none."""
    kind, _, place = model.source.partition(":")
    if kind not in ("path", "mdl") or Path(MANIFEST.format(model=name)).exists():
        return []
    file, folder = split_mdl(place) if kind == "mdl" else (None, Path(place))
    return [folder / "config.json", file]


def _imported(config: Config) -> dict[str, list[Path]]:
    """Return the config.json of each local checkpoint that the grid imports and that is not imported yet, by its place."""
    files = {}
    for model, method, percent in product(config.grid.models, config.grid.methods, config.grid.sparsities):
        name = get_method(method).imported
        if name and percent:
            kind, _, folder = config.masks.imported_source(method, percent).partition(":")
            base = base_manifest(method).format(model=model, method=method, sparsity=f"{percent:02d}")
            if kind == "path" and not Path(base).exists():
                files[f"masks.imported.{name}.{percent}"] = [Path(folder) / "config.json"]
    return files


def _check_prepared(config: Config, hashes: KnownHashes) -> None:
    """Raise InputError if a prepared file of the study is not the one whose sha256 its manifest records.

    Snakemake compares dates only, so it does not see a file that was edited or replaced with its date kept."""
    manifests = [Path(MANIFEST.format(model=name)) for name in config.grid.models]
    for task in dict.fromkeys([*config.grid.tasks, *config.evaluation.probes]):
        manifests += [Path(DATA.format(task=task), name) for name in ("manifest.json", MANIFEST_FILE)]
    manifests += [source_file(Path(CALIBRATION.format(text=text))) for text in config.calibration_texts()]
    manifests += [source_file(Path(WIKITEXT2))] if config.perplexity else []
    for manifest in filter(Path.exists, manifests):
        recorded = _recorded(manifest)
        for file, digest in hashes.of(recorded).items():
            if digest != recorded[Path(file)]:
                raise InputError(
                    f"{file}: not the file that {manifest.name} beside it records",
                    f"delete {manifest} to prepare it again, or name your file as a source in the configuration",
                )


def _recorded(manifest: Path) -> dict[Path, str]:
    """Return file -> sha256 of the files that a manifest records. The jobs report a manifest of another form."""
    match read_json(manifest, "delete it to prepare it again"):
        case {"files": dict(files)}:
            return {manifest.with_name(name): entry["sha256"] for name, entry in files.items() if "sha256" in entry}
        case {"sha256": dict(splits)}:
            return {manifest.with_name(f"{split}.jsonl"): digest for split, digest in splits.items()}
        case {"sha256": str(digest)} if manifest.name == MANIFEST_FILE:
            return {manifest.with_name(ROWS_FILE): digest}
        case {"sha256": str(digest)}:
            return {manifest.with_suffix(""): digest}
    return {}
