"""What runs again, and what does not."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hub_cache import COLOURS, colour_row, write
from project import ROOT, Study, copy_project, succeed, tiny_grid, tree

pytestmark = pytest.mark.slow

RUN = "results/runs/llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"


def test_a_plan_imports_nothing_that_computes(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "snakemake", "--dry-run", "--snakefile", ROOT / "Snakefile"]
    done = subprocess.run([*command, "train"], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert imported >= {"sparseft.study.planning.requests", "sparseft.study.targets"}
    assert not imported & {"torch", "transformers", "lm_eval", "numba"}  # what the executor plugins import is theirs


@pytest.mark.parametrize(
    ("target", "later", "jobs"),
    [
        ("masks/llama/masks_sparsity50_random.pt", "prepare_task", {"prepare_model": 1, "compute_masks": 1}),
        (f"{RUN}/adapter", "merge_adapter", {"prepare_task": 1, "compute_masks": 1, "train_adapter": 1}),
        ("masks", "train_adapter", {"prepare_model": 1, "compute_masks": 3, "compute_one_mask": 1, "masks": 1}),
        ("validate", "evaluate_run", {"merge_adapter": 20, "validate_sparsity": 20, "train_adapter": 13}),
        ("analyze", "measure_throughput", {"analyze_results": 1, "evaluate_run": 20}),
        ("throughput", "train_adapter", {"measure_throughput": 13, "compute_masks": 3, "analyze_throughput": 1}),
    ],
)
def test_a_file_makes_only_what_it_needs_and_a_stage_by_name_is_the_grid_up_to_it(
    tmp_path, tiny_models, target, later, jobs
):
    planned = Study(tmp_path).configure(tiny_models, grid=tiny_grid("llama", "boolq_mini")).planned(target)
    assert planned.items() >= jobs.items()
    assert later not in planned


def test_masks_from_examples_take_the_configured_threads_whatever_the_cores(tmp_path, tiny_models):
    grid = tiny_grid("llama", "boolq_mini", ["unstructured", "unstructured_wanda", "unstructured_sparsegpt"])
    masks = {"calibration_examples": 4}
    study = Study(tmp_path).configure(tiny_models, grid=grid, masks=masks, resources={"threads": 4})
    lines = "\n".join(study.commands("masks", "--cores", "1"))
    threads = dict(re.findall(r"--method (\w+) .* --threads (\d+)", lines))
    assert threads == {"dense": "1", "unstructured": "1", "unstructured_wanda": "4", "unstructured_sparsegpt": "4"}


ANALYSIS = {"analyze_results": 1, "analyze": 1}
RECONFIGURED = ANALYSIS | {"write_configuration": 1}


def of_runs(trained: int, runs: int) -> dict[str, int]:
    return dict.fromkeys(("train_adapter", "evaluate_adapter"), trained) | dict.fromkeys(
        ("merge_adapter", "validate_sparsity", "evaluate_run"), runs
    )


@pytest.fixture
def copied_study(tmp_path, own_study) -> Study:
    """A copy of the small study, with a copy of the project's code: a test may edit both."""
    return Study(own_study.folder, copy_project(tmp_path / "project"))


