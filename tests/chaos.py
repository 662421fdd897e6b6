"""A study whose processes are killed at random moments, beside the same study undisturbed.

    python tests/chaos.py --kills 30 --seed 0

Each kill is a SIGKILL, to one job, to Snakemake alone (its jobs live on), or to everything; after each the study is
started again with the command of docs/robustness.md. Prints a row a kill; at the end every adapter must have the
sha256, and every row of summary.csv the metrics, of the undisturbed study. Power is not cut: what the system had in
its cache is not lost. `make chaos` runs it.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from project import TINY_STUDY, Study, tiny_grid
from sparseft.storage.record import adapter_digest
from sparseft.study import grid
from tiny_models import save_tiny

KINDS = ("a job", "snakemake", "everything")
MEASURED = [  # columns that hold times and sizes of the moment
    "samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes", "evaluation_seconds",
    "evaluation_peak_memory_bytes",
]  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """What was killed, `after` so many seconds of the command, and the scripts that ran at that moment."""

    kind: str
    after: float
    running: tuple[str, ...]


def configure(folder: Path, model: Path, steps: int) -> Study:
    """Three runs on a tiny LLaMA, two of them trainings that save their state after every step."""
    study = Study(folder)
    cells = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [50]}
    training = {**TINY_STUDY["training"], "save_every": 1}
    task = {**TINY_STUDY["tasks"]["boolq_mini"], "training": {"steps": steps, "learning_rate": 0.02}}
    study.configure({"llama": model}, grid=cells, tasks={"boolq_mini": task}, training=training)
    return study


def start(study: Study, *arguments: str) -> subprocess.Popen:
    """Snakemake in the study's folder, all its words to a file there."""
    command = [study.python, "-m", "snakemake", *arguments, "--snakefile", study.root / "Snakefile", "--configfile",
               "study.yaml"]  # fmt: skip
    with open(study.folder / "said", "a") as said:
        return subprocess.Popen(list(map(str, command)), cwd=study.folder, stdout=said, stderr=said)


def running(study: Study) -> list[psutil.Process]:
    """Every process at work in the study's folder, orphans too."""
    return [process for process in psutil.process_iter() if _folder(process) == str(study.folder)]


def scripts(processes: list[psutil.Process]) -> list[tuple[str, psutil.Process]]:
    """The scripts among them by name."""
    found = []
    for process in processes:
        parts = _command(process)
        names = [Path(part).name for part in parts[1:2] if part.endswith(".py") and "workflow/scripts" in part]
        found += [(names[0], process)] if names else []
    return found


def disturb(study: Study, chance: random.Random, longest: float) -> Iterator[Kill]:
    """Run the study to its end, with a kill at a random moment of every command as long as the caller asks for more."""
    locked = False  # as Snakemake leaves its folder when it is killed
    while True:
        kind, wait = chance.choice(KINDS), chance.uniform(0, longest)
        if locked:
            study.snakemake("--unlock")
        process = start(study)
        if _ends_within(process, wait):
            assert process.returncode == 0, "the command failed, though nothing was killed meanwhile"
            return
        kill = _kill(study, process, kind, wait, chance)
        locked = kind != KINDS[0]
        ended = process.wait()
        if kill:
            yield kill
        if ended == 0:  # an orphan was killed, or what had ended by then
            return


def finish(study: Study) -> None:
    """The documented command, undisturbed. Raises AssertionError where it does not reach the end."""
    study.snakemake("--unlock")
    study.snakemake()


def outcome(study: Study) -> tuple[dict[str, str], pd.DataFrame]:
    """(the digest of every adapter by run; summary.csv without what is measured by the clock)."""
    folders = sorted((study.folder / grid.ResultPaths().runs).glob("*/adapter"))
    adapters = {folder.parent.name: adapter_digest(folder) for folder in folders}
    return adapters, pd.read_csv(study.folder / grid.ResultPaths().analysis / "summary.csv").drop(columns=MEASURED)


def leftovers(study: Study) -> list[str]:
    """Temporary files, locks and merged models that should be gone."""
    found = [*study.folder.rglob(".*.tmp"), *study.folder.rglob("model_dir")]
    return [str(path.relative_to(study.folder)) for path in found if ".snakemake" not in path.parts]


def waits(study: Study) -> set[str]:
    """What jobs that wait for an orphan say, each with the orphan's number, in the logs as they are now."""
    logs = (study.folder / "results/logs").rglob("*.log")
    return {line for log in logs for line in log.read_text(errors="replace").splitlines() if "being written by" in line}


def check_same(study: Study, reference: Study) -> None:
    """Raises AssertionError where a study did not come to the results of the undisturbed one."""
    (adapters, summary), (expected, table) = outcome(study), outcome(reference)
    assert adapters == expected, "other adapters"
    pd.testing.assert_frame_equal(summary, table)
    assert not leftovers(study), leftovers(study)
    assert not running(study)


def end_all(study: Study) -> None:
    """Kill what is still at work in the study's folder."""
    for process in running(study):
        process.kill()


def _ends_within(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(study: Study, snakemake: subprocess.Popen, kind: str, wait: float, chance: random.Random) -> Kill | None:
    """Kill; None where there was nothing of the kind to kill."""
    processes = running(study)
    named = scripts(processes)
    if kind == KINDS[0]:
        if not named:
            return None  # it goes on to its end
        victims = [chance.choice(named)[1]]
    else:
        victims = [psutil.Process(snakemake.pid)] if kind == KINDS[1] else processes
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:  # it ended at this very moment
            if kind == KINDS[0]:
                return None
    return Kill(kind, wait, tuple(sorted(name for name, _ in named)))


def _folder(process: psutil.Process) -> str | None:
    try:
        return process.cwd() if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the kinds and the moments")
    parser.add_argument("--steps", type=int, default=40, help="of each training")
    parser.add_argument("--longest", type=float, default=25, help="seconds from a command to its kill, at most")
    return parser.parse_args()


def storm(folder: Path, args: argparse.Namespace) -> list[Kill]:
    """Kill until there were enough kills: when a study is finished nevertheless, another begins; all are compared."""
    model = save_tiny("llama", folder / "model")
    reference = configure(folder / "undisturbed", model, args.steps)
    reference.snakemake()
    chance, kills, lap = random.Random(args.seed), [], 0
    while len(kills) < args.kills:
        lap += 1
        study, waited = configure(folder / f"disturbed{lap}", model, args.steps), set()
        try:
            for kill in disturb(study, chance, args.longest):
                kills.append(kill)
                waited |= waits(study)  # before another attempt writes over a log
                print(f"{len(kills):2d} | {lap} | {kill.kind} | {kill.after:4.1f} s | {', '.join(kill.running) or '-'}",
                      flush=True)  # fmt: skip
                if len(kills) == args.kills:
                    break
            finish(study)
            check_same(study, reference)
        finally:
            end_all(study)
        adapters, summary = outcome(study)
        print(f"study {lap}: {len(adapters)} adapters and {len(summary)} rows of summary.csv as undisturbed;"
              f" {len(waited | waits(study))} jobs waited for an orphan", flush=True)  # fmt: skip
    return kills


def main() -> int:
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        kills = storm(Path(folder).resolve(), args)
    by_kind = ", ".join(f"{sum(kill.kind == kind for kill in kills)} {kind}" for kind in KINDS)
    print(f"{len(kills)} kills ({by_kind}), seed {args.seed}, {time.time() - begin:.0f} s: nothing differs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
