"""Build the commands that EXPERIMENTS.md and correctness_memo.md print. Each can be typed as it stands."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparseft.analysis.records import study_folder
from sparseft.storage.hashes import sha256
from sparseft.study import grid
from sparseft.study.config import Config
from sparseft.study.targets import runs

# The project's folder.
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Reproduction:
    """Build the commands that make the results of one analysis again, for the folder that the analysis ran in.

    `options` are the flags of analyze_results.py that decide what the pages and tables show. `configuration` is None if the
    analysis had none. `digest` is its sha256, and `run_ids` are the runs of its grid."""

    results_dir: Path = Path(grid.RUNS)
    options: tuple[str, ...] = ()
    configuration: Path | None = None
    digest: str = ""
    run_ids: frozenset[str] = frozenset()

    def study(self) -> str:
        """Return the command that makes what is missing of the study."""
        return _command("snakemake", "--cores", "all", "--configfile", self.configuration, *self._place())

    def new_study(self) -> str:
        """Return the command that makes the study in a new folder, which holds a copy of the configuration."""
        snakefile = ROOT / "Snakefile"
        return _command("snakemake", "--cores", "all", "--configfile", grid.CONFIGURATION, "--snakefile", snakefile)

    def analysis(self) -> str:
        """Return the command that writes the same tables and pages into a new folder."""
        configuration = ("--configuration", self.configuration) if self.configuration else ()
        folders = ("--results_dir", self.results_dir, "--output_dir", "analysis_again")
        return _command("python", _script("analyze_results.py"), *folders, *self.options, *configuration)

    def validation(self, run: grid.Run) -> str:
        """Return the command that validates one run again."""
        files = {
            "checkpoint": self.results_dir / run.id / "model_dir",
            "mask_path": study_folder(self.results_dir) / grid.fill(grid.mask_path(run.method), run),
            "base": study_folder(self.results_dir) / grid.fill(grid.base_folder(run.method), run),
            "output": "report.json",
        }
        flags = [word for name, value in files.items() for word in (f"--{name}", value)]
        return _command("python", _script("validate_sparsity.py"), *flags)

    def merge(self, run: grid.Run) -> str:
        """Return the command that makes the merged model of one run again."""
        target = f"{grid.fill(grid.RUN, run)}/model_dir"
        words = ("--notemp", "--cores", "all", "--configfile", self.configuration)
        return _command("snakemake", target, *words, *self._place())

    def _place(self) -> list[object]:
        """Return the flags that Snakemake needs if the working directory is not the project's, or not the study's."""
        snakefile = [] if _in_project() else ["--snakefile", ROOT / "Snakefile"]
        folder = study_folder(self.results_dir)
        return snakefile + ([] if folder == Path() else ["--directory", folder])


def reproduction(
    results_dir: Path, options: Iterable[str], configuration: Path | None, study: Config | None
) -> Reproduction:
    """Return the commands that repeat an analysis of `results_dir`; `study` is the content of the file `configuration`."""
    if not configuration or not study:
        return Reproduction(results_dir, tuple(options))
    run_ids = frozenset(run.id for run in runs(study))
    return Reproduction(results_dir, tuple(options), configuration, sha256(configuration), run_ids)


def _script(name: str) -> Path:
    """Return the path of a script, as short as it can be from the working directory."""
    script = Path("workflow/scripts") / name
    return script if _in_project() else ROOT / script


def _in_project() -> bool:
    """Return whether the working directory is the project's folder."""
    return Path.cwd().resolve() == ROOT.resolve()


def _command(*words: object) -> str:
    """Return a command line for a shell."""
    return shlex.join(map(str, words))
