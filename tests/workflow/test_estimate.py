"""The estimate beside the files of a finished study, and beside what the pages say."""

import subprocess
import sys

import pytest
import yaml
from project import ROOT, call_script, laid_over, succeed, tiny_grid
from safetensors.torch import load_file
from sparseft.planning.estimate import disk, hours
from sparseft.study.grid import Run
from sparseft.study.targets import runs

SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())
MIXED = {
    "masks": {"calibration": {"web": {"text": "hub:org/web"}}},
    "grid": {**tiny_grid("smollm2", "boolq_mini", ["unstructured_wanda", "unstructured_sparsegpt", "structured_taylor_on_web"]),
             "tasks": ["boolq_mini", "gsm8k_mini"], "trainings": {"short": {"steps": 10}, "long": {"steps": 20}}},
}  # fmt: skip
RUN = Run("smollm2", "hellaswag_mini", "random", 10, "sparse_to_sparse", 0)


def test_models_and_adapters_have_the_bytes_of_the_files(small_study):
    config = laid_over(yaml.safe_load((small_study.folder / "study.yaml").read_text()))
    kept, _ = disk(config)

    def bytes_of(pattern: str) -> int:
        tensors = [tensor for file in small_study.folder.glob(pattern) for tensor in load_file(file).values()]
        return sum(tensor.nbytes for tensor in tensors)

    assert kept["adapters"] == bytes_of("results/runs/*/adapter/adapter_model.safetensors")
    assert kept["models"] + kept.get("merged models", 0) == bytes_of("**/model.safetensors")
    masks = [file.stat().st_size for file in small_study.folder.glob("masks/llama/*.pt")]
    assert len(masks) * min(masks) > kept["masks"] > 0


# The table of docs/clusters.md, section "The full study".
def test_the_sweep_takes_what_the_docs_say():
    kept, running = disk(laid_over(SWEEP))
    assert {name: round(size / 1e9) for name, size in kept.items()} == {"models": 28, "masks": 52, "adapters": 54}
    assert round(running / 1e9) == 15
    said = succeed("estimate.py", configfile=ROOT / "config/sweep.yaml")
    assert "runs: 498, of which 330 are trained" in said


def test_pruned_bases_and_merged_models_are_as_large_as_their_models():
    kept, _ = disk(laid_over(MIXED | {"keep_merged": True}))
    # SparseGPT on two tasks at two sparsities.
    assert kept["pruned bases"] == 2 * 2 * kept["models"]
    assert kept["merged models"] == len(runs(laid_over(MIXED))) * kept["models"]


def test_more_steps_take_more_hours_and_what_is_not_known_yet_is_counted():
    jobs = [(rule, vars(RUN)) for rule in ("train_adapter", "merge_adapter")]
    few, many = (float(hours(laid_over({"training": {"steps": steps}}), jobs * 1000).split()[1].replace(",", ""))
                 for steps in (1000, 2000))  # fmt: skip
    assert few < many < 2 * few
    unknown = laid_over({"models": {"smollm2": {"source": "hub:a/b"}}})
    assert hours(unknown, jobs).endswith(", and 2 jobs of unknown time; estimated")
    wafer = laid_over({"backend": "cerebras", "grid": {"modes": ["sparse_to_dense"]}})
    assert hours(wafer, jobs).endswith(", and 1 jobs of unknown time; estimated")


def test_the_script_needs_neither_torch_nor_a_model(tmp_path):
    code = "import runpy, sys; sys.argv = sys.argv[1:]; "
    code += "\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, ROOT / "workflow/scripts/estimate.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "line"), [
    ("grid: {models: [x]}\n", "grid.models"),
    ("models: {smollm2: {source: 'hub:a/b', sha256: null}}\n", "models.smollm2: the sizes of hub:a/b"),
    ("models: {smollm2: {source: 'path:damaged', sha256: null}}\n", "damaged: config.json"),
])  # fmt: skip
def test_a_study_that_cannot_be_estimated_is_one_line(tmp_path, monkeypatch, text, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": "576"}')
    (tmp_path / "c.yaml").write_text(text)
    code, said = call_script("estimate.py", configfile=tmp_path / "c.yaml")
    assert (code, said.count("\n")) == (2, 1), said
    assert line in said
