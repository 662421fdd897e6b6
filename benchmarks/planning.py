"""What planning takes: CPU time of `snakemake --dry-run` for one file, for the full study with two seeds, for 20,000 jobs;
and beside it that of as many one-line rules without inputs from functions, resources or params, Snakemake's own share.

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
PLANS = {
    "one mask": ["masks/smollm2/masks_sparsity10_unstructured.pt"],
    "720 cells": [*SWEEP, "grid={seeds: [0, 1]}"],
    "20,000 jobs": [*SWEEP, "grid={seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}"],
}
BARE = """
rule all:
    input: expand("d/{{i}}", i=range({number}))
rule d:
    input: "c/{{i}}"
    output: "d/{{i}}"
    shell: "cp {{input}} {{output}}"
rule c:
    input: "b/{{i}}"
    output: "c/{{i}}"
    shell: "cp {{input}} {{output}}"
rule b:
    output: "b/{{i}}"
    shell: "touch {{output}}"
"""


def planned(folder: str, snakefile: Path, *arguments: str) -> tuple[int, float]:
    """(jobs, CPU seconds) of a dry run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--snakefile", str(snakefile)]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = next(line for line in done.stdout.splitlines() if line.startswith("total"))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(total.split()[1]), spent


def main() -> None:
    rows = []
    with TemporaryDirectory() as folder:
        bare = Path(folder, "Snakefile")
        for name, arguments in PLANS.items():
            jobs, seconds = planned(folder, ROOT / "Snakefile", *arguments)
            bare.write_text(BARE.format(number=round(jobs / 3)))
            _, least = planned(folder, bare)
            rows.append([name, f"{jobs:,}", f"{seconds:.1f}", f"{least:.1f}", f"{seconds / least:.1f}"])
    header = ["planned", "jobs", "CPU time, s", "as many bare rules, s", "ratio"]
    report("planning", "What planning takes", ["`snakemake --dry-run` in an empty folder"], header, rows)


if __name__ == "__main__":
    main()
