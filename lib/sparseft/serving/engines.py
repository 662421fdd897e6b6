"""Check that engines compute with an exported model what transformers does, and measure them beside the dense model.

Each engine runs in a process of its own, in its own environment, and writes an answer into a new folder. An engine
agrees if the log-likelihoods of the tokens of transformers differ by at most a bound in the mean, and the logarithms of
the prompts' perplexities by no more. Greedy tokens decide nothing. Engines round in other places, so two nearly equal
logits can exchange their order, and all tokens after that differ."""

import math
import operator
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product, takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sparseft.common.errors import InputError
from sparseft.evaluation.scoring import LARGEST_LOSS
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.serving.engine_call import call_engine, read_version
from sparseft.serving.engine_record import EngineResult, EngineUse
from sparseft.serving.gguf_file import GGUF, temporary_gguf
from sparseft.serving.manifest import ExportManifest
from sparseft.serving.settings import ADVICE, ENGINES, LLAMA_CPP, Export
from sparseft.storage.hashes import hash_files
from sparseft.storage.record import remake_advice
from sparseft.storage.record_file import read_record_file

REFERENCE = ENGINES[0]
# The largest mean difference of a log-likelihood, in nats per token, by the number format of the weights.
BOUNDS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "f32": 1e-3, "f16": 2e-2, "bf16": 5e-2}
BOUNDS |= {"q8_0": 1e-1, "q6_k": 1e-1, "q5_k_m": 5e-1, "q4_k_m": 5e-1, "q4_0": 5e-1}


class Answer(EngineUse):
    """Check the answer of an engine: a list per prompt, with a value per token."""

    tokens: list[list[int]]
    log_likelihoods: list[list[Annotated[float, Field(ge=-LARGEST_LOSS)]]]
    scored: list[float] = Field([])


@dataclass(frozen=True)
class Engine:
    """Hold an engine that is there, and how it runs."""

    name: str
    python: str
    version: str
    settings: Export
    threads: int

    def ask(
        self,
        place: Path,
        prompts: list[list[int]],
        continuations: list[list[int]] | None = None,
        scored: Sequence[list[int]] = (),
    ) -> Answer:
        """Return the answer with the model in `place`, a folder or a GGUF file, as engine_process.py describes it."""
        request = {
            "model": str(place),
            "threads": self.threads,
            "prompts": prompts,
            "continuations": continuations,
            "new_tokens": self.settings.new_tokens,
            "load": sorted({1, *self.settings.load}),
            "scored": list(scored),
        }
        _forget(weight_files(place))
        return call_engine(self.name, self.python, request, self.settings, partial(_read_answer, request=request))


def find_engines(settings: Export, threads: int) -> list[Engine]:
    """Return the engines, the reference first. Raises InputError if one is not there."""
    pythons = {REFERENCE: sys.executable, **settings.pythons}
    return [
        Engine(name, python, call_engine(name, python, {}, settings, read_version), settings, threads)
        for name, python in pythons.items()
    ]


def check_measured(run_id: str, dense: Path, export: Path) -> ExportManifest:
    """Hash the files that the engines read, and return the manifest of the export. Raises InputError if it is that of
    another run, or records other files."""
    manifest = read_record_file(export / "manifest.json", ExportManifest)
    if manifest.run_id != run_id:
        raise InputError(f"{export}: the export of {manifest.run_id}, not of {run_id}", "give that of the run")
    gguf = {name: entry.sha256 for name, entry in manifest.others.items() if name == GGUF}
    for folder, digest, files in ((dense, manifest.dense, {}), (export, manifest.digest, gguf)):
        checkpoint = Checkpoint(folder)
        if (checkpoint.digest_of(checkpoint.hashes()), hash_files(folder.glob(GGUF))) != (digest, files):
            raise InputError(f"{folder}: not the model that {export}/manifest.json records", remake_advice(export))
    return manifest


