"""Divide a model among processes, so that no process ever holds all of its weights.

FSDP2 divides the rows of each parameter as torch.chunk does. Process p gets part p:

    4 processes, 10 rows   3 | 3 | 3 | 1
    4 processes, 5 rows    2 | 2 | 1 | -

The model is built without weights. Then every process reads its own rows, and no others, from the checkpoint's files. Before
a decoder layer computes, FSDP2 gathers its weights from all processes. It frees them afterwards.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.weights import memory_path


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
    # Not at the top, for the same reason as in `divide`.
    from torch.distributed.tensor import DTensor

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
                # numpy has no bfloat16, so the rows are read as integers with the same bits.
                own = torch.from_numpy(checkpoint.read_rows(tensor, rows)).view(parameter.dtype)
                prune(tensor, own, rows)
                whole = {"shape": parameter.shape, "stride": parameter.stride()}
                divided = DTensor.from_local(own.to(device), mesh, parameter.placements, run_check=False, **whole)
                filled[parameter] = nn.Parameter(divided, requires_grad=False)
            # load_state_dict with assign=True tells FSDP2 that the parameter was replaced.
            module.load_state_dict({name: filled[parameter]}, strict=False, assign=True)


def own_rows(rows: int, processes: int, process: int) -> slice:
    """Return which of `rows` rows a process has: none, if there are too few for all processes."""
    size = (rows + processes - 1) // processes
    return slice(min(process * size, rows), min((process + 1) * size, rows))
