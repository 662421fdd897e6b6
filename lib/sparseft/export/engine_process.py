"""Run one engine on one model in a process of its own: greedy tokens, log-likelihoods, time and memory.

    PYTHON -I engine_process.py ENGINE REQUEST.json ANSWER.json

PYTHON is that of the engine's environment, which need not have this project. So this file imports nothing of it, and at
its top only the standard library. export/engines.py writes the request and reads the answer. The answer to an empty
request is the version.

    request   model (a folder, or a GGUF file), threads, prompts (lists of token ids), new_tokens, and the continuation
              of each prompt that is scored; null means the tokens that the engine itself generates
    answer    tokens, log_likelihoods, first_seconds and seconds per prompt, clock, cpu_share, peak_memory_bytes,
              peak_memory_kind

On a CPU, seconds are CPU time of this process, in which every engine computes, divided by its threads. So a busy
machine adds nothing for the time in which the engine waits for the CPU. On a GPU, they are elapsed time. Prompts run
one after the other. A generation does not end at the end-of-sequence token, so that all engines do the same work."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

Tokens = list[int]


class Engine(NamedTuple):
    """Hold what a loaded model does, and whether it does so on the CPU.

    generate: (prompt, number) -> the greedy tokens. score: (prompt, continuation) -> the log-likelihood of each token
    of it"""

    generate: Callable[[Tokens, int], Tokens]
    score: Callable[[Tokens, Tokens], list[float]]
    is_on_cpu: bool


def transformers(request: dict[str, Any]) -> Engine:
    """Load a model in stock transformers, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(request["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype="auto", local_files_only=True).to(device)
    # The model's own settings may sample, punish repetitions or end early.
    model.generation_config = GenerationConfig(pad_token_id=0)

    def generate(prompt: Tokens, number: int) -> Tokens:
        ids = torch.tensor([prompt], device=device)
        mask = torch.ones_like(ids)
        made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=number)
        return made[0, len(prompt) :].tolist()

    @torch.no_grad()
    def score(prompt: Tokens, continuation: Tokens) -> list[float]:
        ids = torch.tensor([prompt + continuation], device=device)
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)  # (tokens, V)
        return logits.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()

    return Engine(generate, score, device == "cpu")


def vllm(request: dict[str, Any]) -> Engine:
    """Load a model in vLLM."""
    # In this process, whose memory and CPU time are measured.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # GB of its cache of keys and values, and the number of threads that OMP_NUM_THREADS says. Both hold on a CPU.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    model = LLM(
        request["model"],
        # By itself vLLM would round a model in float32.
        dtype=json.loads(Path(request["model"], "config.json").read_text())["dtype"],
        max_model_len=max(map(len, request["prompts"])) + request["new_tokens"] + 1,
        max_num_seqs=1,
        # The same prompt is computed twice.
        enable_prefix_caching=False,
        # On a CPU, the compilation takes longer than it saves here.
        enforce_eager=current_platform.is_cpu(),
    )

    def run(ids: Tokens, **options: Any) -> Any:
        parameters = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, **options)
        return model.generate({"prompt_token_ids": ids}, parameters, use_tqdm=False)[0]

    def generate(prompt: Tokens, number: int) -> Tokens:
        return list(run(prompt, max_tokens=number).outputs[0].token_ids)

    def score(prompt: Tokens, continuation: Tokens) -> list[float]:
        rows = run(prompt + continuation, max_tokens=1, prompt_logprobs=0).prompt_logprobs[len(prompt) :]
        return [row[token].logprob for row, token in zip(rows, continuation, strict=True)]

    return Engine(generate, score, current_platform.is_cpu())


