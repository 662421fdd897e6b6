"""Choose the device and limit its use, and describe what a measurement ran on: device, peak memory, versions."""

import ctypes
import os
import platform
import re
import resource
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

import sparseft
from sparseft.common.errors import InputError
from sparseft.common.limits import CUDA, status_bytes
from sparseft.models.language_model.gpus import Gpus, sharing_jobs

CPUINFO = Path("/proc/cpuinfo")


def start(threads: int, gpus: Gpus = Gpus()) -> None:
    """Set up this process to train or evaluate a model, and lock its GPUs."""
    gpus.take()
    limit_threads(threads)
    keep_freed_memory()
    use_repeatable_kernels()


def choose_device() -> torch.device:
    """Return the device on which this process runs models: the first CUDA device, or the CPU. Make its kernels
    repeatable.

    Every program gets the device here, so all of them compute with the same kernels, before the merge and after it.
    Raises InputError if CUDA_VISIBLE_DEVICES gives this process a GPU that torch cannot use."""
    use_repeatable_kernels()
    if torch.cuda.is_available():
        if sharing_jobs() > 1:
            # A job that needs more fails, and not the one beside it.
            torch.cuda.set_per_process_memory_fraction(gpu_share(0) / torch.cuda.mem_get_info()[1])
        return torch.device("cuda")
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # CUDA takes any other word, such as -1 or Slurm's NoDevFiles, as no GPU.
    if re.match(r"\s*(\d|GPU-|MIG-)", devices):
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise InputError(
            f"CUDA_VISIBLE_DEVICES is {devices}, but torch {torch.__version__} sees no GPU: it {built}",
            "install a torch for the driver that nvidia-smi names (docs/gpu.md), or set resources.gpus to 0 (by hand"
            " CUDA_VISIBLE_DEVICES=)",
        )
    return torch.device("cpu")


def gpu_share(gpu: int | torch.device) -> float:
    """Return the bytes of a GPU that the tensors of this job may take. Each job that shares it has a context too."""
    return torch.cuda.mem_get_info(gpu)[1] / sharing_jobs() - CUDA * (sharing_jobs() > 1)


def limit_threads(threads: int) -> None:
    """Use that many CPU threads. Parallel jobs share the cores, and sums depend on how they are split.

    Every program that multiplies matrices calls this. So it also lets float32 matrices be multiplied in float32: never
    in TF32 on a GPU, and never in bfloat16 on a CPU. The environment can ask for these too. sparseft/__init__.py
    removes what does, before torch is loaded. Products of 16-bit matrices are summed in float32. By default, torch lets
    cuBLAS add parts of a sum in 16 bits."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    with warnings.catch_warnings():
        # torch 2.9 warns that this switch has a successor. Older releases do not have the successor.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("highest")


def use_repeatable_kernels() -> None:
    """Make a model give the same bits every time. On a CPU with one thread this is so without it, and nothing changes.

    On a GPU, the backward of torch's attention would add in the order in which parts of it end. The setting also
    decides which attention torch takes there."""
    # cuBLAS reads this before its first product (its manual, section "Results Reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch.use_deterministic_algorithms does the same, and also imports torch's compiler, which takes seconds.
    torch.set_deterministic_debug_mode("error")
    # torch would fill all new memory, so that the use of a buffer before it is written shows.
    torch.utils.deterministic.fill_uninitialized_memory = False


def keep_freed_memory(below: int = 1 << 30) -> None:
    """Make glibc keep freed blocks of fewer than `below` bytes. Otherwise each step's tensors cost a page fault per 4
    KB.

    It saves 5 to 16 % of a step on a CPU, for 3 to 8 % more memory. A divided model gathers and frees every decoder
    layer. Kept, their memory would grow to almost the whole model, so its training gives back blocks of 1 MB or more.
    On other systems than Linux this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h.
        for option in (-1, -3):
            mallopt(option, below)


def device_name(device: torch.device) -> str:
    """Return a name for tables of measurements, such as "GPU: NVIDIA H100" or "CPU: AMD EPYC, 1 thread"."""
    if device.type == "cuda":
        shared = f", shared by {sharing_jobs()} jobs" if sharing_jobs() > 1 else ""
        return f"GPU: {torch.cuda.get_device_name(device)}{shared}"
    threads = torch.get_num_threads()
    model_name = re.search(r"^model name\s*: (.*)", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.exists() else None
    processor = model_name[1] if model_name else platform.processor() or platform.machine()
    return f"CPU: {processor}, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated on all GPUs by this process, or its largest resident set."""
    if device.type == "cuda":
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    unit = 1 if sys.platform == "darwin" else 1024
    # Linux's own number, because there ru_maxrss would include what the parent held when it started this process.
    return status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def instructions() -> list[str]:
    """Return which of the CPU's instructions torch and its libraries may use. They decide the last bits of results.

    That is what torch chose, and the variables of the environment by which users limit MKL and oneDNN."""
    limits = ("MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    return [torch.backends.cpu.get_cpu_capability(), *(f"{name}={os.environ.get(name)}" for name in limits)]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers, by name."""
    packages = {name: version(name) for name in ("torch", "transformers")}
    # From the library that runs: an installed package's version may be that of another checkout.
    return {"python": platform.python_version(), **packages, "sparseft": sparseft.__version__}
