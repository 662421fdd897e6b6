"""LoRA layers on a pruned, frozen weight.

    dense, sparse_to_dense    y = x (W * M)^T + s (x A^T) B^T       dense until the merge masks it
    sparse_to_sparse          y = x W'^T,  W' = (W + s B A) * M     what is pruned stays pruned in every step

LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1. The masked product: SQFT (arXiv 2410.03750), section 3.3, and
PERP (arXiv 2312.15230), "MaskLoRA". Here W' is not kept for the backward but built again, as in LoRS
(arXiv 2501.08582); the gradient has the mask in it, which LoRS leaves out, and is exact.

A structured mask is rows x columns, and (B A) * M = (B * rows) (A * columns): two thin matrices are masked, at the cost
of dense LoRA. A mask of ones is plain LoRA.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sparseft.lora.effective_weight import Workspace, carried_mask, carry_mask_, row_blocks
from sparseft.lora.factors import initial_factor
from sparseft.modes import get_mode
from sparseft.study.config import Training


class MaskedLoRAFunction(torch.autograd.Function):
    """The masked LoRA layer.

    Inputs    X (..., in); W (out, in), frozen, which carries M; A (r, in), B (out, r); s = alpha / r
    Forward   W' = (W + s B A) * M;  Y = X W'^T
    Backward  dX = dY W'
              exact             G = (dY^T X) * M;  dB = s G A^T;  dA = s B^T G
              straight_through  the same without M: dB = s dY^T (X A^T);  dA = s (dY B)^T X
    Shapes    Y, dY (..., out); W' (out, in) lives inside one call; G (out, in) is never whole, but by blocks of rows
    Notes     X, W, A and B are saved, all of which exist anyway; W' is built again. Products are in X's dtype, sums over
              blocks in A's. Straight-through is the gradient of LoRS: biased, the more the sparser M.
    """

    @staticmethod
    def forward(ctx, X, W, A, B, s, gradient, workspace):
        ctx.save_for_backward(X, W, A, B)
        ctx.s, ctx.gradient, ctx.workspace = s, gradient, workspace
        return F.linear(X, workspace.merged(W, A, B, s))

    @staticmethod
    @once_differentiable
    def backward(ctx, dY):
        X, W, A, B = ctx.saved_tensors
        x, dy = X.flatten(0, -2), dY.flatten(0, -2)  # (T, in), (T, out)
        dX = _product(dy, ctx.workspace.merged(W, A, B, ctx.s)).view_as(X) if ctx.needs_input_grad[0] else None
        rule = _straight_through if ctx.gradient == "straight_through" else _exact
        dA, dB = rule(x, dy, W, A, B, ctx.workspace)
        return dX, None, dA.mul_(ctx.s), dB.mul_(ctx.s), None, None, None


def _exact(x: Tensor, dy: Tensor, W: Tensor, A: Tensor, B: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    dA, dB = torch.zeros_like(A), torch.empty_like(B)
    a, b, dy_t = A.to(x.dtype), B.to(x.dtype), dy.T
    if dy.dtype == torch.bfloat16 and dy.device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        dy_t = dy_t.contiguous()  # there oneDNN's product of a transposed matrix takes up to twice as long
    for rows in row_blocks(W):
        G = _product(dy_t[rows], x, out=workspace.take("G", W[rows].shape, x))
        workspace.mask_(G, W[rows])
        dB[rows] = (a @ G.T).T  # as G A^T, and faster
        dA += b[rows].T @ G
    return dA, dB


def _straight_through(x: Tensor, dy: Tensor, W: Tensor, A: Tensor, B: Tensor, _: Workspace) -> tuple[Tensor, Tensor]:
    low, back = x @ A.to(x.dtype).T, dy @ B.to(x.dtype)  # (T, r) each
    return (back.T @ x).to(A.dtype), (dy.T @ low).to(B.dtype)


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left @ right, for which there is room in `out`. In fp32 on a CPU by oneDNN, which torch has for its compiler: twice
    MKL's speed on AMD's processors."""
    plain = left.dtype != torch.float32 or left.device.type != "cpu" or not torch.backends.mkldnn.is_available()
    if not plain and left.numel():  # it refuses what is empty, as an expert's batch may be
        return torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
    return torch.mm(left, right, out=out)


