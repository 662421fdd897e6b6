"""Train with the backend torch: the adapters or the weights of a Hugging Face model, on a CPU or on GPUs, in one
process or several."""

import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import check_cuda_p2p_ib_support
from torch import nn

from sparseft.checkpoints.layers import decoder_layer_of
from sparseft.language_model.batches import Example, encode_splits
from sparseft.language_model.hardware import choose_device, device_name, instructions, versions
from sparseft.language_model.layered_model import LayeredModel, decoder_layer_tensors, read_tensors
from sparseft.language_model.model import empty_model, load_model
from sparseft.language_model.weights import layer_paths, unfuse_experts
from sparseft.lora.adapted_model import masks_on
from sparseft.lora.effective_weight import Workspace
from sparseft.lora.masked_lora import LoRALinear, attach
from sparseft.storage.locks import hold
from sparseft.study.backends import TORCH
from sparseft.training.job import TrainingJob
from sparseft.training.loop import Loop
from sparseft.training.reconstruction import LayerReconstruction
from sparseft.training.steps import SavedState
from sparseft.training.trained_part import model_to_train


def train(job: TrainingJob, state: Path, accelerator: Accelerator) -> dict:
    """Train on rows["train"], write the job's output and return the measured part of train.json.

    If the file `state` exists, the training continues from it. The same job gives the same bits on the same machine
    with the same numbers of threads and processes, even if it was killed in between."""
    settings = job.settings
    device = accelerator.device
    settings.check_processes(accelerator.num_processes, job.mode)
    torch.manual_seed(job.seed)
    loss, tokenizer, part = model_to_train(
        job.checkpoint, job.mask, job.mode, settings, device, accelerator.num_processes
    )
    if job.initial:
        part.start_from(job.initial)
    context = loss.model.config.max_position_embeddings
    data = encode_splits(job.rows, job.task, tokenizer, context, settings.train_on_inputs)
    identity = job.identity(data, _machine(device, accelerator.num_processes))
    # Not cpu:1, as the device of a second process on a CPU is called. A tensor there says that it is on cpu.
    place_name = "cpu" if device.type == "cpu" else str(device)
    # The decoder layers of the teacher of a divided model stay in their files, because it is as large.
    rooms = {place_name: 0.0} if settings.shard_model else None
    teacher = load_model(job.teacher.folder, device, rooms)[0] if job.teacher else None
    # state.pt, and state.pt.1 of the second process
    number = accelerator.process_index
    saved = SavedState(state.with_name(f"{state.name}.{number}") if number else state, identity)
    loop = Loop(loss, part, data, settings, job.seed, accelerator, job.evaluation_batch_size, saved, teacher)
    record = loop.fit()
    part.write(job, is_main=accelerator.is_main_process)
    return record | _conditions(loss.model, device, accelerator.num_processes)


def reconstruct(job: TrainingJob, examples: list[Example], state: Path | None) -> dict:
    """Reconstruct the outputs of every decoder layer of the teacher on the examples, under the job's mask.

    Write the adapter, and return the measured part of train.json. If the file `state` exists, the reconstruction
    continues after the decoder layers in it. None saves nothing. The same job gives the same bits on the same machine
    with the same number of threads, even if it was killed in between."""
    device, dense = choose_device(), job.teacher or job.checkpoint
    torch.manual_seed(job.seed)
    layered = LayeredModel(dense, device)
    model = layered.model
    paths = layer_paths(job.checkpoint)
    workspace = Workspace()
    base = None if dense.digest == job.checkpoint.digest else empty_model(job.checkpoint)
    if base:
        unfuse_experts(base)

    def adapt(number: int) -> dict[str, LoRALinear]:
        """Prune a decoder layer of the dense model, with the weights of the job's checkpoint. Return its new LoRA
        layers."""
        own = {key: path for key, path in paths.items() if decoder_layer_of(key) == number}
        if base:
            # It may have fewer experts.
            read_tensors(base, job.checkpoint, decoder_layer_tensors(job.checkpoint, number), device)
            for name, child in base.model.layers[number].named_children():
                setattr(model.model.layers[number], name, child)
        return attach(model, masks_on(job.mask, device), own, job.mode, job.settings, workspace=workspace)

    identity = job.identity({"reconstruction": examples}, _machine(device, 1))
    reconstruction = LayerReconstruction(layered, examples, adapt, job.settings, job.seed, SavedState(state, identity))
    reconstruction.run()
    job.write_adapter(reconstruction.factors)
    return reconstruction.record() | _conditions(model, device, 1)


def _machine(device: torch.device, processes: int) -> list:
    """Return what decides the bits of an adapter in addition to the job."""
    return [torch.get_num_threads(), processes, device_name(device), instructions(), versions()]


def _conditions(model: nn.Module, device: torch.device, processes: int) -> dict:
    """Return the part of train.json that says what trained."""
    return {
        "backend": TORCH.name,
        "device": device_name(device),
        "processes": processes,
        "dtype": str(model.config.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def new_accelerator() -> Accelerator:
    """Return the device of this process and its links to the other processes of the training."""
    if not check_cuda_p2p_ib_support():
        # Accelerator would refuse GeForce cards with such a driver. `accelerate launch` sets these.
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    return Accelerator(cpu=choose_device().type == "cpu")


def hold_together(path: Path, accelerator: Accelerator) -> None:
    """Make an output the own one of all processes of this training. If another training holds it, all of them wait.

    Only the main process takes the lock. The others must not read the saved state before, because the other training
    may still be writing it."""
    if accelerator.num_processes == 1:
        hold(path)
        return
    # NCCL would end the training after ten minutes in its barrier.
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    if accelerator.is_main_process:
        hold(path)
    torch.distributed.barrier(group)
