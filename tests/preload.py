"""Import what the scripts of the project import, and call once each library that initialises itself on its first use.

The job server and the server of forks.py import this file before they fork. A merge of a tiny model then takes 0.1 seconds
instead of 3.
"""

import gc
import io
import os
from importlib import import_module

from library import VARIABLES

# lm-eval and its data library read these when they are imported.
os.environ |= VARIABLES

import numba
import pydantic
from matplotlib.figure import Figure
from sklearn.metrics import f1_score
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

for _name in (
    "snakemake.common.configfile",
    "sparseft.analysis.figures",
    "sparseft.analysis.pages",
    "sparseft.analysis.reproduce",
    "sparseft.backends.torch",
    "sparseft.checkpoints.modelzoo_checkpoint",
    "sparseft.evaluation.harness",
    "sparseft.evaluation.perplexity",
    "sparseft.lora.merge",
    "sparseft.masks.validation",
    "sparseft.pruning.mask_generator",
    "transformers.models.llama.modeling_llama",
):
    import_module(_name)

pydantic.create_model("Model", number=(int, 0)).model_json_schema()
numba.njit(lambda number: number)(0)
f1_score([0, 1], [0, 1])
get_checkpoint_conversion_mapping("llama")
_figure = Figure(layout="constrained")
_figure.subplots().imshow([[0, 1]])
_figure.savefig(io.BytesIO())
# A collection of garbage writes to every object, so the kernel would copy the memory that the forks share.
gc.freeze()
