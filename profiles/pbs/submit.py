#!/usr/bin/env python3
"""Hand a job script of Snakemake's to PBS Pro: submit.py SCRIPT; prints the job's id.

One chunk of one node: threads, memory, GPUs; the time limit; PBS's own log in .snakemake/pbs_logs/.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

LOGS = Path(".snakemake/pbs_logs")
MARK = "# properties = "


def properties(script: Path) -> dict:
    """What Snakemake wrote into the script about the job: rule or groupid, threads, resources."""
    line = next(line for line in script.read_text().splitlines() if line.startswith(MARK))
    return json.loads(line.removeprefix(MARK))


def flags(job: dict) -> list[str]:
    """qsub's, for a job's properties."""
    asked = job["resources"]
    chunk = f"select=1:ncpus={job['threads']}:mem={asked['mem_mb']}mb"
    if asked.get("gpu"):
        chunk += f":ngpus={asked['gpu']}"
    hours, minutes = divmod(asked["runtime"], 60)
    name = f"sparseft-{job.get('rule') or job['groupid']}"[:230]
    more = shlex.split(asked.get("pbs_extra", ""))
    return [
        "-N",
        name,
        "-l",
        chunk,
        "-l",
        f"walltime={hours:02d}:{minutes:02d}:00",
        "-j",
        "oe",
        "-o",
        f"{LOGS}/",
        *more,
    ]


def main() -> int:
    script = Path(sys.argv[1])
    LOGS.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["qsub", *flags(properties(script)), script], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
