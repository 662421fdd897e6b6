"""Train with the backend torch: the adapters or the weights of a Hugging Face model, on a CPU or on GPUs, in one
process or several."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import check_cuda_p2p_ib_support

from sparseft.models.checkpoints.layers import decoder_layer_of
from sparseft.models.language_model.batches import Example, encode_splits
from sparseft.models.language_model.hardware import choose_device, device_name, instructions, peak_memory, versions
from sparseft.models.language_model.layered_model import LayeredModel, Stream, decoder_layer_tensors, read_tensors
from sparseft.models.language_model.model import empty_model, load_model
from sparseft.models.language_model.weights import layer_paths, unfuse_experts
from sparseft.storage.locks import hold
from sparseft.training.job import TrainingJob
from sparseft.training.loop import train_part
from sparseft.training.lora.adapted_model import masks_on
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.masked_lora import attach, load_factors
from sparseft.training.progress import Progress, SavedState
from sparseft.training.reconstruction import LayerPart, sum_of
from sparseft.training.trained_part import matrices, model_to_train
from sparseft.training.trainers.backends import TORCH


def train(job: TrainingJob, state: Path, accelerator: Accelerator) -> dict:
    """Train on rows["train"], write the job's output and return the measured part of train.json.

    If the file `state` exists, the training continues from it. The same job gives the same bits on the same machine
    with the same numbers of threads and processes, even if it was killed in between."""
    settings, device = job.settings, accelerator.device
    settings.check_processes(accelerator.num_processes, job.mode)
    torch.manual_seed(job.seed)
    part, tokenizer = model_to_train(job.checkpoint, job.mask, job.mode, settings, device, accelerator.num_processes)
    if job.initial:
        part.start_from(job.initial)
    context = part.loss.model.config.max_position_embeddings
    data = encode_splits(job.rows, job.task, tokenizer, context, settings.train_on_inputs)
    if job.teacher:
        # Not cpu:1, as the device of a second process on a CPU is called. A tensor there says that it is on cpu.
        place_name = "cpu" if device.type == "cpu" else str(device)
        # The decoder layers of the teacher of a divided model stay in their files, because it is as large.
        part.teacher, _ = load_model(job.teacher.folder, device, {place_name: 0.0} if settings.shard_model else None)
    # state.pt, and state.pt.1 of the second process
    number = accelerator.process_index
    path = state.with_name(f"{state.name}.{number}") if number else state
    saved = SavedState(path, job.identity(data, _machine(accelerator)))
    evaluate = partial(part.eval_loss, data.get("validation", []), job.evaluation_batch_size, accelerator)
    progress = train_part(part, data["train"], settings, job.seed, accelerator, evaluate=evaluate, saved=saved)
    part.write(job, is_main=accelerator.is_main_process)
    return progress.record(settings.batch_size) | _conditions(part.dtype, accelerator)


def reconstruct(job: TrainingJob, examples: list[Example], state: Path | None) -> dict:
    """Reconstruct the outputs of every decoder layer of the teacher on the examples, under the job's mask.

    Write the adapter, and return the measured part of train.json. If the file `state` exists, the reconstruction
    continues after the decoder layers in it. None saves nothing. The same job gives the same bits on the same machine
    with the same number of threads, even if it was killed in between."""
    settings, accelerator = job.settings, new_accelerator()
    device = accelerator.device
    saved = SavedState(state, job.identity({"reconstruction": examples}, _machine(accelerator)))
    torch.manual_seed(job.seed)
    layered = LayeredModel(job.teacher or job.checkpoint, device)
    base = None if layered.checkpoint.digest == job.checkpoint.digest else empty_model(job.checkpoint)
    if base:
        unfuse_experts(base)
    stream = Stream(layered, [torch.tensor(example.ids) for example in examples], copies=2)
    done = saved.read("factors", "progress", "resumed_after") or {"factors": {}, "progress": [], "resumed_after": []}
    layers = [Progress(**layer) for layer in done["progress"]]
    if layers:
        done["resumed_after"].append(len(layers))
    workspace = Workspace()
    for number in layered.layers(range(len(layered))):
        part = LayerPart(stream, number, examples, settings.batch_size)
        if base:
            # It may have fewer experts.
            read_tensors(base, job.checkpoint, decoder_layer_tensors(job.checkpoint, number), device)
            for name, child in base.model.layers[number].named_children():
                setattr(layered.model.model.layers[number], name, child)
        paths = {key: path for key, path in layer_paths(job.checkpoint).items() if decoder_layer_of(key) == number}
        adapted = attach(layered.model, masks_on(job.mask, device), paths, job.mode, settings, workspace=workspace)
        part.parameters = matrices(adapted)
        if number < len(layers):
            load_factors(adapted, done["factors"])
            part.error(advance=True)
            continue
        layers.append(part.train(settings, job.seed, accelerator))
        # A decoder layer's own A and B are freed with it.
        for name, layer in adapted.items():
            done["factors"][name] = tuple(matrix.detach().cpu() for matrix in layer.factors())
        done["progress"] = [vars(layer) for layer in layers]
        saved.write(done)
    job.write_adapter(done["factors"])
    measured = sum_of(layers).record(settings.batch_size, peak_memory(device))
    measured["reconstruction"] = {
        "tokens": sum(len(example.ids) for example in examples),
        "resumed_after_layers": done["resumed_after"],
        "layers": [
            {
                "error_before": layer.evaluations[0]["error"],
                "error_after": layer.evaluations[1]["error"],
                "losses": [point["loss"] for point in layer.curve],
                "seconds": sum(layer.seconds),
            }
            for layer in layers
        ],
    }
    return measured | _conditions(layered.model.dtype, accelerator)


def _machine(accelerator: Accelerator) -> list:
    """Return what decides the bits of an adapter in addition to the job."""
    name = device_name(accelerator.device)
    return [torch.get_num_threads(), accelerator.num_processes, name, instructions(), versions()]


def _conditions(dtype: torch.dtype, accelerator: Accelerator) -> dict:
    """Return the part of train.json that says what trained."""
    return {
        "backend": TORCH.name,
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(),
    }


def new_accelerator() -> Accelerator:
    """Return the device of this process and its links to the other processes of the training."""
    if not check_cuda_p2p_ib_support():
        # Accelerator would refuse GeForce cards with such a driver. `accelerate launch` sets these.
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    return Accelerator(cpu=choose_device().type == "cpu")


def hold_together(path: Path, accelerator: Accelerator) -> None:
    """Lock an output for all processes of this training together. If another training holds it, all of them wait.

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
