"""The job server, which runs the jobs of the tests' studies: a script does in it what it does in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, job_client

SCRIPTS = ROOT / "workflow/scripts"


def run(command: list, folder: Path, library: Path = ROOT / "lib") -> tuple[int, str, str]:
    """Return the exit code of a command in a folder, and what it prints to stdout and stderr."""
    done = subprocess.run(list(map(str, command)), cwd=folder, env={**os.environ, "PYTHONPATH": str(library)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [
    [SCRIPTS / "merge.py", "--help"],
    [SCRIPTS / "merge.py"],
    [SCRIPTS / "prepare_model.py", "--source", "path:missing", "--output_dir", "model"],
    ["-c", "import sys; print(1); sys.exit(7)"],
])  # fmt: skip
def test_a_command_has_the_same_exit_code_and_words(tmp_path, arguments):
    assert run([*job_client(sys.executable), *arguments], tmp_path) == run([sys.executable, *arguments], tmp_path)


def test_a_job_that_a_signal_ends_has_the_exit_code_of_a_shell(tmp_path):
    script = tmp_path / "workflow/scripts/end.py"
    script.parent.mkdir(parents=True)
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    code, _, _ = run([*job_client(sys.executable), script], tmp_path)
    assert code == 128 + 9


LOOK = """
import os, sparseft.errors
print(sparseft.__file__, sparseft.errors.__file__, hasattr(sparseft, "seen"), os.environ.get("SEEN"))
sparseft.seen = os.environ["SEEN"] = "1"
"""


def test_no_job_sees_what_another_set_and_each_has_its_own_library(tmp_path):
    script = tmp_path / "workflow/scripts/look.py"
    script.parent.mkdir(parents=True)
    script.write_text(LOOK)
    other = tmp_path / "lib"
    (other / "sparseft").mkdir(parents=True)
    for name in ("__init__", "errors"):
        (other / f"sparseft/{name}.py").touch()
    for library in (ROOT / "lib", other, ROOT / "lib"):
        for _ in range(2):
            said = run([*job_client(sys.executable), script], tmp_path, library)
            package = f"{library}/sparseft"
            assert said == (0, f"{package}/__init__.py {package}/errors.py False None\n", "")
