# The grid, the constraints and the digests that all rules share. The computations are in lib/sparseft/.
import gc
import os
import sys
from functools import cache
from inspect import signature
from pathlib import Path
from shlex import join, quote

import sparseft
from snakemake.common import overwrite_function_params

# Python looks for garbage after every 700 new objects. A plan makes millions that stay, and this takes a fifth of its time.
gc.set_threshold(100_000)

ROOT = Path(workflow.basedir)
if not Path(sparseft.__file__).resolve().is_relative_to((ROOT / "lib").resolve()):
    # The rules set PYTHONPATH to ROOT/lib, so the plan and the jobs would use two different libraries.
    print(
        f"error: the plan would use {Path(sparseft.__file__).parent}, and the jobs {ROOT / 'lib/sparseft'};"
        f" run the snakemake of that project's own environment, or set PYTHONPATH={quote(str(ROOT / 'lib'))}",
        file=sys.stderr,
    )
    sys.exit(2)

from sparseft.study import earlier, grid, passes, targets
from sparseft.checkpoints.checkpoint import small_files
from sparseft.planning.sizes import check_sources
from sparseft.study.config import Config, parse_section, split_mdl
from sparseft.study.configfiles import check_command, complete_text, read_sections, with_normal_places
from sparseft.planning.devices import slow_bfloat16, unused_gpus, visible_gpus
from sparseft.study.digests import code_digest, used_values
from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.storage.files import sha256
from sparseft.planning.requests import JobKind, Requests
from sparseft.study.terminal import replaced_models


def refuse(error):
    """Print an InputError on one line and end Snakemake, before any job starts."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


try:
    if workflow.is_main_process:
        check_command(sys.argv)
        for file in workflow.overwrite_configfiles:
            read_sections(Path(file))
    STUDY = with_normal_places(parse_section(Config, config, "configuration"), Path.cwd())
    check_sources(STUDY)
    PASSES = passes.first_and_added(STUDY) if workflow.is_main_process else passes.recorded(STUDY)
    FIRST_PASS, ADDED = ([f"{percent:02d}" for percent in sparsities] for sparsities in PASSES)
except (InputError, OSError) as error:
    refuse(error)


# The environment that runs Snakemake also runs the scripts, even if it is not activated. Its path is not in params, because
# a moved folder would then run everything again. With --sdm conda, the rule's environment runs the scripts.
# `on_gpus N COMMAND` runs a command on N GPUs of its own. With N = 0 the command sees no GPU.
# The prefix repeats `set -euo pipefail`, because it replaces Snakemake's own.
BIN = "" if workflow.deployment_settings.deployment_method else f"{Path(sys.executable).parent}:"
shell.prefix(
    f"set -euo pipefail; export PATH={quote(BIN)}$PATH PYTHONPATH={quote(str(ROOT / 'lib'))} "
    f"SCRIPTS={quote(str(ROOT / 'workflow/scripts'))} "
    f"CEREBRAS_PYTHON={quote(str(ROOT / STUDY.cerebras.python))} SPARSEFT_LOG_TRACEBACKS=1; "
    'on_gpus() {{ if [ "$1" = 0 ]; then CUDA_VISIBLE_DEVICES= "${{@:2}}"; '
    'else python "$SCRIPTS/on_gpus.py" --gpus "$1" -- "${{@:2}}"; fi; }}; '
)


# A cluster's profile sets --jobs. Then the jobs wait in a queue, which counts the resources that they request. On one
# machine they take turns on its GPUs, unless --resources sets other numbers.
QUEUED = workflow.resource_settings.nodes is not None
if workflow.is_main_process:
    if QUEUED:
        # Without this, Snakemake would cut every job's threads to the cores of the login node.
        workflow.register_resource("_cores", None)
    if not QUEUED and not STUDY.resources.gpus and STUDY.backend == "torch" and slow_bfloat16():
        for name in STUDY.grid.models:
            if STUDY.models[name].dtype == "bfloat16":
                faster = f"--config 'models={{{name}: {{dtype: float32}}}}'"
                print(
                    f"note: this CPU multiplies bfloat16 eight times slower than float32; faster: {faster}",
                    file=sys.stderr,
                )
    for sentence in STUDY.unused_training():
        print(f"note: {sentence}", file=sys.stderr)
    GPUS = [] if QUEUED else visible_gpus()
    if GPUS and not STUDY.resources.gpus and STUDY.backend == "torch":
        print(f"note: {unused_gpus(len(GPUS))}", file=sys.stderr)
    for name, count in (("gpu", max(len(GPUS), STUDY.resources.gpus)), ("csx", 1)):
        if not QUEUED and name not in workflow.global_resources:
            workflow.register_resource(name, count)

REQUESTS = Requests(STUDY)
# For the backends that train on a Cerebras appliance.
ON_WAFER = STUDY.cerebras.target == "CSX"
DECIDING = STUDY.cerebras.model_dump(include=STUDY.cerebras.DECIDING)
ASKED = STUDY.cerebras.model_dump(exclude={*DECIDING, *STUDY.cerebras.RULES_ONLY, "job_labels"})
ONE_GPU = min(1, STUDY.resources.gpus)  # for a job of one process


onstart:
    try:
        if QUEUED:
            passes.record(PASSES[0])
        planned = [path for job in workflow.dag.needrun_jobs() for path in job.output if os.path.exists(path)]
        earlier.announce(planned)
        replaced = replaced_models(planned)
        if replaced and not earlier.made_again([Path(path) for path in planned]):
            print(f"note: {replaced}", file=sys.stderr)
        earlier.adopt_models(STUDY)
    except InputError as error:
        refuse(error)
    # A full disk on the appliance's machine leaves this file, which stops further jobs until the next start.
    Path(grid.STOP).unlink(missing_ok=True)


wildcard_constraints:
    **grid.WILDCARDS,


def per_job(function):
    """Keep the parameters of a function that Snakemake calls for every job. It would look them up in each of these calls."""
    overwrite_function_params(function, signature(function).parameters)
    return function


@cache
def digest(name, without, values):
    """Return the digest of a script and of what it imports."""
    return code_digest(ROOT / "workflow/scripts" / name, ROOT / "lib", without, values)


def code(name, without=()):
    """Return a function that gives the digest of the code of a job, so that an edit reruns it and a touch does not.

    A job with wildcards counts only the task and the importance that they name."""

    @per_job
    def of_job(wildcards):
        names = {axis: wildcards.get(axis) for axis in ("task", "method")}
        return digest(name, without, used_values(**names) if wildcards.keys() else None)

    return of_job


@per_job
def mask_of(w):
    """Return the path of the mask of a run."""
    return grid.mask_path(w.method)


def manifest_if(check, *request):
    """Validate the request with `check`, then return the manifest path.

    This runs before the job starts, because a job that starts first deletes its outputs."""
    try:
        check(*request)
    except InputError as error:
        refuse(error)
    return grid.MANIFEST


def flags(**values):
    """Return `--name value` for every value that is set, as text for `shell:`. A list gives all of its values."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    given = {name: value for name, value in lists.items() if value not in ([], [None])}
    return join(part for name, value in given.items() for part in (f"--{name}", *map(str, value)))


