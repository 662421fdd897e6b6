"""Measure the CPU time of `snakemake --dry-run`: for one file, for the full study with two seeds, for 20,000 jobs, and
for a study with three seeds and three trainings.

Beside it stand two other workflows with as many jobs, planned with the same options:

    one-line rules      a job has one input and one output, and nothing else
    the same files      a job has as many files as a job of a study: inputs, outputs, a log and a benchmark

Neither has functions, params, resources or messages, so their time is Snakemake's own. All are measured twice: when
only the table of jobs is wanted, and when every job is printed.

    python benchmarks/planning.py
"""

import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import report

ROOT = Path(__file__).parents[1]
SWEEP = ["--configfile", str(ROOT / "config/sweep.yaml"), "--config"]
# The full study has two models, three tasks, three methods, ten sparsities and two modes.
TRAININGS = (
    "grid={seeds: [0, 1, 2],"
    " trainings: {low: {learning_rate: 0.0001}, middle: {learning_rate: 0.0005}, high: {learning_rate: 0.002}}}"
)
PLANS = {
    "one mask": ["masks/smollm2/masks_sparsity50_unstructured.pt"],
    "720 cells": [*SWEEP, "grid={seeds: [0, 1]}"],
    "20,000 jobs": [*SWEEP, "grid={seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}"],
    # Some rows must be left for the selection.
    "three trainings": [*SWEEP, TRAININGS, "tasks={gsm8k: {train_examples: 6000}}"],
}
# What is printed -> the options for this workflow, and for the others. `rules` and `progress` leave out every job; this
# workflow does so by itself.
PRINTED = {
    "the table": ([], ["--quiet", "rules", "progress"]),
    "every job": (["--quiet", "host"], ["--quiet", "host"]),
}
# Three jobs per number.
ONE_LINE = """
rule all:
    input: expand("d/{i}", i=range(NUMBER))
rule d:
    input: "c/{i}"
    output: "d/{i}"
    shell: "cp {input} {output}"
rule c:
    input: "b/{i}"
    output: "c/{i}"
    shell: "cp {input} {output}"
rule b:
    output: "b/{i}"
    shell: "touch {output}"
"""
# Five jobs per number, with 6.0 inputs per job in the mean. The full study has 6.2.
SAME_FILES = """
RUN = "runs/{i}"
MODEL = ["model.json", "mask.pt"]
DATA = ["train.jsonl", "validation.jsonl"]
RECORDS = ["train.json", "merge.json", "proof.json", "evaluation.json", "before.json"]
rule all:
    input: "summary.csv", expand(f"{RUN}/{{name}}", i=range(NUMBER), name=[*RECORDS, "adapter"])
rule analyze:
    input: expand(f"{RUN}/{{name}}", i=range(NUMBER), name=RECORDS)
    output: "summary.csv"
    shell: "analyze {input} {output}"
rule prepare:
    output: MODEL, DATA
    shell: "touch {output}"
rule train:
    input: MODEL, DATA
    output: directory(f"{RUN}/adapter"), f"{RUN}/train.json"
    log: "logs/train/{i}.log"
    benchmark: "benchmarks/train/{i}.tsv"
    shell: "train {input} {output}"
rule merge:
    input: MODEL, f"{RUN}/adapter"
    output: temp(directory(f"{RUN}/model")), f"{RUN}/merge.json"
    log: "logs/merge/{i}.log"
    benchmark: "benchmarks/merge/{i}.tsv"
    shell: "merge {input} {output}"
rule validate:
    input: MODEL, f"{RUN}/model"
    output: f"{RUN}/proof.json"
    log: "logs/validate/{i}.log"
    benchmark: "benchmarks/validate/{i}.tsv"
    shell: "validate {input} {output}"
rule evaluate:
    input: f"{RUN}/model", f"{RUN}/proof.json", DATA
    output: f"{RUN}/evaluation.json"
    log: "logs/evaluate/{i}.log"
    benchmark: "benchmarks/evaluate/{i}.tsv"
    shell: "evaluate {input} {output}"
rule before:
    input: MODEL, f"{RUN}/adapter", DATA
    output: f"{RUN}/before.json"
    log: "logs/before/{i}.log"
    benchmark: "benchmarks/before/{i}.tsv"
    shell: "evaluate {input} {output}"
"""
# A plan is timed so often, in turns, and the least time counts. A plan of more than LARGE jobs is timed once.
TURNS = 3
LARGE = 10_000


def planned(folder: Path, snakefile: Path, arguments: list[str]) -> tuple[str, float]:
    """Return what a dry run in `folder` prints to stdout, and its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--snakefile", snakefile]
    command += ["--workflow-profile", ROOT / "profiles/default", *arguments]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def number_of_jobs(printed: str) -> int:
    """Return the number of jobs in the table that a dry run prints."""
    total = next(line for line in printed.splitlines() if line.startswith("total"))
    return int(total.split()[1])


def measured(folder: Path, cases: list[tuple[Path, list[str]]], turns: int) -> list[float]:
    """Return the least CPU time in seconds of each case, which is a Snakefile with its arguments."""
    times_by_turn = [[planned(folder, *case)[1] for case in cases] for _ in range(turns)]
    return [min(times) for times in zip(*times_by_turn, strict=True)]


def main() -> None:
    """Print the table, and write it to benchmarks/results/planning.md."""
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        others = [folder / "one_line.smk", folder / "same_files.smk"]
        for plan, arguments in PLANS.items():
            jobs = number_of_jobs(planned(folder, ROOT / "Snakefile", arguments)[0])
            others[0].write_text(ONE_LINE.replace("NUMBER", str(round(jobs / 3))))
            others[1].write_text(SAME_FILES.replace("NUMBER", str(round(jobs / 5))))
            for printed, (own_options, other_options) in PRINTED.items():
                cases = [(ROOT / "Snakefile", [*arguments, *own_options]), *((file, other_options) for file in others)]
                own, one_line, same_files = measured(folder, cases, 1 if jobs > LARGE else TURNS)
                times = [f"{own:.1f}", f"{one_line:.1f}", f"{own / one_line:.1f}"]
                rows.append([plan, f"{jobs:,}", printed, *times, f"{same_files:.1f}", f"{own / same_files:.1f}"])
    header = ["planned", "jobs", "printed", "CPU time, s", "one-line rules, s", "ratio", "the same files, s", "ratio"]
    conditions = [
        "`snakemake --dry-run` in an empty folder, with the options of profiles/default",
        f"the least of {TURNS} measurements in turns; more than {LARGE:,} jobs: one measurement",
        "one-line rules: as many jobs, each with one input and one output",
        "the same files: as many jobs, each with the inputs, outputs, log and benchmark file of a study's job",
    ]
    report("planning", "What planning takes", conditions, header, rows)


if __name__ == "__main__":
    main()
