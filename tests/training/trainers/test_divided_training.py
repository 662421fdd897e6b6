"""Train divided models in three processes, and one that stays in the machine's memory in one process.

Many tensors have rows that three does not divide, and a router has only four."""

import json
from pathlib import Path

import forks
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peak import Peak
from safetensors.torch import load_file
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import BY_NAME
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import encode_splits
from sparseft.models.language_model.hardware import limit_threads
from sparseft.stages.train import REDUCED
from sparseft.storage.hashes import sha256
from sparseft.training.job import TrainingJob
from sparseft.training.loop import train_part
from sparseft.training.settings import Distillation, Training
from sparseft.training.trained_part import model_to_train
from sparseft.training.trainers.torch import train
from tiny_models import save_tiny
from torch.distributed.fsdp._fully_shard import _fsdp_param_group

from masks import compute_masks

PROCESSES = (1, 3)
SETTINGS = Training(steps=2, batch_size=6, micro_batch_size=1, learning_rate=0.02, save_every=0, eval_every=2)
TASK = BY_NAME["boolq_mini"]
ROWS = {"train": TASK.generate("train", 12, 0), "validation": TASK.generate("validation", 5, 0)}
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# Name -> model, dtype, method, mode and changes of the settings.
CASES = {
    "tied": ("llama", FP32, "unstructured", "sparse_to_sparse", {}),
    "half": ("mistral", FP16, "unstructured", "sparse_to_sparse", {}),
    "experts": ("mixtral", FP32, "unstructured", "sparse_to_sparse", {"gradient_checkpointing": True}),
    "structured": ("mixtral", BF16, "structured", "sparse_to_sparse", {}),
    "dropout": ("llama", BF16, "semistructured", "sparse_to_dense", {"lora_dropout": 0.3}),
    "biases": ("qwen2", FP32, "unstructured", "sparse_to_sparse", {"lora_targets": ["q_proj", "down_proj"]}),
    "windows": ("gemma3", BF16, "unstructured", "sparse_to_sparse", {}),
    "norms of heads": ("qwen3", FP32, "unstructured", "sparse_to_sparse", {}),
    "more experts": ("qwen3_moe", FP32, "unstructured", "sparse_to_sparse", {}),
    "taught": ("mixtral", FP32, "unstructured", "sparse_to_sparse", {"distillation": Distillation(temperature=3.0)}),
    "weights": ("qwen2", FP32, "unstructured", "full_sparse_to_sparse", {"train": ["norms"]}),
    "rounded weights": ("llama", BF16, "unstructured", "full_sparse_to_dense", {"train": ["embeddings"]}),
}

pytestmark = pytest.mark.slow


def train_each(folder: Path) -> None:
    """Train every case with a whole model on each process, and with shard_model."""
    limit_threads(1)
    accelerator = Accelerator(cpu=True)
    for case, (model, dtype, method, mode, changes) in CASES.items():
        base = Checkpoint(folder / f"{model}-{dtype}")
        mask = compute_masks(base, method, [50], seed=0)[50]
        # Several processes must divide the weights that they train.
        whole = [] if get_mode(mode).is_full and accelerator.num_processes > 1 else [("whole", False)]
        for name, shard in (*whole, ("divided", True)):
            settings = SETTINGS.model_copy(update={**changes, "shard_model": shard})
            teacher = base if settings.distillation else None
            output = folder / case / name
            trained = output / get_mode(mode).trains
            job = TrainingJob(base, mask, mode, 0, settings, TASK, ROWS, 2, trained, {"mode": mode}, teacher=teacher)
            # In a divided training, the decoder layers of the teacher stay in their files.
            record = train(job, output / "state.pt", accelerator)
            # Each has the peak of the largest process.
            assert len(set(gather_object([record["peak_memory_bytes"]]))) == 1
            if accelerator.is_main_process:
                (output / "record.json").write_text(json.dumps(record))
    accelerator.end_training()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[int, Path]:
    """Return the folders with the models and the trainings of all cases, by the number of processes."""
    folders = {number: tmp_path_factory.mktemp("divided") for number in PROCESSES}
    for number, folder in folders.items():
        for model, dtype in {case[:2] for case in CASES.values()}:
            save_tiny(model, folder / f"{model}-{dtype}", dtype)
        code, said = forks.call(train_each, folder, number=number)
        assert code == 0, said
    return folders


