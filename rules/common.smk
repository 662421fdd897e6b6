# The grid, the constraints and the settings that all rules share. The computations are in lib/sparseft/.
import os
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from sparseft.errors import InputError, message
from sparseft.language_model.gpus import smallest_gpu, visible_gpus
from sparseft.planning.inputs import check_inputs
from sparseft.planning.job_kind import JobKind
from sparseft.planning.requests import Requests
from sparseft.planning.sizes import architectures
from sparseft.storage import revisions
from sparseft.storage.known_hashes import KnownHashes
from sparseft import grid
from sparseft.study import targets, versions
from sparseft.study.config import Config
from sparseft.study.configfiles import with_normal_places
from sparseft.section import flags, parse_section
from sparseft.study.yaml_file import check_command, read_sections

# Whether another workflow imports this one.
IS_MODULE = not workflow.modifier.is_main_snakefile()
if workflow.modifier.path_modifier.prefix or workflow.modifier.path_modifier.modifies_prefixes:
    refuse("the module sparseft has a prefix; remove it, and set results: results/NAME in its configuration")
# Two modules would both make the models, data and masks that studies share. A module may be read several times.
if (first := vars(workflow).setdefault("sparseft_module", __name__)) != __name__:
    refuse(f"the modules {first} and {__name__} are both SparseFT; import one, and run each study by its own command")
GIVEN = workflow.overwrite_configfiles
# Those of the command line are laid over those of an importing workflow.
FILES = [Path(os.path.relpath(file)) for file in (*(workflow.configfiles[len(GIVEN) :] if IS_MODULE else []), *GIVEN)]

try:
    # Beside Snakemake's own records, so that a copied study takes them along.
    HASHES = KnownHashes(Path(".snakemake/known_hashes.json"))
    if workflow.is_main_process:
        check_command(sys.argv)
        for file in FILES:
            read_sections(file)
    STUDY = with_normal_places(parse_section(Config, config, "configuration"), Path.cwd())
    revisions.fix(STUDY.revisions)
    if workflow.is_main_process and not IS_LINTED:
        check_inputs(STUDY, HASHES)
    # Whether jobs wait in the queue of a cluster, whose profile sets --jobs. On one machine, they take turns on its
    # GPUs.
    QUEUED = workflow.resource_settings.nodes is not None
    HAS_GPUS = workflow.is_main_process and not QUEUED
    GPUS = len(visible_gpus()) if HAS_GPUS else 0
    CARD = smallest_gpu() if HAS_GPUS and STUDY.resources.gpus else None
except (InputError, OSError) as error:
    refuse(message(error))

PATHS = STUDY.paths


pathvars:
    logs=PATHS.logs,
    benchmarks=PATHS.benchmarks,


if workflow.is_main_process:
    if QUEUED:
        if STUDY.resources.jobs_per_gpu > 1:
            refuse("resources.jobs_per_gpu: the cluster gives each job GPUs of its own; set it to 1")
        # Without this, Snakemake would cut every job's threads to the cores of the login node.
        workflow.register_resource("_cores", None)
    elif "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", max(GPUS, STUDY.resources.gpus) * STUDY.resources.jobs_per_gpu)
REQUESTS = Requests(STUDY, CARD)


wildcard_constraints:
    **targets.wildcards(STUDY),


def cell_of(w):
    """Return the wildcards of a job by name. The folder of its masks says its task."""
    folder = w.get("task_folder", "")
    return SimpleNamespace(**{"task": folder.removeprefix("/"), **w})


def requested():
    """Return the MB, minutes and GPUs that the jobs of a rule request, by the kind in its params."""
    job_kind = lambda w, rulename: JobKind.of(workflow.get_rule(rulename).params.kind(w), vars(cell_of(w)))
    return {
        "mem_mb": lambda w, attempt, rulename: REQUESTS.of(job_kind(w, rulename), attempt)[0],
        "runtime": lambda w, attempt, rulename: REQUESTS.of(job_kind(w, rulename), attempt)[1],
        "gpu": lambda w, rulename: REQUESTS.gpus(job_kind(w, rulename)),
    }


architectures_of = cache(lambda model: architectures(STUDY, model))


def files(w, input, output):
    """Return the flags with the named files of a job. --*_dir gets their folder, and a manifest stands for its own."""
    named = {}
    for name, paths in (*input.items(), *output.items()):
        first = Path(paths if isinstance(paths, str) else next(iter(paths), ""))
        is_folder = first.name == "manifest.json" or (name.endswith("_dir") and first.suffix)
        named[name] = first.parent if is_folder else paths
    return flags(**named)


def running(name, kind="", sources=None, effort=None, **options):
    """Return the params of a job that runs a stage of the library.

    The job runs again if its settings, a version or the content of the user's own files changes. Snakemake does not
    compare params that are functions of the files, such as those that change no result."""
    stage = import_module(f"sparseft.stages.{name}")
    of = lambda function, w, options: flags(
        **getattr(stage, function, lambda *_, **__: {})(STUDY, cell_of(w), **options)
    )
    return {
        "script": f"{name}.py",
        # A function, because the linter takes a text with which an output begins for its path.
        "kind": lambda w: kind,
        "version": lambda w: versions.of_job(STUDY, stage.VERSION, vars(cell_of(w)), architectures_of),
        "settings": lambda w: of("settings", w, options),
        "effort": lambda w, input, threads: of("effort", w, effort(threads) if effort else options),
        # Exit code 1 of a stage that answers yes or no says that the work was done and the answer is no.
        "answer": "|| [ $? -eq 1 ]" if stage.run.__annotations__["return"] is int else "",
        **({"content": lambda w: HASHES.joint(sources(w))} if sources else {}),
    }
