"""Check that engines compute with an exported model what transformers does, and measure them beside the dense model.

Each engine runs in a process of its own, in its own environment. An engine agrees if its greedy tokens are those of transformers,
or if the log-likelihoods of the tokens of transformers differ by at most a bound in the mean. Engines round in other places, so
two nearly equal logits can exchange their order, and all tokens after that differ.
"""

import json
import operator
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import product, takewhile
from pathlib import Path
from typing import Any

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.export import engine_process
from sparseft.records.engine_record import EngineResult
from sparseft.study.export_settings import ADVICE, ENGINES, Export

PROCESS = Path(engine_process.__file__)
REFERENCE, _, LLAMA_CPP = ENGINES
# The largest mean difference of a log-likelihood, in nats per token, by the number format of the weights.
BOUNDS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "f32": 1e-3, "f16": 2e-2, "bf16": 5e-2, "q8_0": 1e-1}
# The name of the GGUF file in an exported folder.
GGUF = "model.gguf"


def find_engines(settings: Export) -> dict[str, tuple[str, str]]:
    """Return the Python and the version of each engine, the reference first. Raises InputError if one is not there."""
    found = {}
    for name, python in {REFERENCE: sys.executable, **settings.pythons}.items():
        lines = _run([python, "-I", str(PROCESS), name], f"export.engines: {name}:{python}", ADVICE)
        found[name] = python, lines[-1]
    return found


def convert(settings: Export, folder: Path, output: Path, name: str) -> None:
    """Write the GGUF file of a checkpoint folder with llama.cpp's own converter."""
    command = [*shlex.split(settings.converter or ""), str(folder), "--model-name", name]
    command += ["--outfile", str(output), "--outtype", str(settings.gguf)]
    _run(command, f"export.converter: {settings.converter}", "name a Python and a converter that can read this model")


def measure(
    engines: dict[str, tuple[str, str]],
    models: dict[str, Path],
    prompts: list[list[int]],
    settings: Export,
    threads: int,
) -> Iterator[EngineResult]:
    """Yield the result of each repeat and engine with each of the models, which are given by their names.

    The first engine is the reference. prompts: lists of token ids. llama.cpp reads a GGUF file, which is made here unless the
    folder has one."""
    references: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: folder / GGUF for name, folder in models.items()} if LLAMA_CPP in engines else {}
        for name in [name for name, file in files.items() if not file.exists()]:
            files[name] = Path(scratch, f"{name}.gguf")
            convert(settings, models[name], files[name], name)
        for _ in range(settings.repeats):
            for (engine, (python, version)), (name, folder) in product(engines.items(), models.items()):
                place = files[name] if engine == LLAMA_CPP else folder
                request = {
                    "model": str(place),
                    "threads": threads,
                    "prompts": prompts,
                    "new_tokens": settings.new_tokens,
                }
                request["continuations"] = references.get(name, {}).get("tokens")
                _forget(place)
                answer = run_engine(engine, python, request, Path(scratch))
                reference = references.setdefault(name, answer)
                yield _result(engine, version, name, answer, reference, _bound(folder, engine, settings))


def _forget(place: Path) -> None:
    """Let the system forget what it keeps in memory of a model's files. On a disk, the engine then reads them anew.

    llama.cpp and safetensors compute on the pages of the file where they lie. The speed depends on how these pages came into
    memory: on the same bytes in bfloat16, llama.cpp was 1.1 to 1.3 times as fast in a new copy of a file as in the file
    itself. After `_forget`, both were equally fast."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in place.iterdir() if place.is_dir() else [place]:
        # A file system that is read-only has nothing to write.
        with suppress(OSError), file.open("rb") as opened:
            # Only what is on the disk can be forgotten.
            os.fdatasync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_engine(engine: str, python: str, request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the answer of an engine to a request, as engine_process.py describes both."""
    files = [scratch / "request.json", scratch / "answer.json"]
    files[0].write_text(json.dumps(request))
    command = [python, "-I", str(PROCESS), engine, *map(str, files)]
    _run(command, f"export.engines: {engine}:{python}", ADVICE, OMP_NUM_THREADS=str(request["threads"]))
    return json.loads(files[1].read_text())


def _result(
    engine: str, version: str, model: str, answer: dict[str, Any], reference: dict[str, Any], bound: float
) -> EngineResult:
    """Return the result of an engine with a model, from its answer and that of the reference."""
    tokens = list(zip(answer["tokens"], reference["tokens"], strict=True))
    # Of each prompt, the tokens before the first that differs.
    same = [sum(1 for _ in takewhile(bool, map(operator.eq, *pair))) for pair in tokens]
    made = sum(len(ours) for ours, _ in tokens)
    rows = zip(answer["log_likelihoods"], reference["log_likelihoods"], strict=True)
    distances = [abs(ours - theirs) for row in rows for ours, theirs in zip(*row, strict=True)]
    return EngineResult(
        engine=engine,
        version=version,
        model=model,
        tokens_per_second=made / sum(answer["seconds"]),
        first_token_seconds=statistics.median(answer["first_seconds"]),
        same_tokens=sum(same) / made,
        difference=statistics.fmean(distances),
        bound=bound,
        **{name: answer[name] for name in ("peak_memory_bytes", "peak_memory_kind", "cpu_share")},
    )


def _bound(folder: Path, engine: str, settings: Export) -> float:
    """Return how far the log-likelihoods of an engine may be from those of transformers."""
    dtype = str(Checkpoint(folder).config.get("dtype"))
    return max(BOUNDS[dtype], BOUNDS[str(settings.gguf)] if engine == LLAMA_CPP else 0)


def _run(command: list[str], what: str, advice: str, **variables: str) -> list[str]:
    """Run a program of another environment, and return the lines that it prints. Raises InputError if it fails."""
    # A program of another environment must not import this project's modules.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise InputError(f"{what}: {error.strerror}", advice) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        print("\n".join(lines[:-1]), end="", file=sys.stderr)
        raise InputError(f"{what}: {lines[-1][:300]}", advice)
    return done.stdout.strip().splitlines()
