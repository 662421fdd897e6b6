"""Serve models in one engine and in several number formats, and measure their size, their speed and what they say of a
text."""

import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

from sparseft.axes.grid import DENSE
from sparseft.axes.tasks.task import WINDOW, Row
from sparseft.common.errors import InputError
from sparseft.data.rows import read_rows
from sparseft.evaluation.divergence import SCORED_WINDOW as SCORED
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_model
from sparseft.models.language_model.gpus import Gpus
from sparseft.models.language_model.hardware import choose_device, device_name, start
from sparseft.models.language_model.model import load_tokenizer
from sparseft.serving.engines import Answer, Engine, weight_bytes, weight_files
from sparseft.serving.gguf_file import GGUF, temporary_gguf
from sparseft.serving.settings import CANDIDATES, FIRST_LAYERS, QUANTIZED, SAMPLED, Format, Wish
from sparseft.serving.shapes import FURTHER, search, shapes_of
from sparseft.serving.ship_record import Served, Trial
from sparseft.storage.hashes import hash_files
from sparseft.storage.reading import read_json
from sparseft.storage.record_file import files_digest, read_record_file

# A window with the name of its text.
HELD_OUT = replace(WINDOW, name="window of a text", fields={**WINDOW.fields, "origin": str})

# The format of a model that no converter has written.
OWN_FORMAT = ""
# A model as it is served, a folder or a GGUF file, by its format and its folder.
Places = dict[tuple[str, Path], Path]


def described_engine(engine: Engine, gpus: Gpus) -> dict[str, Any]:
    """Return the fields of a record that say on what an engine serves models. Lock the GPU that it uses."""
    start(engine.threads, gpus)
    device = device_name(choose_device())
    return {"engine": engine.name, "version": engine.version, "threads": engine.threads, "device": device}


def written(engine: Engine, folder: Path, kind: str, name: str = "") -> AbstractContextManager[Path]:
    """Yield what the engine reads of a model in a number format: its folder, or a GGUF file of this name."""
    if not kind:
        return nullcontext(folder)
    return temporary_gguf(engine.settings.model_copy(update={"gguf": kind}), folder, name)


@contextmanager
def serving(engine: Engine, wished: Sequence[str], folders: list[Path]) -> Iterator[Places]:
    """Yield the models in each format, the dense one first. A format that the quantiser cannot write is left out, and
    stderr says so. Raises InputError if none is left."""
    places: Places = {}
    formats = list(wished) or [OWN_FORMAT]
    with ExitStack() as stack:
        for kind, folder in product(formats, folders):
            try:
                if folder == folders[0] or (kind, folders[0]) in places:
                    places[kind, folder] = stack.enter_context(written(engine, folder, kind, name_of(folder)))
            except InputError as error:
                # What the dense model has, each candidate must have.
                if kind not in QUANTIZED or folder != folders[0] or (kind == formats[-1] and not places):
                    raise
                print(f"{kind} is left out: {error}", file=sys.stderr)
        yield places


def find_shares(dense: Checkpoint, wish: Wish, engine: Engine, prompts: list[list[int]]) -> list[Trial]:
    """Return the shapes that were measured for a wish.

    In each format, each candidate has the smallest share that fulfils the wish, unless the dense model does so."""
    trials: list[Trial] = []
    weights = sum(math.prod(tensor.shape) for tensor in dense.tensors.values())
    prunable = sum(math.prod(shape) for shape in prunable_model(dense).shapes.values()) / weights
    limit = wish.bytes or 1 / (wish.speed or 1)
    with tempfile.TemporaryDirectory() as scratch, serving(engine, wish.formats, [dense.folder]) as places:
        reference = next(iter(places.values()))
        shapes = {candidate: shapes_of(candidate, dense, Path(scratch)) for candidate in wish.candidates}

        def measure(place: Path, kind: str, **shape: Any) -> float:
            """Measure a model, and return its cost: its bytes, or its time as a multiple of the dense model's."""
            size, speed = weight_bytes(place), None
            if wish.speed:
                # The dense model is measured beside each, because a machine may become slower.
                ours, theirs = (engine.ask(one, prompts).tokens_per_second for one in (place, reference))
                speed = ours / theirs
            cost = 1 / speed if speed else float(size)
            trials.append(Trial(format=kind, speed=speed, bytes=size, reached=cost <= limit, **shape))
            return cost

        def measure_shape(candidate: str, kind: str, percent: int) -> float:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                shapes[candidate][percent](Path(folder))
                with written(engine, Path(folder), kind) as place:
                    return measure(place, kind, candidate=candidate, percent=percent)

        for (kind, _), place in places.items():
            dense_cost = measure(place, kind, candidate=DENSE, percent=0)
            for candidate in shapes if dense_cost > limit else ():
                begin = dense_cost * (1 - CANDIDATES[candidate][1] * FIRST_LAYERS / 100 * prunable)
                slope = begin * prunable / 100
                aim = limit * FURTHER if wish.speed else limit
                search(list(shapes[candidate]), begin, slope, aim, partial(measure_shape, candidate, kind))
    return trials