def measure(engines: list[Engine], models: dict[str, Path], prompts: list[list[int]]) -> Iterator[EngineResult]:
    """Yield the result of each repeat and engine with each of the models, which are given by their names.

    The first engine is the reference. prompts: lists of token ids. llama.cpp reads a GGUF file, which is made here
    unless the folder has one."""
    references: dict[str, Answer] = {}
    with ExitStack() as stack:
        places = []
        for engine, (name, folder) in product(engines, models.items()):
            place = folder
            if engine.name == LLAMA_CPP and not (place := folder / GGUF).exists():
                place = stack.enter_context(temporary_gguf(engine.settings, folder, name))
            places.append((engine, name, place))
        for _, (engine, name, place) in product(range(engines[0].settings.repeats), places):
            continuations = references[name].tokens if name in references else None
            answer = engine.ask(place, prompts, continuations)
            yield _result(
                answer,
                references.setdefault(name, answer),
                engine=engine.name,
                version=engine.version,
                model=name,
                bound=_bound(models[name], engine),
                weight_bytes=weight_bytes(place),
            )


def weight_files(place: Path) -> list[Path]:
    """Return the files with the weights of a model: those of a folder, or a GGUF file itself."""
    return Checkpoint(place).files if place.is_dir() else [place]


def weight_bytes(place: Path) -> int:
    """Return the bytes of these files."""
    return sum(file.stat().st_size for file in weight_files(place))


def _forget(weights: Sequence[Path]) -> None:
    """Let the system forget what it keeps in memory of a model's files. On a disk, the engine then reads them anew.

    llama.cpp and safetensors compute on the pages of the file where they lie. The speed depends on how these pages came
    into memory: on the same bytes in bfloat16, llama.cpp was 1.1 to 1.3 times as fast in a new copy of a file as in the
    file itself. After `_forget`, both were equally fast."""
    for file in weights:
        # A file system that is read-only has nothing to write, and macOS does not have these functions.
        with suppress(OSError, AttributeError), file.open("rb") as opened:
            # Only what is on the disk can be forgotten.
            os.fdatasync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _result(answer: Answer, reference: Answer, **labels: Any) -> EngineResult:
    """Return the result of an engine with a model from its answer and that of the reference. `labels`: the other
    fields."""
    tokens = list(zip(answer.tokens, reference.tokens, strict=True))
    new_tokens = len(answer.tokens[0])
    # Of each prompt, the tokens before the first that differs.
    same = [sum(1 for _ in takewhile(bool, map(operator.eq, *pair))) for pair in tokens]
    new, theirs = ([value for row in one.log_likelihoods for value in row[-new_tokens:]] for one in (answer, reference))
    prompts = [[value for row in one.log_likelihoods for value in row[:-new_tokens]] for one in (answer, reference)]
    return EngineResult(
        same_tokens=sum(same) / len(new),
        difference=statistics.fmean(map(abs, map(operator.sub, new, theirs))),
        perplexity_difference=abs(statistics.fmean(map(operator.sub, *prompts))),
        perplexity=math.exp(-statistics.fmean(prompts[0])),
        **labels,
        **answer.model_dump(include=set(EngineUse.model_fields)),
    )


def _bound(folder: Path, engine: Engine) -> float:
    """Return how far the log-likelihoods of an engine may be from those of transformers."""
    formats = [Checkpoint(folder).config["dtype"], *([engine.settings.gguf] if engine.name == LLAMA_CPP else [])]
    return max(BOUNDS[str(one)] for one in formats)


def _read_answer(path: Path, request: dict[str, Any]) -> Answer:
    """Return an answer with a value for each prompt, and for each of its tokens. Raises InputError if it is not
    sound."""
    answer, prompts, new = read_record_file(path, Answer), request["prompts"], request["new_tokens"]
    lengths = [list(map(len, rows)) for rows in (answer.tokens, answer.log_likelihoods)]
    expected = [[new for _ in prompts], [len(prompt) - 1 + new for prompt in prompts]]
    counts = [one.at_once for one in answer.loads], len(answer.scored)
    if lengths != expected or counts != (request["load"], len(request["scored"])):
        raise InputError(f"{path.name}: not {new} tokens for each of {len(prompts)} prompts", ADVICE)
    return answer
