"""The optional rules: the exported folder of a run, and the check of the engines, for who asks for them."""

import sys

import pytest
import yaml
from project import TINY_STUDY, Study, succeed, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from tiny_models import save_tiny

RUN = "results/runs/llama-hellaswag_mini-structured-sparsity50-sparse_to_sparse-seed0"
EXPORT = {"engines": [f"transformers:{sys.executable}"], "prompts": 2, "prompt_tokens": 16, "new_tokens": 4,
          "repeats": 2}  # fmt: skip


@pytest.fixture
def study(tmp_path, tiny_models) -> Study:
    study = Study(tmp_path / "study")
    study.configure(tiny_models, grid=tiny_grid("llama", "hellaswag_mini"), export=EXPORT, **TINY_STUDY)
    return study


@pytest.mark.slow
def test_a_run_is_exported_and_its_engines_are_checked_when_they_are_the_target(study, tiny_models):
    assert not {"export_run", "check_engines"} & study.planned().keys()
    planned = study.planned(f"{RUN}/engines.json")
    assert (planned["export_run"], planned["check_engines"], planned["evaluate_run"]) == (1, 1, 1)
    study.snakemake(f"{RUN}/engines.json")
    record = study.json(f"{RUN}/engines.json")
    one_repeat = [("transformers", "dense"), ("transformers", "run")]
    assert [(one["engine"], one["model"]) for one in record["results"]] == 2 * one_repeat
    assert (record["passed"], record["threads"], record["new_tokens"]) == (True, 1, 4)
    exported = Checkpoint(study.folder / RUN / "export")
    assert exported.config["intermediate_size"] == 32
    assert record["inputs"]["export"] == exported.digest
    # Nothing has evaluated this run before the merge. That is a gap, and no fault.
    succeed("analyze_results.py", results_dir=study.folder / "results/runs", output_dir=study.folder / "alone")
    memo = (study.folder / "alone/correctness_memo.md").read_text()
    assert "|incomplete|before_merge.json: no such file" in memo and "|fault|" not in memo
    settings = {"grid": tiny_grid("llama", "hellaswag_mini"), **TINY_STUDY}
    study.configure(tiny_models, export=EXPORT | {"limit_seconds": 60}, **settings)
    assert "check_engines" not in study.planned(f"{RUN}/engines.json")
    # Another model is measured anew when it is asked for.
    study.configure(tiny_models, export=EXPORT, **settings | {"training": TINY_STUDY["training"] | {"lora_r": 2}})
    assert study.planned(f"{RUN}/engines.json")["check_engines"] == 1


def test_the_engines_measure_a_model_that_is_made_from_a_pruned_base_beside_the_original(study):
    # Two of five decoder layers of the tiny model are 40 %.
    configuration = yaml.safe_load((study.folder / "study.yaml").read_text())
    original = save_tiny("llama", study.folder / "llama", changes={"num_hidden_layers": 5})
    configuration["models"] = {
        "llama": {"source": f"path:{original}"},
        "part": {"source": "pruned:llama/sparsity40_layers_random"},
    }
    configuration["grid"] |= {"models": ["part"], "sparsities": [0]}
    (study.folder / "study.yaml").write_text(yaml.safe_dump(configuration))
    run = "results/runs/part-hellaswag_mini-dense-sparsity00-no_finetune-seed0"
    (command,) = [line for line in study.commands(f"{run}/engines.json") if "check_engines.py" in line]
    assert "--model_path models/llama " in command
