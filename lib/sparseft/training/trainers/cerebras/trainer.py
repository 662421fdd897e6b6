"""Train with cerebras-pytorch: the training of the backend torch, in a form that the package can trace and lower.

Model, masks, random draws, batches and schedule are those of the backend torch. Three things differ: all batches have
one length and the layers use plain algebra (fixed_shapes.py), and the frozen base is declared sparse (package.py). On a
CS-3 several workers stream every batch, and each one streams its own rows of it.

No part of this has run on a CS-3. In the tests, the package's CPU backend trains, and the compiler's front end lowers
the same steps.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from sparseft.axes.modes import get_mode
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.hardware import peak_memory, versions
from sparseft.models.language_model.loss import check_finite_evaluation
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.weights import layer_paths, memory_path
from sparseft.training.job import TrainingJob, trained_names
from sparseft.training.lora.adapted_model import masks_on
from sparseft.training.lora.masked_lora import LoRALinear, attach
from sparseft.training.progress import Progress, check_finite, print_step, step_seed
from sparseft.training.settings import Training
from sparseft.training.trainers.backends.cerebras import CEREBRAS, CerebrasJob
from sparseft.training.trainers.cerebras.package import (
    RELEASE,
    cstorch,
    optimizer_and_schedule,
    read_last_mdl,
    write_mdl,
)
from sparseft.training.trainers.cerebras.sparsity import declare_sparse
from sparseft.training.trainers.fixed_shapes import (
    IGNORED,
    FixedLengthLoss,
    effective_factors,
    encoded_data,
    fixed_batch,
    plain_kind_of,
)


class Trainer:
    """Hold a model on a backend of the package, ready to train, and what has been measured so far.

    With `fill`, every example is cut or repeated to the sequence length. Measurements of speed do this, because they
    need no meaningful training. `graph` is the file of the lowered training step; None until this process has run
    one."""

    def __init__(
        self, job: TrainingJob, cerebras: CerebrasJob, backend: cstorch.backend, folder: Path, *, fill: bool = False
    ) -> None:
        cerebras.check(job.settings, job.evaluation_batch_size)
        CEREBRAS.check_architecture(job.checkpoint.architecture, job.checkpoint.folder)
        self.job = job
        self.settings = job.settings
        self.cerebras = cerebras
        self.length = cerebras.sequence_length
        self.folder = folder
        self.backend = backend
        torch.manual_seed(job.seed)
        model, tokenizer = load_model(job.checkpoint.folder, torch.device("cpu"))
        mode = get_mode(job.mode)
        model, self.dtype = as_computed(model, backend, in_fp32=mode.is_full)
        self.paths = layer_paths(job.checkpoint)
        # The masks are read again each time, because the layers may be on the device.
        self.kept = masks_on(job.mask, torch.device("cpu"))
        self.layers: dict[str, LoRALinear] = {}
        if mode.is_full:
            self._prune_and_train(model)
        else:
            self.layers = attach(model, self.kept, self.paths, job.mode, job.settings, plain_kind_of)
        self.data = encoded_data(job, tokenizer, self.length, fill=fill)
        self.module = FixedLengthLoss(model, self.length)
        machine = [cerebras.deciding, torch.get_num_threads(), versions(), RELEASE]
        self.identity = job.identity(self.data, machine)
        state = read_last_mdl(folder, self.identity)
        if state:
            self.module.load_state_dict(state["adapter"], strict=False)
        self.compiled = cstorch.compile(self.module, backend)
        masks = ((f"model.{self.paths[layer]}.weight", self.kept(layer)) for layer in job.enforced)
        sparsity = declare_sparse(self.compiled, masks)
        self.optimizer, self.schedule = optimizer_and_schedule(self.trained().values(), self.settings)
        # The base of an adapter is in no optimizer.
        if sparsity and mode.is_full:
            self.optimizer.apply(sparsity)
        self.progress = Progress()
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.progress = Progress(**json.loads(state["progress"]))
            self.progress.resumed_after.append(len(self.progress.curve))
        self.graph: Path | None = None
        self.begin = time.perf_counter()

    def _prune_and_train(self, model: nn.Module) -> None:
        """Prune a model, and let the weights that its mode trains have gradients, and no others."""
        model.requires_grad_(False)
        for layer, path in self.paths.items():
            model.get_parameter(f"{path}.weight").mul_(self.kept(layer))
        checkpoint = self.job.checkpoint
        for name in trained_names(checkpoint, self.job.mask, self.settings):
            model.get_parameter(memory_path(checkpoint.architecture, name)).requires_grad_()

    def trained(self) -> dict[str, nn.Parameter]:
        """Return what is trained, A (r, in) and B (out, r) of every layer or the weights, by its names in the
        module."""
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def eval_loss(self) -> float:
        """Return the evaluation loss of the current model in nats per answer token; NaN if the program is only
        compiled."""
        examples = self.data["validation"]
        size = self.job.evaluation_batch_size
        loader = cstorch.utils.data.DataLoader(evaluation_batches, examples, size, self.length)
        batches = math.ceil(len(examples) / size)
        executor = cstorch.utils.data.DataExecutor(loader, num_steps=self._executed(batches))
        sums: list[tuple[float, float]] = []

        @cstorch.trace
        def evaluation_step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            self.module.eval()
            with torch.no_grad():
                return self.compiled(**batch), answer_tokens(batch)

        @cstorch.step_closure
        def note(loss: Tensor, tokens: Tensor) -> None:
            sums.append((loss.item(), tokens.item()))

        for batch in executor:
            note(*evaluation_step(batch))
        if not self.backend.is_e2e_execution:
            return float("nan")
        total = sum(loss for loss, _ in sums)
        check_finite_evaluation(total)
        return total / sum(tokens for _, tokens in sums)

    def write(self) -> None:
        """Write the job's output: weights, or adapters as the layers multiply by them.

        It is read from the saved state, because the weights on the appliance cannot be read in another way."""
        job = self.job
        state = read_last_mdl(self.folder, self.identity)
        assert state and len(json.loads(state["progress"])["curve"]) == self.settings.steps, "the end was not saved"
        trained = {name.removeprefix("model."): tensor for name, tensor in state["adapter"].items()}
        if not self.layers:
            job.write_weights(lambda name: trained[memory_path(job.checkpoint.architecture, name)])
            return
        factors = {}
        for name in self.layers:
            A, B = (trained[f"{self.paths[name]}.{factor}"] for factor in ("lora_A", "lora_B"))
            factors[name] = effective_factors(job, name, A, B)
        job.write_adapter(factors)

    def run(self, *, saves: bool = True) -> None:
        """Run the steps that are not done, in one execution. With `saves`, save at least the last one's
        state.

        Raises InputError if a loss or its gradient is not finite."""
        done, stop = len(self.progress.curve), self.settings.steps
        if done == stop:
            return
        train = self.data["train"]
        loader = cstorch.utils.data.DataLoader(training_batches, train, self.settings, self.job.seed, self.length, done)
        save_every = (self.settings.save_every or stop - done) if saves else None
        executor = cstorch.utils.data.DataExecutor(loader, self._executed(stop - done), checkpoint_steps=save_every)
        self._start_clock()
        batches = self.settings.batches(train, self.job.seed)
        bar = tqdm(range(done + 1, stop + 1), initial=done, total=stop, desc="train")
        # The executor comes first, because it ends a step when the loop requests the next batch.
        for batch, step, examples in zip(executor, bar, islice(batches, done, stop), strict=False):
            # On a CS-3, the compiled program has its own random numbers.
            if not self.backend.backend_type.is_csx:
                torch.manual_seed(step_seed(self.job.seed, step))
            self._note(step, sum(len(example.ids) for example in examples), *self._training_step(batch))
            self._save()
        self.graph = executor.artifact_dir / "cirh.mlir"

    def _executed(self, steps: int) -> int:
        """Return the number of steps to execute; 1 if the program is only compiled."""
        return steps if self.backend.is_e2e_execution else 1

    @cstorch.trace
    def _training_step(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step, and return its mean loss, gradient norm and learning rate."""
        self.module.train()
        loss = self.compiled(**batch) / answer_tokens(batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(self.trained().values()), self.settings.max_grad_norm)
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach(), norm, rate

    @cstorch.step_closure
    def _note(self, step: int, tokens: int, loss: Tensor, norm: Tensor, rate: Tensor | float) -> None:
        """Record the measurements of a step after the backend has run it."""
        check_finite(step, loss.item(), norm.item())
        self.progress.add(step, {"loss": loss.item()}, norm.item(), float(rate), tokens, self.begin)
        self.begin = time.perf_counter()
        print_step(step, self.settings.steps, loss.item())

    @cstorch.step_closure
    def _start_clock(self) -> None:
        """Start the clock after the compilation and before the first step, so that no speed includes the
        compilation."""
        self.begin = time.perf_counter()

    @cstorch.checkpoint_closure
    def _save(self) -> None:
        """Save the state, and restart the clock, so that the time for saving belongs to no step."""
        self.progress.peak_memory = max(self.progress.peak_memory, peak_memory(torch.device("cpu")))
        trained = self.trained().keys()
        content = {
            "identity": self.identity,
            "adapter": {name: tensor for name, tensor in self.module.state_dict().items() if name in trained},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": json.dumps(vars(self.progress)),
        }
        write_mdl(self.folder, len(self.progress.curve), content)
        self.begin = time.perf_counter()


