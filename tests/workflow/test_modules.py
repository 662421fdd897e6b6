"""Another workflow imports this one: from a folder, and from a git repository as snakedeploy writes it."""

import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from project import ROOT, Study, copy_project

RUN = "results/runs/llama-boolq_mini-unstructured-sparsity50-no_finetune-seed0"


@pytest.fixture
def importing(own_study):
    """Return a function that imports a Snakefile in the folder of a finished study, in a Snakefile with a job of its
    own."""

    def write(snakefile: str, words: str = "") -> Study:
        # An importing workflow gives the whole configuration.
        shutil.copy(own_study.folder / "results/analysis/configuration.yaml", own_study.folder / "study.yaml")
        (own_study.folder / "Snakefile").write_text(
            "shell.prefix('SET=theirs; ')\n"
            f"module sparseft:\n    snakefile: {snakefile}\n    config: config\n"
            f"use rule * from sparseft {words}\n"
            f"rule copy:\n    input: '{RUN}/validation_report.json'\n    output: 'copy.json'\n"
            "    shell: '[ \"$SET$SCRIPTS\" = theirs ] && cp {input} {output}'\n"
        )
        # The importing workflow has no library.
        return Study(own_study.folder, own_study.folder)

    return write


@pytest.fixture
def repository(tmp_path, monkeypatch) -> str:
    """Put the project into a bare git repository, which git finds at github.com; return how a Snakefile names it."""
    work, bare = copy_project(tmp_path / "project"), tmp_path / "github/example/sparseft"
    git = ["git", "-C", work, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, bare], check=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/github/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    return 'github("example/sparseft", path="workflow/Snakefile", tag="v1")'


def test_a_finished_study_stays_finished_and_the_importing_workflow_uses_its_files(importing):
    study = importing(repr(str(ROOT / "workflow/Snakefile")), "as sparseft_*")
    assert study.planned() == {}
    (study.folder / RUN / "validation_report.json").unlink()
    report = (study.folder / RUN / "evaluation.json").read_bytes()
    study.snakemake("copy.json", "--cores", "1")
    assert study.json("copy.json")["passed"]
    assert (study.folder / RUN / "evaluation.json").read_bytes() == report


def test_a_git_repository_gives_the_same_study(importing, repository):
    study = importing(repository)
    assert study.planned() == {}
    (study.folder / RUN / "validation_report.json").unlink()
    assert study.planned("copy.json") == {"validate_sparsity": 1, "copy": 1}
    (commit,) = (study.folder / ".snakemake/sparseft").iterdir()
    assert (commit / "workflow/scripts/validate_sparsity.py").is_file()


def test_the_linter_needs_no_library_but_snakemake_and_a_plan_names_what_is_missing(tmp_path):
    missing = ("numpy", "safetensors", "huggingface_hub", "lm_eval", "torch", "transformers", "pandas", "scipy")
    code = f"import sys\nsys.modules |= dict.fromkeys({missing})\nfrom snakemake.cli import main\nmain()"
    command = [sys.executable, "-c", code, "--snakefile", ROOT / "workflow/Snakefile", "--directory", tmp_path]
    plan, lint = (
        subprocess.run([*command, flag], capture_output=True, text=True, check=False)
        for flag in ("--dry-run", "--lint")
    )
    assert (lint.returncode, plan.returncode) == (0, 2), lint.stderr
    assert "your workflow is in a good condition" in lint.stderr
    assert re.search(r"^error: .*numpy.*; install what SparseFT needs: .* -m pip install ", plan.stderr, re.MULTILINE)


def test_a_prefix_is_refused(importing):
    printed = importing(f"{str(ROOT / 'Snakefile')!r}\n    prefix: 'sparse'").snakemake("--dry-run", expect=2)
    assert "error: the module sparseft has a prefix; " in printed


def test_a_module_may_be_read_twice_and_a_second_one_is_refused(importing):
    place = repr(str(ROOT / "workflow/Snakefile"))
    study = importing(place, "as sparseft_*")
    file = study.folder / "Snakefile"
    file.write_text(
        f"{file.read_text()}use rule train_adapter from sparseft as sparseft_train_adapter with:\n    threads: 1\n"
    )
    assert study.planned("sparseft_analyze") == {}
    file.write_text(
        f"{file.read_text()}module other:\n    snakefile: {place}\n"
        "    config: config | {'results': 'results/other'}\nuse rule * from other as other_*\n"
    )
    printed = study.snakemake("--dry-run", expect=2)
    assert "error: the modules sparseft and other are both SparseFT; " in printed
    assert "AmbiguousRuleException" not in printed


def test_a_snakefile_without_its_project_is_refused(importing):
    serve = partial(SimpleHTTPRequestHandler, directory=ROOT)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever).start()
        place = f"http://127.0.0.1:{server.server_port}"
        printed = importing(repr(f"{place}/Snakefile")).snakemake("--dry-run", expect=2)
        server.shutdown()
    assert f"error: the Snakefile is in {place}/rules, without its project; " in printed
