"""Train with cerebras-pytorch: the training of the backend torch, in a form that the package can trace and lower.

Model, masks, random draws, batches and schedule are those of the backend torch. Three things differ: all batches have one
length and the layers use plain algebra (fixed_shapes.py), and the frozen base is declared sparse (package.py).

No part of this has run on a CS-3. In the tests, the package's CPU backend trains, and the compiler's front end lowers the
same steps.
"""

import json
import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sparseft.backends.cerebras.package import RELEASE, cstorch, declare_sparse, optimizer_and_schedule
from sparseft.backends.cerebras.states import read_last_mdl, write_mdl
from sparseft.backends.cerebras.streams import evaluation_batches, training_batches
from sparseft.backends.fixed_shapes import IGNORED, FixedLengthLoss, as_they_act, encoded_data, plain_kind_of
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError
from sparseft.language_model.batches import shuffled
from sparseft.language_model.hardware import peak_memory, versions
from sparseft.language_model.loss import check_finite_evaluation
from sparseft.language_model.model import load_model
from sparseft.language_model.weights import memory_path
from sparseft.lora.masked_lora import attach
from sparseft.study.backends.cerebras import CEREBRAS, CerebrasJob
from sparseft.training.job import TrainingJob
from sparseft.training.steps import Progress, check_finite, say_step, step_seed