def record_of(output: Path) -> dict:
    return json.loads((output / "record.json").read_text())


FULL = [case for case, (*_, mode, _) in CASES.items() if get_mode(mode).is_full]


@pytest.mark.parametrize("number", PROCESSES)
@pytest.mark.parametrize("case", [case for case in CASES if case not in FULL])
def test_a_divided_model_trains_to_the_bits_of_a_whole_one(trained, case, number):
    outputs = [trained[number] / case / name for name in ("whole", "divided")]
    records = [record_of(output) for output in outputs]
    assert len({sha256(output / "adapter/adapter_model.safetensors") for output in outputs}) == 1
    for key in ("loss_curve", "eval_curve", "tokens", "dtype"):
        assert records[0][key] == records[1][key]
    assert len(records[0]["loss_curve"]) == SETTINGS.steps


@pytest.mark.parametrize("case", [case for case, (_, dtype, *_) in CASES.items() if dtype == FP32])
def test_several_processes_have_the_losses_and_the_gradients_of_one(trained, case):
    one, several = (record_of(folder / case / "divided") for folder in trained.values())
    assert (one["processes"], several["processes"]) == PROCESSES
    assert one["tokens"] == several["tokens"]
    assert several["eval_curve"][0]["eval_loss"] == pytest.approx(one["eval_curve"][0]["eval_loss"], rel=1e-4)
    for key, accuracy in (("loss", 1e-4), ("gradient_norm", 1e-3)):
        ours, theirs = ([point[key] for point in record["loss_curve"]] for record in (several, one))
        assert ours == pytest.approx(theirs, rel=accuracy)


@pytest.mark.parametrize("case", FULL)
def test_divided_weights_train_as_whole_ones_do(trained, case):
    losses, weights = [], []
    for output in sorted((trained[1] / case).iterdir()):
        losses.append([point["loss"] for point in record_of(output)["loss_curve"]])
        weights.append(load_file(output / "weights/model.safetensors"))
    assert losses[0] == pytest.approx(losses[-1], rel=1e-3)
    assert weights[0].keys() == weights[-1].keys()
    for name, weight in weights[0].items():
        # AdamW makes a large step of a gradient that is nothing but rounding.
        assert ((weight.float() - weights[-1][name].float()).abs() < 1e-3).float().mean() > 0.95


def sum_gradients(folder: Path) -> None:
    """Train the weights of a divided model in one process, and check what there is while FSDP2 sums the gradients."""
    limit_threads(1)
    settings = SETTINGS.model_copy(update={"shard_model": True, "eval_every": 0, "micro_batch_size": 6})
    base, mode, cpu = Checkpoint(folder), "full_sparse_to_sparse", torch.device("cpu")
    part, tokenizer = model_to_train(base, compute_masks(base, "unstructured", [50])[50], mode, settings, cpu)
    reduce = _fsdp_param_group.foreach_reduce
    shares = set()

    def counted(parameters: list, gradients: list[torch.Tensor], *others: object) -> object:
        assert all(parameter.grad is None for parameter in part.parameters)
        weights = sum(gradient.numel() for gradient in gradients)
        with Peak() as peak:
            result = reduce(parameters, gradients, *others)
        shares.add(peak.peak / weights)
        return result

    _fsdp_param_group.foreach_reduce = counted
    data = encode_splits(ROWS, TASK, tokenizer, 512, train_on_inputs=False)
    train_part(part, data["train"], settings, 0, Accelerator(cpu=True))
    assert shares == {float(REDUCED)}, shares


def test_a_divided_weight_has_one_gradient_and_the_sum_takes_what_is_planned(tmp_path):
    code, said = forks.call(sum_gradients, save_tiny("llama", tmp_path / "model", BF16))
    assert code == 0, said
