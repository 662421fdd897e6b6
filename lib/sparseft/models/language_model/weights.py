"""Read the weights of a checkpoint as tensors, whole or each process its own rows, and turn fused experts into linear
layers.

Masks and adapters belong to the linear layers, which are those that the checkpoint holds.

A checkpoint holds three matrices per expert: gate and up (channels, hidden), and down (hidden, channels). transformers
5 fuses the experts of a block into two parameters of 3 dimensions, `experts.gate_up_proj` (experts, 2 * channels,
hidden) and `experts.down_proj` (experts, hidden, channels). transformers 4 keeps the matrices. Their names are in
`ExpertBlock`.
"""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from sparseft.axes.architectures import find_architecture
from sparseft.axes.architectures.architecture import Architecture, ExpertBlock
from sparseft.models.checkpoints.checkpoint import DTYPES, Checkpoint
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.language_model.products import Linear

# Importing transformers would take longer than a merge of a small model.
_IS_FUSED = int(version("transformers").split(".")[0]) >= 5
# The dtype in a safetensors header -> torch's.
TORCH_DTYPES = {code: getattr(torch, name) for name, code in DTYPES.items()}


def as_weight(bits: np.ndarray, dtype: str) -> Tensor:
    """Return bits, as `Checkpoint.read` gives them, as a tensor of their `dtype` that shares their memory."""
    return torch.from_numpy(bits).view(TORCH_DTYPES[dtype])


def map_weight(checkpoint: Checkpoint, name: str) -> Tensor:
    """Return a tensor in its own dtype and shape, mapped from its file. Fused experts are copied, as transformers
    does."""
    weight = as_weight(checkpoint.map(name), checkpoint.tensors[name].dtype)
    is_fused = fused_experts(checkpoint.architecture) and ".experts." in name
    return weight.clone() if is_fused else weight


class Expert(nn.Module):
    """Compute one SwiGLU expert: down(act(gate x) * up x). Its matrices have their names on disk."""

    def __init__(self, names: ExpertBlock, gate: Tensor, up: Tensor, down: Tensor, act: nn.Module) -> None:
        super().__init__()
        self.names = names
        for name, weight in ((names.gate, gate), (names.down, down), (names.up, up)):
            # The very weight, which takes no gradient.
            self.add_module(name, Linear(nn.Parameter(weight, requires_grad=False)))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Return the expert's output (tokens, hidden) for x of the same shape."""
        gate, up, down = (getattr(self, name) for name in (self.names.gate, self.names.up, self.names.down))
        return down(self.act(gate(x)) * up(x))


