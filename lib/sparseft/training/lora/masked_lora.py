"""Train LoRA layers on a pruned, frozen weight:

    dense, sparse_to_dense    y = x (W * M)^T + b + s (x A^T) B^T       dense until the merge masks it
    the other modes           y = x W'^T + b,  W' = (W + s B A) * M     what is pruned stays pruned in every step

    x   (..., in)       y   (..., out)       b   (out,), the frozen bias of some layers, never pruned
    W, M   (out, in)    A   (r, in)          B   (out, r)      s = alpha / r

A structured mask keeps whole rows and columns, so (B A) * M = (B * rows) (A * columns). Then only the two thin matrices
are masked, which costs no more than dense LoRA. With a mask of ones, the layer is plain LoRA.

LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1. The masked product: SQFT, arXiv 2410.03750, section 3.3, and PERP,
arXiv 2312.15230, "MaskLoRA". As in LoRS, arXiv 2501.08582, the backward builds W' again instead of keeping it. LoRS
leaves the mask out of the gradient. Here the mask is in it, so the gradient is exact.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sparseft.axes.modes import get_mode
from sparseft.models.language_model.products import linear, multiply
from sparseft.training.lora.carried_mask import carry_mask_, mask_, row_blocks
from sparseft.training.lora.effective_weight import Workspace, kernels
from sparseft.training.lora.factors import initial_factor
from sparseft.training.lora.settings import Adapters

# Takes a layer, and returns its mask, bool (out, in).
MaskOf = Callable[[str], Tensor]


class MaskedLoRAFunction(torch.autograd.Function):
    """Compute the masked LoRA layer and its gradients.

    Inputs    X (..., in); W (out, in), frozen, which carries M; b (out,), frozen, or None; A (r, in), B (out, r);
              s = alpha / r
    Forward   W' = (W + s B A) * M;  Y = X W'^T + b, as nn.Linear computes it, to the bit
    Backward  dX = dY W';  G = (dY^T X) * M;  dB = s G A^T;  dA = s B^T G
    Shapes    Y, dY (..., out); W' (out, in), which lives inside one call; G (out, in), only one block of rows at a time
    Memory    X, W, A and B are saved, and all of them exist anyway. W' is built again in the backward.
    Dtypes    Products are in X's dtype. Sums over blocks are in A's dtype.
    """

    @staticmethod
    def forward(ctx, X, W, b, A, B, s, workspace):
        """Return Y (..., out)."""
        ctx.save_for_backward(X, W, A, B)
        ctx.s = s
        ctx.workspace = workspace
        return F.linear(X, workspace.merged(W, A, B, s), b)

    @staticmethod
    @once_differentiable
    def backward(ctx, dY):
        """Return the gradients of X, A and B, and None for the other inputs."""
        X, W, A, B = ctx.saved_tensors
        # (T, in) and (T, out), with T tokens.
        x = X.flatten(0, -2)
        dy = dY.flatten(0, -2)
        dX = None
        if ctx.needs_input_grad[0]:
            dX = multiply(dy, ctx.workspace.merged(W, A, B, ctx.s)).view_as(X)
        # dA / s (r, in) and dB / s (out, r). G (rows, in) is computed in blocks of rows.
        dA, dB = torch.zeros_like(A), torch.empty_like(B)
        for rows in row_blocks(W):
            G = multiply(dy.T[rows], x, out=ctx.workspace.take("G", W[rows].shape, x))
            _add_gradients(dA, dB[rows], G, W[rows], A, B[rows])
        return dX, None, None, dA.mul_(ctx.s), dB.mul_(ctx.s), None, None


def _add_gradients(dA: Tensor, dB: Tensor, G: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Add B^T (G * M) to dA (r, in), and write (G * M) A^T to dB (rows, r). M is carried by W (rows, in).

    G, W, B and dB are of one block of rows. G may be masked in place."""
    if G.is_cuda and G.element_size() == 2:
        # One pass over G and W, where the lines below make seven.
        kernels(G.device).add_gradients(dA, dB, G, W, A, B)
        return
    mask_(G, W)
    dB.copy_(G @ A.to(G.dtype).T)
    dA += B.to(G.dtype).T @ G


