"""A script is a function: its flags come from its signature, and it ends with one line and a code."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from project import ROOT
from pydantic import Field
from sparseft.common.command import Flags, command_line, parse, run
from sparseft.common.errors import TRACEBACK_PREFIX, InputError
from sparseft.common.section import Section, flags
from sparseft.storage.atomic import write_json


class Schedule(Section):
    steps: int = Field(3, gt=0, description="Optimiser steps.")
    rate: float | None = Field(None, description="Learning rate.")
    is_masked: bool = Field(True, description="Whether it is masked.")
    layers: list[Literal["q", "k"]] = Field([], description="Layers.")


@dataclass(frozen=True)
class Places:
    model_path: Path


def script(
    places: Flags[Places],
    schedule: Flags[Schedule] = Schedule(),
    *,
    sparsity: tuple[float, ...] = (0.5,),
    seed: int | None = None,
    plot: bool = False,
    nested: Schedule = Schedule(),
) -> tuple:
    """Do nothing.

    Args:
        sparsity: fractions to prune
        seed: seed of the script
    """
    return places, schedule, sparsity, plot, nested


def test_flags_are_the_parameters_and_the_keys_of_their_sections_as_a_rule_writes_them():
    schedule = Schedule(steps=9, rate=0.25, is_masked=False, layers=["q", "k"])
    words = flags(model_path="m", **schedule.model_dump(), nested=schedule).split()
    assert parse(script, words)() == (Places(Path("m")), schedule, (0.5,), False, schedule)
    words += "--sparsity 0.5 0.75 --plot".split()
    assert parse(script, words)() == (Places(Path("m")), schedule, (0.5, 0.75), True, schedule)


def test_0_and_false_are_values_nothing_is_none_and_a_shell_reads_each_as_it_was():
    assert flags(a=None, b=[], c=0, d=False, e=[1, 2]) == "--c 0 --d=False --e 1 2"
    assert shlex.split(flags(name="a b", other=["$HOME", "'"])) == ["--name", "a b", "--other", "$HOME", "'"]


@pytest.mark.parametrize(("words", "named"), [
    ("", "--model_path"),
    ("--model_path m --stps 3", "--stps"),
    ("--model_path m --steps 0", "--steps: Input should be greater than 0"),
    ("--model_path m --sparsity half", "half"),
    ("--model_path m left over", "left"),
    # cyclopts would round it.
    ("--model_path m --seed 1.5", "--seed 1.5: not a whole number"),
])  # fmt: skip
def test_a_wrong_command_line_is_refused_with_its_place(words, named):
    with pytest.raises(InputError) as refused:
        parse(script, words.split())
    what, advice = refused.value.args
    assert named in what
    assert "\n" not in what
    assert advice == "test_command.py --help lists the flags"


def test_help_names_each_flag_with_its_text(capsys):
    command_line(script)(["--help"], result_action="return_value")
    text = capsys.readouterr().out
    assert all(word in text for word in ("fractions to prune", "--nested.steps", "Optimiser steps.", "[default: 3]"))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.delenv("SPARSEFT_DEBUG", raising=False)
    monkeypatch.delenv("SPARSEFT_LOG_TRACEBACKS", raising=False)
    monkeypatch.setattr(sys, "argv", ["script.py"])


def end(main, capsys) -> tuple[int, list[str]]:
    """Run a main, and return its exit code and its lines on stderr."""
    with pytest.raises(SystemExit) as exited:
        run(main)
    printed = capsys.readouterr()
    assert printed.out == ""
    return exited.value.code or 0, printed.err.splitlines()


def raised(error: BaseException):
    """Return a main that raises the error, with a hidden cause."""

    def main() -> int:
        try:
            raise ZeroDivisionError("cause")
        except ZeroDivisionError:
            raise error from None

    return main


@pytest.mark.parametrize(("main", "code", "lines"), [
    (lambda: 1, 1, []),
    (raised(InputError("line 3:\n  no answer", "add it")), 2, ["error: line 3: no answer; add it"]),
    (raised(KeyboardInterrupt()), 130, ["interrupted"]),
])  # fmt: skip
def test_a_script_ends_with_its_code_and_at_most_one_line(capsys, main, code, lines):
    assert end(main, capsys) == (code, lines)


@pytest.mark.parametrize(("main", "parts"), [
    (raised(PermissionError(13, "Permission denied", "/a/b")), ["error: /a/b: Permission denied; "]),
    (raised(torch.OutOfMemoryError("CUDA out of\nmemory")), ["CUDA out of memory", "training.micro_batch_size"]),
    (lambda: write_json(Path("/tmp/a"), object()),
     ["TypeError", "(lib/sparseft/storage/atomic.py, line ", "in write_json)"]),
    (lambda: json.loads("{"), ["JSONDecodeError", "(decoder.py, line ", "; correct the flag"]),
    (raised(KeyError("weight_map")), ["KeyError: no 'weight_map' (", "; correct the flag"]),
    (lambda: Schedule(steps=0), ["ValidationError: ", " steps Input should be greater than 0 ", "; correct the flag"]),
    (raised(RuntimeError("shapes differ")), ["RuntimeError: shapes differ (", "; report this line"]),
])  # fmt: skip
def test_any_other_error_is_one_line_that_names_its_place(capsys, main, parts):
    code, (line,) = end(main, capsys)
    assert code == 2
    assert all(part in line for part in parts)


@pytest.mark.parametrize("error", [KeyError("x"), InputError("it", "do")])
@pytest.mark.parametrize("variable", ["SPARSEFT_DEBUG", "SPARSEFT_LOG_TRACEBACKS"])
def test_debugging_prints_every_traceback_and_a_log_those_of_no_bad_input(capsys, monkeypatch, error, variable):
    monkeypatch.setenv(variable, "1")
    _, lines = end(raised(error), capsys)
    text = "\n".join(lines[:-1])
    assert lines[-1].startswith("error: ")
    assert all(line.startswith(TRACEBACK_PREFIX) for line in lines[:-1])
    is_printed = variable == "SPARSEFT_DEBUG" or not isinstance(error, InputError)
    assert ("ZeroDivisionError: cause" in text) == is_printed


POOL = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from concurrent.futures import ProcessPoolExecutor
from sparseft.common.command import run
from sparseft.storage.locks import end_with_parent

def main():
    with ProcessPoolExecutor(2, initializer=end_with_parent) as pool:
        # Then each process has begun to work.
        list(pool.map(time.sleep, [0.5, 0.5]))
        later = [pool.submit(time.sleep, 300) for _ in range(9)]
        print("works", flush=True)
        later[0].result()

run(main)
"""


@pytest.mark.process
def test_ctrl_c_ends_a_script_and_its_processes_in_one_line(tmp_path):
    (tmp_path / "script.py").write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    process = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True, env=environment)  # fmt: skip
    assert process.stdout.readline() == "works\n"
    os.killpg(process.pid, signal.SIGINT)
    assert (process.wait(60), process.stderr.read()) == (130, "interrupted\n")
