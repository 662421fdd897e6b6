"""Build the commands that the pages print. Each can be typed in the folder that the analysis ran in."""

import os
import shlex
import sys
from pathlib import Path

from sparseft.analysis.study import study_folder
from sparseft.axes.grid import Run, base_folder, fill, mask_path
from sparseft.common.section import flags

# The project's folder.
ROOT = Path(__file__).resolve().parents[3]


def commands(results_dir: Path, run: Run, configuration: Path | None, options: str = "") -> dict[str, list[str]]:
    """Return the commands that make the study and its analysis `again`, and those that `check` one run.

    `options` are the flags of the analysis. Only with a configuration can Snakemake make a study."""
    study, folder = study_folder(results_dir), results_dir / run.id
    python, snakemake = (_near(Path(sys.executable).with_name(name)) for name in ("python", "snakemake"))
    scripts = _near(ROOT / "workflow/scripts")
    analysis = flags(results_dir=results_dir, output_dir="analysis_again", configuration=configuration)
    mask, base = (study / fill(pattern(run.method), run) for pattern in (mask_path, base_folder))
    validation = flags(checkpoint=folder / "merged", output="report.json", mask_path=mask, base=base)
    again = [f"{python} {scripts}/analyze_results.py {analysis} {options}".strip()]
    check = [f"{python} {scripts}/validate_sparsity.py {validation}"]
    if configuration:
        snakefile = None if Path.cwd() == ROOT else ROOT / "Snakefile"
        directory = None if study == Path() else study
        places = flags(cores="all", configfile=configuration, snakefile=snakefile, directory=directory)
        # A folder between may be a link, which is not followed.
        merged = shlex.quote(os.path.relpath(folder / "merged", study))
        again.insert(0, f"{snakemake} {places}")
        check.insert(0, f"{snakemake} {merged} {places}")
    return {"again": again, "check": check}


def _near(path: Path) -> str:
    """Return a path for a shell, as short as it can be from the working directory."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
