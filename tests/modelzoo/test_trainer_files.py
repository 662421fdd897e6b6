"""What ModelZoo's Trainer gets and what it leaves, without ModelZoo."""

import re
import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from project import TINY_STUDY, Study, call_script, refused, succeed, tiny_grid
from sparseft.axes.grid import Run
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.mdl import MdlFile
from sparseft.models.language_model.batches import Example
from sparseft.training.job import job_of
from sparseft.training.job_flags import JobFlags
from sparseft.training.settings import Training
from sparseft.training.trainers.backends.cerebras import Cerebras
from sparseft.training.trainers.modelzoo.export import CHECKPOINT, export_modelzoo
from sparseft.training.trainers.modelzoo.trainer_files import FILE, TrainerRun, trainer_run, write_batches
from sparseft.training.trainers.modelzoo.training import check_frozen, read_logs
from tiny_models import save_tiny
from trainings import Inputs, make

LOG = """2026-11-25 15:08:16,807 INFO:   | Train Device=CSX, Step=1, Loss=6.13315, Rate=235.62 samples/sec, \
GlobalRate=235.41 samples/sec, LoopTimeRemaining=0:00:00
2026-11-25 15:08:20,419 INFO:   | Train Device=CSX, Step=2, Loss=5.95780, Rate=0.937 samples/sec, GlobalRate=5e-05 \
samples/sec, TimeRemaining>0:00:09
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return make(tmp_path_factory.mktemp("inputs"), "llama")


def run_of(inputs: Inputs, folder: Path, mode: str = "sparse_to_sparse", target: str = "CPU", **settings) -> TrainerRun:
    flags = JobFlags(
        run_id=f"{inputs.model}-boolq_mini-unstructured-sparsity50-{mode}-seed0",
        model_path=inputs.folder / inputs.model,
        mask_path=inputs.folder / "mask.pt", data_dir=inputs.folder / "data", output_dir=folder,
        evaluation_batch_size=8,
        training=Training(**{"steps": 10, "batch_size": 4, "micro_batch_size": 4, **settings}),
    )  # fmt: skip
    return trainer_run(
        job_of(flags, version=1), Cerebras(target=target, sequence_length=200), inputs.folder / "cs", folder
    )


def test_a_batch_holds_the_tokens_their_loss_mask_and_the_tokens_that_follow(tmp_path):
    batches = [[Example([5, 6, 7, 8], 2)], [Example([11, 12, 13], 1)]]
    write_batches(tmp_path, batches, 5)
    with h5py.File(tmp_path / FILE) as file:
        data = file["data"][:]
        assert file.attrs["n_examples"] == 2
    expected = [
        [[5, 6, 7, 8, 0], [0, 1, 1, 0, 0], [0, 7, 8, 0, 0]],
        [[11, 12, 13, 0, 0], [1, 1, 0, 0, 0], [12, 13, 0, 0, 0]],
    ]
    assert data.dtype == np.int32
    assert data.tolist() == expected


def test_a_disk_that_is_full_leaves_no_batches(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ids = np.random.default_rng(0).integers(0, 1 << 20, 4096).tolist()
    resource.setrlimit(resource.RLIMIT_FSIZE, (60000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_batches(tmp_path, [[Example(ids, 1)]] * 16, 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["CPU", "CSX"])
def test_the_configuration_says_what_the_study_says(inputs, tmp_path, target):
    settings = {"weight_decay": 0.1, "lora_targets": ["q_proj"], "warmup_fraction": 0.2, "lr_scheduler_type": "linear"}
    run = run_of(inputs, tmp_path / "run", target=target, **settings)
    run.write(tmp_path / "trainer.yaml")
    content = yaml.safe_load((tmp_path / "trainer.yaml").read_text())["trainer"]
    init, fit = content["init"], content["fit"]
    assert init["backend"]["backend_type"] == target
    assert init["optimizer"]["AdamW"]["weight_decay"] == 0.1
    assert init["loop"] == {"max_steps": 10}
    assert [*init["schedulers"][0]["SequentialLR"]["schedulers"][1]] == ["LinearLR"]
    parts = [part for scheduler in init["schedulers"][0]["SequentialLR"]["schedulers"] for part in scheduler.values()]
    assert [part["total_iters"] for part in parts] == [2, 8]  # together the steps: none is left in the warm-up
    callbacks = {name: value for callback in init["callbacks"] for name, value in callback.items()}
    assert callbacks["Lora"]["lora_params"]["target_modules"] == ["TransformerDecoderLayer", "Linear"]  # not lm_head
    assert (callbacks["MaskedLora"]["mode"], callbacks["MaskedLora"]["targets"]) == ("sparse_to_sparse", ["q_proj"])
    assert callbacks["KeepNCheckpoints"] == {"n": 1}
    assert "sparsity" not in init  # ModelZoo's own would mask lora_B
    assert init["precision"]["enabled"] == (target == "CSX")
    assert (Path(fit["train_dataloader"]["data_dir"]) / FILE).is_file()
    assert Path(fit["ckpt_path"]) == (inputs.folder / "cs" / CHECKPOINT).resolve()


def test_a_log_is_read_with_a_rate_below_one(tmp_path):
    for name, text in (("1", LOG), ("2", "no step")):
        (tmp_path / "cerebras_logs" / name).mkdir(parents=True)
        (tmp_path / "cerebras_logs" / name / "run.log").write_text(text)
    assert read_logs(tmp_path) == [({1: 6.13315, 2: 5.9578}, 2.5e-05)]


def test_a_base_that_moved_is_found(inputs, tmp_path):
    before = MdlFile(inputs.folder / "cs" / CHECKPOINT)
    check_frozen(before, before)
    for key in ("model.model.transformer_decoder.layers.1.ffn.ffn.0.linear_layer.weight",
                "model.model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.weight_mask"):  # fmt: skip
        path = tmp_path / "moved.mdl"
        path.write_bytes(before.path.read_bytes())
        with h5py.File(path, "a") as file:
            row = file[key][-1]
            row[0] = not row[0] if row.dtype == bool else row[0] + 1
            file[key][-1] = row
        with pytest.raises(InputError, match=key):
            check_frozen(before, MdlFile(path))


def unlike(inputs: Inputs, folder: Path) -> Path:
    export_modelzoo(Checkpoint(inputs.folder / inputs.model), None, folder / "dense")
    return folder / "dense"


def altered(inputs: Inputs, folder: Path) -> Path:
    copy = Path(shutil.copytree(inputs.folder / "cs", folder / "altered"))
    content = bytearray((copy / CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / CHECKPOINT).write_bytes(content)
    return copy


@pytest.mark.parametrize(("changed", "line"), [
    ({}, "MODELZOO_HOME=: .*git clone https://github.com/Cerebras/modelzoo"),
    ({"exported": unlike}, ".*dense: of another model or mask"),
    ({"exported": altered}, ".*altered: of another model or mask, or altered"),
])  # fmt: skip
def test_bad_input_is_one_line_before_anything_runs(inputs, tmp_path, monkeypatch, changed, line):
    monkeypatch.delenv("MODELZOO_HOME", raising=False)
    changed = {name: value(inputs, tmp_path) if callable(value) else value for name, value in changed.items()}
    flags = inputs.modelzoo_flags("sparse_to_sparse", tmp_path / "run") | changed
    assert re.match(f"error: {line}", refused(tmp_path, "train_modelzoo.py", **flags))


def test_mixtral_is_refused(tmp_path):
    """ModelZoo's Lora ignores stacked experts, so a run would silently train only the attention."""
    flags = make(tmp_path, "mixtral").modelzoo_flags("sparse_to_dense", tmp_path / "run")
    line = refused(tmp_path, "train_modelzoo.py", **flags)
    assert "does not train MixtralForCausalLM; use one of LlamaForCausalLM, MistralForCausalLM" in line


