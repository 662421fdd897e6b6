"""Write a Hugging Face checkpoint, and its mask, as a ModelZoo checkpoint, without ModelZoo's converter.

    model_to_cs-2.5.mdl     every weight W * M under the name that the Trainer uses, and each mask as `..._mask`
    config_to_cs-2.5.yaml   the `model:` section of a trainer configuration
    config.json, tokenizer  copies, so that the .mdl file can be read as a Hugging Face checkpoint again
    export.json             the hashes of the inputs and the outputs

cerebras-pytorch reads a mask only under the full name that the Trainer uses for its parameter. Under another name it silently
derives the mask from the zeros.
"""

import math
from pathlib import Path

import yaml

from sparseft.architectures import tensor_shapes
from sparseft.backends.modelzoo.trainer_configuration import model_section
from sparseft.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.checkpoints.layers import check_tensors, prunable_shapes
from sparseft.checkpoints.mdl import MdlWriter, mdl_writer
from sparseft.checkpoints.modelzoo_checkpoint import BRANCH, Place, duplicates, places
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask, check_mask, read_mask, unpack, zero_pruned
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.hashes import sha256

CHECKPOINT = "model_to_cs-2.5.mdl"
CONFIGURATION = "config_to_cs-2.5.yaml"


def export_modelzoo(checkpoint: Checkpoint, mask_path: Path | None, output: Path) -> dict:
    """Write the folder `output` and return the content of export.json. Without a mask the model is dense.

    One block of rows is in memory at a time. Raises InputError if ModelZoo has no such model, if the mask is of another model,
    or if the checkpoint does not fit its config.json."""
    mask = read_mask(mask_path) if mask_path else None
    mask_sha256 = sha256(mask_path) if mask_path else None
    if mask:
        check_mask(mask, mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    check_tensors(checkpoint, checkpoint.folder)
    shapes = tensor_shapes(checkpoint.config, str(checkpoint.folder))
    if len({checkpoint.tensors[f"{layer}.weight"].dtype for layer in prunable_shapes(checkpoint)}) > 1:
        raise InputError(f"{checkpoint.folder}: its layers have several dtypes", "convert them to one dtype")
    section = model_section(checkpoint.folder)
    with atomic_folder(output, "ModelZoo checkpoint") as folder:
        checkpoint.copy_rest(folder)
        (folder / CONFIGURATION).write_text(yaml.safe_dump({"model": section}))
        with mdl_writer(folder / CHECKPOINT, BRANCH) as writer:
            for name, place in places(checkpoint.config, shapes).items():
                _write_tensor(writer, checkpoint, name, place, mask)
            for key, other in duplicates(checkpoint.config).items():
                writer.link(f"model.{key}", f"model.{other}")
        report = {
            "inputs": {"model": checkpoint.digest, "mask": mask_sha256},
            "mask": mask.meta if mask else None,
            "outputs": {name: sha256(folder / name) for name in (CHECKPOINT, CONFIGURATION)},
        }
        write_json(folder / "export.json", report)
    return report


def _write_tensor(writer: MdlWriter, checkpoint: Checkpoint, name: str, place: Place, mask: Mask | None) -> None:
    """Write W * M of one weight to its place, and its mask beside it."""
    tensor = checkpoint.tensors[name]
    key = f"model.{place.key}"
    packed = mask.bits.get(name.removesuffix(".weight")) if mask else None
    # The first expert of a stack makes room for all of them.
    if not place.expert:
        experts = () if place.expert is None else (checkpoint.config["num_local_experts"],)
        shape = (tensor.shape[0], *experts, *tensor.shape[1:])
        writer.create(key, tensor.dtype, shape)
        if packed is not None:
            writer.create(f"{key}_mask", "BOOL", shape)
    # A block of q or k has whole heads.
    head_size = math.prod(tensor.shape[1:]) * (place.head_dim or 1)
    start = 0
    for bits in checkpoint.read_blocks(name, math.ceil(BLOCK / head_size) * head_size):
        rows = bits.reshape(-1, *tensor.shape[1:])
        block = slice(start, start + len(rows))
        selection = block if place.expert is None else (block, place.expert)
        if packed is not None:
            zero_pruned(rows, packed[block])
            writer.write(f"{key}_mask", selection, place.to_modelzoo(unpack(packed[block], rows.shape)))
        writer.write(key, selection, place.to_modelzoo(rows))
        start = block.stop
