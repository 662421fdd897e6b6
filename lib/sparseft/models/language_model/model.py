"""Load a prepared checkpoint as a model in memory, with its tokenizer."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    masking_utils,
)
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from sparseft.axes.architectures import find_architecture
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.checkpoint import Tensor as StoredTensor
from sparseft.models.checkpoints.layers import ROTARY_BUFFER, check_tensors
from sparseft.models.language_model.placement import StoredWeights, place
from sparseft.models.language_model.products import use_products
from sparseft.models.language_model.weights import TORCH_DTYPES, fused_experts
from sparseft.storage.reading import read_json

_TRANSFORMERS_4 = transformers.__version__.startswith("4.")
# The name of `attend` in transformers, whose own "sdpa" stays as it is. transformers checks a class for sdpa if "sdpa"
# is in the name.
SDPA = "sparseft_sdpa"


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *arguments, **options) -> tuple[Tensor, None]:
    """Compute transformers' attention "sdpa" (B, T, heads, size) of query (B, heads, T, size) and grouped key and
    value.

    On a GPU, torch has no kernel for grouped heads in float32 that keeps no scores (B, heads, T, T). So the heads are
    repeated there. transformers repeats them only for other reasons (use_gqa_in_sdpa)."""
    if key.device.type != "cpu" and key.dtype == torch.float32 and query.shape[2] > 1:
        key, value = (repeat_kv(heads, query.shape[1] // heads.shape[1]) for heads in (key, value))
        # Without the number of groups, transformers leaves the heads as they are.
        module = SimpleNamespace(is_causal=module.is_causal)
    return sdpa_attention_forward(module, query, key, value, *arguments, **options)


AttentionInterface.register(SDPA, attend)
AttentionMaskInterface.register(SDPA, masking_utils.sdpa_mask)
# Without a mask and a cache, transformers looks for several texts in a row, and waits for the GPU to find none. It has
# no setting or public hook for this, because it looks before it asks for the mask of an attention. So the function is
# replaced for the whole process.
masking_utils.find_packed_sequence_indices = lambda _: None


def load_model(
    folder: Path, device: torch.device, max_memory: dict[str, float] | None = None
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return the checkpoint's model in its own dtype and in evaluation mode, and its tokenizer. Reads only local files.

    max_memory: device -> bytes that weights may take there; without it, all weights are on `device`. A model for whose
    weights the first device has no room can only be evaluated (models/language_model/placement.py).

    Raises InputError as `empty_model` does, and if the tokenizer has no end-of-sequence token."""
    checkpoint = Checkpoint(folder)
    model = empty_model(checkpoint)
    # On a CPU, the weights are mapped from their files and take no room, except for experts, which are joined.
    is_mapped = device.type == "cpu" and not fused_experts(checkpoint.architecture)
    # A tensor on cpu:1, as a second process on a CPU calls its device, would be a copy.
    name = "cpu" if device.type == "cpu" else str(device)
    place(model, StoredWeights(checkpoint, model), max_memory if max_memory and not is_mapped else {name: math.inf})
    return model, load_tokenizer(folder)


def empty_model(checkpoint: Checkpoint) -> nn.Module:
    """Return the checkpoint's model without weights, in evaluation mode. Its parameters are on "meta", in the dtype of
    the files.

    The buffers, such as the frequencies of rotary embeddings, are in no file. They are on the CPU.

    Raises InputError as `Checkpoint` does, if tensors are missing or do not fit config.json, and if the model has
    another class than config.json names, or another dtype than its files."""
    # This comes first, because transformers would build a model of any size, and has errors of its own for some
    # configurations.
    check_tensors(checkpoint, checkpoint.folder)
    config = model_config(checkpoint.folder)
    stored = [tensor for tensor in checkpoint.tensors.values() if not ROTARY_BUFFER.search(tensor.name)]
    with init_empty_weights(include_buffers=False):
        # A config.json may name no dtype.
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype or TORCH_DTYPES[stored[0].dtype])
    # init_empty_weights gave the output head of a tied model a parameter of its own.
    model.tie_weights()
    if (checkpoint.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    _check_class_and_dtype(checkpoint, stored, model)
    return use_products(model).eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the checkpoint's tokenizer. Raises InputError if it has no token that ends an answer."""
    tokenizer_class = AutoTokenizer
    # transformers 4 does not know this name of a class, which transformers 5 writes.
    if _TRANSFORMERS_4 and read_json(folder / "tokenizer_config.json").get("tokenizer_class") == "TokenizersBackend":
        tokenizer_class = transformers.PreTrainedTokenizerFast
    tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-sequence token", "name eos_token in its configuration")
    return tokenizer


def _check_class_and_dtype(checkpoint: Checkpoint, stored: list[StoredTensor], model: nn.Module) -> None:
    """Raise InputError if transformers made a model of another class or dtype than the checkpoint has.

    transformers goes by model_type. Pruning and evaluation go by architectures."""
    folder, expected, loaded = checkpoint.folder, checkpoint.architecture.class_name, type(model).__name__
    if loaded != expected:
        raise InputError(
            f"{folder}: config.json names {expected}, but its model_type makes transformers load {loaded}",
            "correct model_type or architectures in config.json",
        )
    for tensor in stored:
        if TORCH_DTYPES[tensor.dtype] != model.dtype:
            raise InputError(
                f"{folder}: {tensor.name} is in {tensor.dtype}, but its config.json describes a model in {model.dtype}",
                "prepare the model with prepare_model.py, which writes one dtype",
            )


def model_config(folder: Path) -> PretrainedConfig:
    """Return the model's configuration. transformers 4 would ignore rope_parameters, which transformers 5 writes.

    transformers raises an error of its own for a config.json that asks for code, or has a wrong key."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rope = getattr(config, "rope_parameters", None)
    if _TRANSFORMERS_4 and rope:
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        config.rope_theta = rope["rope_theta"]
        config.rope_scaling = scaling if scaling["rope_type"] != "default" else None
    # The plans count its memory. config.json cannot choose, because it may even name code on the hub.
    attention = find_architecture(config.architectures, folder).attention
    config._attn_implementation = SDPA if attention == "sdpa" else attention
    return config


@contextmanager
def computed_by(forward: Callable[..., Any], modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let `forward` take the place of the modules' own forward during the block."""
    for module in modules:
        # The attribute hides the method of the class until it is deleted.
        module.forward = forward
    try:
        yield
    finally:
        for module in modules:
            del module.forward
