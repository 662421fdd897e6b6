"""Place a model whose weights are larger than the memory of a device.

The decoder layers fill the devices one after the other. The weights of the others stay in the files of the checkpoint.
accelerate reads them, through the machine's page cache, each time before their layer computes. What is outside of the
decoder layers is on the first device.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from accelerate.utils import get_max_memory, set_module_tensor_to_device
from torch import Tensor, cuda, nn

from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.hardware import choose_device, gpu_share
from sparseft.models.language_model.weights import as_weight, fused_experts, map_weight, memory_path

# The place of a decoder layer whose weights stay in their files, as accelerate calls it.
DISK = "disk"


class StoredWeights(Mapping[str, Tensor]):
    """Give the weight of a parameter of `model` by its name. It is mapped from the checkpoint's files.

    Experts are copied. If the model fuses them, their matrices are joined, because the files hold them one by one."""

    def __init__(self, checkpoint: Checkpoint, model: nn.Module) -> None:
        self._checkpoint = checkpoint
        self._on_disk = {memory_path(checkpoint.architecture, name): name for name in checkpoint.tensors}
        self._model = model

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight on the CPU. Nothing that is written to it reaches the file."""
        names = fused_experts(self._checkpoint.architecture)
        if names is None or name in self._on_disk:
            return map_weight(self._checkpoint, self._on_disk[name])
        block, _, joint = name.rpartition(".")
        matrices = (names.gate, names.up) if joint == "gate_up_proj" else (names.down,)
        shape = self._model.get_parameter(name).shape
        paths = [f"{block}.{number}.{matrix}.weight" for number in range(shape[0]) for matrix in matrices]
        tensors = [self._checkpoint.tensors[self._on_disk[path]] for path in paths]
        return torch.cat([as_weight(self._checkpoint.map(one.name), one.dtype) for one in tensors]).view(shape)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._model.named_parameters())

    def __len__(self) -> int:
        return len(list(self))


def available_memory(checkpoint: Checkpoint) -> dict[str, float]:
    """Return the bytes that a model's weights may take on each device: on all GPUs that this process sees, or on the
    CPU.

    They are nine tenths of what is free, or of the job's share of a GPU. If the weights are more, the first device
    keeps four tenths for a batch, whose logits it computes."""
    gpus = range(cuda.device_count()) if choose_device().type == "cuda" else ()
    free = get_max_memory()
    max_memory = {f"cuda:{gpu}": 0.9 * min(free[gpu], gpu_share(gpu)) for gpu in gpus} or {"cpu": 0.9 * free["cpu"]}
    main = next(iter(max_memory))
    if sum(tensor.nbytes for tensor in checkpoint.tensors.values()) > max_memory[main]:
        max_memory[main] *= 2 / 3
    return max_memory


def place(model: nn.Module, weights: StoredWeights, max_memory: dict[str, float]) -> None:
    """Give a model on "meta" its weights.

    max_memory: device -> bytes that weights may take there; the first device also computes the layers whose weights
        stay in the files"""
    main = next(iter(max_memory))
    layers = {f"model.layers.{number}": layer for number, layer in enumerate(model.model.layers)}
    sizes = [_size(layer) for layer in layers.values()]
    device_of = dict(zip(layers, device_map(sizes, _size(model) - sum(sizes), max_memory), strict=True))
    for name, _ in list(model.named_parameters()):
        device = device_of.get(".".join(name.split(".")[:3]), main)
        if device != DISK:
            set_module_tensor_to_device(model, name, device, weights[name])
    model.tie_weights()
    if set(device_of.values()) == {main}:
        model.to(main)
        return
    device_of |= {name: main for name, _ in model.named_children() if name != "model"}
    device_of |= {
        f"model.{name}": main for name, part in model.model.named_children() if part is not model.model.layers
    }
    model.hf_device_map = device_of
    is_stored = {name: device == DISK for name, device in device_of.items()}
    devices = {name: main if is_stored[name] else device for name, device in device_of.items()}
    skip_keys = model._skip_keys_device_placement
    attach_align_device_hook_on_blocks(
        model, {**devices, "": main}, is_stored, weights_map=weights, skip_keys=skip_keys
    )


def device_map(sizes: list[int], outside: int, max_memory: dict[str, float]) -> list[str]:
    """Return the device of each decoder layer, or DISK. Each takes the first device that has room.

    `sizes` are the bytes of the layers, and `outside` those of all else. If a layer is on no device, the first one
    keeps room for it and for the next one."""
    main = next(iter(max_memory))
    for kept_free in (0, 2 * max(sizes)):
        free = max_memory | {main: max_memory[main] - outside - kept_free}
        devices = []
        for size in sizes:
            devices.append(next((device for device, room in free.items() if room >= size), DISK))
            free[devices[-1]] = free.get(devices[-1], 0) - size
        if DISK not in devices:
            break
    return devices


def placement(model: nn.Module) -> dict[str, int]:
    """Return how many decoder layers are on each device, or stay in their files (DISK)."""
    devices = (next(layer.parameters()).device for layer in model.model.layers)
    return dict(Counter(DISK if device.type == "meta" else str(device) for device in devices))


def _size(module: nn.Module) -> int:
    """Return the bytes of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())
