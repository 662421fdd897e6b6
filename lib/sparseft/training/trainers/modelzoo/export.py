"""Write a Hugging Face checkpoint, and its mask, as a ModelZoo checkpoint, without ModelZoo's converter.

    model_to_cs-2.5.mdl     every weight W * M under the name that the Trainer uses, and each mask as `..._mask`
    config_to_cs-2.5.yaml   the `model:` section of a trainer configuration
    config.json, tokenizer  copies, so that the .mdl file can be read as a Hugging Face checkpoint again
    export.json             the hashes of the inputs and the outputs

cerebras-pytorch reads a mask only under the full name that the Trainer uses for its parameter. Under another name it
silently derives the mask from the zeros.
"""

import math
from pathlib import Path

import yaml
from transformers import AutoConfig

from sparseft.axes.architectures import find_architecture, tensor_shapes
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.models.checkpoints.layers import check_tensors, prunable_shapes
from sparseft.models.checkpoints.mdl import MdlWriter, mdl_writer
from sparseft.models.checkpoints.modelzoo_checkpoint import Place, duplicates, places
from sparseft.pruning.masks.mask_file import Mask, read_checked_mask, zero_pruned
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.bits import unpack
from sparseft.storage.hashes import sha256

CHECKPOINT = "model_to_cs-2.5.mdl"
CONFIGURATION = "config_to_cs-2.5.yaml"
RECORD = "export.json"
# The key by which the record is known (storage/outputs.py).
KNOWN_BY = '\n  "outputs": '
# The keys of the section `model:` that are the same for every model.
FIXED = {
    "position_embedding_type": "rotary",
    "nonlinearity": "swiglu",
    "norm_type": "rmsnorm",
    "attention_type": "scaled_dot_product",
    "use_bias_in_output": False,
    "use_ffn_bias": False,
    "use_ffn_bias_in_attention": False,
    "use_projection_bias_in_attention": False,
    "embedding_dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "dropout_rate": 0.0,
    "loss_scaling": "num_tokens",
}


def export_modelzoo(checkpoint: Checkpoint, mask_path: Path | None, output: Path) -> None:
    """Write the folder `output`. Without a mask the model is dense.

    One block of rows is in memory at a time. Raises InputError if ModelZoo has no such model, if the mask is of another
    model, or if the checkpoint does not fit its config.json."""
    mask, mask_sha256 = read_checked_mask(mask_path, checkpoint) if mask_path else (None, None)
    check_tensors(checkpoint, checkpoint.folder)
    shapes = tensor_shapes(checkpoint.config, str(checkpoint.folder))
    if len({checkpoint.tensors[f"{layer}.weight"].dtype for layer in prunable_shapes(checkpoint)}) > 1:
        raise InputError(f"{checkpoint.folder}: its layers have several dtypes", "convert them to one dtype")
    section = model_section(checkpoint.folder)
    with atomic_folder(output, RECORD, KNOWN_BY) as folder:
        checkpoint.copy_rest(folder)
        (folder / CONFIGURATION).write_text(yaml.safe_dump({"model": section}))
        with mdl_writer(folder / CHECKPOINT) as writer:
            for name, place in places(checkpoint.config, shapes).items():
                _write_tensor(writer, checkpoint, name, place, mask)
            for key, other in duplicates(checkpoint.config).items():
                writer.link(f"model.{key}", f"model.{other}")
        report = {
            "inputs": {"model": checkpoint.digest, "mask": mask_sha256},
            "mask": mask.meta if mask else None,
            "outputs": {name: sha256(folder / name) for name in (CHECKPOINT, CONFIGURATION)},
        }
        write_json(folder / RECORD, report)


def _write_tensor(writer: MdlWriter, checkpoint: Checkpoint, name: str, place: Place, mask: Mask | None) -> None:
    """Write W * M of one weight to its place, and its mask beside it."""
    tensor = checkpoint.tensors[name]
    key = f"model.{place.key}"
    packed = mask.bits.get(name.removesuffix(".weight")) if mask else None
    # The first expert of a stack makes room for all of them.
    if not place.expert:
        shape = place.stored_shape(tensor.shape, checkpoint.config)
        writer.create(key, tensor.dtype, shape)
        if packed is not None:
            writer.create(f"{key}_mask", "BOOL", shape)
    # A block of q or k has whole heads.
    head = place.head_dim or 1
    step = math.ceil(BLOCK / (head * math.prod(tensor.shape[1:]))) * head
    for start in range(0, tensor.shape[0], step):
        block = slice(start, min(start + step, tensor.shape[0]))
        rows = checkpoint.read(name, block)
        if packed is not None:
            zero_pruned(rows, packed[block])
            writer.write(f"{key}_mask", place.selection(block), place.to_modelzoo(unpack(packed[block], rows.shape)))
        writer.write(key, place.selection(block), place.to_modelzoo(rows))


def model_section(folder: Path) -> dict:
    """Return the `model:` section of a trainer configuration, for the model in a Hugging Face folder.

    The keys are those of src/cerebras/modelzoo/models/nlp/gpt2/gpt2_model.py, which is also the model of LLaMA, Mistral
    and Mixtral. Earlier releases know these keys too. Release 2.6 refuses two more that the converter writes:
    norm_first and use_ff_layer1_dropout.

    Raises InputError for an activation or a scaling of the rotary embedding that ModelZoo does not have."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    rope = config.rope_parameters
    for name, value, known in (("hidden_act", config.hidden_act, "silu"), ("rope_type", rope["rope_type"], "default")):
        if value != known:
            raise InputError(
                f"{folder / 'config.json'}: {name} {value} cannot be translated", f"use a model with {name} {known}"
            )
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head_dim = config.head_dim or config.hidden_size // heads
    section = {
        "name": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_heads": heads,
        "filter_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "layer_norm_epsilon": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "rope_theta": rope["rope_theta"],
        "share_embedding_weights": config.tie_word_embeddings,
        "rotary_dim": head_dim,
        "attention_module": "aiayn_attention" if groups == heads else "multiquery_attention",
        **FIXED,
    }
    if head_dim * heads != config.hidden_size:
        section["attention_inner_dim"] = head_dim * heads
    if groups != heads:
        section["extra_attention_params"] = {"num_kv_groups": groups}
    if window := getattr(config, "sliding_window", None):
        section["attention_sliding_window_length"] = window
    if find_architecture(config.architectures, config.name_or_path).experts:
        section["moe"] = {
            "num_experts": config.num_local_experts,
            "top_k": config.num_experts_per_tok,
            # transformers adds this loss only if the router's logits are part of the output.
            "load_balancing_loss_coef": config.router_aux_loss_coef if config.output_router_logits else 0.0,
            # The implementation with stacked experts, as in models/checkpoints/modelzoo_checkpoint.py. Some
            # releases have another default.
            "moe_implementation": "optimized",
        }
    return section