class LoRALinear(nn.Module):
    """A frozen linear layer (no bias) with a low-rank adapter: y = x (W * M)^T + s (dropout(x) A^T) B^T.

    A (r, in) starts as PEFT's; B (out, r) starts at 0: the first step sees the pruned model. Both are fp32; products are in x's dtype."""

    def __init__(self, weight: Tensor, settings: Training, workspace: Workspace) -> None:
        """`weight` (out, in) carries its mask."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale, self.gradient, self.workspace = settings.lora_scale, settings.gradient, workspace
        self.dropout = nn.Dropout(settings.lora_dropout)
        self.lora_A = nn.Parameter(initial_factor(settings.lora_r, weight.shape[1], weight.device))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], settings.lora_r, device=weight.device))

    @classmethod
    def from_linear(cls, linear: nn.Linear, kept: Tensor, settings: Training, workspace: Workspace) -> "LoRALinear":
        """The layer over a linear's weight, pruned in place by `kept`, bool (out, in)."""
        return cls(carry_mask_(linear.weight.detach(), kept), settings, workspace)

    def merge_into(self, linear: nn.Linear) -> None:
        """linear.weight = (W + s B A) * M, the inverse of `from_linear`."""
        linear.weight.data.copy_(self.workspace.merged(self.weight, *self.factors(), self.scale))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B as they act, which is what the adapter file holds; whole, where they lie divided."""
        return whole(self.lora_A), whole(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in x's dtype."""
        A, B = self.factors()
        rows = x.flatten(0, -2)  # (T, in)
        low = self.scale * F.linear(self.dropout(rows), A.to(x.dtype))  # (T, r)
        y = F.linear(rows, self.weight).addmm_(low, B.to(x.dtype).T)  # in place: one (T, out), not three
        return y.view(*x.shape[:-1], -1)


class StructuredLoRALinear(LoRALinear):
    """A LoRA layer whose mask is rows x columns: y = x W^T + s (x (A * columns)^T) (B * rows)^T = x W'^T."""

    def __init__(self, weight: Tensor, settings: Training, workspace: Workspace) -> None:
        super().__init__(weight, settings, workspace)
        rows, columns = rows_and_columns(carried_mask(weight))
        self.register_buffer("rows", rows[:, None].float(), persistent=False)
        self.register_buffer("columns", columns.float(), persistent=False)

    def factors(self) -> tuple[Tensor, Tensor]:
        return whole(self.lora_A) * self.columns, whole(self.lora_B) * self.rows


class MaskedLoRALinear(LoRALinear):
    """A LoRA layer whose effective weight keeps the mask: y = x ((W + s B A) * M)^T."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in x's dtype."""
        return MaskedLoRAFunction.apply(
            x, self.weight, self.lora_A, self.lora_B, self.scale, self.gradient, self.workspace
        )


def kind_of(mode: str, kept: Tensor) -> type[LoRALinear]:
    """The layer that trains `mode` under `kept`, bool (out, in), at the least cost."""
    if not get_mode(mode).masks_every_step or bool(kept.all()):
        return LoRALinear
    rows, columns = rows_and_columns(kept)
    return StructuredLoRALinear if torch.equal(kept, rows[:, None] & columns) else MaskedLoRALinear


def attach(
    model: nn.Module,
    masks: Callable[[str], Tensor],
    layers: dict[str, str],
    mode: str,
    settings: Training,
    kind: Callable[[str, Tensor], type[LoRALinear]] = kind_of,
) -> dict[str, LoRALinear]:
    """Freeze and prune `model`, and put a LoRA layer in the place of its targeted linears; returns them by layer name.

    `layers`: name on disk -> module path in memory; `masks(layer)`: bool (out, in); one without an adapter is pruned
    alone; `kind`: the layer's class from the mode and its mask. Raises InputError where the settings cannot be had in `mode`, or no layer is a target."""
    settings.check(mode, {layer.rpartition(".")[2] for layer in layers})
    model.requires_grad_(False)
    attached, workspace = {}, Workspace()
    for layer, path in layers.items():
        parent, _, name = path.rpartition(".")
        linear, kept = model.get_submodule(path), masks(layer)
        kept = kept.to(linear.weight.device)
        if layer.rpartition(".")[2] in (settings.lora_targets or [layer.rpartition(".")[2]]):
            attached[layer] = kind(mode, kept).from_linear(linear, kept, settings, workspace)
            setattr(model.get_submodule(parent), name, attached[layer])
        else:
            carry_mask_(linear.weight.detach(), kept)
    return attached


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered where processes share it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def rows_and_columns(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and the columns of bool (out, in) in which something is kept."""
    return kept.any(1), kept.any(0)
