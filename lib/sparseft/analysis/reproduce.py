"""Build the commands that the pages print. Each can be typed as it stands."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from sparseft.analysis.study import study_folder
from sparseft.storage.hashes import sha256
from sparseft.study.grid import Run, base_folder, fill, mask_path

# The project's folder.
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Reproduction:
    """Build the commands that make the results of one analysis again, for the folder that the analysis ran in.

    `options` are the flags that decide what the pages and tables show. `configuration` is None if the analysis had
    none. `studies` are the results folders that compare.py lays side by side; empty for one study."""

    results_dir: Path
    options: str = ""
    plot: bool = False
    configuration: Path | None = None
    studies: tuple[Path, ...] = ()

    @property
    def digest(self) -> str:
        """Return the sha256 of the configuration; empty without one."""
        return sha256(self.configuration) if self.configuration else ""

    def study(self) -> str:
        """Return the command that makes what is missing of the study."""
        return _command(_program("snakemake"), "--cores", "all", "--configfile", self.configuration, *self._place())

    def analysis(self) -> str:
        """Return the command that writes the same tables and pages into a new folder."""
        if self.studies:
            command = _command(
                _program("python"), _script("compare.py"), *self.studies, "--output_dir", "compared_again"
            )
        else:
            folders = ("--results_dir", self.results_dir, "--output_dir", "analysis_again")
            configuration = ("--configuration", self.configuration) if self.configuration else ()
            plot = ("--plot",) if self.plot else ()
            command = _command(_program("python"), _script("analyze_results.py"), *folders, *configuration, *plot)
        return f"{command} {self.options}".strip()

    def validation(self, run: Run) -> str:
        """Return the command that validates one run again."""
        folder = study_folder(self.results_dir)
        flags: tuple[object, ...] = ("--checkpoint", self.results_dir / run.id / "merged", "--output", "report.json")
        flags += ("--mask_path", folder / fill(mask_path(run.method), run))
        flags += ("--base", folder / fill(base_folder(run.method), run))
        return _command(_program("python"), _script("validate_sparsity.py"), *flags)

    def merge(self, run: Run) -> str:
        """Return the command that writes the merged model of one run, to be kept."""
        # A folder between may be a link, which is not followed.
        target = os.path.relpath(self.results_dir / run.id / "merged", study_folder(self.results_dir))
        words = ("--cores", "all", "--configfile", self.configuration)
        return _command(_program("snakemake"), target, *words, *self._place())

    def _place(self) -> list[object]:
        """Return the flags that Snakemake needs if the working directory is not the project's, or not the study's."""
        snakefile = [] if Path.cwd() == ROOT else ["--snakefile", ROOT / "Snakefile"]
        folder = study_folder(self.results_dir)
        return snakefile + ([] if folder == Path() else ["--directory", folder])


def _script(name: str) -> Path:
    """Return the path of a script."""
    return _short(ROOT / "workflow/scripts" / name)


def _program(name: str) -> Path:
    """Return the path of a program in this environment."""
    return _short(Path(sys.executable).with_name(name))


def _short(path: Path) -> Path:
    """Return a path, as short as it can be from the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _command(*words: object) -> str:
    """Return a command line for a shell."""
    return shlex.join(map(str, words))
