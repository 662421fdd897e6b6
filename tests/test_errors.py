"""How a script ends: its exit code, its one line on stderr, and the traceback if that is wanted."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from project import ROOT
from sparseft.errors import TRACEBACK_PREFIX, InputError, run_script
from sparseft.storage.atomic import write_json

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.delenv("SPARSEFT_DEBUG", raising=False)
    monkeypatch.delenv("SPARSEFT_LOG_TRACEBACKS", raising=False)


def raised(error: BaseException, cause: Exception | None = None):
    """Return a main that raises the error, `from None` while its cause is handled."""

    def main() -> int:
        try:
            if cause:
                raise cause
        except type(cause):
            raise error from None
        raise error

    return main


def end(main, capsys) -> tuple[int, list[str]]:
    """Run a script's main, and return its exit code and its lines on stderr."""
    with pytest.raises(SystemExit) as exited:
        run_script(main)
    printed = capsys.readouterr()
    assert printed.out == ""
    return exited.value.code, printed.err.splitlines()


@pytest.mark.parametrize("code", [0, 1])
def test_a_script_ends_with_the_code_of_its_work_and_says_nothing(capsys, code):
    assert end(lambda: code, capsys) == (code, [])


def test_bad_input_is_one_line_and_code_2_also_where_stderr_is_a_log(capsys, monkeypatch):
    error = InputError("rows.jsonl, line 3:\n  no answer", "add it")
    assert end(raised(error), capsys) == (2, ["error: rows.jsonl, line 3: no answer; add it"])
    monkeypatch.setenv("SPARSEFT_LOG_TRACEBACKS", "1")
    assert end(raised(error), capsys) == (2, ["error: rows.jsonl, line 3: no answer; add it"])


def test_an_error_of_the_system_names_the_file_and_the_reason(capsys):
    code, (line,) = end(raised(PermissionError(13, "Permission denied", "/a/b")), capsys)
    assert code == 2
    assert line.startswith("error: /a/b: Permission denied; ")


def test_ctrl_c_is_one_line_and_code_130(capsys):
    assert end(raised(KeyboardInterrupt()), capsys) == (130, ["interrupted"])


def test_an_unforeseen_error_names_this_projects_innermost_line_and_not_a_librarys(capsys, tmp_path):
    code, (line,) = end(lambda: write_json(tmp_path / "a.json", object()), capsys)
    assert code == 2
    assert line.startswith("error: TypeError: Object of type object is not JSON serializable ")
    assert "(lib/sparseft/storage/atomic.py, line " in line
    assert "in write_json)" in line


def test_without_a_line_of_the_project_the_innermost_of_all_is_named(capsys):
    code, (line,) = end(lambda: json.loads("{"), capsys)
    assert code == 2
    assert line.startswith("error: JSONDecodeError: ")
    assert "(decoder.py, line " in line


def test_a_gpu_without_memory_is_one_line_that_names_the_settings_to_lower(capsys):
    said = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79 GiB."
    code, (line,) = end(raised(torch.OutOfMemoryError(said)), capsys)
    assert code == 2
    assert line.startswith("error: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ")
    assert line.endswith("; lower training.micro_batch_size or evaluation_batch_size (docs/questions.md)")


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(2, "No such file", "/a"), InputError("it", "do")])
@pytest.mark.parametrize("value", ["1", "0", ""])
def test_the_traceback_of_every_error_is_printed_while_debugging_with_the_cause_that_it_hides(
    capsys, monkeypatch, error, value
):
    monkeypatch.setenv("SPARSEFT_DEBUG", value)
    code, lines = end(raised(error, ZeroDivisionError("cause")), capsys)
    assert code == 2
    assert lines[-1].startswith("error: ")
    assert all(line.startswith(TRACEBACK_PREFIX) for line in lines[:-1])
    text = "\n".join(lines[:-1])
    if value == "1":
        assert "Traceback (most recent call last)" in text
        assert 'test_errors.py", line ' in text
        assert type(error).__name__ in text
        assert "ZeroDivisionError: cause" in text
    else:
        assert text == ""


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(2, "No such file", "/a")])
def test_a_log_has_the_traceback_above_the_line_of_an_error_that_is_no_bad_input(capsys, monkeypatch, error):
    monkeypatch.setenv("SPARSEFT_LOG_TRACEBACKS", "1")
    code, lines = end(raised(error), capsys)
    assert code == 2
    assert f"{TRACEBACK_PREFIX}Traceback (most recent call last):" in lines
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]


def interrupted(program: str) -> tuple[int, str]:
    """Run a program that writes a line once it works, press Ctrl-C in its process group, return its code and stderr."""
    # A shell lets the commands that it starts in the background ignore Ctrl-C, and their children inherit that.
    heard = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{program}"
    process = subprocess.Popen([sys.executable, "-c", heard], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env=ENVIRONMENT)  # fmt: skip
    assert process.stdout.readline() == "works\n"
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(60), process.stderr.read()


POOL = """
import time
from concurrent.futures import ProcessPoolExecutor
from sparseft.errors import run_script
from sparseft.storage.processes import end_with_parent

def main():
    with ProcessPoolExecutor(2, initializer=end_with_parent) as pool:
        pool.submit(time.sleep, 0).result()
        later = [pool.submit(time.sleep, 300) for _ in range(9)]
        print("works", flush=True)
        later[0].result()

run_script(main)
"""
GPUS = """
import os, sys
from pathlib import Path
from sparseft.planning import devices
from sparseft.errors import run_script

devices._locked = lambda path: print("works", flush=True)  # another process has it
run_script(lambda: devices.take(1, ["GPU-0"]))
"""


def test_ctrl_c_ends_a_script_and_its_processes_in_one_line():
    begin = time.monotonic()
    assert interrupted(POOL) == (130, "interrupted\n")
    assert time.monotonic() - begin < 60


def test_ctrl_c_ends_the_wait_for_a_gpu_in_one_line():
    code, said = interrupted(GPUS)
    assert code == 130
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said


def test_the_rules_say_that_the_stderr_of_their_scripts_is_a_log():
    prefix = (ROOT / "rules/common.smk").read_text().partition("shell.prefix(")[2].partition("\n)")[0]
    assert " SPARSEFT_LOG_TRACEBACKS=1" in prefix