@cache
def training_flags(task):
    """Return the flags of a task's schedule. They are cached, because every run of the task needs them."""
    return flags(**STUDY.training_of(task).model_dump())


def mask_report(folder, name):
    """Return the path of the report of one pass. `name` is the method; for a sparsity's own pass it ends in ADDED_SUFFIX."""
    return f"{folder}/{grid.MASK_REPORT.format(name=name)}"


def mask_plots(folder, name):
    """Return the paths of the plots of one pass."""
    return [f"{folder}/{grid.MASK_PLOT.format(plot=plot, name=name)}" for plot in grid.MASK_PLOTS]


def pass_suffix(w):
    """Return the flag with the suffix of the names of report and plots; empty for the first pass."""
    return flags(suffix=grid.ADDED_SUFFIX.format(**w) if "sparsity" in w.keys() else None)


def pass_sparsities(w):
    """Return the sparsities of a pass as fractions, as text for `shell:`."""
    if "sparsity" in w.keys():
        percents = [w.sparsity]
    elif "method" in w.keys():
        percents = FIRST_PASS
    else:
        percents = ["00"]
    return " ".join(f"0.{percent}" for percent in percents)


def memory(kind, cell=lambda w: w):
    """Return a function that gives the MB that a job of this kind requests. `cell` returns an object with its model and task."""
    return per_job(lambda w, attempt: REQUESTS.memory_mb(JobKind.of(kind, cell(w)), attempt))


def minutes(kind, cell=lambda w: w):
    """Return a function that gives the time limit of a job of this kind, in minutes."""
    return per_job(lambda w, attempt: REQUESTS.minutes(JobKind.of(kind, cell(w)), attempt))


def launch(processes):
    """Return the arguments with which python starts a training of one or several processes."""
    return [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def local_model(source):
    """List the files of a path: or mdl: source that decide a result, so that a changed one is prepared again."""
    kind, _, place = source.partition(":")
    if kind not in ("path", "mdl"):
        return []
    if kind == "mdl":
        file, folder = split_mdl(place)
        weights = [file]
    else:
        folder = Path(place)
        weights = folder.glob("*.safetensors")
    # config.json is listed even if it is missing, so that Snakemake reports it.
    return sorted(map(str, {*weights, *small_files(folder), folder / "config.json"}))


def local_data(folder):
    """Return the files of a local task."""
    return [f"{folder}/{split}.jsonl" for split in ("train", "validation")] if folder else []


def merged_records(mode, method):
    """List the merged model's records if its evaluation may be equal to the one before the merge; else return nothing."""
    if mode != "sparse_to_sparse" or get_method(method).pattern.removes_channels or STUDY.resources.gpus:
        return []
    return [f"{grid.RUN}/merge.json", f"{grid.RUN}/evaluation.json"]
