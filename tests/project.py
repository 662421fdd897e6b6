"""A study folder, and the two ways into the project: Snakemake and the scripts."""

import csv
import fcntl
import gc
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import h5py
import pytest
import torch
import yaml
from jobs import Process
from sparseft.common.section import parse_section
from sparseft.storage import locks
from sparseft.storage.hashes import sha256
from sparseft.study.config import Config

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "tests/jobs.py"
# The servers of this process. Each ends when the pipe to it closes.
RUNNING: list[subprocess.Popen] = []
# What may happen to the bytes of a file, beside those of another one.
DAMAGES = {
    "cut in half": lambda content, other: content[: len(content) // 2],
    "one bit flipped": lambda content, other: bytes(
        byte ^ 4 * (place == len(content) // 2) for place, byte in enumerate(content)
    ),
    "another run's file": lambda content, other: other,
}
# Bytes that a file system gives out at once.
PAGE = 4096
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
# A toy task in place of a text that a model samples first, and a method that looks at it.
DEFAULT["grid"] |= {"tasks": ["hellaswag_mini"], "sparsities_of": {"structured_obs_on_task": [20]}}
DEFAULT["grid"]["methods"].append("structured_obs_on_task")


def laid_over(sections: dict) -> Config:
    """The default configuration with whole keys of `sections` over it. Cerebras' backends train no pruned base."""
    merged = {**DEFAULT, **sections}
    if "backend" in sections:
        sections = sections | {"grid": {"methods": ["unstructured", "random"]} | sections.get("grid", {})}
    for name in ("models", "tasks", "grid"):
        merged[name] = {**DEFAULT[name], **sections.get(name, {})}
    return parse_section(Config, merged, "configuration")


def call_script(name: str, /, *arguments: object, **flags: object) -> tuple[int, str]:
    """A script in this process, which has imported torch already; returns its exit code and all that it output.

    What follows the script in `name` only says how it is called."""
    argv, output = sys.argv, io.StringIO()
    sys.argv = [str(ROOT / "workflow/scripts" / name.split()[0]), *map(str, arguments), *words_of(flags)]
    try:
        with redirect_stderr(output), redirect_stdout(output):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0, output.getvalue()
    finally:
        # As at the end of a process.
        sys.argv = argv
        torch.set_num_threads(1)
        while locks._HELD:
            lock = locks._HELD.pop()
            Path(lock.name).unlink(missing_ok=True)
            lock.close()
    raise AssertionError(f"{name} did not exit")


def succeed(name: str, /, **flags: object) -> str:
    code, output = call_script(name, **flags)
    assert code == 0, output
    return output


def copy_project(root: Path, *others: str) -> Path:
    """Copy what the workflow needs, and other folders and files of the project, to a folder; return it."""
    root.mkdir()
    for name in ("Snakefile", "config", "envs", "lib", "profiles", "rules", "workflow", *others):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, root)
    return root


def program(path: Path, text: str) -> Path:
    """Write a program that stands in for a real one, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def read_record(path: Path) -> dict:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "record_sha256"}


def tree(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, hidden ones too, by its path in the folder."""
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, name: str, /, *arguments: object, **flags: object) -> str:
    """Call a script that must refuse its input with one line, and leave `folder` as it was; returns the line.

    On a busy machine, lines before it may say how far it is."""
    before = tree(folder)
    code, output = call_script(name, *arguments, **flags)
    lines = [line for line in output.splitlines() if not re.search(r" \d+ of \d+, \d+ s$", line)]
    assert (code, len(lines)) == (2, 1), output
    assert re.match("error: .*; ", lines[0])
    assert tree(folder) == before
    return lines[0]


def words_of(flags: dict[str, object]) -> list[str]:
    """Return flags as the words of a command; True is a flag without a value."""
    words = []
    for flag, value in flags.items():
        words += [f"--{flag}", *(value if isinstance(value, list) else [value] * (value is not True))]
    return list(map(str, words))