@pytest.mark.parametrize(
    ("file", "old", "jobs"),
    [
        ("stages/train.py", "VERSION = 1", ANALYSIS | of_runs(3, 3)),
        ("axes/modes/mode.py", "version: int = 1", RECONFIGURED | of_runs(3, 5)),
        ("analysis/figures.py", "", {}),
    ],
)
def test_a_raised_version_reruns_its_stage_or_value_and_what_follows_and_another_edit_nothing(
    copied_study, file, old, jobs
):
    path = copied_study.root / "lib/sparseft" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, old.replace("1", "2")) + "\nEDITED = 1\n")
    later = time.time() + 60
    for code in (*copied_study.root.rglob("*.py"), *copied_study.root.rglob("*.smk")):
        os.utime(code, (later, later))
    assert copied_study.planned() == jobs
    # Nothing but a table is replaced without a word.
    note = re.search(r"note: \d+ of the jobs make files again that exist; ", copied_study.snakemake("--dry-run"))
    assert bool(note) == (len(jobs) > len(ANALYSIS))


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiny_models) -> Study:
    """A study whose model, tasks and texts are local files, all of them prepared. Its configuration names them by
    relative paths."""
    study = Study(tmp_path_factory.mktemp("sources"))
    folder = study.folder
    shutil.copytree(tiny_models["llama"], folder / "m")
    texts = {
        "rows/train.jsonl": [{"prompt": f"{number} + 1 =", "response": f" {number + 1}"} for number in range(6)],
        "rows/validation.jsonl": [{"prompt": f"{number} + 1 =", "response": f" {number + 1}"} for number in (8, 9)],
        "rows/selection.jsonl": [{"prompt": f"{number} + 1 =", "response": f" {number + 1}"} for number in (6, 7)],
        "quiz/train.jsonl": [colour_row(number) for number in range(2)],
        "quiz/validation.jsonl": [colour_row(number) for number in range(2, 4)],
        "text.jsonl": [{"text": "A text."}],
        "other_text.jsonl": [{"text": "Another text."}],
    }
    for name, rows in texts.items():
        write(folder / name, rows)
    (folder / "quiz.yaml").write_text("include: colours.yaml\nnum_fewshot: 0\n")
    (folder / "colours.yaml").write_text(yaml.safe_dump(COLOURS))
    study.sources = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    quiz = {"lm_eval": "quiz.yaml", "local": "quiz", "train_examples": 1}
    study.configure(
        {"llama": Path("m")},
        tasks={"own": {"kind": "instruction", "local": "rows"}, "quiz": quiz},
        masks={"calibration": {"c": {"text": "text.jsonl", "length": 16, "examples": 1}}},
        perplexity={"local": "other_text.jsonl", "context": 16},
        grid=tiny_grid("llama", "own", ["unstructured_wanda_on_c"], tasks=["own", "quiz"], trainings={"a": {}}),
    )
    study.snakemake(*PREPARED)
    return study


@pytest.fixture
def own_sources(tmp_path, sources) -> Study:
    return Study(Path(shutil.copytree(sources.folder, tmp_path / "copy")))


PREPARED = {
    "models/llama/manifest.json": "prepare_model",
    "data/own/manifest.json": "prepare_task",
    "data/own/validation_manifest.json": "prepare_validation",
    "data/own/selection.jsonl": "prepare_selection",
    "data/quiz/manifest.json": "prepare_task",
    "data/quiz/validation_manifest.json": "prepare_validation",
    "data/calibration_c.jsonl": "prepare_calibration",
    "data/wikitext2.txt": "prepare_wikitext2",
}


def replace(file: Path, date: int, content: bytes) -> None:
    """Put another file, which ends with `content`, into the place of `file` with a date of its own, as `cp -p` does."""
    old = file.read_bytes()
    file.unlink()
    file.write_bytes(old[: len(old) - len(content)] + content)
    os.utime(file, ns=(date, date))


@pytest.mark.parametrize("date", [10**18, 2 * 10**18])
def test_a_source_is_prepared_again_if_its_content_changed_whatever_its_date_is(own_sources, sources, date):
    for content, jobs in ((b"", {}), (b" ", Counter(PREPARED.values()))):
        for source in sources.sources:
            replace(own_sources.folder / source, date, content)
        assert own_sources.planned(*PREPARED) == jobs


def test_another_number_of_selection_rows_chooses_only_these_again(sources):
    with sources.edited("local: rows", "local: rows\n    selection_examples: 2"):
        assert sources.planned(*PREPARED) == {"prepare_selection": 1}


