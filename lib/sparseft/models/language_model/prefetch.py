"""Copy the weights of one decoder layer to a GPU while another layer computes.

On a GPU the copies run on a stream of their own. On a CPU the same happens in the same order, without streams.
accelerate and FSDP2 copy on the stream that computes, so a layer waits for its weights there.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device, set_module_tensor_to_device
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


class Copies:
    """Order copies to a device and what it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def meet(self) -> None:
        """Let what is computed from now on wait for the copies until now. Let the copies from now on wait for what was
        computed, because they may take its memory."""
        if self.stream is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self.stream)
            self.stream.wait_stream(computing)


class StoredLayers(ModelHook):
    """Give decoder layers, which are on "meta", their weights while they compute. accelerate calls the methods."""

    def __init__(
        self, layers: dict[str, nn.Module], weight_of: Callable[[str], Tensor], device: torch.device, skip_keys: Any
    ) -> None:
        """`layers` are in the order in which they compute. `weight_of` gives a parameter by its name in the model.

        skip_keys: inputs of a layer that are not moved to its device"""
        self._weight_of = weight_of
        self._skip_keys = skip_keys
        self._copies = Copies(device)
        self._paths = {layer: path for path, layer in layers.items()}
        # The first one is read while the last one and the head compute.
        in_order = list(layers.values())
        self._next = dict(zip(in_order, [*in_order[1:], *in_order[:1]], strict=True))
        self._empty = {layer: dict(layer.named_parameters()) for layer in layers.values()}
        # What is being read, in a thread, because reading a file and copying from its memory block the program.
        self._thread = ThreadPoolExecutor(1)
        self._coming: dict[nn.Module, Future[dict[str, Tensor]]] = {}
        # What the last layer computes with. The thread would reuse its memory for a copy before it is done.
        self._used: dict[str, nn.Parameter] = {}
        for layer in layers.values():
            for name, _ in list(layer.named_buffers()):
                set_module_tensor_to_device(layer, name, device)
            add_hook_to_module(layer, self)

    def pre_forward(self, module: nn.Module, *args, **kwargs) -> tuple[tuple, dict]:
        """Put the weights of a layer into it, and begin to read those of the next one."""
        if module not in self._coming:
            self._begin(module)
        weights = self._coming.pop(module).result()
        # Only now does the thread read nothing, and the next copies wait for what was computed.
        self._used = {}
        self._begin(self._next[module])
        module.load_state_dict(weights, strict=False, assign=True)
        device = self._copies.device
        return send_to_device(args, device), send_to_device(kwargs, device, skip_keys=self._skip_keys)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Take the weights away again. Their memory is given back when the next copies wait for this layer."""
        self._used = dict(module.named_parameters())
        module.load_state_dict(self._empty[module], strict=False, assign=True)
        return output

    def _begin(self, layer: nn.Module) -> None:
        """Wait for the copies until now, and begin those of a layer."""
        self._copies.meet()
        self._coming[layer] = self._thread.submit(self._read, layer)

    @torch.no_grad()
    def _read(self, layer: nn.Module) -> dict[str, Tensor]:
        """Return the weights of a layer on the device by their names in it. The copies may not have ended."""
        weights = {}
        with torch.cuda.stream(self._copies.stream):
            for name in self._empty[layer]:
                weight = self._weight_of(f"{self._paths[layer]}.{name}")
                if self._copies.stream is not None and weight.device.type == "cpu":
                    # From pinned memory, which torch keeps for the next ones, it is copied while the next one is read.
                    weight = weight.pin_memory()
                weights[name] = weight.to(self._copies.device, non_blocking=True)
        return weights


def copy_ahead(loss: nn.Module, layers: Sequence["FSDPModule"], device: torch.device) -> None:
    """Let FSDP2 copy each decoder layer of a single process from the machine's memory while its neighbour computes.

    `loss` runs the layers, in their order. FSDP2 divides it and them."""
    copies = Copies(device)
    is_forward = True

    def start(*_: Any) -> None:
        """Note that a forward begins."""
        nonlocal is_forward
        is_forward = True

    def copy(layer: "FSDPModule | None") -> None:
        copies.meet()
        if layer is not None:
            with torch.cuda.stream(copies.stream):
                layer.unshard()

    def forward(after: "FSDPModule | None", *_: Any) -> None:
        """Begin to copy the next layer. In a backward, gradient checkpointing runs the forward of a layer again."""
        if is_forward:
            copy(after)

    def backward(before: "FSDPModule | None", _: Tensor) -> None:
        """Begin to copy the layer whose gradients come next."""
        nonlocal is_forward
        is_forward = False
        copy(before)

    def await_gradient(before: "FSDPModule | None", *of_forward: Any) -> None:
        """Let `backward` run when the gradient of the layer's output is there."""
        output = of_forward[-1][0] if isinstance(of_forward[-1], tuple) else of_forward[-1]
        if output.requires_grad:
            output.register_hook(partial(backward, before))

    loss.register_forward_pre_hook(start)
    for before, layer, after in zip([None, *layers[:-1]], layers, [*layers[1:], None], strict=True):
        layer.register_forward_pre_hook(partial(forward, after))
        layer.register_forward_hook(partial(await_gradient, before))
