"""Digests of code: an edit of what a script imports changes them, and nothing else does."""

import runpy
import shutil
import sys
from pathlib import Path

import forks
import pytest
from project import DEFAULT
from sparseft.study import digests as digests_module
from sparseft.study.config import Config
from sparseft.study.digests import AXES, Code, read_code
from sparseft.study.targets import used_values

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "workflow/scripts").glob("*.py"))


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the scripts and the library that a test may edit."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_module_that_python_loads_for_a_script_is_found(name):
    script = ROOT / "workflow/scripts" / name
    code, said = forks.call(list_modules, script)
    assert code == 0, said
    found = Code(ROOT / "lib").imported_modules(script, has_values=True)
    assert {Path(line) for line in said.splitlines() if line} <= set(found)


def list_modules(script: Path) -> None:
    """Import a script, and print the files of the library that Python loads for it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sparseft"]:
        del sys.modules[name]
    runpy.run_path(str(script), run_name="imported")
    files = {module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "sparseft"}
    print(*files, sep="\n")


STUDY = Config(**DEFAULT)


def job(architecture: str = "llama", **wildcards: str) -> list[str]:
    return used_values(STUDY, wildcards, architectures=[architecture])


JOBS = {
    "seed": job(seed="0"),
    "boolq": job(task="boolq"),
    "boolq_mini wanda": job(task="boolq_mini", method="unstructured_wanda"),
    "gsm8k taylor": job(task="gsm8k", method="structured_taylor"),
    "owl": job(method="unstructured_owl_on_c4"),
    "4:8": job(method="semistructured8"),
    "reconstruct": job(mode="reconstruct"),
    "granite": job("granite", seed="0"),
}


def job_digests(project: Path) -> dict[str, str]:
    """Return the digest of a script for jobs with different tasks and methods."""
    path = project / "workflow/scripts/compute_masks.py"
    code = Code(project / "lib")
    return {name: code.of_job(path, values) for name, values in JOBS.items()}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("importances/wanda.py", {"boolq_mini wanda", "owl"}),  # OWL divides the weights by wanda's scores.
        ("importances/gradient.py", {"gsm8k taylor"}),  # Both have one statistic.
        ("patterns/structured.py", {"gsm8k taylor"}),
        ("selection/groups.py", {"4:8"}),  # A way of selection counts for the patterns that choose it.
        ("patterns/semistructured.py", {"4:8"}),  # One function makes both patterns of N:M.
        ("tasks/boolq.py", {"boolq", "boolq_mini wanda"}),  # The mini task has the prompt of the real one.
        ("modes/sparse_to_sparse.py", {"reconstruct"}),  # It has the layers of sparse_to_sparse.
        ("architectures/granite.py", {"granite"}),
        ("importances/importance.py", set(JOBS)),
    ],
)
def test_a_value_s_file_counts_only_for_the_jobs_that_use_the_value(project, file, changed):
    before = job_digests(project)
    with open(project / "lib/sparseft" / file, "a") as source:
        source.write("ADDED = 1\n")
    after = job_digests(project)
    assert {name for name in before if after[name] != before[name]} == changed


@pytest.mark.parametrize("folder", AXES)
def test_a_new_value_changes_the_digest_of_no_job(project, folder, monkeypatch):
    before = job_digests(project)
    package = project / "lib/sparseft" / folder
    assert all((package / f"{name}.py").is_file() for name in AXES[folder])
    (package / "new_value.py").write_text("NEW = 1\n")
    with open(package / "__init__.py", "a") as table:
        table.write(f"from sparseft.{folder}.new_value import NEW  # noqa\n")
    # The digests know the names of the values that are in this project's tables.
    monkeypatch.setitem(AXES, folder, AXES[folder] | {"new_value"})
    assert job_digests(project) == before


def test_a_kept_record_gives_the_digests_of_the_files_as_they_are_now(project, monkeypatch):
    script, record = project / "workflow/scripts/train.py", project / "known.json"
    made = [Code(project / "lib", record).digest(script), Code(project / "lib", record).digest(script)]
    assert made == [Code(project / "lib").digest(script)] * 2
    with open(project / "lib/sparseft/errors.py", "a") as source:
        source.write("ADDED = 1\n")
    parsed = []
    monkeypatch.setattr(digests_module, "read_code", lambda source: parsed.append(source) or read_code(source))
    assert Code(project / "lib", record).digest(script) == Code(project / "lib").digest(script) != made[0]
    assert sum(b"ADDED = 1" in source for source in parsed) == 2
    assert parsed[0].endswith(b"ADDED = 1\n")
    before = Code(project / "lib", record).digest(script)
    script.write_text(f"{script.read_text()}ADDED = 1\n")
    assert Code(project / "lib", record).digest(script) != before


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        # Two sources that may compute something else.
        ("f(1)", "f(True)", False),
        ("f(a=1, b=2)", "f(b=2, a=1)", False),
        ("f'{a}{b!r}'", "f'{a!r}{b}'", False),
        ("x = '''a'''", "'''a'''", False),
        ("f(description='a')", "f(description='b')", False),
        ("Field(1, description='a')", "Field(2, description='a')", False),
        ("Field('a', description='a')", "Field('b', description='a')", False),
        ("f(help='a')", "f(help='b')", False),
        ("f('a')", "f('b')", False),
        # What only a reader sees.
        ("class A(B):\n    '''Say it.'''\n    x = 1\n    'What x is.'", "class A(B):\n    x = 1", True),
        ("'''Say it.'''\nimport a", "# Say it.\nimport a", True),
        ("x = 'it' 'self'", 'x = (\n    "itself"\n)', True),
        ("Field(1, description=f'{A} or b', title='b', examples=[1, 'c'])", "Field(1)", True),
        ("setting('a', 'b', default=None)", "setting(default=None)", True),
        ("r.measurement('a'), r.provenance('b')", "r.measurement(), r.provenance()", True),
        ("Parameter(help='a', name='*')", "Parameter(name='*')", True),
    ],
)
def test_what_only_a_reader_sees_may_be_left_out_and_nothing_else(one, other, is_same):
    one, other = (read_code(source.encode())[0] for source in (one, other))
    assert (one == other) == is_same
