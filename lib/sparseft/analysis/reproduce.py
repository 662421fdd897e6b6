"""Build the commands that the pages print. Each can be typed as it stands."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from sparseft.analysis.study import study_folder
from sparseft.storage.hashes import sha256
from sparseft.study.grid import Run, base_folder, fill, mask_path
from sparseft.study.section import flags

# The project's folder.
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Reproduction:
    """Build the commands that make the results of one analysis again, for the folder that the analysis ran in.

    `options` are the flags that decide what the pages and tables show. `configuration` is None if the analysis had
    none."""

    results_dir: Path
    options: str = ""
    plot: bool = False
    configuration: Path | None = None

    @property
    def digest(self) -> str:
        """Return the sha256 of the configuration; empty without one."""
        return sha256(self.configuration) if self.configuration else ""

    def study(self) -> str:
        """Return the command that makes what is missing of the study."""
        return self._snakemake()

    def analysis(self) -> str:
        """Return the command that writes the same tables and pages into a new folder."""
        places = {"results_dir": self.results_dir, "output_dir": "analysis_again"}
        command = f"{_python('analyze_results.py')} {flags(**places, configuration=self.configuration)}"
        return " ".join(filter(None, (command, "--plot" if self.plot else "", self.options)))

    def validation(self, run: Run) -> str:
        """Return the command that validates one run again."""
        inputs = {"mask_path": mask_path(run.method), "base": base_folder(run.method)}
        paths = {name: study_folder(self.results_dir) / fill(pattern, run) for name, pattern in inputs.items()}
        checked = flags(checkpoint=self.results_dir / run.id / "merged", output="report.json", **paths)
        return f"{_python('validate_sparsity.py')} {checked}"

    def merge(self, run: Run) -> str:
        """Return the command that writes the merged model of one run, to be kept."""
        # A folder between may be a link, which is not followed.
        return self._snakemake(os.path.relpath(self.results_dir / run.id / "merged", study_folder(self.results_dir)))

    def _snakemake(self, *targets: str) -> str:
        """Return a command of Snakemake, with the places that are not the working directory: the project and the
        study."""
        snakefile = None if Path.cwd() == ROOT else ROOT / "Snakefile"
        folder = study_folder(self.results_dir)
        directory = None if folder == Path() else folder
        options = flags(cores="all", configfile=self.configuration, snakefile=snakefile, directory=directory)
        return f"{_program('snakemake', *targets)} {options}"


def _python(script: str) -> str:
    """Return the command of a script."""
    return _program("python", _short(ROOT / "workflow/scripts" / script))


def _program(name: str, *words: object) -> str:
    """Return the command of a program in this environment."""
    return shlex.join(map(str, (_short(Path(sys.executable).with_name(name)), *words)))


def _short(path: Path) -> Path:
    """Return a path, as short as it can be from the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
