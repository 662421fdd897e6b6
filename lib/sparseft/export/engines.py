"""Check that engines compute with an exported model what transformers does, and measure them beside the dense model.

Each engine runs in a process of its own, in its own environment, and writes an answer into a new folder. An engine
agrees if the log-likelihoods of the tokens of transformers differ by at most a bound in the mean. Greedy tokens decide
nothing. Engines round in other places, so two nearly equal logits can exchange their order, and all tokens after that
differ."""

import json
import operator
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product, takewhile
from pathlib import Path
from typing import Any, TypeVar

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.export import engine_process
from sparseft.records import Positive
from sparseft.records.engine_record import EngineResult, EngineUse
from sparseft.records.record_file import RecordPart, read_record_file
from sparseft.study.export_settings import ADVICE, ENGINES, Export

A = TypeVar("A")
PROCESS = Path(engine_process.__file__)
REFERENCE, _, LLAMA_CPP = ENGINES
# The largest mean difference of a log-likelihood, in nats per token, by the number format of the weights.
BOUNDS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "f32": 1e-3, "f16": 2e-2, "bf16": 5e-2, "q8_0": 1e-1}
# The name of the GGUF file in an exported folder.
GGUF = "model.gguf"


class Version(RecordPart):
    """Check the answer of an engine that has no request."""

    version: str


class Answer(EngineUse):
    """Check the answer of an engine: a value per prompt, or a list with a value per token."""

    tokens: list[list[int]]
    log_likelihoods: list[list[float]]
    first_seconds: list[Positive]
    seconds: list[Positive]


def find_engines(settings: Export) -> dict[str, tuple[str, str]]:
    """Return the Python and the version of each engine, the reference first. Raises InputError if one is not there."""
    pythons = {REFERENCE: sys.executable, **settings.pythons}
    read = partial(read_record_file, schema=Version)
    return {name: (python, run_engine(name, python, {}, settings, read).version) for name, python in pythons.items()}


def convert(settings: Export, folder: Path, output: Path, name: str) -> None:
    """Write the GGUF file of a checkpoint folder with llama.cpp's own converter."""
    command = [*shlex.split(settings.converter or ""), str(folder), "--model-name", name]
    command += ["--outfile", str(output), "--outtype", str(settings.gguf)]
    advice = "name a Python and a converter that can read this model"
    _run(command, output.stat, f"export.converter: {settings.converter}", advice, settings)


def measure(
    engines: dict[str, tuple[str, str]],
    models: dict[str, Path],
    prompts: list[list[int]],
    settings: Export,
    threads: int,
) -> Iterator[EngineResult]:
    """Yield the result of each repeat and engine with each of the models, which are given by their names.

    The first engine is the reference. prompts: lists of token ids. llama.cpp reads a GGUF file, which is made here
    unless the folder has one."""
    references: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: folder / GGUF for name, folder in models.items()} if LLAMA_CPP in engines else {}
        for name in [name for name, file in files.items() if not file.exists()]:
            files[name] = Path(scratch, f"{name}.gguf")
            convert(settings, models[name], files[name], name)
        for _ in range(settings.repeats):
            for (engine, (python, version)), (name, folder) in product(engines.items(), models.items()):
                place = files[name] if engine == LLAMA_CPP else folder
                tokens = references[name].tokens if name in references else None
                request = {"model": str(place), "threads": threads, "prompts": prompts, "continuations": tokens}
                request["new_tokens"] = settings.new_tokens
                _forget(place)
                answer = run_engine(engine, python, request, settings, partial(_read_answer, request=request))
                reference = references.setdefault(name, answer)
                yield _result(engine, version, name, answer, reference, _bound(folder, engine, settings))