def llama_cpp(request: dict[str, Any]) -> Engine:
    """Load a GGUF file in llama.cpp, on the GPU if it was built for one."""
    import numpy as np
    from llama_cpp import GGML_TYPE_F32, Llama, llama_supports_gpu_offload

    threads = {"n_threads": request["threads"], "n_threads_batch": request["threads"]}
    length = max(map(len, request["prompts"])) + request["new_tokens"]

    def load(**cache: int) -> Llama:
        return Llama(request["model"], n_ctx=length, n_gpu_layers=-1, verbose=False, **threads, **cache)

    model = load()

    def logits(model: Llama) -> np.ndarray:
        # llama-cpp-python itself keeps logits only if it computes those of every token of the prompt.
        return np.ctypeslib.as_array(model._ctx.get_logits_ith(-1), (model.n_vocab(),)).astype(np.float64)

    def generate(prompt: Tokens, number: int) -> Tokens:
        model.reset()
        made: Tokens = []
        while len(made) < number:
            model.eval(made[-1:] or prompt)
            made.append(int(logits(model).argmax()))
        return made

    def score(prompt: Tokens, continuation: Tokens) -> list[float]:
        # llama.cpp keeps keys and values in 16 bits. That rounds more than weights in 32 bits, and here the weights are
        # checked.
        exact = load(type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32)
        scores = []
        for ids, token in zip([prompt, *([one] for one in continuation)], continuation, strict=False):
            exact.eval(ids)
            row = logits(exact)
            scores.append(float(row[token] - np.logaddexp.reduce(row)))
        return scores

    return Engine(generate, score, not llama_supports_gpu_offload())


# The distributions that may hold an engine, and the function that loads a model in it.
ENGINES = {
    "transformers": (("transformers",), transformers),
    "vllm": (("vllm", "vllm-cpu"), vllm),
    "llama_cpp": (("llama-cpp-python",), llama_cpp),
}


def installed_version(engine: str) -> str:
    """Return the version of an engine. End the program with one line if this Python does not have it."""
    for name in ENGINES[engine][0]:
        with suppress(PackageNotFoundError):
            return version(name)
    sys.exit(f"no package {' or '.join(ENGINES[engine][0])}")


def measure(engine: Engine, prompts: list[Tokens], number: int, threads: int) -> dict[str, Any]:
    """Return the greedy tokens of each prompt, and the seconds of the first one and of all `number` of them."""

    def clock() -> float:
        return time.process_time() / threads if engine.is_on_cpu else time.perf_counter()

    # The first call is the warm-up.
    engine.generate(prompts[0], number)
    tokens, first, whole = [], [], []
    begin, cpu = time.perf_counter(), time.process_time()
    for prompt in prompts:
        start = clock()
        engine.generate(prompt, 1)
        middle = clock()
        tokens.append(engine.generate(prompt, number))
        first.append(middle - start)
        whole.append(clock() - middle)
    share = (time.process_time() - cpu) / (time.perf_counter() - begin) / threads
    kind = "CPU" if engine.is_on_cpu else "wall"
    return {"tokens": tokens, "first_seconds": first, "seconds": whole, "clock": kind, "cpu_share": share}


def peak_memory() -> dict[str, Any]:
    """Return the largest memory of this process so far: that of tensors on the GPU, or else what is resident."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(), "peak_memory_kind": "allocated on the GPU"}
    if sys.platform == "linux":
        # ru_maxrss would count the program that started this one.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        resident = 1024 * int(status["VmHWM"].removesuffix("kB"))
    else:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory_bytes": resident, "peak_memory_kind": "resident"}


def answer_to(request: dict[str, Any], engine: str) -> dict[str, Any]:
    """Return what an engine computes, how fast, and in how much memory."""
    loaded = ENGINES[engine][1](request)
    prompts = request["prompts"]
    answer = measure(loaded, prompts, request["new_tokens"], request["threads"]) | peak_memory()
    continuations = request["continuations"] or answer["tokens"]
    answer["log_likelihoods"] = [loaded.score(*pair) for pair in zip(prompts, continuations, strict=True)]
    return answer


def main(engine: str, request_file: str, answer_file: str) -> None:
    """Read the request, and write the answer. That to an empty request is the engine's version."""
    request = json.loads(Path(request_file).read_text())
    answer = answer_to(request, engine) if request else {"version": installed_version(engine)}
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