class Experts(nn.ModuleList):
    """Replace the fused experts of a block, with the same inputs and output."""

    def forward(self, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts.

        x and the result are (tokens, hidden); top_k_index and top_k_weights are (tokens, k). The program waits for the
        GPU only to count the tokens of each expert. An expert without a token does not run, and gets no gradient."""
        tokens, k = top_k_index.shape
        counts = top_k_index.flatten().bincount(minlength=len(self)).tolist()
        # The rows of the experts' inputs, expert by expert, and within an expert in the order of the tokens, (tokens *
        # k,).
        order = top_k_index.flatten().argsort(stable=True)
        # The rows of each token, in the order of its experts, (tokens, k).
        rows = order.argsort().view(tokens, k).sort(1).values
        # One copy of x per expert of a token. Autograd adds their gradients in this order, that of the last expert
        # first.
        copies = torch.stack([x] * k, 1).flatten(0, 1)
        inputs = copies[rows.flip(1).flatten().argsort()].split(counts)
        weights = top_k_weights.flatten()[order, None].split(counts)
        outputs = [
            (expert(inputs[number]) * weights[number]).to(x.dtype)
            for number, expert in enumerate(self)
            if counts[number]
        ]
        by_token = torch.cat(outputs)[rows.flatten()].view(tokens, k, -1)
        return sum(by_token.unbind(1), torch.zeros_like(x))


def unfuse_experts(model: nn.Module) -> None:
    """Replace every fused expert block of a model, in place. A model without experts does not change."""
    names = fused_experts(find_architecture(model.config.architectures, model.name_or_path))
    if names is None:
        return
    for layer in model.model.layers:
        block = getattr(layer, names.in_memory)
        fused = block.experts
        gates, ups = fused.gate_up_proj.detach().chunk(2, dim=1)
        downs = fused.down_proj.detach()
        block.experts = Experts(
            Expert(names, gate, up, down, fused.act_fn) for gate, up, down in zip(gates, ups, downs, strict=True)
        )


def fused_experts(architecture: Architecture) -> ExpertBlock | None:
    """Return the experts of such a model if stock transformers computes them with fused parameters; else None."""
    return architecture.experts if _IS_FUSED else None


def memory_path(architecture: Architecture, layer: str) -> str:
    """Return the module of a layer, given by its name on disk, in a model whose experts are unfused."""
    experts = fused_experts(architecture)
    if experts is None:
        return layer
    return layer.replace(f".{experts.on_disk}.", f".{experts.in_memory}.")


def layer_paths(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the modules of the prunable layers, by their names on disk, in a model whose experts are unfused."""
    return {layer: memory_path(checkpoint.architecture, layer) for layer in prunable_layers(checkpoint)}


def divide(loss: nn.Module, device: torch.device, processes: int, *, in_fp32: bool = False) -> None:
    """Divide the frozen weights of an `AnswerLoss` among all processes. Adapters stay whole, and the training sums
    their gradients.

    `in_fp32` keeps the weights in fp32, and the model computes with them rounded to its own dtype, as for a training of
    the weights. Their gradients are summed in fp32.

    Before a decoder layer computes, FSDP2 gathers its weights from all processes. It frees them afterwards. A single
    process keeps all weights in the machine's memory, and gathers from there.
    The model may have no weights yet. Its trained parameters must be on `device`, the device of this process."""
    # cerebras-pytorch requires torch 2.4, which does not have `fully_shard`.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    if not torch.distributed.is_initialized():
        # FSDP2 needs a group, also if it has one process. Without a store, torch would look for the variables of
        # torchrun.
        backend = {"cpu": "gloo", "cuda": "nccl"}[device.type]
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (processes,))
    # Pinned memory is copied to a GPU several times as fast. Without a GPU there is none.
    policy = OffloadPolicy() if processes > 1 else CPUOffloadPolicy(pin_memory=device.type == "cuda")
    precision = MixedPrecisionPolicy()
    if in_fp32:
        precision = MixedPrecisionPolicy(param_dtype=loss.model.dtype, reduce_dtype=torch.float32)
        loss.float()
    trained = {parameter for parameter in loss.parameters() if parameter.requires_grad}
    for module in (*loss.model.model.layers, loss):
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=policy, ignored_params=trained)


def read_own_rows(model: nn.Module, checkpoint: Checkpoint, prune: Callable[[str, Tensor, slice], None]) -> None:
    """Load the weights of a model that `divide` has divided. Each process reads only its own rows from the checkpoint's
    files.

    prune: (name on disk, own rows, their place among all rows); changes the rows in place before they move to their
    device

    Raises InputError if a file is shorter than its header says."""
    on_disk = {memory_path(checkpoint.architecture, name): name for name in checkpoint.tensors}
    # A tied parameter has two names, and is read once.
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.requires_grad:
                continue
            if parameter not in filled:
                tensor = on_disk[f"{path}.{name}"]
                mesh = parameter.device_mesh
                rows = own_rows(parameter.shape[0], mesh.size(), mesh.get_local_rank())
                weight = as_weight(checkpoint.read(tensor, rows), checkpoint.tensors[tensor].dtype).to(parameter.dtype)
                prune(tensor, weight, rows)
                # FSDP2 keeps the rows of a single process in the machine's memory.
                kept = torch.empty_like(parameter, device="cpu" if mesh.size() == 1 else mesh.device_type)
                kept.to_local().copy_(weight)
                filled[parameter] = nn.Parameter(kept, requires_grad=False)
            # load_state_dict with assign=True tells FSDP2 that the parameter was replaced.
            module.load_state_dict({name: filled[parameter]}, strict=False, assign=True)


def own_rows(rows: int, processes: int, process: int) -> slice:
    """Return which of `rows` rows a process has: none, if there are too few for all processes.

    FSDP2 divides the rows of each parameter as torch.chunk does. Process p gets part p:

        4 processes, 10 rows   3 | 3 | 3 | 1
        4 processes, 5 rows    2 | 2 | 1 | -
    """
    size = -(-rows // processes)
    part = range(rows)[process * size : (process + 1) * size]
    return slice(part.start, part.stop)
