# The grid, the constraints and the settings that all rules share. The computations are in lib/sparseft/.
import os
import sys
from functools import cache
from pathlib import Path

from sparseft.axes import grid
from sparseft.common.errors import InputError, message
from sparseft.study.jobs import Jobs, files, with_task
from sparseft.models.language_model.gpus import smallest_gpu, visible_gpus
from sparseft.study.planning.inputs import check_inputs
from sparseft.study.planning.requests import Requests
from sparseft.common.section import flags, parse_section
from sparseft.storage import revisions
from sparseft.storage.known_hashes import KnownHashes
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import with_normal_places
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
except (ValueError, LookupError, OSError) as error:
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
JOBS = Jobs(STUDY, HASHES, REQUESTS)
running = JOBS.running
job_of = lambda rulename, w: workflow.get_rule(rulename).params.job(w)
requested = JOBS.requested(job_of)


wildcard_constraints:
    **targets.wildcards(STUDY),