class Trainer:
    """Hold a model on a backend of the package, ready to train, and what has been measured so far.

    With `fill`, every example is cut or repeated to the sequence length. Measurements of speed do this, because they need no
    meaningful training. `graph` is the file of the lowered training step; None until this process has run one."""

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
        model, self.dtype = as_computed(model, backend)
        paths = {layer: memory_path(job.checkpoint.architecture, layer) for layer in prunable_layers(job.checkpoint)}
        self.layers = attach(
            model, lambda layer: torch.from_numpy(job.mask.kept(layer)), paths, job.mode, job.settings, plain_kind_of
        )
        self.data = encoded_data(job, tokenizer, self.length, fill=fill)
        self.module = FixedLengthLoss(model, self.length)
        deciding = cerebras.model_dump(include=cerebras.DECIDING)
        machine = [deciding, torch.get_num_threads(), versions(), RELEASE]
        self.identity = job.identity(self.data, Path(__file__), machine)
        state = read_last_mdl(folder, self.identity)
        if state:
            self.module.load_state_dict(state["adapter"], strict=False)
        self.compiled = cstorch.compile(self.module, backend)
        masks = ((f"model.{path}.weight", torch.from_numpy(job.mask.kept(layer))) for layer, path in paths.items())
        declare_sparse(self.compiled, masks)
        self.optimizer, self.schedule = optimizer_and_schedule(self.adapters().values(), self.settings)
        self.progress = Progress()
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.progress = Progress(**json.loads(state["progress"]))
            self.progress.resumed_after.append(len(self.progress.curve))
        self.graph: Path | None = None

    def adapters(self) -> dict[str, nn.Parameter]:
        """Return A (r, in) and B (out, r) of every layer, by their names in the module."""
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def fit(self) -> Progress:
        """Train for settings.steps steps, with the evaluations in between. Raises InputError if the loss is not finite."""
        done = len(self.progress.curve)
        every = self.settings.eval_every or self.settings.steps
        # An execution stops before an evaluation and at the end.
        for stop in (*range(every, self.settings.steps, every), self.settings.steps):
            if stop < done:
                continue
            if stop > done:
                self.run(done, stop)
                done = stop
            # A step's state is saved before its evaluation. So a training that resumes at this step evaluates it again.
            if self.settings.eval_every and stop % self.settings.eval_every == 0:
                self.progress.evaluations.append({"step": stop, "eval_loss": self.eval_loss()})
        return self.progress

    def eval_loss(self) -> float:
        """Return the evaluation loss of the current model in nats per answer token; NaN if the program is only compiled."""
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

    def trained_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return A (r, in) and B (out, r) of each layer as the layer multiplies by them.

        They are read from the saved state, because the weights on the appliance cannot be read in another way.
        Raises InputError if the state of the last step was not saved."""
        state = read_last_mdl(self.folder, self.identity)
        steps = self.settings.steps
        if state is None or len(json.loads(state["progress"])["curve"]) != steps:
            raise InputError(
                f"{self.folder}: the state of step {steps} was not saved",
                "train again, which continues from the last state",
            )
        factors = {}
        for name in self.layers:
            path = memory_path(self.job.checkpoint.architecture, name)
            A, B = (state["adapter"][f"model.{path}.{factor}"] for factor in ("lora_A", "lora_B"))
            # The layer itself is on the device, so its mask is read again.
            factors[name] = as_they_act(A, B, self.job.mode, torch.from_numpy(self.job.mask.kept(name)))
        return factors

    def run(self, done: int, stop: int, *, saves: bool = True) -> None:
        """Run the steps `done` + 1 to `stop` in one execution. With `saves`, save at least the state of the last step."""
        loader = cstorch.utils.data.DataLoader(
            training_batches, self.data["train"], self.settings, self.job.seed, self.length, done
        )
        save_every = (self.settings.save_every or stop - done) if saves else None
        executor = cstorch.utils.data.DataExecutor(loader, self._executed(stop - done), checkpoint_steps=save_every)
        training_step = self._training_step()
        note = self._note()
        self._start_clock()
        batches = islice(shuffled(self.data["train"], self.settings, self.job.seed), done, stop)
        bar = tqdm(range(done + 1, stop + 1), initial=done, total=self.settings.steps, desc="train", disable=None)
        # The executor comes first, because it ends a step when the loop requests the next batch.
        for batch, step, examples in zip(executor, bar, batches, strict=False):
            # On a CS-3, the compiled program has its own random numbers.
            if not self.backend.backend_type.is_csx:
                torch.manual_seed(step_seed(self.job.seed, step))
            note(step, sum(len(example.ids) for example in examples), *training_step(batch))
            self._save()
        self.graph = self.graph or executor.artifact_dir / "cirh.mlir"

    def _executed(self, steps: int) -> int:
        """Return the number of steps to execute; 1 if the program is only compiled."""
        return steps if self.backend.is_e2e_execution else 1

    def _training_step(self) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]:
        """Return the traced training step: a function of a batch that returns its mean loss, gradient norm and learning rate."""

        @cstorch.trace
        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            self.module.train()
            loss = self.compiled(**batch) / answer_tokens(batch)
            self.optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(list(self.adapters().values()), self.settings.max_grad_norm)
            rate = self.schedule.get_last_lr()[0]
            self.optimizer.step()
            self.schedule.step()
            return loss.detach(), norm, rate

        return step

    def _note(self) -> Callable:
        """Return the step closure that records the measurements of a step after the backend has run it."""

        @cstorch.step_closure
        def note(step: int, tokens: int, loss: Tensor, norm: Tensor, rate: Tensor | float) -> None:
            now = time.perf_counter()
            self.progress.seconds.append(now - self.begin)
            self.progress.tokens.append(tokens)
            loss = loss.item()
            norm = norm.item()
            check_finite(step, loss, norm)
            self.progress.curve.append(
                {"step": step, "loss": loss, "gradient_norm": norm, "learning_rate": float(rate)}
            )
            say_step(step, self.settings.steps, loss)
            self.begin = now

        return note

    @cstorch.step_closure
    def _start_clock(self) -> None:
        """Start the clock after the compilation and before the first step, so that no speed includes the compilation."""
        self.begin = time.perf_counter()

    @cstorch.checkpoint_closure
    def _save(self) -> None:
        """Save the state, and restart the clock, so that the time for saving belongs to no step."""
        self.progress.peak_memory = max(self.progress.peak_memory, peak_memory(torch.device("cpu")))
        trained = self.adapters().keys()
        content = {
            "identity": self.identity,
            "adapter": {name: tensor for name, tensor in self.module.state_dict().items() if name in trained},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": json.dumps(vars(self.progress)),
        }
        write_mdl(self.folder, len(self.progress.curve), content)
        self.begin = time.perf_counter()


def as_computed(model: nn.Module, backend: cstorch.backend) -> tuple[nn.Module, str]:
    """Return the model with the parameters' dtype that the backend needs, and the name of the dtype of its products.

    A CS-3 multiplies in 16 bits, whatever the model's dtype. We choose cbfloat16 for the products and fp32 for the
    parameters, because fp32 holds every stored weight exactly. The loss is not scaled, because the smallest normal number of
    cbfloat16 is 2^-30."""
    if not backend.backend_type.is_csx:
        return model, str(model.dtype).removeprefix("torch.")
    cstorch.amp.set_half_dtype("cbfloat16")
    return model.float(), "cbfloat16"


def answer_tokens(batch: dict[str, Tensor]) -> Tensor:
    """Return the number of answer tokens of a batch, a fp32 scalar."""
    return (batch["labels"] != IGNORED).float().sum()
