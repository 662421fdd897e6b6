"""Every command on every page is one that the project understands: its options, its targets and its files."""

import json
import re
import runpy
import sys
from fnmatch import fnmatch
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, commands, configurations, files
from project import Study
from snakemake import cli
from sparseft.axes.tasks import TASKS
from sparseft.common.command import parse
from sparseft.study.configfiles import read_configuration

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = [name for line in re.findall(r"^([^\s:=#][^:=]*):(?!=)", MAKEFILE, re.MULTILINE) for name in line.split()]
FOLDERS = ("config", "profiles", "studies", "workflow", "benchmarks", "tests", "docs", "envs")
OTHER_MODES = {"--unlock", "--lint", "--report", "--help"}  # of snakemake: these plan nothing
ASKED = [
    pytest.param(page, words, marks=[pytest.mark.slow] if words[0].endswith("snakemake") else [])
    for page in PAGES
    for words in commands(page)
]


# A row of every task.
ROW = {"text": "a", "prompt": "a", "response": "b"}
ROW |= {field: value for task in TASKS if task.generate for field, value in task.generate("train", 1, 0)[0].items()}


def name_of(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else " ".join(value)[:60]


@pytest.fixture
def folder(page, tiny_models, tmp_path, monkeypatch) -> Path:
    """Return a new folder with the project's own folders and the files that the page shows."""
    for name in FOLDERS:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "a_model").symlink_to(tiny_models["llama"])
    for name, content in files(page).items():
        (tmp_path / name).write_text(with_a_model(yaml.safe_dump(content), tmp_path))
    text = page.read_text()
    text += "".join((ROOT / name).read_text() for name in set(re.findall(r"studies/[\w/]+\.yaml", text)))
    for name in set(re.findall(r"\b(?:local|lm_eval|text): ([\w./]+)(?=[\s,}])", text)):
        if not (ROOT / name).exists():
            make_data(tmp_path / name)
    # Another command of the page makes it.
    make_data(tmp_path / "texts/smollm2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "lib"))
    return tmp_path


def make_data(place: Path) -> None:
    """Make the files of a user's own data that a page names: one file, or a folder of rows."""
    if place.suffix:
        place.parent.mkdir(exist_ok=True)
        place.touch()
        return
    place.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        # A plan counts the rows, and reads the first one.
        (place / f"{split}.jsonl").write_text(f"{json.dumps(ROW)}\n" * 10_000)


def with_a_model(text: str, folder: Path) -> str:
    """Return a text in which every model of a user's own is one that is there."""
    return re.sub(r"""\b(path|mdl):[^\s"',}]+""", f"path:{folder}/a_model", text)


def check_make(words: list[str]) -> None:
    for target in (word for word in words if "=" not in word):
        assert any(fnmatch(target, name.replace("%", "*")) for name in TARGETS), f"the Makefile has no target {target}"


def check_snakemake(words: list[str], folder: Path) -> None:
    """Check that Snakemake reads the options and the configuration, and has or plans the targets."""
    words = [with_a_model(word, folder) for word in without_profiles(words)]
    args = cli.get_argument_parser().parse_args(words)
    if OTHER_MODES & set(words):
        return
    snakemake = partial(Study(folder).snakemake, configfile=None)
    if set(args.targets) - set(snakemake(*words, "--list-rules").split()):
        snakemake(*words, "--dry-run")


def without_profiles(words: list[str]) -> list[str]:
    """Return a command without its profile, which may need a cluster's plugin. Check that the profile exists."""
    if "--profile" not in words:
        return words
    place = words.index("--profile")
    assert Path(words[place + 1], "config.yaml").is_file(), f"{words[place + 1]} is no profile"
    return words[:place] + words[place + 2 :]


def check_python(words: list[str]) -> None:
    """Check a program of the project: that it is there, and that it takes these flags."""
    programs = [word for word in words if word.endswith(".py") and "::" not in word]
    if words[0] == "-m":
        assert find_spec(words[1]), f"no module {words[1]}"
        return
    assert programs, f"no program in {' '.join(words)}"
    script = ROOT / programs[0]
    assert script.is_file(), f"no program {programs[0]}"
    if script.parent == ROOT / "workflow/scripts":
        arguments = words[words.index(programs[0]) + 1 :]
        # run_modelzoo.py has a parser of its own, because ModelZoo's environment has no cyclopts.
        if "sparseft.common.command" in script.read_text() and "--help" not in arguments:
            parse(runpy.run_path(str(script))[script.stem].run, arguments)


def check_files(words: list[str]) -> None:
    """Check that files of the project's own folders are there."""
    for word in words:
        if word.startswith(tuple(f"{name}/" for name in FOLDERS)) and not word.startswith("config/modelzoo/"):
            assert Path(word).exists(), f"no file {word}"


@pytest.mark.parametrize(("page", "words"), ASKED, ids=name_of)
def test_a_command_of_a_page_is_understood(page, words, folder):
    program, arguments = Path(words[0]).name, words[1:]
    check_files(arguments)
    if program == "make":
        check_make(arguments)
    elif program == "snakemake":
        check_snakemake(arguments, folder)
    elif program.startswith("python"):
        check_python(arguments)
    else:
        assert (Path(sys.executable).parent / program).exists(), f"no program {words[0]} in the environment"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_make_target_that_a_page_names_exists(page):
    for target in re.findall(r"`make ([a-z][a-z-]*)", page.read_text()):
        check_make([target])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_configuration_that_a_page_shows_is_valid(page, tmp_path):
    for name, content in configurations(page).items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
        read_configuration([tmp_path / name])
