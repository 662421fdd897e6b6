# The study of the configuration, and what every rule says of its stage. The computations are in lib/sparseft/.
import os
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent
sys.path.insert(0, str(ROOT / "lib"))

from sparseft.axes import grid
from sparseft.common.errors import InputError, message
from sparseft.common.section import flags, parse_section
from sparseft.models.language_model.gpus import smallest_gpu, visible_gpus
from sparseft.storage import revisions
from sparseft.storage.known_hashes import KnownHashes
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.inputs import check_inputs
from sparseft.study.planning.needs import Job
from sparseft.study.planning.requests import Requests
from sparseft.study.planning.sizes import architectures
from sparseft.study.versions import versions
from sparseft.study.yaml_file import check_command, read_sections


configfile: f"{ROOT}/config/config.yaml"


def refuse(error):
    """Print an error on one line and end Snakemake, before any job starts."""
    print("error:", *str(error).split(), file=sys.stderr)
    sys.exit(2)


# Whether another workflow imports this one.
IS_MODULE = not workflow.modifier.is_main_snakefile()
if workflow.modifier.path_modifier.prefix or workflow.modifier.path_modifier.modifies_prefixes:
    refuse("the module sparseft has a prefix; remove it, and set results: results/NAME in its configuration")
# On a cluster, whose profile sets --jobs, jobs wait in its queue. On one machine, they take turns on its GPUs.
QUEUED = workflow.resource_settings.nodes is not None
try:
    # Beside Snakemake's own records, so that a copied study takes them along.
    HASHES = KnownHashes(Path(".snakemake/known_hashes.json"))
    if workflow.is_main_process:
        check_command(sys.argv)
        for file in workflow.overwrite_configfiles:
            read_sections(Path(file))
    STUDY = parse_section(Config, config, "configuration")
    revisions.fix(STUDY.revisions)
    if workflow.is_main_process:
        check_inputs(STUDY, HASHES)
    HAS_GPUS = workflow.is_main_process and not QUEUED
    GPUS = len(visible_gpus()) if HAS_GPUS else 0
    REQUESTS = Requests(STUDY, smallest_gpu() if HAS_GPUS and STUDY.resources.gpus else None)
except (ValueError, LookupError, OSError) as error:
    refuse(message(error))
PATHS, SHARE = STUDY.paths, STUDY.resources.jobs_per_gpu

if workflow.is_main_process:
    if QUEUED:
        if SHARE > 1:
            refuse("resources.jobs_per_gpu: the cluster gives each job GPUs of its own; set it to 1")
        # Without this, Snakemake would cut every job's threads to the cores of the login node.
        workflow.register_resource("_cores", None)
    elif "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", max(GPUS, STUDY.resources.gpus) * SHARE)


wildcard_constraints:
    **targets.wildcards(STUDY),


# What starts a script: the interpreter of this command, or that of the environment that --sdm conda makes.
IS_DEPLOYED = bool(workflow.deployment_settings.deployment_method)
PYTHON = f"PYTHONPATH={os.path.relpath(ROOT / 'lib')} {'python' if IS_DEPLOYED else os.path.relpath(sys.executable)}"
SCRIPTS = os.path.relpath(ROOT / "workflow/scripts")
ENVIRONMENT = ROOT / "envs/sparseft.yaml"
# The stderr of a script is a log.
os.environ.update(SPARSEFT_LOG_TRACEBACKS="1")


def values_of(w):
    """Return the wildcards of a job by name. The folder of its masks says its task."""
    return {"task": w.get("task_folder", "").removeprefix("/"), **dict(w.items())}


architectures_of = cache(lambda model: architectures(STUDY, model) if model else [])


# What a rule says of its stage, a file of lib/sparseft/stages/. The settings and the version decide its result.
def settings_of(stage, **options):
    return lambda w: flags(**stage.settings(STUDY, SimpleNamespace(**values_of(w)), **options))


def version_of(stage, **options):
    return lambda w: versions(STUDY, stage.VERSION, values_of(w), architectures_of(w.get("model")), **options)


# A function of the input files, because Snakemake does not compare those.
def effort_of(stage, **options):
    return lambda w, input: flags(**stage.effort(STUDY, SimpleNamespace(**values_of(w)), **options))


def job_of(stage, w):
    return Job.of(stage.__name__.rpartition(".")[2], values_of(w))


def memory_of(stage):
    return lambda w, attempt: REQUESTS.of(job_of(stage, w), attempt)[0]


def minutes_of(stage):
    return lambda w, attempt: REQUESTS.of(job_of(stage, w), attempt)[1]


def gpus_of(stage):
    return lambda w: REQUESTS.gpus(job_of(stage, w))


def threads_of(stage):
    return lambda w: REQUESTS.threads(job_of(stage, w))