class LoRALinear(nn.Module):
    """Compute a frozen linear layer with a low-rank adapter: y = x (W * M)^T + b + s (dropout(x) A^T) B^T.

    A (r, in) starts with random values, as in PEFT. B (out, r) starts at 0, so training starts from the pruned model.
    Both are fp32. Products are in x's dtype."""

    def __init__(self, linear: nn.Linear, kept: Tensor, settings: Adapters, workspace: Workspace) -> None:
        """The layer has the linear's bias, and its weight, which is pruned in place by `kept`, bool (out, in). Both are
        frozen.

        A weight on "meta" is pruned when it is read. A and B are on the device of `kept`."""
        super().__init__()
        _prune(linear.requires_grad_(False), kept)
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = settings.lora_alpha / settings.lora_r
        self.workspace = workspace
        self.dropout = nn.Dropout(settings.lora_dropout)
        self.lora_A = nn.Parameter(initial_factor(settings.lora_r, kept.shape[1], kept.device))
        self.lora_B = nn.Parameter(torch.zeros(len(kept), settings.lora_r, device=kept.device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (r, in) and B (out, r) as the layer multiplies by them and as the adapter file holds them."""
        return self.lora_A, self.lora_B

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out) of x (..., in), in x's dtype."""
        A, B = self.factors()
        # (T, in) and (T, r), with T tokens.
        tokens = x.flatten(0, -2)
        low = self.scale * linear(self.dropout(tokens), A.to(x.dtype))
        # addmm_ adds in place, so the memory holds one (T, out) instead of three.
        y = linear(tokens, self.weight, self.bias).addmm_(low, B.to(x.dtype).T)
        # The last size is not -1, because an expert may get no token, and torch cannot infer a size of an empty tensor.
        return y.view(*x.shape[:-1], y.shape[-1])


class StructuredLoRALinear(LoRALinear):
    """Compute a LoRA layer whose mask is rows x columns: y = x W^T + b + s (x (A * columns)^T) (B * rows)^T = x W'^T +
    b."""

    def __init__(self, linear: nn.Linear, kept: Tensor, settings: Adapters, workspace: Workspace) -> None:
        """Do as LoRALinear, and keep the rows and the columns of the mask."""
        super().__init__(linear, kept, settings, workspace)
        self.register_buffer("rows", kept.any(1)[:, None].float(), persistent=False)
        self.register_buffer("columns", kept.any(0).float(), persistent=False)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A * columns and B * rows."""
        return self.lora_A * self.columns, self.lora_B * self.rows


class MaskedLoRALinear(LoRALinear):
    """Compute a LoRA layer whose effective weight keeps the mask: y = x ((W + s B A) * M)^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out) of x (..., in), in x's dtype."""
        return MaskedLoRAFunction.apply(x, self.weight, self.bias, self.lora_A, self.lora_B, self.scale, self.workspace)


def kind_of(mode: str, kept: Tensor) -> type[LoRALinear]:
    """Return the cheapest layer that trains `mode` under `kept`, bool (out, in)."""
    if not get_mode(mode).masks_every_step or bool(kept.all()):
        return LoRALinear
    return StructuredLoRALinear if torch.equal(kept, kept.any(1)[:, None] & kept.any(0)) else MaskedLoRALinear


def attach(
    model: nn.Module,
    masks: MaskOf,
    layers: dict[str, str],
    mode: str,
    settings: Adapters,
    kind: Callable[[str, Tensor], Callable[..., LoRALinear]] = kind_of,
    workspace: Workspace | None = None,
) -> dict[str, LoRALinear]:
    """Freeze and prune `model`, replace its targeted linears by LoRA layers, and return these by layer name.

    A model on "meta" is pruned when it gets its weights. The adapters are on the device of the masks.

    masks: layer -> its mask, bool (out, in), on the device of the weights
    layers: name on disk -> module path in memory; a layer outside settings.lora_targets is only pruned
    kind: (mode, mask) -> what makes the LoRA layer, such as its class
    workspace: what the layers share with those of another call; a new one if it is None

    `Training.check` has found that the mode allows the settings."""
    model.requires_grad_(False)
    attached: dict[str, LoRALinear] = {}
    workspace = workspace or Workspace()
    for layer, path in layers.items():
        parent, _, name = path.rpartition(".")
        linear = model.get_submodule(path)
        kept = masks(layer)
        if settings.lora_targets and layer.rpartition(".")[2] not in settings.lora_targets:
            _prune(linear, kept)
            continue
        attached[layer] = kind(mode, kept)(linear, kept, settings, workspace)
        setattr(model.get_submodule(parent), name, attached[layer])
    return attached


def load_factors(layers: dict[str, LoRALinear], factors: Mapping[str, Sequence[Tensor]]) -> None:
    """Copy A (r, in) and B (out, r) of each layer into its LoRA layer."""
    with torch.no_grad():
        for name, layer in layers.items():
            A, B = factors[name]
            layer.lora_A.copy_(A)
            layer.lora_B.copy_(B)


def _prune(linear: nn.Linear, kept: Tensor) -> None:
    """Prune a linear's weight in place by `kept`, bool (out, in). A weight on "meta" has nothing to prune."""
    if not linear.weight.is_meta:
        carry_mask_(linear.weight.detach(), kept)
