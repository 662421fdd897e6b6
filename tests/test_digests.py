"""Digests of code: an edit of what a script imports changes them, and nothing else does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sparseft.digests import code_digest, imported_modules

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "workflow/scripts").glob("*.py"))
LISTING = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="imported")
print(*{module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "sparseft"}, sep="\\n")
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the scripts and the library that a test may edit."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    return tmp_path


def digests(project: Path) -> dict[str, str]:
    return {name: code_digest(project / "workflow/scripts" / name, project / "lib") for name in SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_module_that_python_loads_for_a_script_is_found(name):
    script = ROOT / "workflow/scripts" / name
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(
        [sys.executable, "-c", LISTING, script], capture_output=True, text=True, check=True, env=environment
    )
    loaded = {Path(line) for line in done.stdout.splitlines()}
    assert len(loaded) >= 2
    assert loaded <= set(imported_modules(script, ROOT / "lib"))


def test_there_is_a_script_for_every_stage():
    assert len(SCRIPTS) >= 8


def test_touching_changes_no_digest(project):
    before = digests(project)
    for file in project.rglob("*.py"):
        os.utime(file, (2e9, 2e9))
    assert digests(project) == before == digests(ROOT)


PLOTTERS = {"analyze_results.py", "analyze_throughput.py"}


@pytest.mark.parametrize(
    ("module", "concerned", "untouched"),
    [
        ("validation.py", {"validate_sparsity.py"}, {"train.py", "merge.py", "compute_masks.py", "evaluate.py"}),
        ("pruning/structured.py", {"compute_masks.py"}, {"train.py", "merge.py", "validate_sparsity.py"}),
        ("training/loop.py", {"train.py"}, {"compute_masks.py", "validate_sparsity.py", "merge.py", "evaluate.py"}),
        ("tasks/boolq_mini.py", {"prepare_task.py", "train.py", "evaluate.py"}, {"merge.py"}),
        ("analysis/plots.py", PLOTTERS, set(SCRIPTS) - PLOTTERS),  # imported inside main
        ("__init__.py", set(SCRIPTS), set()),
        ("errors.py", set(SCRIPTS), set()),
    ],
)
def test_an_edit_changes_the_digests_of_the_scripts_that_import_it_alone(project, module, concerned, untouched):
    before = digests(project)
    with open(project / "lib/sparseft" / module, "a") as file:
        file.write("\n# edited\n")
    changed = {name for name, digest in digests(project).items() if digest != before[name]}
    assert changed >= concerned
    assert not changed & untouched


def test_what_a_use_of_a_script_never_imports_is_not_in_its_digest(project):
    script, lib, module = project / "workflow/scripts/compute_masks.py", project / "lib", "sparseft.pruning.calibration"
    whole, without = imported_modules(script, lib), imported_modules(script, lib, (module,))
    left_out = {path.relative_to(lib / "sparseft").as_posix() for path in set(whole) - set(without)}
    assert left_out >= {"pruning/calibration.py", "training/loss.py", "tasks/boolq.py"}
    loaded = f"import sys; sys.path.insert(0, {str(lib)!r}); import runpy; runpy.run_path({str(script)!r}); print({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_edit_of_a_script_changes_its_own_digest_alone(project):
    before = digests(project)
    with open(project / "workflow/scripts/train.py", "a") as file:
        file.write("\n")
    assert {name for name, digest in digests(project).items() if digest != before[name]} == {"train.py"}


def test_a_name_that_is_a_module_and_one_that_is_a_function_are_told_apart(tmp_path):
    package = tmp_path / "lib/sparseft/inner"
    package.mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/module.py", "inner/other.py", "lazy.py"):
        (tmp_path / "lib/sparseft" / name).write_text("")
    (package / "module.py").write_text("def function():\n    import sparseft.lazy\n")
    script = tmp_path / "script.py"
    script.write_text("import numpy\nfrom sparseft.inner import function, module\n")
    found = [
        path.relative_to(tmp_path / "lib/sparseft").as_posix() for path in imported_modules(script, tmp_path / "lib")
    ]
    assert found == ["__init__.py", "inner/__init__.py", "inner/module.py", "lazy.py"]
