#!/usr/bin/env python3
"""The state of a PBS Pro job for Snakemake: status.py ID; prints running, success or failed.

A server that does not answer is no failure. A job that it no longer knows (no job_history_enable) is one, and runs
again.
"""

import re
import subprocess
import sys

GONE = re.compile("Unknown Job Id|Job has finished", re.IGNORECASE)


def state(printed: str) -> str:
    """Of what `qstat -x -f` printed: F and X are ended states, and Exit_status says how."""
    if re.search(r"^\s*job_state = [FX]$", printed, re.MULTILINE) is None:
        return "running"
    return "success" if re.search(r"^\s*Exit_status = 0$", printed, re.MULTILINE) else "failed"


def main() -> int:
    asked = subprocess.run(["qstat", "-x", "-f", sys.argv[1]], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        print(state(asked.stdout))
    else:
        print("failed" if GONE.search(asked.stderr) else "running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
