"""Time the analysis of a large study, with and without plots: 720 generated runs of 200 validation examples each.

python benchmarks/analysis.py
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/analysis"))
from conftest import write_grid  # noqa: E402

STUDY = {"models": 3, "tasks": ["hellaswag", "boolq", "gsm8k"], "sparsities": [50, 90], "seeds": 4}


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
        f"{runs} runs: 3 models, 3 tasks, 3 methods, 2 sparsities, 3 modes, 4 seeds; 200 examples, 210 layers"
    ]
    report("analysis", "The analysis of a large study", conditions, ["written", "time, s", "CPU time, s"], rows)


if __name__ == "__main__":
    main()
