"""Time the analysis of a large study, with and without plots: 720 generated runs of 1,000 validation examples each.

python benchmarks/analysis.py
"""

import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/analysis"))
from conftest import SCHEMAS, pieces  # noqa: E402
from sparseft.records.record_file import write  # noqa: E402
from sparseft.study.grid import Run  # noqa: E402

STUDY = {"models": 3, "tasks": ["hellaswag", "boolq", "gsm8k"], "sparsities": [50, 90], "seeds": 4, "examples": 1000}
METHODS = ("unstructured", "structured", "random")
MODES = ("no_finetune", "sparse_to_dense", "sparse_to_sparse")


def write_grid(folder: Path, *, models: int, tasks: list[str], sparsities: list[int], seeds: int, examples: int) -> int:
    """Write a whole study with values that fall with sparsity, and return its number of runs."""
    cells = [("dense", 0, mode) for mode in MODES[:2]] + list(product(METHODS, sparsities, MODES))
    runs = [
        Run(f"Model{model}B", task, *cell, seed)
        for model, task, seed, cell in product(range(models), tasks, range(seeds), cells)
    ]
    for run in runs:
        place = folder / run.id
        place.mkdir(parents=True)
        value = 0.75 - run.sparsity / 200
        for name, content in pieces(run, value, loss=4 - 2 * value, examples=examples).items():
            write(place / f"{name}.json", SCHEMAS[name].model_validate(content))
    return len(runs)


def main() -> None:
    """Write the runs, analyse them with the script that a user calls, and report the times."""
    rows = []
    cpu_before = 0.0
    with TemporaryDirectory() as folder:
        runs = write_grid(Path(folder, "runs"), **STUDY)
        for name, flags in (("tables and pages", []), ("tables, pages and plots", ["--plot"])):
            command = [sys.executable, ROOT / "workflow/scripts/analyze_results.py", *flags]
            places = ["--results_dir", f"{folder}/runs", "--output_dir", f"{folder}/out"]
            begin = time.perf_counter()
            subprocess.run([*command, *places], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - begin
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            # The usage is that of all child processes so far.
            cpu_seconds = usage.ru_utime + usage.ru_stime
            rows.append([name, f"{seconds:.1f}", f"{cpu_seconds - cpu_before:.1f}"])
            cpu_before = cpu_seconds
    conditions = [
        f"{runs} runs: 3 models, 3 tasks, 3 methods, 2 sparsities, 3 modes, 4 seeds; {STUDY['examples']:,} examples"
    ]
    report("analysis", "The analysis of a large study", conditions, ["written", "time, s", "CPU time, s"], rows)


if __name__ == "__main__":
    main()