def _forget(place: Path) -> None:
    """Let the system forget what it keeps in memory of a model's files. On a disk, the engine then reads them anew.

    llama.cpp and safetensors compute on the pages of the file where they lie. The speed depends on how these pages came
    into memory: on the same bytes in bfloat16, llama.cpp was 1.1 to 1.3 times as fast in a new copy of a file as in the
    file itself. After `_forget`, both were equally fast."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in place.iterdir() if place.is_dir() else [place]:
        # A file system that is read-only has nothing to write.
        with suppress(OSError), file.open("rb") as opened:
            # Only what is on the disk can be forgotten.
            os.fdatasync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_engine(engine: str, python: str, request: dict[str, Any], settings: Export, read: Callable[[Path], A]) -> A:
    """Return what `read` makes of the answer of an engine to a request, as engine_process.py describes both.

    The answer is in a new folder, so it is that of this process, or absent."""
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        question.write_text(json.dumps(request))
        command = [python, "-I", str(PROCESS), engine, str(question), str(answer)]
        threads = {"OMP_NUM_THREADS": str(request.get("threads", 1))}
        return _run(command, partial(read, answer), f"export.engines: {engine}:{python}", ADVICE, settings, **threads)


def _result(engine: str, version: str, model: str, answer: Answer, reference: Answer, bound: float) -> EngineResult:
    """Return the result of an engine with a model, from its answer and that of the reference."""
    tokens = list(zip(answer.tokens, reference.tokens, strict=True))
    # Of each prompt, the tokens before the first that differs.
    same = [sum(1 for _ in takewhile(bool, map(operator.eq, *pair))) for pair in tokens]
    made = sum(len(ours) for ours, _ in tokens)
    rows = zip(answer.log_likelihoods, reference.log_likelihoods, strict=True)
    distances = [abs(ours - theirs) for row in rows for ours, theirs in zip(*row, strict=True)]
    return EngineResult(
        engine=engine,
        version=version,
        model=model,
        tokens_per_second=made / sum(answer.seconds),
        first_token_seconds=statistics.median(answer.first_seconds),
        same_tokens=sum(same) / made,
        difference=statistics.fmean(distances),
        bound=bound,
        **answer.model_dump(include=set(EngineUse.model_fields)),
    )


def _bound(folder: Path, engine: str, settings: Export) -> float:
    """Return how far the log-likelihoods of an engine may be from those of transformers."""
    dtype = str(Checkpoint(folder).config.get("dtype"))
    return max(BOUNDS[dtype], BOUNDS[str(settings.gguf)] if engine == LLAMA_CPP else 0)


def _read_answer(path: Path, request: dict[str, Any]) -> Answer:
    """Return an answer with a value for each prompt, and for each of its tokens. Raises InputError if it is not
    sound."""
    answer = read_record_file(path, Answer)
    asked = [request["new_tokens"]] * len(request["prompts"])
    made = [[len(row) for row in rows] for rows in (answer.tokens, answer.log_likelihoods)]
    if made != [asked, asked] or not len(asked) == len(answer.seconds) == len(answer.first_seconds):
        raise InputError(f"{path.name}: not {request['new_tokens']} tokens for each of {len(asked)} prompts", ADVICE)
    return answer


def _run(command: list[str], read: Callable[[], A], what: str, advice: str, settings: Export, **variables: str) -> A:
    """Run a program of another environment, and return what `read` reads of what it wrote.

    Raises InputError, with the last line that it printed, if it fails, takes too long, or wrote something else."""
    # A program of another environment must not import this project's modules.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        except OSError as error:
            raise InputError(f"{what}: {error.strerror}", advice) from None
        try:
            if (code := process.wait(settings.limit_seconds)) == 0:
                return read()
            fault = f"exit code {code}"
        except subprocess.TimeoutExpired:
            fault = f"not done after {settings.limit_seconds} seconds (export.limit_seconds)"
        except FileNotFoundError as error:
            fault = f"it wrote no {Path(error.filename).name}"
        except InputError as error:
            fault = error.args[0]
        finally:
            # It may have started others, which are in its group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        *others, last = output.read().decode(errors="replace").strip().splitlines() or ["nothing"]
    sys.stderr.writelines(f"{line}\n" for line in others)
    raise InputError(f"{what}: {fault}; it printed last: {last[:300]}", advice)