@cache
def job_server(python: str) -> str:
    """Start tests/jobs.py, which ends with this process, and return its address."""
    address = f"{tempfile.mkdtemp()}/jobs"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [python, JOBS, "--serve", address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout.readline() == "ready\n"
    RUNNING.append(server)
    return address


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Yield whether `folder` has yet to be filled; the other test processes wait until the block ends."""
    done = folder.with_name(f"{folder.name}.done")
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def is_whole(path: Path) -> bool:
    """Return whether a file that cerebras-pytorch writes is complete."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("__SUCCESS__", False))
    except OSError:
        return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes, in whole pages; of 0 bytes, one that is full."""
    folder.mkdir()
    options = f"size={max(size, PAGE)}"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
        pytest.skip("needs root, who may mount a small file system")
    try:
        if size < PAGE:
            (folder / "other").write_bytes(bytes(PAGE))
        yield folder
    finally:
        # A traceback may hold a mapped file.
        gc.collect()
        subprocess.run(["umount", folder], check=True)


class Study:
    """A folder with a configuration file of its own, in which snakemake runs."""

    def __init__(self, folder: Path, root: Path = ROOT, python: str = sys.executable) -> None:
        self.folder, self.root, self.python = folder, root, python
        folder.mkdir(parents=True, exist_ok=True)

    def configure(self, models: dict[str, Path], **sections: object) -> "Study":
        """Write study.yaml: TINY_STUDY on a toy task, with `models` by name from their folders, and `sections`; return
        the study."""
        sections["grid"] = {"tasks": DEFAULT["grid"]["tasks"], **sections.get("grid", {})}
        sources = {name: {"source": f"path:{folder}", "dtype": "bfloat16"} for name, folder in models.items()}
        (self.folder / "study.yaml").write_text(yaml.safe_dump({"models": sources, **TINY_STUDY, **sections}))
        return self

    def snakemake(self, *arguments: str, expect: int = 0, configfile: str | None = "study.yaml") -> str:
        """Run snakemake in the folder; returns what it printed."""
        address = job_server(self.python)
        words = ["snakemake", *arguments, "--snakefile", str(self.root / "Snakefile")]
        words += ["--configfile", configfile] if configfile else []
        with tempfile.TemporaryFile("w+") as output, open(os.devnull) as nothing:
            files = [nothing.fileno(), output.fileno(), output.fileno()]
            code = Process(address, words, files, str(self.folder), self.environment(forks_jobs=True)).wait()
            output.seek(0)
            text = output.read()
        assert code == expect, text[-4000:]
        return text

    def environment(self, *, forks_jobs: bool = False) -> dict[str, str]:
        """Return the environment of the project whose Snakefile runs: its own library is found first."""
        environment = {**os.environ, "PYTHONPATH": str(self.root / "lib")}
        if forks_jobs:
            address = job_server(self.python)
            client = shlex.join([self.python, "-I", "-S", str(JOBS), address])
            environment["JOBS_PYTHON"] = str(program(Path(f"{address}.python"), f'#!/bin/sh\nexec {client} "$@"\n'))
        return environment

    def planned(self, *targets: str) -> dict[str, int]:
        """Rule -> number of jobs that snakemake would run for `targets`."""
        lines = self.snakemake(*targets, "--dry-run").splitlines()
        if "Job stats:" not in lines:
            return {}
        table = lines[lines.index("Job stats:") + 3 :]
        jobs = dict(line.split() for line in table[: table.index("")])
        return {rule: int(count) for rule, count in jobs.items() if rule != "total"}

    def commands(self, *targets: str) -> list[str]:
        """Return the lines that snakemake prints of the jobs that it would run, with their commands."""
        return self.snakemake(*targets, "--dry-run", "--printshellcmds", "--quiet", "host").splitlines()

    @contextmanager
    def edited(self, old: str, new: str) -> Iterator[None]:
        """Replace a text of the configuration until the block ends."""
        file = self.folder / "study.yaml"
        text = file.read_text()
        assert old in text, text
        file.write_text(text.replace(old, new))
        try:
            yield
        finally:
            file.write_text(text)

    def json(self, path: str) -> dict:
        return json.loads((self.folder / path).read_text())

    def table(self, path: str = "results/analysis/summary.csv") -> list[dict[str, str]]:
        """Return the rows of a table."""
        with open(self.folder / path, newline="") as file:
            return list(csv.DictReader(file))


TINY_STUDY = {
    "tasks": {
        name: {"train_examples": 24, "validation_examples": 12, "training": {"steps": 3, "learning_rate": 0.02}}
        for name in ("hellaswag_mini", "boolq_mini", "gsm8k_mini")
    },
    "training": {"batch_size": 4, "micro_batch_size": 2, "lora_r": 4},
}
METHODS = ["unstructured", "structured", "random"]


def tiny_grid(model: str, task: str, methods: list[str] = METHODS, **others: object) -> dict:
    """One model and task, three sparsities and both modes; `others`: keys that differ."""
    return {
        "models": [model],
        "tasks": [task],
        "methods": methods,
        # Channels are 60 % of the weights of most tiny models.
        "sparsities": [0, 50, 55],
        "modes": ["sparse_to_dense", "sparse_to_sparse"],
        "seeds": [0],
        **others,
    }
