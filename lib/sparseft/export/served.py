"""Serve models in one engine and in several number formats, and measure their size, their speed and what they say of a
text."""

import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple, get_args

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.data.rows import read_rows
from sparseft.errors import InputError
from sparseft.evaluation.divergence import SCORED_WINDOW as SCORED
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.export.engine_record import EngineUse
from sparseft.export.engines import Answer, ask, find_engines, weight_files
from sparseft.export.gguf_file import GGUF, write_gguf
from sparseft.export.settings import CANDIDATES, FIRST, FIRST_LAYERS, QUANTIZED, Export, Format, Wish
from sparseft.export.shapes import Shapes, described, search, shapes_of, without_layers
from sparseft.export.ship_record import Served, Trial
from sparseft.grid import DENSE
from sparseft.language_model.model import load_tokenizer
from sparseft.methods import get_method
from sparseft.records.record_file import files_digest, read_record_file
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json
from sparseft.tasks.task import WINDOW

# A window with the name of its text.
HELD_OUT = replace(WINDOW, name="window of a text", fields={**WINDOW.fields, "origin": str})
# The text that the dense model has sampled.
SAMPLED = "sampled"

# The format of a model that no converter has written.
OWN_FORMAT = ""


class Server:
    """Run one engine on models, with the same prompts and threads."""

    def __init__(self, export: Export, formats: Sequence[str], threads: int, prompts: list[list[int]]) -> None:
        """`export` names the engine; without one it is transformers. Raises InputError if it is not there."""
        self.export, self.formats, self.threads, self.prompts = export, list(formats) or [OWN_FORMAT], threads, prompts
        self.engine, (self.python, self.version) = list(find_engines(export).items())[-1]

    @contextmanager
    def written(self, folder: Path, kind: str, name: str = "") -> Iterator[Path]:
        """Yield what the engine reads of a model in a number format: its folder, or a GGUF file, which is deleted
        afterwards. The file has the `name`."""
        if not kind:
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="served") as scratch:
            file = Path(scratch, GGUF)
            write_gguf(self.export.model_copy(update={"gguf": kind}), folder, file, name)
            yield file

    def answer(self, place: Path, scored: Sequence[list[int]] = ()) -> Answer:
        """Return what the engine answers with the model in `place`, a folder or a GGUF file."""
        return ask(self.engine, self.python, place, self.prompts, self.export, self.threads, scored=scored)

    def speed(self, place: Path) -> float:
        """Return the generated tokens per second of a model with one request at a time."""
        return self.answer(place).tokens_per_second

    def check_formats(self, dense: Path) -> None:
        """Leave out the formats that the quantiser cannot write, and say so. Raises InputError if the engine cannot
        serve the dense model."""
        for kind in list(self.formats):
            try:
                with self.written(dense, kind):
                    pass
            except InputError as error:
                if kind not in QUANTIZED or len(self.formats) == 1:
                    raise
                print(f"{kind} is left out: {error}", file=sys.stderr)
                self.formats.remove(kind)


def size(place: Path) -> int:
    """Return the bytes of the files with a model's weights."""
    return sum(file.stat().st_size for file in weight_files(place))


def find_shares(dense: Checkpoint, wish: Wish, server: Server) -> list[Trial]:
    """Return the shapes that were measured for a wish.

    In each format, each candidate has the smallest share that fulfils the wish, unless the dense model does so."""
    trials: list[Trial] = []
    weights = sum(math.prod(tensor.shape) for tensor in dense.tensors.values())
    prunable = sum(math.prod(shape) for shape in described(dense).shapes.values())
    limit = wish.bytes or 1 / (wish.speed or 1)
    first = server.formats[0]

    def trial(folder: Path, kind: str, candidate: str = DENSE, percent: int = 0) -> float:
        """Measure a model, and return its cost: its bytes, or its time as a multiple of the dense model's."""
        with server.written(folder, kind) as place:
            speed = server.speed(place) / server.speed(reference) if wish.speed else None
            cost = 1 / speed if speed else float(size(place))
            reached = cost <= limit
            trials.append(
                Trial(
                    candidate=candidate, format=kind, percent=percent, speed=speed, bytes=size(place), reached=reached
                )
            )
        return cost

    # The speed of the dense model in the first format is measured beside each, because a machine may become slower.
    with tempfile.TemporaryDirectory(prefix="shapes") as scratch, server.written(dense.folder, first) as reference:
        needs_shorter = any(CANDIDATES[name][1] for name in wish.candidates)
        shorter = _shorter(dense, Path(scratch, "shorter")) if needs_shorter else dense
        shapes = {candidate: shapes_of(candidate, dense, shorter) for candidate in wish.candidates}
        for kind in server.formats:
            start = trial(dense.folder, kind)
            for candidate, of in shapes.items():
                if start <= limit:
                    continue

                def measure(percent: int, candidate: str = candidate, kind: str = kind, of: Shapes = of) -> float:
                    with tempfile.TemporaryDirectory(dir=scratch) as folder:
                        of.write(percent, Path(folder))
                        return trial(Path(folder), kind, candidate, percent)

                begin = start * (1 - CANDIDATES[candidate][1] * FIRST_LAYERS / 100 * prunable / weights)
                for _ in search(of.percents, begin, begin * prunable / weights / 100, limit, measure):
                    pass
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


