# Find the folder of this project, which has the scripts and the library. If Snakemake reads the Snakefile from a git
# repository, it fetches single files only. Then the whole commit is written once into .snakemake/sparseft/.
import os
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest.mock import MagicMock

from snakemake.sourcecache import HostingProviderFile, LocalSourceFile


def refuse(error):
    """Print an error on one line and end Snakemake, before any job starts."""
    print("error:", *str(error).split(), file=sys.stderr)
    sys.exit(2)


def end_plainly(kind, error, trace):
    """Print an error that ends Snakemake. Ctrl-C during a plan is one line, and no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = end_plainly


def project_folder(source):
    """Return the folder of the project, from the folder of its rules as Snakemake names it."""
    if isinstance(source, LocalSourceFile):
        return Path(source.path).parent
    if not isinstance(source, HostingProviderFile):
        refuse(
            f"the Snakefile is in {source}, without its project; give its path on the disk, github(...) or gitlab(...)"
        )
    repository = source.hosted_repo.repo
    commit = repository.commit(source.ref).hexsha
    folder = Path(".snakemake/sparseft", commit).absolute()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as archive, tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            repository.archive(archive, commit)
            archive.seek(0)
            with tarfile.open(fileobj=archive) as files:
                files.extractall(Path(partial, commit), filter="data")
            # Another process may be first.
            with suppress(OSError):
                Path(partial, commit).rename(folder)
    return folder


# The Snakemake workflow catalog runs the linter, which only reads the rules, where nothing but Snakemake is installed.
IS_LINTED = "--lint" in sys.argv
ROOT = project_folder(workflow.current_basedir)
sys.path.insert(0, str(ROOT / "lib"))

while True:
    try:
        # This also imports the libraries that a plan needs.
        import sparseft.study.planning.inputs

        break
    except ModuleNotFoundError as error:
        if not IS_LINTED:
            refuse(f"{error}; install what SparseFT needs: {sys.executable} -m pip install {ROOT}")
        sys.modules[error.name] = MagicMock()
if not Path(sparseft.__file__).resolve().is_relative_to((ROOT / "lib").resolve()):
    refuse(
        f"the plan would use {Path(sparseft.__file__).parent}, and the jobs {ROOT / 'lib/sparseft'};"
        " import one version of SparseFT only"
    )
