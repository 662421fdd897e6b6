"""The Cerebras backend: the torch backend's training on a CS-3, or on cerebras-pytorch's own CPU backend.

Same model, masks, draws, batches and schedule, in Hugging Face names, in the form that the package can trace and lower:
batches of one length (fixed_length.py), layers in plain algebra (lora/plain.py), the frozen base declared sparse. No part of this
file has run on a CS-3: its CPU backend trains, and its compiler's front end lowers the same steps, both in the tests.

Source: training-docs.cerebras.ai, "Writing a custom training loop"; names as in cerebras-pytorch 2.10.0.
"""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from sparseft.backends.cerebras.plain_lora import plain_kind_of
from sparseft.backends.fixed_length import IGNORED, FixedLengthLoss, fixed_batch
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, encode, of_length, refuse_longer, shuffled
from sparseft.language_model.experts import memory_path
from sparseft.language_model.hardware import peak_memory, versions
from sparseft.language_model.loss import check_finite_evaluation
from sparseft.language_model.model import load_model
from sparseft.lora.adapter import write_adapter
from sparseft.lora.masked_lora import StructuredLoRALinear, attach, rows_and_columns
from sparseft.masks.mask_file import Mask
from sparseft.study.config import Cerebras, Training
from sparseft.study.grid import WAFER
from sparseft.training.job import TrainingJob
from sparseft.training.progress import Progress, check_finite, say_step, step_seed

_PLACES = re.compile(r"^#loc.*\n| loc\(.*?\)(?=[\s,)]|$)", re.MULTILINE)
RELEASES = ("2.6.0", "2.10.0")
try:
    import cerebras.pytorch as cstorch
    from cerebras.appliance.cluster.config import ClusterConfigError
except ImportError as error:
    raise InputError(
        f"{sys.executable} has no cerebras-pytorch ({error})",
        f"make .venv-cerebras/installed-{RELEASES[-1]}, and run that one's python",
    ) from None
if version("cerebras-pytorch") not in RELEASES:
    raise InputError(f"cerebras-pytorch {version('cerebras-pytorch')}", f"install {' or '.join(RELEASES)}")
from sparseft.backends.cerebras.states import read_last_mdl, saved_mdl, write_mdl  # noqa: E402, imports cerebras.pytorch


