"""Sparse fine-tuning of large language models: masks, masked LoRA, the sparse merge and its proof."""

import os
import sys

__version__ = "0.3.0"

if not sys.stderr.isatty():  # before tqdm is imported by anyone: bars are for terminals, logs get sparse lines
    os.environ.setdefault("TQDM_DISABLE", "1")

# Most of these variables make torch round float32 matrices to TF32 or bfloat16 before it multiplies them. They are
# removed, not refused, because users do not set them themselves. torch and oneDNN read them only when they are loaded,
# so this comes before any import of torch. Programs that this one starts do not inherit them.
for _name in (
    # NVIDIA's containers set this one.
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    # PyTorch's tutorial for AWS Graviton sets this one.
    "DNNL_DEFAULT_FPMATH_MODE",
    # numba would not compile the loops, which do not run without that.
    "NUMBA_DISABLE_JIT",
    # accelerate allows TF32 if it is to compile the model, which is never the case here.
    "ACCELERATE_DYNAMO_BACKEND",
):
    os.environ.pop(_name, None)

# Batches have many lengths. With fixed segments, a GPU's free memory would be in pieces that are too small. torch reads
# this when it first takes memory of a GPU.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
