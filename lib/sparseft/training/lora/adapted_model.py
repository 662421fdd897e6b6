"""Put LoRA layers into a pruned model: new ones, or as a training has left them, before any merge."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sparseft.axes.grid import Run
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.trained_weights import TrainedCheckpoint
from sparseft.models.language_model.model import empty_model, load_tokenizer
from sparseft.models.language_model.placement import StoredWeights, place
from sparseft.models.language_model.weights import layer_paths, unfuse_experts
from sparseft.pruning.masks.mask_file import Mask
from sparseft.training.lora.adapter import Adapter, read_trained
from sparseft.training.lora.carried_mask import carry_mask_
from sparseft.training.lora.effective_weight import build
from sparseft.training.lora.masked_lora import LoRALinear, MaskedLoRALinear, MaskOf, attach, kind_of
from sparseft.training.lora.settings import Adapters


def trained_model(
    checkpoint: Checkpoint,
    mask: Mask,
    mask_sha256: str,
    folder: Path,
    device: torch.device,
    run: Run | None = None,
    max_memory: dict[str, float] | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase, str]:
    """Return the trained model before any merge, its tokenizer, and the digest of what the training left in `folder`.

    An adapter does not change any more, so W' takes the place of W in a masked layer. max_memory: as in
    `load_model`

    Raises InputError if this project did not write the folder, if it was trained with another mask or for another run
    than `run`, or if it does not fit the model."""
    max_memory = max_memory or {str(device): math.inf}
    model, tokenizer = empty_model(checkpoint), load_tokenizer(checkpoint.folder)
    trained = read_trained(folder, checkpoint, {"mask_sha256": mask_sha256}, run)
    if isinstance(trained, TrainedCheckpoint):
        place(model, StoredWeights(trained, model), max_memory)
        return model.eval(), tokenizer, trained.digest
    config = trained.config
    settings = Adapters(lora_r=config["r"], lora_alpha=config["lora_alpha"], lora_targets=config["target_modules"])

    def kind(mode: str, kept: Tensor) -> Callable[..., Any]:
        layer = kind_of(mode, kept)
        return (lambda linear, *_: linear) if layer is MaskedLoRALinear else layer

    unfuse_experts(model)
    masks = masks_on(mask, device)
    layers = attach(model, masks, layer_paths(checkpoint), trained.origin["mode"], settings, kind)
    masked = {layer for layer, module in layers.items() if not isinstance(module, LoRALinear)}
    place(model, TrainedWeights(checkpoint, model, masks, trained, masked), max_memory)
    return model.eval(), tokenizer, trained.digest


class TrainedWeights(StoredWeights):
    """Map the name of a parameter of an evaluated model to its weight: W' of a masked layer, else the pruned base and
    the adapter.

    What changes a weight is computed on the device of the masks."""

    def __init__(
        self, checkpoint: Checkpoint, model: nn.Module, masks: MaskOf, adapter: Adapter, masked: set[str]
    ) -> None:
        """`masked` are the layers whose weight is W'."""
        super().__init__(checkpoint, model)
        self._prunable = {path: layer for layer, path in layer_paths(checkpoint).items()}
        self._masks = masks
        self._adapter = adapter
        self._masked = masked

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight."""
        path, _, kind = name.rpartition(".")
        layer = self._prunable.get(path)
        if layer is None or kind == "bias":
            return super().__getitem__(name)
        if kind != "weight":
            return self._adapter.pairs[layer][kind == "lora_B"]
        kept = self._masks(layer)
        weight = carry_mask_(super().__getitem__(name).to(kept.device), kept)
        if layer in self._masked:
            A, B = (matrix.to(kept.device) for matrix in self._adapter.pairs[layer])
            build(weight, weight, A, B, self._adapter.scale)
        return weight


def masks_on(mask: Mask, device: torch.device) -> MaskOf:
    """Return a function that gives the mask of a layer, bool (out, in), on `device`. A GPU unpacks the bits itself."""
    if device.type == "cpu":
        return lambda layer: torch.from_numpy(mask.kept(layer))
    return lambda layer: unpacked(torch.from_numpy(mask.bits[layer]).to(device), mask.shape[layer][1])


def unpacked(bits: Tensor, cols: int) -> Tensor:
    """Return the mask, bool (rows, cols), of bits as a mask file has them, uint8 (rows, ceil(cols / 8))."""
    ones = bits[:, :, None] & (1 << torch.arange(8, dtype=torch.uint8, device=bits.device))
    return ones.ne(0).flatten(1)[:, :cols]