def _shorter(dense: Checkpoint, folder: Path) -> Checkpoint:
    """Write the dense model without its first layers. Raises InputError if it has too few."""
    folder.mkdir()
    units = get_method(FIRST).pattern.units
    assert units
    removed = units.removed(described(dense), [FIRST_LAYERS])
    return without_layers(dense, units, removed[FIRST_LAYERS], folder)


class Window(NamedTuple):
    """Hold a window of a text: its text, the dense model's token ids, and what the dense model said of the tokens after
    the first, in nats; 0 if it did not sample the window."""

    text: str
    ids: list[int]
    log_p: float = 0.0


def read_windows(divergence: Path, held_out: Path | None) -> dict[str, list[Window]]:
    """Return the windows by text: `sampled`, and then each text that is held out."""
    windows = {SAMPLED: [Window(row["text"], row["ids"], sum(row["log_p"])) for row in read_rows(divergence, SCORED)]}
    for row in read_rows(held_out, HELD_OUT) if held_out else ():
        windows.setdefault(row["origin"], []).append(Window(row["text"], row["ids"]))
    return windows


def measure_served(candidates: list[Path], windows: dict[str, list[Window]], server: Server) -> list[Served]:
    """Return what each candidate costs and says of the windows, in each format. Each repeat measures all of them."""
    ids, fields = _token_ids(candidates, windows), set(EngineUse.model_fields)
    answers: dict[tuple[str, Path], list[Answer]] = {key: [] for key in product(server.formats, candidates)}
    with ExitStack() as stack:
        places = {
            (kind, folder): stack.enter_context(server.written(folder, kind, name_of(folder)))
            for kind, folder in answers
        }
        for repeat, (key, place) in product(range(server.export.repeats), places.items()):
            # What it says of a text is the same in each repeat.
            scored = [] if repeat else [one for of_text in ids[key[1]].values() for one in of_text]
            answers[key].append(server.answer(place, scored))
        return [
            Served(
                name=name_of(folder),
                format=kind,
                bytes=size(place),
                digest=weights_digest(weight_files(place)),
                uses=[EngineUse(**one.model_dump(include=fields)) for one in answers[kind, folder]],
                log_likelihoods=_by_text(ids[folder], answers[kind, folder][0].scored),
                task=_task_value(folder),
            )
            for (kind, folder), place in places.items()
        ]


def weights_digest(files: Iterable[Path]) -> str:
    """Return one sha256 of the files with the weights of a model."""
    return str(files_digest({file.name: sha256(file) for file in files}))


def name_of(folder: Path) -> str:
    """Return the run that was exported to a folder, or else the name of the folder's model."""
    return read_json(folder / "manifest.json").get("run_id") or folder.name


def copy_chosen(folder: Path, output: Path, export: Export, kind: str) -> str:
    """Copy a candidate into a folder as it is served, with its card and its licences, and return the sha256 of its
    weights. Its GGUF file is written again."""
    weights = Checkpoint(folder).files
    for file in sorted(folder.iterdir()):
        is_text = file.suffix in ("", ".md", ".txt")
        if file.is_file() and file.name != "manifest.json" and (is_text if kind else file.name != GGUF):
            shutil.copyfile(file, output / file.name)
    files = [output / file.name for file in weights]
    if kind:
        files = [output / GGUF]
        write_gguf(export.model_copy(update={"gguf": kind}), folder, files[0], name_of(folder))
    return weights_digest(files)


def _token_ids(candidates: list[Path], windows: dict[str, list[Window]]) -> dict[Path, dict[str, list[list[int]]]]:
    """Return the token ids of the windows for each candidate. One with another tokenizer reads the text anew."""
    own = (candidates[0] / "tokenizer.json").read_bytes()
    ids = {}
    for folder in candidates:
        is_own = (folder / "tokenizer.json").read_bytes() == own
        tokenizer = None if is_own else load_tokenizer(folder)
        ids[folder] = {
            name: [tokenizer.encode(window.text) if tokenizer else window.ids for window in of_text]
            for name, of_text in windows.items()
        }
    return ids


def _by_text(ids: dict[str, list[list[int]]], scored: list[float]) -> dict[str, list[float]]:
    """Return the log-likelihoods of all windows by text."""
    values = iter(scored)
    return {name: list(islice(values, len(of_text))) for name, of_text in ids.items()}


def _task_value(folder: Path) -> float | None:
    """Return the metric of the task on which a run was evaluated beside its own; None without one."""
    path = folder.parent / EvaluationRecord.file_name
    probes = read_record_file(path, EvaluationRecord).probes if path.is_file() else {}
    return next((probe.value for probe in probes.values()), None)