def train(job: TrainingJob, cerebras: Cerebras, folder: Path) -> dict:
    """Train an adapter, write it to `folder`/adapter and return train.json's measured content.

    A complete state_*.mdl in `folder` of the same training is gone on from. Raises InputError, on a CSX target, where
    the machine knows no appliance."""
    trainer = Trainer(job, cerebras, open_backend(cerebras, folder), folder)
    with appliance_needed():
        progress, eval_loss = trainer.fit(), trainer.eval_loss()
    matrices = trainer.trained_factors()
    write_adapter(folder / "adapter", matrices, job.settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    record = progress.record(job.settings.batch_size, peak_memory(torch.device("cpu")))
    return record | {
        "updates": progress.updates,
        "eval_loss": eval_loss,
        **ran_on(trainer),
        "dtype": trainer.dtype,
        "trainable_parameters": sum(matrix.numel() for pair in matrices.values() for matrix in pair),
    }


def ran_on(trainer: "Trainer") -> dict:
    """For a record: the device and all that its numbers come from."""
    cerebras, on_csx = trainer.cerebras, trainer.backend.backend_type.is_csx
    return {
        "backend": "cerebras",
        "device": WAFER if on_csx else "CSX software backend on CPU",
        "processes": cerebras.num_csx if on_csx else 1,
        "micro_batch_size": cerebras.csx_micro_batch_size if on_csx else trainer.settings.batch_size,
        "cerebras": cerebras.model_dump(include=cerebras.DECIDING),
        "compile_hash": graph_digest(trainer.graph) if on_csx and trainer.graph else None,
        "versions": versions() | {"cerebras-pytorch": version("cerebras-pytorch")},
    }


def remove_states(folder: Path) -> None:
    """Remove the saved states of a training that is written."""
    for path in saved_mdl(folder):
        path.unlink()


def lower(job: TrainingJob, cerebras: Cerebras, folder: Path, *, compile_only: bool, fill: bool = False) -> dict:
    """Lower the steps of a training and, where there are examples for it, its evaluation, and compile them where
    `compile_only`; nothing is run.

    Without compile_only no appliance is needed: the front end alone says whether the operations are supported.
    Returns compile.json's content. Raises InputError where that fails."""
    backend = open_backend(cerebras, folder, compile_only=compile_only, validate_only=not compile_only)
    trainer = Trainer(job, cerebras, backend, folder, fill=fill)
    with appliance_needed():
        trainer.run(0, job.settings.steps)
        if "validation" in trainer.data:
            trainer.eval_loss()
    return {
        "run_id": job.provenance["run_id"],
        "compile_only": compile_only,
        "compile_hash": graph_digest(trainer.graph),
        "cerebras": cerebras.model_dump(),
        "versions": versions() | {"cerebras-pytorch": version("cerebras-pytorch")},
    }


def open_backend(
    cerebras: Cerebras, folder: Path, *, compile_only: bool = False, validate_only: bool = False
) -> cstorch.backend:
    """The one backend of this process; its logs go to `folder`/cerebras_logs."""
    logs = str(folder / "cerebras_logs")
    if cerebras.target == "CPU":
        if compile_only or validate_only:
            raise InputError("target CPU compiles nothing", "set cerebras.target to CSX")
        return cstorch.backend("CPU", artifact_dir=logs)
    logging.getLogger().setLevel(logging.INFO)  # the queue, the compilation, the job's name
    tools = str(Path(sys.executable).parent)  # torch-cirh-opt lives there
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
    names = ("num_csx", "job_labels", "job_priority", "job_time_sec", "mount_dirs", "python_paths")
    try:
        cluster = cstorch.distributed.ClusterConfig(**{name: getattr(cerebras, name) for name in names})
    except ValueError as error:
        raise InputError(f"cerebras: {error}", "correct it in the configuration") from None
    cstorch.backends.csx.performance.micro_batch_size = cerebras.csx_micro_batch_size
    return cstorch.backend(
        "CSX",
        artifact_dir=logs,
        compile_dir=cerebras.compile_dir,
        compile_only=compile_only,
        validate_only=validate_only,
        cluster_config=cluster,
    )


class Trainer:
    """A model on a backend, ready to train: what the package's loop needs, and what has been measured.

    `fill`: every example is cut or repeated to the sequence length, where speed is measured and nothing is learnt."""

    def __init__(
        self, job: TrainingJob, cerebras: Cerebras, backend: cstorch.backend, folder: Path, *, fill: bool = False
    ) -> None:
        cerebras.check(job.settings, job.evaluation_batch_size)
        torch.manual_seed(job.seed)
        model, tokenizer = load_model(job.checkpoint.folder, torch.device("cpu"))
        model, self.dtype = as_computed(model, backend)
        paths = {layer: memory_path(job.checkpoint.architecture, layer) for layer in prunable_layers(job.checkpoint)}
        self.layers = attach(
            model, lambda layer: torch.from_numpy(job.mask.kept(layer)), paths, job.mode, job.settings, plain_kind_of
        )
        self.length = cerebras.sequence_length
        self.data = {split: encode(rows, job.task, tokenizer, sys.maxsize) for split, rows in job.rows.items()}
        if fill:
            self.data = {split: [of_length(one, self.length) for one in each] for split, each in self.data.items()}
        refuse_longer(
            "training and validation examples",
            [len(example.ids) for examples in self.data.values() for example in examples],
            self.length,
            "set cerebras.sequence_length to the longest's, or leave them out of the data",
        )
        self.job, self.settings, self.cerebras, self.folder, self.backend = job, job.settings, cerebras, folder, backend
        self.module = FixedLengthLoss(model, self.length)
        where = [
            cerebras.model_dump(include=cerebras.DECIDING),
            torch.get_num_threads(),
            versions(),
            version("cerebras-pytorch"),
        ]
        self.identity = job.identity(self.data, Path(__file__), where)
        found = read_last_mdl(folder, self.identity)
        if found:
            self.module.load_state_dict(found["adapter"], strict=False)
        self.base = None if backend.backend_type.is_csx else frozen_bits(self.module)
        self.compiled = cstorch.compile(self.module, backend)
        declare_sparse(self.compiled, job.mask, paths)
        self.optimizer, self.schedule = optimizer_and_schedule(self.adapters().values(), self.settings)
        self.progress = self._resume(found) if found else Progress()
        self.graph: Path | None = None  # the lowered training step, once this process has run one

    def adapters(self) -> dict[str, nn.Parameter]:
        """A (r, in) and B (out, r) by their names in the module."""
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def fit(self) -> Progress:
        """Train for settings.steps steps, with the evaluations between. Raises InputError where the loss is no longer finite."""
        done, steps, every = len(self.progress.curve), self.settings.steps, self.settings.eval_every
        stops = [*range(every, steps, every), steps] if every else [steps]
        for stop in (stop for stop in stops if stop >= done):
            if stop > done:
                self.run(done, stop)
                done = stop
            if (
                every and stop % every == 0
            ):  # the state of this step was saved before it: a resumed training evaluates here too
                self.progress.evaluations.append({"step": stop, "eval_loss": self.eval_loss()})
        return self.progress

    def eval_loss(self) -> float:
        """The evaluation loss of the model as it is, nats per answer token; NaN where nothing is run."""
        examples, size = self.data["validation"], self.job.evaluation_batch_size
        loader = cstorch.utils.data.DataLoader(evaluation_batches, examples, size, self.length)
        executor = cstorch.utils.data.DataExecutor(loader, num_steps=self._steps(-(-len(examples) // size)))
        sums: list[tuple[float, float]] = []

        @cstorch.trace
        def evaluation_step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            self.module.eval()
            with torch.no_grad():
                return self.compiled(**batch), answers(batch)

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
        """A and B by layer as they act, from the last step's state: the appliance's weights come no other way.

        Raises InputError where that state is not there."""
        found, steps = read_last_mdl(self.folder, self.identity), self.settings.steps
        if found is None or len(json.loads(found["progress"])["curve"]) != steps:
            raise InputError(
                f"{self.folder}: the state of step {steps} was not saved", "train again: it goes on from the last"
            )
        adapter, factors = found["adapter"], {}
        for name, layer in self.layers.items():
            A, B = (adapter[f"model.{memory_path(self.job.checkpoint.architecture, name)}.lora_{x}"] for x in "AB")
            if isinstance(layer, StructuredLoRALinear):  # whose own masks are on the device
                rows, columns = rows_and_columns(torch.from_numpy(self.job.mask.kept(name)))
                A, B = A * columns, B * rows[:, None]
            factors[name] = A, B
        return factors

    def run(self, done: int, stop: int, *, saves: bool = True) -> None:
        """Train from after step `done` until step `stop`, in one execution; where it `saves`, the last state at least."""
        loader = cstorch.utils.data.DataLoader(
            training_batches, self.data["train"], self.settings, self.job.seed, self.length, done
        )
        every = (self.settings.save_every or stop - done) if saves else None
        executor = cstorch.utils.data.DataExecutor(loader, self._steps(stop - done), checkpoint_steps=every)
        training_step, note = self._training_step(), self._note()
        self._start_clock()
        batches = islice(shuffled(self.data["train"], self.settings, self.job.seed), done, stop)
        bar = tqdm(range(done + 1, stop + 1), initial=done, total=self.settings.steps, desc="train", disable=None)
        for batch, step, examples in zip(executor, bar, batches, strict=False):  # the executor ends the step
            if not self.backend.backend_type.is_csx:  # there the compiled program draws
                torch.manual_seed(step_seed(self.job.seed, step))
            note(step, sum(len(example.ids) for example in examples), *training_step(batch))
            self._save()
        self.graph = self.graph or executor.artifact_dir / "cirh.mlir"

    def _steps(self, steps: int) -> int:
        """Of an execution: what is compiled alone has one."""
        return steps if self.backend.is_e2e_execution else 1

    def _training_step(self) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]:
        """The traced step: a batch -> its mean loss, the norm of its gradient and the learning rate used."""

        @cstorch.trace
        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            self.module.train()
            loss = self.compiled(**batch) / answers(batch)
            self.optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(list(self.adapters().values()), self.settings.max_grad_norm)
            rate = self.schedule.get_last_lr()[0]
            self.optimizer.step()
            self.schedule.step()
            return loss.detach(), norm, rate

        return step

    def _note(self) -> Callable:
        """The closure that records a step, once the backend has run it."""

        @cstorch.step_closure
        def note(step: int, tokens: int, loss: Tensor, norm: Tensor, rate: Tensor | float) -> None:
            now = time.perf_counter()
            self.progress.seconds.append(now - self.begin)
            self.progress.tokens.append(tokens)
            loss, norm = loss.item(), norm.item()
            check_finite(step, loss, norm)
            self.progress.curve.append(
                {"step": step, "loss": loss, "gradient_norm": norm, "learning_rate": float(rate)}
            )
            say_step(step, self.settings.steps, loss)
            if self.base is not None:
                check_frozen(self.module, self.base, step)
                now = time.perf_counter()  # the CPU waited for the check; the wafer is at its next step
            self.begin = now

        return note

    @cstorch.step_closure
    def _start_clock(self) -> None:
        """Before the first step and after the compilation, which is in no rate."""
        self.begin = time.perf_counter()

    @cstorch.checkpoint_closure
    def _save(self) -> None:
        self.progress.peak_memory = max(self.progress.peak_memory, peak_memory(torch.device("cpu")))
        names = self.adapters().keys()
        write_mdl(self.folder, len(self.progress.curve), {
            "identity": self.identity,
            "adapter": {name: tensor for name, tensor in self.module.state_dict().items() if name in names},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": json.dumps(vars(self.progress)),
        })  # fmt: skip
        self.begin = time.perf_counter()

    def _resume(self, found: dict) -> Progress:
        self.optimizer.load_state_dict(found["optimizer"])
        self.schedule.load_state_dict(found["schedule"])
        progress = Progress(**json.loads(found["progress"]))
        progress.resumed_after.append(len(progress.curve))
        return progress


def as_computed(model: nn.Module, backend: cstorch.backend) -> tuple[nn.Module, str]:
    """The model in the dtype of its parameters on the backend, and the dtype of its products.

    CSX multiplies in 16 bits, whatever the model's dtype: in cbfloat16, over fp32 parameters, which hold every stored
    weight exactly. No loss scaling: cbfloat16's least normal number is 2^-30."""
    if not backend.backend_type.is_csx:
        return model, str(model.dtype).removeprefix("torch.")
    cstorch.amp.set_half_dtype("cbfloat16")
    return model.float(), "cbfloat16"


class AdamW(cstorch.optim.AdamW):
    """The package's AdamW with eps where torch adds it: after the second moment's bias is corrected, not before."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One step; its eps is eps * sqrt(1 - beta2^t)."""
        plain = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            power = self.state[group["params"][0]]["beta2_power"]  # beta2^t at step t
            group["eps"] = group["eps"] * torch.sqrt(1.0 - power)
        loss = super().step(closure)
        for group, eps in zip(self.param_groups, plain, strict=True):
            group["eps"] = eps
        return loss


def optimizer_and_schedule(
    parameters: Iterator[nn.Parameter], settings: Training
) -> tuple[cstorch.optim.Optimizer, cstorch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and the linear warm-up from 0 and the cosine to 0 of transformers' get_cosine_schedule_with_warmup."""
    rate, warmup = settings.learning_rate, settings.steps_to_peak
    optimizer = AdamW(list(parameters), lr=rate, eps=1e-8, weight_decay=settings.weight_decay)
    schedulers = cstorch.optim.lr_scheduler
    cosine = schedulers.CosineDecayLR(optimizer, rate, 0.0, settings.steps - warmup)
    if not warmup:
        return optimizer, cosine
    line = schedulers.LinearLR(optimizer, 0.0, rate, warmup)
    return optimizer, schedulers.SequentialLR(optimizer, [line, cosine], [warmup])


def declare_sparse(compiled: Callable, mask: Mask, paths: dict[str, str]) -> None:
    """Tell the backend which weights of the base are sparse: its masks are the file's, its hint their real sparsity.

    `paths`: name on disk -> module path. Adapters stay dense, and so does a layer without a zero. Applied to the model
    alone: the base is in no optimizer."""
    declared = {}
    for layer, path in paths.items():
        kept = torch.from_numpy(mask.kept(layer))
        pruned = 1 - kept.count_nonzero().item() / kept.numel()
        if pruned:
            declared[f"model.{path}.weight"] = cstorch.sparse.Static(pruned, init_method=_init_with(kept))
    if declared:
        compiled.apply(cstorch.sparse.Group(declared))


def _init_with(kept: Tensor) -> Callable:
    def from_file(
        p: nn.Parameter,
        sparsity: torch.FloatTensor,
        score_shaper: cstorch.sparse.utils.ScoreShaper | None = None,
        device: torch.device | None = None,
    ) -> torch.BoolTensor:
        return kept.to(p.device if device is None else device)

    return from_file


def frozen_bits(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter that is not trained."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}


def check_frozen(module: nn.Module, base: dict[str, Tensor], step: int) -> None:
    """Raises InputError where a step changed a bit of the frozen base, its zeros among them."""
    for name, before in base.items():
        now = module.get_parameter(name).detach()
        if not torch.equal(now.view(torch.uint8), before.view(torch.uint8)):
            raise InputError(f"step {step} changed the frozen {name}", "report this line: no adapter is written")


def answers(batch: dict[str, Tensor]) -> Tensor:
    """The number of answer tokens of a batch, fp32, scalar."""
    return (batch["labels"] != IGNORED).float().sum()


class _Stream(IterableDataset):
    """Batches that are made while they are read."""

    def __init__(self, batches: Callable[[], Iterator[list[Example]]], length: int, size: int) -> None:
        self.batches, self.length, self.size = batches, length, size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (fixed_batch(batch, self.length, self.size) for batch in self.batches())


def training_batches(examples: list[Example], settings: Training, seed: int, length: int, done: int) -> DataLoader:
    """The torch backend's batches after the first `done`, without end; on a streaming worker, its system's rows of each."""
    size, rank = _share(settings.batch_size)

    def own() -> Iterator[list[Example]]:
        for batch in islice(shuffled(examples, settings, seed), done, None):
            yield batch[rank * size : (rank + 1) * size]

    return DataLoader(_Stream(own, length, size), batch_size=None)


def evaluation_batches(examples: list[Example], size: int, length: int) -> DataLoader:
    """All examples once, in batches of `size`, the last one filled with padding alone."""
    own, rank = _share(size)
    starts = range(rank * own, -(-len(examples) // size) * size, size)  # every streamer has as many batches
    return DataLoader(_Stream(lambda: (examples[at : at + own] for at in starts), length, own), batch_size=None)


def _share(batch_size: int) -> tuple[int, int]:
    """(rows of a batch that this process streams, its rank); all of them where it is no streaming worker."""
    if not cstorch.distributed.is_streamer():
        return batch_size, 0
    return cstorch.distributed.get_streaming_batch_size(batch_size), cstorch.distributed.get_streaming_rank()


def graph_digest(graph: Path) -> str:
    """sha256 of a step as the front end lowered it, cirh.mlir, without the source lines that it came from."""
    return hashlib.sha256(_PLACES.sub("", graph.read_text()).encode()).hexdigest()


@contextmanager
def appliance_needed() -> Iterator[None]:
    try:
        yield
    except ClusterConfigError as error:
        raise InputError(
            f"this machine knows no Cerebras appliance ({error})",
            "run on the appliance's user node, or set cerebras.target to CPU",
        ) from None
