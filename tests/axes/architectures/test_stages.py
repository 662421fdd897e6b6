"""Every architecture through every stage, in one process, on tiny random models that transformers makes.

Each stage is one test, and the id of a test names the architecture. A new architecture joins by its entry in MODELS.

    masks      of every pattern and every kind of importance
    train      a few steps in both modes
    merge      the logits of the trained model
    proof      every tensor outside the mask has its bytes
    evaluate   the log-likelihoods of stock transformers (tests/models/language_model/test_logits.py)
    compact    the logits of the masked model, in stock transformers
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.axes.tasks import BY_NAME
from sparseft.data.rows import write_rows
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from sparseft.models.language_model.hardware import limit_threads
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.weights import unfuse_experts
from sparseft.pruning.calibration_examples import calibrate
from sparseft.pruning.compact import compact
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.masks.mask_file import Mask, read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.masks.validation import validate
from sparseft.study.configfiles import read_configuration
from sparseft.study.planning.sizes import described
from sparseft.training.job import TrainingJob
from sparseft.training.lora.adapted_model import trained_model
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Training
from sparseft.training.trainers.torch import train
from tiny_models import LLAMA3, MODELS, PRUNABLE_LAYERS, loaded, save_tiny, stock

from masks import pass_of

CPU = torch.device("cpu")
METHODS = (
    "unstructured unstructured_taylor unstructured_wanda structured structured_taylor_on_task"
    " semistructured semistructured_wanda random dense"
).split()
# Method and mode of the trainings -> whether the merged logits have the bits of the trained ones. None: the merge masks
# what was trained dense, so they differ.
TRAININGS = {
    ("unstructured", "sparse_to_sparse"): True,
    ("semistructured", "sparse_to_sparse"): True,
    ("structured", "sparse_to_sparse"): False,
    ("unstructured", "sparse_to_dense"): None,
    ("dense", "sparse_to_dense"): False,
}
# Architectures that can lose no heads.
WHOLE_HEADS = ("olmo2",)
TASK = BY_NAME["boolq_mini"]
ROWS = {"train": TASK.generate("train", 8, 0), "validation": TASK.generate("validation", 4, 0)}
SETTINGS = Training(steps=2, batch_size=4, micro_batch_size=2, learning_rate=0.05, lora_r=3, lora_alpha=6.0)
IDS = torch.arange(3, 243).reshape(2, 120)  # longer than the windows of 64 tokens
# The difference that another order of sums may make in fp32, relative to the largest logit.
ROUNDING = 1e-5
# The name of a variant -> architecture, dtype, keys of config.json that differ, options of save_pretrained.
VARIANTS = {
    "LLaMA 3.2": ("llama", torch.bfloat16, {"rope_parameters": LLAMA3}, {}),
    "untied LLaMA": ("llama", torch.float16, {"tie_word_embeddings": False}, {"max_shard_size": "30KB"}),
    "Mistral without a window": ("mistral", torch.float16, {"sliding_window": None, "head_dim": 16}, {}),
    "sharded Mixtral": ("mixtral", torch.bfloat16, {}, {"max_shard_size": "30KB"}),
    "Qwen2.5 with tied embeddings": ("qwen2", torch.bfloat16, {"tie_word_embeddings": True}, {}),
    "untied Gemma 3": ("gemma3", torch.bfloat16, {"tie_word_embeddings": False}, {"max_shard_size": "30KB"}),
    "sharded Qwen3-MoE": ("qwen3_moe", torch.bfloat16, {}, {"max_shard_size": "30KB"}),
}


class Trained(NamedTuple):
    adapter: Path
    mask: Mask
    merged: Checkpoint


class Stages:
    """Run the stages on one model. Each result is made when it is first needed."""

    def __init__(self, folder: Path, name: str, dtype: torch.dtype, changes: dict, options: dict) -> None:
        self.folder = folder
        self.name = name
        self.source = save_tiny(name, folder / "source", dtype, changes, **options)
        self.model = Model(source=f"path:{self.source}", dtype=str(dtype).removeprefix("torch."))
        prepare_model(self.model, folder / "base")
        self.base = Checkpoint(folder / "base")
        self.train_file = folder / "train.jsonl"
        write_rows(self.train_file, ROWS["train"])
        self.mask_path = cache(self._mask_path)
        self.trained = cache(self._trained)

    def mask(self, method: str) -> Mask:
        return read_mask(self.mask_path(method))

    def _mask_path(self, method: str) -> Path:
        path = self.folder / f"{method}.pt"
        settings = Masks(calibration_examples=2, head_share=0 if self.name in WHOLE_HEADS else 1)
        uses_examples = get_method(method).uses_examples
        calibration = calibrate(get_method(method), TASK.name, self.train_file, settings) if uses_examples else None
        percent = 0 if method == "dense" else 50
        places = PassFiles([path], self.folder / f"{method}.json")
        compute_masks(pass_of(self.base, method, [percent], places, settings, calibration))
        return path

    def _trained(self, method: str, mode: str) -> Trained:
        folder = self.folder / f"{method}_{mode}"
        mask = self.mask(method)
        provenance = {"mode": mode, "mask_sha256": "m"}
        job = TrainingJob(self.base, mask, mode, 0, SETTINGS, TASK, ROWS, 4, folder / "adapter", provenance)
        train(job, folder / "state.pt", Accelerator(cpu=True))
        merge(self.base, mask, "m", folder / "adapter", folder / "merged")
        return Trained(folder / "adapter", mask, Checkpoint(folder / "merged"))

    def trained_logits(self, method: str, mode: str, rooms: dict[str, float] | None = None) -> torch.Tensor:
        adapter, mask, _ = self.trained(method, mode)
        return logits(trained_model(self.base, mask, "m", adapter, CPU, max_memory=rooms)[0])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, bound: float = ROUNDING) -> None:
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < bound * theirs.abs().max()


def assert_proven(stages: Stages, trained: Trained) -> None:
    """Assert that the proof holds, and that it looks at every tensor outside the mask."""
    report = validate(trained.merged, trained.mask, base=stages.base)
    assert report["passed"], report
    assert report["layers_checked"] == PRUNABLE_LAYERS[stages.name]
    assert report["tensors_outside_checked"] == len(stages.base.tensors) - PRUNABLE_LAYERS[stages.name]


@pytest.fixture(scope="module", params=list(MODELS))
def stages(request, tmp_path_factory) -> Stages:
    limit_threads(1)
    return Stages(tmp_path_factory.mktemp(request.param), request.param, torch.float32, {}, {})


@pytest.mark.parametrize("method", METHODS)
def test_masks_of_every_pattern_cover_every_layer(stages, method):
    mask = stages.mask(method)
    assert len(mask.shape) == PRUNABLE_LAYERS[stages.name]
    assert mask.meta["reached"] == pytest.approx(0 if method == "dense" else 0.5, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize(("method", "mode"), TRAININGS)
def test_the_merge_has_the_trained_logits_and_the_proof_holds(stages, method, mode):
    same_bits = TRAININGS[method, mode]
    trained = stages.trained(method, mode)
    ours = stages.trained_logits(method, mode)
    theirs = logits(stock(trained.merged.folder))
    # The weights of the decoder layers stay in their files.
    assert torch.equal(ours, stages.trained_logits(method, mode, {"cpu": 0}))
    assert (ours - logits(stock(stages.base.folder))).abs().max() > 0.01
    if same_bits:
        assert torch.equal(ours, theirs)
    elif same_bits is None:
        assert (ours - theirs).abs().max() > 0.01
    else:
        assert_close(ours, theirs)
    assert_proven(stages, trained)


def test_a_generation_at_batch_1_has_the_same_logits_before_and_after_the_merge(stages):
    """Each step computes products of one row, whose rounding in fp32 depends on the address of the weight."""
    adapter, mask, merged = stages.trained("unstructured", "sparse_to_sparse")
    before = trained_model(stages.base, mask, "m", adapter, CPU)[0]
    after = load_model(merged.folder, CPU)[0]
    unfuse_experts(after)
    options = {"min_new_tokens": 16, "max_new_tokens": 16, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    ours, theirs = (model.generate(IDS[:1, :20], **options) for model in (before, after))
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(torch.stack(ours.logits), torch.stack(theirs.logits))


def test_adapters_have_the_estimated_numbers(stages, tmp_path):
    (tmp_path / "study.yaml").write_text(f"training: {{lora_r: {SETTINGS.lora_r}}}\n")
    config = read_configuration([tmp_path / "study.yaml"])
    estimated = described(stages.name, {stages.name: stages.model}).trained_numbers(config.training_of(TASK.name))
    file = stages.trained("unstructured", "sparse_to_sparse").adapter / "adapter_model.safetensors"
    assert estimated == sum(tensor.numel() for tensor in load_file(file).values())


def test_a_smaller_model_has_the_masked_logits_in_stock_transformers(stages):
    trained = stages.trained("structured", "sparse_to_sparse")
    path = stages.mask_path("structured")
    record = compact(trained.merged, path, stages.folder / "small")
    assert record["after"]["parameters"] < record["before"]["parameters"]
    assert_close(logits(loaded(stages.folder / "small")), logits(loaded(trained.merged.folder)))


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_dtypes_shards_and_tied_embeddings_go_through_all_stages(tmp_path, variant):
    limit_threads(1)
    stages = Stages(tmp_path, *VARIANTS[variant])
    assert (len(stages.base.files) > 1) == bool(VARIANTS[variant][3])
    trained = stages.trained("unstructured", "sparse_to_sparse")
    ours = stages.trained_logits("unstructured", "sparse_to_sparse")
    assert torch.equal(ours, logits(stock(trained.merged.folder)))
    assert ours.std() > 0.1
    assert_proven(stages, trained)
    structured = stages.mask_path("structured")
    merge(stages.base, read_mask(structured), "m", None, tmp_path / "masked")
    masked = Checkpoint(tmp_path / "masked")
    compact(masked, structured, tmp_path / "small")
    assert_close(logits(loaded(tmp_path / "small")), logits(loaded(masked.folder)), 3e-2)