def smallest(trials: list[Trial]) -> dict[str, list[int]]:
    """Return by candidate the smallest share of each format that fulfils the wish, each once.

    A format of fewer bits that needs no smaller share than one of more bits is left out, because it rounds more too."""
    shares: dict[str, list[int]] = {}
    bits = [OWN_FORMAT, *get_args(Format)]
    reached = [trial for trial in trials if trial.reached and trial.candidate != DENSE]
    for trial in sorted(reached, key=lambda trial: (bits.index(trial.format), trial.percent)):
        known = shares.setdefault(trial.candidate, [])
        if not known or trial.percent < known[-1]:
            known.append(trial.percent)
    return shares


def read_windows(divergence: Path, held_out: Path | None) -> list[Row]:
    """Return the windows, each with its text in `origin`: SAMPLED first, and then each text that is held out."""
    sampled = [row | {"origin": SAMPLED} for row in read_rows(divergence, SCORED)]
    return sampled + (read_rows(held_out, HELD_OUT) if held_out else [])


def by_text(windows: list[Row], values: Sequence[Any]) -> dict[str, list]:
    """Return the values of windows by text."""
    texts: dict[str, list] = {}
    for window, value in zip(windows, values, strict=True):
        texts.setdefault(window["origin"], []).append(value)
    return texts


def measure_served(places: Places, windows: list[Row], engine: Engine) -> list[Served]:
    """Return what each candidate costs and says of the windows, in each format. Each repeat measures all of them."""
    (_, dense), *_ = places
    export = engine.settings
    answers: dict[tuple[str, Path], list[Answer]] = {key: [] for key in places}
    for repeat, (key, place) in product(range(export.repeats), places.items()):
        ids = token_ids(key[1], windows, dense)
        prompts = [of_window[: export.prompt_tokens] for of_window in ids[: export.prompts]]
        # What it says of a text is the same in each repeat.
        answers[key].append(engine.ask(place, prompts, scored=[] if repeat else ids))
    return [
        Served(
            name=name_of(folder),
            format=kind,
            bytes=weight_bytes(place),
            digest=str(files_digest(hash_files(weight_files(place)))),
            uses=[*answers[kind, folder]],
            log_likelihoods=by_text(windows, answers[kind, folder][0].scored),
            task=task_value(folder),
        )
        for (kind, folder), place in places.items()
    ]


def token_ids(folder: Path, windows: list[Row], dense: Path) -> list[list[int]]:
    """Return the token ids of the windows for a candidate. One with another tokenizer than dense reads the text
    anew."""
    if (folder / "tokenizer.json").read_bytes() == (dense / "tokenizer.json").read_bytes():
        return [window["ids"] for window in windows]
    ours, theirs = load_tokenizer(folder), load_tokenizer(dense)
    # A special token of one is a text to the other.
    return [ours.encode(theirs.decode(window["ids"], skip_special_tokens=True)) for window in windows]


def task_value(folder: Path) -> float | None:
    """Return the metric of the task on which a run was evaluated beside its own; None without one."""
    path = folder.parent / EvaluationRecord.file_name
    probes = read_record_file(path, EvaluationRecord).probes if path.is_file() else {}
    return next((probe.value for probe in probes.values()), None)


def name_of(folder: Path) -> str:
    """Return the run that was exported to a folder, or else the name of the folder's model."""
    return read_json(folder / "manifest.json").get("run_id") or folder.name


def copy_served(folder: Path, place: Path, output: Path) -> None:
    """Copy a candidate into a folder as it is served in `place`, with its card and its licences."""
    for file in folder.iterdir():
        is_served = file.name != GGUF if place == folder else file.suffix in ("", ".md", ".txt")
        if file.is_file() and file.name != "manifest.json" and is_served:
            shutil.copyfile(file, output / file.name)
    if place != folder:
        shutil.copyfile(place, output / GGUF)
