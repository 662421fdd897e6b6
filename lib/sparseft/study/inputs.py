"""List the files that a study is made from, and refuse a study before anything runs if one of them does not
fit."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from sparseft.axes.architectures.architecture import attention_heads
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.axes.grid import CALIBRATION, MANIFEST, MODEL, WIKITEXT2, base_manifest
from sparseft.axes.methods import get_method
from sparseft.axes.patterns.channels import heads_removed
from sparseft.axes.tasks import BY_NAME
from sparseft.axes.tasks.task import MANIFESTS, RowFormat
from sparseft.common.errors import InputError
from sparseft.data.loading import own_task
from sparseft.data.rows import each_row
from sparseft.data.selection_rows import MANIFEST_FILE, ROWS_FILE
from sparseft.data.settings import HUB, OWN_CONTEXT
from sparseft.data.task_files import task_files
from sparseft.data.texts import source_file
from sparseft.models.checkpoints.checkpoint import small_files
from sparseft.models.checkpoints.model_hub import check_access
from sparseft.models.checkpoints.settings import local_source, pruned_base
from sparseft.storage.known_hashes import KnownHashes
from sparseft.storage.reading import read_json
from sparseft.storage.revisions import fetched
from sparseft.study.config import Config
from sparseft.study.planning.sizes import ModelSizes, known_rows, known_sizes
from sparseft.study.targets import runs, window_files

# Characters of a run's name at most. The name of a file has 255, and temporary files and logs put something before and
# behind it.
LONGEST_NAME = 200
# A share of the heads is far from the requested one if it differs by more percentage points.
FAR = 2


def check_inputs(config: Config, hashes: KnownHashes) -> None:
    """Raise InputError if a model, a task or a text of the study cannot be used, as far as this is known yet.

    A prepared file must have the sha256 that its manifest records. Snakemake compares dates only, so it does not see a
    file that was edited or replaced with its date kept."""
    check_sources(config)
    for manifest in filter(Path.exists, [*source_manifests(config), *map(source_file, window_files(config))]):
        recorded = _recorded(manifest)
        for file, digest in hashes.of(recorded).items():
            if digest != recorded[Path(file)]:
                raise InputError(
                    f"{file}: not the file that {manifest.name} beside it records",
                    f"delete it and {_whole(manifest)} to prepare it again, or name your file as a source",
                )
        for place, commit in fetched([manifest]).items():
            if commit != config.revisions.get(place, commit):
                what = f"revisions: {manifest} has {place} at {commit}, not at {config.revisions[place]}"
                raise InputError(what, f"leave {place} out, or delete {_whole(manifest)} to prepare it again")


def source_manifests(config: Config) -> list[Path]:
    """Return the manifests of the models, tasks and texts of a study, prepared or not."""
    manifests = [Path(MANIFEST.format(model=name)) for name in _models(config)]
    prepared = product(_prepared_tasks(config), config.grid.models)
    folders = {config.data_folder(*names): names[0] in config.grid.tasks for names in prepared}
    manifests += [Path(folder, name) for folder in folders for name in MANIFESTS.values()]
    manifests += [Path(folder, MANIFEST_FILE) for folder, is_trained in folders.items() if is_trained]
    documents = [name for name in config.texts_read() if not config.texts[name].has_own_windows]
    manifests += [source_file(Path(CALIBRATION.format(text=text))) for text in documents]
    return manifests + ([source_file(Path(WIKITEXT2))] if config.perplexity else [])


def fetched_files(config: Config) -> list[Path]:
    """Return the files that need the network: the prepared models, tasks and texts, and the checkpoints of another
    tool.

    A model that is made from a pruned base of the study is not among them, nor a task whose rows a model samples."""
    made = [MODEL.format(model=name) for name in _models(config) if pruned_base(config.models[name].source)]
    for model in config.grid.models:
        made += [config.data_folder(task, model) for task in config.grid.tasks if config.tasks[task].text]
    unused = "" if any(config.training_names) else MANIFEST_FILE
    files = [file for file in source_manifests(config) if str(file.parent) not in made and file.name != unused]
    return files + [base for _, base, source in _imported(config) if source.startswith(HUB)]


def _models(config: Config) -> list[str]:
    """Return the models of the grid, those from which they were pruned, and those that are measured beside them."""
    names = [*config.grid.models, *(config.ship.siblings if config.ship else [])]
    return list(dict.fromkeys(each for name in names for each in config.lineage(name)))


def _imported(config: Config) -> Iterator[tuple[str, Path, str]]:
    """Yield the key of each checkpoint of another tool, the manifest of the pruned base that is made from it, and its
    source; "" if the model was pruned itself."""
    for model, method in product(config.grid.models, config.grid.methods):
        tool = get_method(method).imported
        for percent in filter(None, config.grid.percents(method)) if tool else ():
            base = base_manifest(method).format(model=model, method=method, sparsity=f"{percent:02d}")
            yield f"masks.imported.{tool}.{percent}", Path(base), config.pruned_source(model, method, percent) or ""


def check_sources(config: Config) -> None:
    """Raise InputError if local files or rows are missing, a run's name is too long, the hub refuses a model, or a
    model is not suited.

    A model must suit the backend and the texts. One that must be fetched is not known yet. One error names all files
    that are missing."""
    longest = max((run.id for run in runs(config)), key=len)
    if len(longest) > LONGEST_NAME:
        what = f"{longest}: the name of a run has {len(longest)} characters, and {LONGEST_NAME} are possible"
        raise InputError(what, "shorten the name of the model, the task, the training or the text")
    names = [name for name in config.grid.models if not Path(MANIFEST.format(model=name)).exists()]
    unprepared = {f"models.{name}": config.models[name].source for name in names}
    missing = [f"{key}: {file}: no such file" for key, file in _sources(config, unprepared) if not Path(file).exists()]
    if missing:
        raise InputError(", ".join(missing), "correct the source, or put the files there (docs/tasks.md)")
    _check_rows(config)
    # The client of the hub takes a tenth of a plan's time to import.
    if places := {key: source.removeprefix(HUB) for key, source in unprepared.items() if source.startswith(HUB)}:
        check_access(places)
    for name, sizes in _known_sizes(config).items():
        config.training_backend.check_architecture(sizes.architecture, f"models.{name}")
        for method in map(get_method, config.grid.methods):
            percents, of_method = config.grid.percents(method.name), f"{method.name}, models.{name}"
            model = PrunableModel(sizes.architecture, sizes.config, sizes.prunable, of_method)
            try:
                method.pattern.check_model(model, percents, config.masks.head_share)
            except InputError as error:
                what, advice = error.args
                raise InputError(what, "set ship.candidates to [channels]" if config.ship else advice) from None
        limit = sizes.config.get("max_position_embeddings")
        windows = {"perplexity.context": config.perplexity.context if config.perplexity else 0}
        windows["evaluation.divergence"] = config.divergence_length if config.divergence_windows else 0
        # Otherwise the first evaluation would find it, after hours.
        for key, window in windows.items():
            if limit and window != OWN_CONTEXT and window > limit:
                what = f"{key}: windows of {window} tokens, but {name} takes {limit}"
                raise InputError(what, "lower it, or measure none")


def _known_sizes(config: Config) -> dict[str, ModelSizes]:
    """Return the models of the study whose config.json is known, by name."""
    return {name: sizes for name in config.grid.models if (sizes := known_sizes(name, config.models))}


def _sources(config: Config, unprepared: dict[str, str]) -> list[tuple[str, str]]:
    """Return the user's own files that the study still needs, each after its place in the configuration.

    `unprepared` has the sources of the models that are not prepared. What is prepared or imported needs its source no
    more."""
    places = {key: model_files(source) for key, source in unprepared.items()}
    places |= {key: model_files(source) for key, base, source in _imported(config) if not base.exists()}
    places |= {f"tasks.{name}": task_files(config.task_data(name)) for name in _prepared_tasks(config)}
    texts = {f"masks.calibration.{name}.text": config.texts[name].local for name in config.texts_read()}
    texts["perplexity.local"] = config.perplexity.local if config.perplexity else None
    places |= {key: [text] for key, text in texts.items() if text}
    return [(key, file) for key, files in places.items() for file in files]


def _check_rows(config: Config) -> None:
    """Raise InputError if a task has fewer rows than the study takes, as far as this is known before it is prepared.

    Also raise it if the first row of a local file is not one of the task."""
    for name in _prepared_tasks(config):
        data = config.task_data(name)
        for split, number in data.numbers.items() if data.kind != "text" else ():
            if number and (rows := known_rows(name, data, split)) is not None and rows < number:
                what = f"tasks.{name}.{split}_examples {number:,}: {data.local or 'the data set'} has {rows:,} rows"
                raise InputError(what, "lower it, or leave it out to take all rows")
        if data.local:
            # Only the preparation of a task of lm-eval knows its fields.
            row_format = own_task(name, data) if data.kind else BY_NAME.get(name, RowFormat(name=name, fields={}))
            for file in task_files(data):
                if file.endswith(".jsonl"):
                    next(each_row(Path(file), row_format), None)


def rounded_heads(config: Config) -> list[str]:
    """Return a note for each model whose heads are so few that `masks.head_share` is missed by far."""
    share, notes = config.masks.head_share, {}
    methods = [name for name in config.grid.methods if "head_share" in get_method(name).settings]
    # The first of several percents is left.
    percents = sorted({percent for name in methods for percent in config.grid.percents(name)}, reverse=True)
    for (name, sizes), percent in product(_known_sizes(config).items() if share else (), percents):
        number = attention_heads(sizes.config).key_value
        count, asked = heads_removed(number, percent, share), share * percent
        if abs(100 * count / number - asked) > FAR:
            notes[name] = (
                f"models.{name}: masks.head_share {share:g} asks for {asked:.0f} % of {number} key-value heads at"
                f" {percent} %, and {count} go ({100 * count / number:.0f} %); channels make up for the difference"
            )
    return list(notes.values())


def _prepared_tasks(config: Config) -> list[str]:
    """Return the tasks whose rows the study prepares: those of the grid, and the probes."""
    return list(dict.fromkeys([*config.grid.tasks, *config.evaluation.probes]))


def model_files(source: str) -> list[str]:
    """Return the files of a `path:` or `mdl:` source that decide a result; none for another source."""
    if not (local := local_source(source)):
        return []
    checkpoint, folder = local
    weights = folder.glob("*.safetensors") if checkpoint == folder else [checkpoint]
    # config.json is listed even if it is missing, so that it is reported.
    return sorted(map(str, {*weights, *small_files(folder), folder / "config.json"}))


def _whole(manifest: Path) -> Path:
    """Return what must be deleted so that a manifest is written again: the folder of a model, which is not replaced
    without its manifest."""
    return manifest.parent if manifest.match(MANIFEST.format(model="*")) else manifest


def _recorded(manifest: Path) -> dict[Path, str]:
    """Return file -> sha256 of the files that a manifest records. The jobs report a manifest of another form."""
    match read_json(manifest, f"delete {_whole(manifest)} to prepare it again"):
        case {"files": dict(files)}:
            return {manifest.with_name(name): entry["sha256"] for name, entry in files.items() if "sha256" in entry}
        case {"sha256": dict(splits)}:
            return {manifest.with_name(f"{split}.jsonl"): digest for split, digest in splits.items()}
        case {"sha256": str(digest)}:
            file = manifest.with_name(ROWS_FILE) if manifest.name == MANIFEST_FILE else manifest.with_suffix("")
            return {file: digest}
    return {}