def as_computed(model: nn.Module, backend: cstorch.backend, *, in_fp32: bool) -> tuple[nn.Module, str]:
    """Return the model with the parameters' dtype that the backend needs, and the name of the dtype of its products.

    `in_fp32`: parameters that are trained are in fp32 everywhere.

    A CS-3 multiplies in 16 bits, whatever the model's dtype. We choose cbfloat16 for the products and fp32 for the
    parameters, because fp32 holds every stored weight exactly. The loss is not scaled, because the smallest normal
    number of cbfloat16 is 2^-30."""
    if not backend.backend_type.is_csx:
        model = model.float() if in_fp32 else model
        return model, str(model.dtype).removeprefix("torch.")
    cstorch.amp.set_half_dtype("cbfloat16")
    return model.float(), "cbfloat16"


def answer_tokens(batch: dict[str, Tensor]) -> Tensor:
    """Return the number of answer tokens of a batch, a fp32 scalar."""
    return (batch["labels"] != IGNORED).float().sum()


class _OwnRows(IterableDataset):
    """Make the rows of each batch that this process streams, when they are read. The last batch is filled up with
    padding."""

    def __init__(self, batches: Callable[[], Iterable[list[Example]]], size: int, length: int) -> None:
        self.batches = batches
        self.size = size
        self.length = length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rows, rank = share_of(self.size)
        for batch in self.batches():
            yield fixed_batch(batch[rank * rows : (rank + 1) * rows], self.length, rows)


def training_batches(examples: list[Example], settings: Training, seed: int, length: int, done: int) -> DataLoader:
    """Return the batches of the backend torch after the first `done`, without end; on a worker, its rows of each."""
    batches = lambda: islice(settings.batches(examples, seed), done, None)  # noqa: E731
    return DataLoader(_OwnRows(batches, settings.batch_size, length), batch_size=None)


def evaluation_batches(examples: list[Example], size: int, length: int) -> DataLoader:
    """Return all examples once, in batches of `size`. Every worker streams its rows of as many batches."""
    batches = [examples[start : start + size] for start in range(0, len(examples), size)]
    return DataLoader(_OwnRows(lambda: batches, size, length), batch_size=None)


def share_of(batch_size: int) -> tuple[int, int]:
    """Return how many rows of a batch this process streams, and its rank: all rows if it does not stream."""
    if not cstorch.distributed.is_streamer():
        return batch_size, 0
    return cstorch.distributed.get_streaming_batch_size(batch_size), cstorch.distributed.get_streaming_rank()
