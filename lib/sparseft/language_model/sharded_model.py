"""Divide a model among processes, so that no process ever holds all of its weights.

FSDP2 divides the rows of each parameter as torch.chunk does. Process p gets part p:

    4 processes, 10 rows   3 | 3 | 3 | 1
    4 processes, 5 rows    2 | 2 | 1 | -

The model is built without weights. Then every process reads its own rows, and no others, from the checkpoint's files. Before
a decoder layer computes, FSDP2 gathers its weights from all processes. It frees them afterwards.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import DTYPES, Checkpoint
from sparseft.checkpoints.soundness import ROTARY_BUFFER, check_tensors
from sparseft.language_model.experts import memory_path
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import check_class, check_dtype, load_tokenizer, model_config


def empty_model(folder: Path) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return the checkpoint's model without weights, in evaluation mode, and its tokenizer. Reads only local files.

    The parameters are on "meta", in the dtype of the files. The buffers are on the CPU. Raises InputError as `load_model`
    does."""
    checkpoint = Checkpoint(folder)
    check_tensors(checkpoint, folder)
    config = model_config(folder)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype or _stored_dtype(checkpoint))
    # init_empty_weights gave the output head of a tied model a parameter of its own.
    model.tie_weights()
    check_class(checkpoint, type(model).__name__)
    check_dtype(checkpoint, model.dtype)
    return model.eval(), load_tokenizer(folder)


def divide(loss: AnswerLoss, device: torch.device, processes: int) -> None:
    """Divide the frozen weights of a model among all processes. Its adapters stay whole, and the training sums their gradients.

    The model may have no weights yet. Its trained parameters must be on `device`, the device of this process."""
    # cerebras-pytorch requires torch 2.4, which does not have this function.
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    trained = {parameter for parameter in loss.parameters() if parameter.requires_grad}
    for layer in loss.model.model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(loss, mesh=mesh, ignored_params=trained)


def read_own_rows(
    model: nn.Module, checkpoint: Checkpoint, device: torch.device, prune: Callable[[str, Tensor, slice], None]
) -> None:
    """Load the weights of a model that `divide` has divided. Each process reads only its own rows from the checkpoint's files.

    prune: (name on disk, own rows, their place among all rows); changes the rows in place before they move to `device`

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
                filled[parameter] = _filled(parameter, checkpoint, tensor, device, prune)
            # load_state_dict with assign=True tells FSDP2 that the parameter was replaced.
            module.load_state_dict({name: filled[parameter]}, strict=False, assign=True)


def own_rows(rows: int, processes: int, process: int) -> slice:
    """Return which of `rows` rows a process has: none, if there are too few for all processes."""
    size = (rows + processes - 1) // processes
    return slice(min(process * size, rows), min((process + 1) * size, rows))


def _filled(
    parameter: nn.Parameter,
    checkpoint: Checkpoint,
    name: str,
    device: torch.device,
    prune: Callable[[str, Tensor, slice], None],
) -> nn.Parameter:
    """Return a divided parameter like `parameter`, with the own rows of the tensor `name` of a checkpoint."""
    # Not at the top, for the same reason as in `divide`.
    from torch.distributed.tensor import DTensor

    mesh = parameter.device_mesh
    rows = own_rows(parameter.shape[0], mesh.size(), mesh.get_local_rank())
    # numpy has no bfloat16, so the rows are read as integers with the same bits.
    own = torch.from_numpy(checkpoint.read_rows(name, rows)).view(parameter.dtype)
    prune(name, own, rows)
    whole = {"shape": parameter.shape, "stride": parameter.stride()}
    divided = DTensor.from_local(own.to(device), mesh, parameter.placements, run_check=False, **whole)
    return nn.Parameter(divided, requires_grad=False)


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the dtype of the checkpoint's first tensor. It is fp32 for a dtype that `check_dtype` refuses."""
    tensors = (tensor for tensor in checkpoint.tensors.values() if not ROTARY_BUFFER.search(tensor.name))
    names = {dtype: name for name, dtype in DTYPES.items()}
    return getattr(torch, names.get(next(tensors).dtype, "float32"))
