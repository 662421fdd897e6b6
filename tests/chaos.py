"""Kill the processes of a study at random moments, and compare it with the same study undisturbed.

    python tests/chaos.py --kills 30 --seed 0

Each kill is a SIGKILL, to one job, to Snakemake only (its jobs live on), or to everything. After each the study is
started again with the command of docs/robustness.md. At the end every adapter must have the sha256, and every row of
summary.csv the metrics, of the undisturbed study. Power is not cut, so what the system had in its cache is not lost.
`make chaos` runs it.
"""

import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path

import psutil
from project import TINY_STUDY, Study, tiny_grid
from sparseft.axes import grid
from sparseft.common.command import run
from sparseft.storage.record import trained_digest
from tiny_models import save_tiny

KINDS = ("a job", "snakemake", "everything")
# Columns with times and sizes of the moment.
MEASURED = ["samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes"]
STEPS = 40
# The most seconds from the start of a command to its kill.
LONGEST = 25


def configure(folder: Path, model: Path) -> Study:
    """Return a study of three runs on a tiny LLaMA, two of them trainings that save their state after every step."""
    training = {**TINY_STUDY["training"], "save_every": 1}
    task = {**TINY_STUDY["tasks"]["boolq_mini"], "training": {"steps": STEPS, "learning_rate": 0.02}}
    sections = {"tasks": {"boolq_mini": task}, "training": training}
    return Study(folder).configure(
        {"llama": model}, grid=tiny_grid("llama", "boolq_mini", ["unstructured"], sparsities=[50]), **sections
    )


def running(study: Study) -> list[psutil.Process]:
    """Return every process that runs in the study's folder, orphans too."""
    processes = psutil.process_iter(["cwd", "cmdline"])
    return [process for process in processes if process.info["cwd"] == str(study.folder)]


def is_job(process: psutil.Process) -> bool:
    """Return whether a process is a script of the workflow."""
    return "workflow/scripts/" in "".join((process.info["cmdline"] or [])[1:2])


def disturb(study: Study, chance: random.Random) -> Iterator[str]:
    """Run the study until a command ends undisturbed. Yield the kind of the kill of each other command."""
    command = [study.python, "-m", "snakemake", "--snakefile", study.root / "Snakefile", "--configfile", "study.yaml"]
    while True:
        kind, wait = chance.choice(KINDS), chance.uniform(0, LONGEST)
        # A killed Snakemake leaves its folder locked.
        study.snakemake("--unlock")
        with open(study.folder / "output", "a") as output:
            snakemake = subprocess.Popen(command, cwd=study.folder, stdout=output, stderr=output)
        with suppress(subprocess.TimeoutExpired):
            assert snakemake.wait(wait) == 0, "the command failed, though nothing was killed meanwhile"
            return
        jobs = [process for process in running(study) if is_job(process)]
        names = sorted(Path(job.info["cmdline"][1]).name for job in jobs)
        victims = {"a job": [chance.choice(jobs)] if jobs else [], "snakemake": [snakemake]}.get(kind, running(study))
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        code = snakemake.wait()
        if victims:
            print(f"{kind} | {wait:4.1f} s | {', '.join(names) or '-'}", flush=True)
            yield kind
        # An orphan was killed, or what had ended by then.
        if code == 0:
            return


def summary(study: Study) -> list[dict[str, str]]:
    """Return the rows of summary.csv without times and memory."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in study.table()]


def outcome(study: Study) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the digest of every adapter by its run, and the summary."""
    folders = sorted((study.folder / grid.ResultPaths().runs).glob("*/adapter"))
    return {folder.parent.name: trained_digest(folder) for folder in folders}, summary(study)


def storm(folder: Path, number: int, seed: int) -> list[str]:
    """Kill until there were `number` kills, and return their kinds. If a study is finished before, another one
    begins."""
    model = save_tiny("llama", folder / "model")
    reference = configure(folder / "undisturbed", model)
    reference.snakemake()
    chance = random.Random(seed)
    kinds: list[str] = []
    for lap in count(1):
        study = configure(folder / f"disturbed{lap}", model)
        try:
            kinds += islice(disturb(study, chance), number - len(kinds))
            study.snakemake("--unlock")
            study.snakemake()
            assert outcome(study) == outcome(reference)
            temporary = [*study.folder.rglob(".*.tmp"), *study.folder.rglob("model_dir")]
            assert not [path for path in temporary if ".snakemake" not in path.parts]
            assert not running(study)
        finally:
            for process in running(study):
                process.kill()
        print(f"{len(kinds)} kills: the adapters and the rows of summary.csv are the undisturbed ones", flush=True)
        if len(kinds) == number:
            return kinds


def main(*, kills: int = 30, seed: int = 0) -> None:
    """Kill, and report.

    Args:
        kills: number of kills
        seed: seed of the kinds and the moments
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        kinds = Counter(storm(Path(folder).resolve(), kills, seed))
    by_kind = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)
    print(f"{kills} kills ({by_kind}), seed {seed}, {time.time() - begin:.0f} s: nothing differs")


if __name__ == "__main__":
    run(main)
