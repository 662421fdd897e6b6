"""The examples of docs/extending.md, added to a copy of the project, run through a small study."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import ROOT, blocks, commands, configurations
from project import Study, copy_project
from sparseft.pruning.masks.mask_file import read_mask
from tiny_models import SIZES, save_tiny
from transformers import SmolLM3Config, SmolLM3ForCausalLM

BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PAGE = ROOT / "docs/extending.md"
BLOCKS = BLOCK.findall(PAGE.read_text())
OTHERS = ("docs", "studies", "benchmarks", "tests", "Makefile", "pyproject.toml", "uv.lock", "README.md",
          "CONTRIBUTING.md", "CHANGELOG.md")  # fmt: skip
RESULTS = configurations(PAGE)["tiny.yaml"]["results"]
SUMMARY = f"{RESULTS}/analysis/summary.csv"


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """Return a copy of the project with all examples of the page."""
    root = copy_project(tmp_path_factory.mktemp("extended") / "project", *OTHERS)
    for kind, name, content in BLOCKS:
        if kind == "diff":
            change(root / name, content)
        else:
            assert not (root / name).exists(), name
            (root / name).write_text(content)
    return root


def change(file: Path, difference: str) -> None:
    """Apply a block of `-` and `+` lines. `+` lines without a `-` line before them are imports."""
    text = file.read_text()
    for removed, added in re.findall(r"((?:^-.*\n)*)((?:^\+.*\n)+)", difference, re.MULTILINE):
        old, new = (re.sub("^.", "", lines, flags=re.MULTILINE) for lines in (removed, added))
        if old:
            assert text.count(f"\n{old}") == 1, f"{file}: {old}"
            text = text.replace(f"\n{old}", f"\n{new}")
        else:
            text = text.replace("\nfrom sparseft", f"\n{new}from sparseft", 1)
    file.write_text(text)


@pytest.mark.slow
def test_the_tests_that_the_page_names_pass_with_its_examples(extended):
    schema, generate, tests, golden = commands(PAGE)[:4]
    assert (schema[2], generate[1], tests[3]) == ("sparseft.study.config", "docs/generate.py", "--tier")
    (extended / "config/schema.json").write_text(run(extended, *schema[1:]))
    # Through the stages goes the new architecture only.
    few = ["-q", "-p", "no:cacheprovider", "-k", "not test_stages or smol_lm3"]
    for words in (generate, [*tests, *few], golden):
        run(extended, *words[1:])
    assert "deterministic" in (extended / "config/schema.json").read_text()
    names = {"importances peaks", "patterns columns", "tasks parity", "architectures smol_lm3", "modes dense_to_sparse"}
    assert json.loads((extended / "tests/golden.json").read_text()).keys() > names


def run(root: Path, *words: str) -> str:
    """Run python with the library of a project in its folder; it must succeed. Return its output."""
    environment = Study(root, root=root).environment()
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def made(study: Study, model: Path, grid: dict, **settings: object) -> list[dict[str, str]]:
    """Make the tiny study of the page, but of a model on the task of the page; returns summary.csv, whose runs are
    sound."""
    tiny = configurations(PAGE)["tiny.yaml"]
    tiny |= {"models": {"tiny": {"source": f"path:{model}"}}, "tasks": {"parity": tiny["tasks"].popitem()[1]}}
    tiny["grid"] |= {"tasks": ["parity"], **grid}
    (study.folder / "study.yaml").write_text(yaml.safe_dump(tiny | settings))
    study.snakemake("--cores", "2", "--quiet", "all")
    table = study.table(SUMMARY)
    assert {row["status"] for row in table} == {"sound"}
    return table


@pytest.mark.slow
def test_a_study_with_a_new_importance_pattern_task_architecture_and_backend_is_made_without_a_fault(
    extended, tmp_path
):
    model = save_tiny("llama", tmp_path / "smollm3")  # its tokenizer
    config = SmolLM3Config(**copy.deepcopy(SIZES), no_rope_layer_interval=2)
    SmolLM3ForCausalLM(config).bfloat16().save_pretrained(model)
    study = Study(tmp_path / "study", root=extended)
    table = made(study, model, {"methods": ["unstructured_peaks", "columns"]}, backend="deterministic")
    assert len(table) == 2 + 2 * 2  # the dense runs, and two of each method
    settings = study.table(f"{RESULTS}/analysis/settings.csv")
    assert {row["training.backend"] for row in settings} == {"", "deterministic"}
    # Fine-tuned runs have an adapter.
    assert all(bool(row["adapter_bytes"]) == (row["mode"] != "no_finetune") for row in table)
    analysis = study.folder / RESULTS / "analysis"
    assert [path.name for path in analysis.glob("plots/*_adapter_*.svg")] == ["parity_adapter_vs_sparsity.svg"]
    assert "<summary>Adapters</summary>" in (analysis / "report.html").read_text()


@pytest.mark.slow
def test_a_new_mode_continues_another_one_under_a_new_sequential_pattern(extended, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [block.text for block in blocks(PAGE) if block.language == "python" and not block.title]
    exec(code, {})
    study = Study(tmp_path / "study", root=extended)
    methods = ["columns_peaks", "structured_peaks_on_task"]
    grid = {"methods": methods, "sparsities": [0, 50], "modes": ["dense_to_sparse"]}
    table = made(study, tmp_path / "models/tiny_source", grid)
    assert {row["mode"] for row in table} == {"no_finetune", "sparse_to_dense", "dense_to_sparse"}
    mask = read_mask(study.folder / "masks/tiny/parity/masks_sparsity50_columns_peaks.pt")
    assert mask.meta["sequential"]
    for layer, (_, cols) in mask.shape.items():
        kept = mask.kept(layer)
        assert (kept == kept[0]).all() and kept[0].sum() == cols // 2