@pytest.mark.parametrize(
    "prepared", ["models/llama/config.json", "data/own/validation.jsonl", "data/calibration_c.jsonl"]
)
def test_a_prepared_file_that_was_edited_is_refused_with_its_date_kept(own_sources, prepared):
    file = own_sources.folder / prepared
    old, status = file.read_bytes(), file.stat()
    # As an editor does it that writes in place.
    file.write_bytes(old[:-1] + b" ")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    output = own_sources.snakemake("--dry-run", expect=2)
    assert f"error: {file.relative_to(own_sources.folder)}: not the file that " in output


KEPT = "keep_merged: true"
EVALUATED = {"evaluate_run": 5, "evaluate_adapter": 3}
MORE_ROWS = {"prepare_validation": 1} | EVALUATED


@pytest.mark.parametrize(
    ("old", "new", "jobs"),
    [
        ("learning_rate: 0.02", "learning_rate: 0.01", of_runs(3, 3)),
        (KEPT, f"{KEPT}\nresources: {{memory_mb: 4000}}", {}),
        (KEPT, f"{KEPT}\nmasks: {{scope: row}}", {"compute_masks": 1} | of_runs(2, 3)),
        # More validation rows evaluate again, and train nothing. No mask and no merged model is made again.
        ("validation_examples: 12", "validation_examples: 24", MORE_ROWS),
        ("train_examples: 24", "train_examples: 20",
         {"prepare_task": 1} | of_runs(3, 3) | MORE_ROWS),
        # What changes no bit of an adapter.
        ("lora_r: 4", "lora_r: 4\n  save_every: 1\n  gradient_checkpointing: true", {}),
        # What only the tables judge by.
        (KEPT, f"{KEPT}\nanalysis: {{tolerance: 0.1}}", {}),
    ],
)  # fmt: skip
def test_a_setting_makes_only_that_again_that_depends_on_it(own_study, old, new, jobs):
    with own_study.edited(old, new):
        assert own_study.planned() == RECONFIGURED | jobs


def test_a_sparsity_that_is_added_makes_its_own_runs_and_masks_of_the_same_bits_and_one_taken_out_makes_none(own_study):
    with own_study.edited("  - 50", "  - 50\n  - 55"):
        assert own_study.planned() == RECONFIGURED | {"compute_one_mask": 1} | of_runs(2, 3)
        own_study.snakemake("masks")
    made = {path.name: path.read_bytes() for path in own_study.folder.glob("masks/llama/*_unstructured.pt")}
    both, model = own_study.folder / "both", own_study.folder / "models/llama"
    succeed("compute_masks.py", model_path=model, output_dir=both, sparsity=[0, 0.5, 0.55], method="unstructured")
    assert made == {path.name: path.read_bytes() for path in both.glob("*.pt")}
    assert own_study.planned() == {}


def test_a_plan_uses_the_library_beside_its_snakefile(copied_study):
    with open(copied_study.root / "lib/sparseft/axes/grid.py", "a") as file:
        file.write("\nraise SystemExit(7)\n")
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", copied_study.root / "Snakefile"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    assert subprocess.run(command, cwd=copied_study.folder, env=environment, check=False).returncode == 7


def test_another_results_folder_makes_its_own_runs_over_the_models_data_and_masks_that_are_there(own_study):
    adapter = f"{RUN.removeprefix('results/')}/adapter"
    # Of three runs that are trained, and two that are not.
    jobs = {"train_adapter": 3, "merge_adapter": 5, "validate_sparsity": 5, "evaluate_run": 5, "evaluate": 1}
    made = [f"results/other/{name}" for name in ("analysis/configuration.yaml", adapter)]
    with own_study.edited(KEPT, f"{KEPT}\nresults: results/other"):
        assert own_study.planned(made[0], "evaluate") == jobs | {"write_configuration": 1}
        own_study.snakemake(*made)
        names = {path.name for path in (own_study.folder / "results/other").iterdir()}
        assert names == {"runs", "logs", "benchmarks", "analysis"}
        # Both folders have nothing more to do for these.
        assert own_study.planned(*made) == {}
    assert own_study.planned() == {}
    results = own_study.folder / "results"
    assert tree(results / adapter) == tree(results / "other" / adapter)
