# The grid, the constraints and the digests that all rules share; whatever computes is in lib/sparseft/.
import os
import sys
from functools import cache
from pathlib import Path
from shlex import join, quote

import sparseft

ROOT = Path(workflow.basedir)
if not Path(sparseft.__file__).resolve().is_relative_to((ROOT / "lib").resolve()):
    # The rules set PYTHONPATH to ROOT/lib: the plan and the jobs would be of two libraries.
    print(
        f"error: the plan would use {Path(sparseft.__file__).parent}, and the jobs {ROOT / 'lib/sparseft'};"
        f" run the snakemake of that project's own environment, or set PYTHONPATH={quote(str(ROOT / 'lib'))}",
        file=sys.stderr,
    )
    sys.exit(2)

from sparseft import earlier, grid, passes, targets
from sparseft.checkpoints.checkpoint import small_files
from sparseft.checkpoints.sizes import check_sources
from sparseft.config import Config, parse_section, split_mdl
from sparseft.configfiles import check_command, complete_text, read_sections, with_normal_places
from sparseft.devices import slow_bfloat16, unused_gpus, visible_gpus
from sparseft.digests import code_digest
from sparseft.errors import InputError
from sparseft.files import sha256
from sparseft.requests import Requests
from sparseft.terminal import replaced_models


def refuse(error):
    """Print the one line of an InputError and end Snakemake, before any job starts."""
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


# The environment that runs Snakemake runs the scripts, activated or not, wherever the project lies; not in params,
# or a moved folder would run everything again.
# on_gpus N COMMAND: on N GPUs of its own; with none, the command sees none.
# A prefix replaces Snakemake's own `set -euo pipefail`. With --sdm conda the rule's environment runs the scripts.
BIN = "" if workflow.deployment_settings.deployment_method else f"{Path(sys.executable).parent}:"
shell.prefix(
    f"set -euo pipefail; export PATH={quote(BIN)}$PATH PYTHONPATH={quote(str(ROOT / 'lib'))} "
    f"SCRIPTS={quote(str(ROOT / 'workflow/scripts'))} "
    f"CEREBRAS_PYTHON={quote(str(ROOT / STUDY.cerebras.python))} SPARSEFT_LOG_TRACEBACKS=1; "
    'on_gpus() {{ if [ "$1" = 0 ]; then CUDA_VISIBLE_DEVICES= "${{@:2}}"; '
    'else python "$SCRIPTS/on_gpus.py" --gpus "$1" -- "${{@:2}}"; fi; }}; '
)


# --jobs, of a cluster's profile: the jobs wait in a queue, which counts what they ask for. On one machine they take turns
# on what is there, unless --resources says otherwise.
QUEUED = workflow.resource_settings.nodes is not None
if workflow.is_main_process:
    if QUEUED:
        workflow.register_resource("_cores", None)  # the login node's, to which it would cut every job's threads
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
    for name, there in (("gpu", max(len(GPUS), STUDY.resources.gpus)), ("csx", 1)):
        if not QUEUED and name not in workflow.global_resources:
            workflow.register_resource(name, there)

REQUESTS = Requests(STUDY)
# Of the backends that train on an appliance.
ON_WAFER = STUDY.cerebras.target == "CSX"
DECIDING = STUDY.cerebras.model_dump(include=STUDY.cerebras.DECIDING)
ASKED = STUDY.cerebras.model_dump(exclude={*DECIDING, *STUDY.cerebras.RULES_ONLY, "job_labels"})
ONE_GPU = min(1, STUDY.resources.gpus)  # of a job of one process


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
    Path(grid.STOP).unlink(missing_ok=True)  # of a full disk on the wafer's machine: it holds for one start


wildcard_constraints:
    **grid.WILDCARDS,


def code(name, without=()):
    """The digest of a script and of what it imports: an edit reruns its rule, a touch does not."""
    return code_digest(ROOT / "workflow/scripts" / name, ROOT / "lib", without)


def manifest_if(check, *asked):
    """MANIFEST, if `check` has nothing against what is asked: before a job starts, which would first delete its outputs."""
    try:
        check(*asked)
    except InputError as error:
        refuse(error)
    return grid.MANIFEST


def flags(**values):
    """--name value for every value that is set, as text for `shell:`; a list gives all its values."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    given = {name: value for name, value in lists.items() if value not in ([], [None])}
    return join(part for name, value in given.items() for part in (f"--{name}", *map(str, value)))


@cache
def training_flags(task):
    """Those of a task's schedule; asked for by every run of it."""
    return flags(**STUDY.training_of(task).model_dump())


def mask_report(folder, name):
    """Return the path of the report of one pass. Its name is the method's; that of a sparsity's own pass ends in ADDED_SUFFIX."""
    return f"{folder}/{grid.MASK_REPORT.format(name=name)}"


def mask_plots(folder, name):
    return [f"{folder}/{grid.MASK_PLOT.format(plot=plot, name=name)}" for plot in grid.MASK_PLOTS]


def pass_suffix(w):
    """Return the flag for the end of the names of report and plots; empty for the first pass."""
    return flags(suffix=grid.ADDED_SUFFIX.format(**w) if "sparsity" in w.keys() else None)


def pass_sparsities(w):
    """The fractions that a pass is asked for, as text for `shell:`."""
    asked = [w.sparsity] if "sparsity" in w.keys() else FIRST_PASS if "method" in w.keys() else ["00"]
    return " ".join(f"0.{percent}" for percent in asked)


def memory(kind, cell=lambda w: w):
    """MB that a job of this kind asks for, see sparseft.requests; `cell` has its model and task."""
    return lambda w, attempt: REQUESTS.memory_mb(kind, cell(w).model, getattr(cell(w), "task", ""), attempt)


def minutes(kind, cell=lambda w: w):
    """Its time limit."""
    return lambda w, attempt: REQUESTS.minutes(kind, cell(w).model, getattr(cell(w), "task", ""), attempt)


def launch(processes):
    """How python starts a training: by itself, or several that share it."""
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
    # config.json is named even where it is missing, so that Snakemake says so
    return sorted(map(str, {*weights, *small_files(folder), folder / "config.json"}))


def local_data(folder):
    """The files of a local task."""
    return [f"{folder}/{split}.jsonl" for split in ("train", "validation")] if folder else []
