"""Turn the run folders of a study into tables, figures and pages.

The stage is in sparseft/stages/analyze_results.py."""

from sparseft.common.command import run
from sparseft.stages import analyze_results

if __name__ == "__main__":
    run(analyze_results.run)