@pytest.mark.process
def test_a_configuration_is_generated_from_the_studys_files(tmp_path, monkeypatch):
    study = Study(tmp_path / "study")
    cells = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [50]}
    study.configure({"llama": save_tiny("llama", tmp_path / "llama")}, grid=cells, backend="modelzoo",
                    cerebras={"target": "CPU", "sequence_length": 200}, **TINY_STUDY)  # fmt: skip
    asked = {"model": "llama", "task": "boolq_mini", "method": "unstructured", "sparsity": 50,
             "mode": "sparse_to_sparse",
             "configfile": "study.yaml"}  # fmt: skip
    name = Run("llama", "boolq_mini", "unstructured", 50, "sparse_to_sparse", 0).id
    monkeypatch.chdir(study.folder)
    code, said = call_script("gen_train_config.py", **asked)
    assert (code, said.count("\n")) == (2, 1)
    command = said.partition("snakemake ")[2].split()
    assert command[-4:] == ["--configfile", "study.yaml", "--config", "backend=modelzoo"]
    study.snakemake(*command[:-4])
    succeed("gen_train_config.py", **asked, target="CSX")
    content = yaml.safe_load((study.folder / f"config/modelzoo/{name}.yaml").read_text())["trainer"]
    assert content["init"]["backend"]["backend_type"] == "CSX"
    assert content["init"]["loop"]["max_steps"] == 3
    assert Path(content["fit"]["ckpt_path"]) == study.folder / f"modelzoo/llama/sparsity50_unstructured/{CHECKPOINT}"
    assert study.json("modelzoo/llama/sparsity50_unstructured/export.json")["mask"]["reached"] == 0.5
