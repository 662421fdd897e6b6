"""The weights of a layer are copied while another one computes, and each waits for what it needs.

A GPU is replaced by what records the order. tests/models/language_model/test_layered_model.py and
tests/training/trainers/test_divided_training.py compare the bits of real models on a CPU."""

import time
from contextlib import contextmanager
from threading import Event
from weakref import finalize

import numpy as np
import pytest
import torch
from accelerate import hooks
from sparseft.models.language_model import prefetch
from sparseft.models.language_model.prefetch import StoredLayers, copy_ahead
from torch import nn
from torch.utils.checkpoint import checkpoint


class Stream:
    """A stream that records for which one it waits."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "Stream") -> None:
        self.log.append(f"{self.name} waits")


class Layer(nn.Linear):
    """A layer that records when it computes, when FSDP2 copies it, and when its gradient is taken."""

    def __init__(self, number: int, log: list[str]) -> None:
        super().__init__(3, 3)
        self.number, self.log = number, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(f"compute {self.number}")
        y = super().forward(x)
        y.requires_grad and y.register_hook(lambda _: self.log.append(f"gradient {self.number}"))
        return y

    def unshard(self) -> None:
        self.log.append(f"copy {self.number}")


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """Return what happens on a GPU, which has a stream for copies and one that computes."""
    log: list[str] = []
    copies, computing = (Stream(name, log) for name in ("copies", "computing"))
    new = prefetch.Copies.__init__

    def with_stream(self, device):
        new(self, device)
        self.stream = copies

    @contextmanager
    def use(stream):
        assert stream is copies
        yield

    monkeypatch.setattr(prefetch.Copies, "__init__", with_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: computing)
    monkeypatch.setattr(torch.cuda, "stream", use)
    return log


MEET = ["computing waits", "copies waits"]


def test_the_weights_of_a_layer_are_read_while_the_one_before_computes(log, monkeypatch):
    layers = {f"layers.{number}": Layer(number, []).to("meta") for number in range(3)}
    begun = [Event() for _ in layers]
    awaited = [Event() for _ in layers]
    before = StoredLayers.pre_forward

    def pre_forward(self, layer, *inputs):
        awaited[list(layers.values()).index(layer)].set()
        return before(self, layer, *inputs)

    def weight_of(name):
        _, number, kind = name.split(".")
        if kind == "bias":
            # The last one is read while the program awaits it.
            assert awaited[int(number)].wait(60)
            time.sleep(0.02)
            log.append(f"read {number}")
            return torch.zeros(3)
        begun[int(number)].set()
        values = np.full((3, 3), number, np.float32)
        finalize(values, log.append, f"free {number}")
        return torch.from_numpy(values)

    monkeypatch.setattr(StoredLayers, "pre_forward", pre_forward)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda weight: weight)
    StoredLayers(layers, weight_of, torch.device("cpu"), None)
    # accelerate's own hook copies each weight by this function, and gives the GPU's free memory back after each.
    for module in (hooks, prefetch):
        monkeypatch.setattr(module, "set_module_tensor_to_device", pytest.fail)
    for first in ([*MEET, "read 0"], ["read 0", "free 2"]):
        for number, layer in enumerate(layers.values()):
            assert torch.equal(layer(torch.ones(1, 3)), torch.full((1, 3), 3.0 * number))
            # Nothing has asked for the next layer yet. After the last one, the first one is read again.
            assert begun[(number + 1) % 3].wait(60)
            assert layer.weight.is_meta
            begun[number].clear()
            awaited[number].clear()
        # No copy may take the memory of a layer before it has waited for what the layer computes.
        others = [*MEET, "read 1", "free 0", *MEET, "read 2", "free 1", *MEET]
        assert log == [*first, *others]
        log.clear()
    # The first one would be awaited at the end of the program.
    awaited[0].set()


@pytest.mark.parametrize("computes_again", [False, True])
def test_the_next_layer_is_copied_before_a_layer_computes_and_the_one_before_in_the_backward(log, computes_again):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer(number, log) for number in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = checkpoint(layer, x, use_reentrant=False) if computes_again else layer(x)
            return x

    model = Model()
    copy_ahead(model, list(model.layers), torch.device("cpu"))
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        forward = [*MEET, "copy 1", "compute 0", *MEET, "copy 2", "compute 1", *MEET, "compute 2"]
        again = [[f"compute {number}"] if computes_again else [] for number in range(3)]
        backward = ["gradient 2", *MEET, "copy 1", *again[2], "gradient 1", *MEET, "copy 0", *again[1]]
        assert log == [*forward, *backward, "gradient 0", *MEET, *again[0]]
        log.clear()
