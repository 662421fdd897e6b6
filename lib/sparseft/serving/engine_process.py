"""Run one engine on one model in a process of its own: greedy tokens, log-likelihoods, time and memory.

    PYTHON -I engine_process.py ENGINE REQUEST.json ANSWER.json

PYTHON is that of the engine's environment, which need not have this project. So this file imports nothing of it, and at
its top only the standard library. serving/engines.py writes the request and reads the answer.

    request   model (a folder, or a GGUF file), threads, prompts (lists of token ids of one length), new_tokens, load
              (the numbers of prompts at once), and the continuation of each prompt that is scored; null means the
              tokens that the engine itself generates. `scored` has other lists of token ids, if there are any
    answer    tokens and log_likelihoods per prompt (those of its tokens after the first, and of the continuation), the
              log-likelihood of each list in `scored`, and the fields of EngineUse in serving/engine_record.py

Two other requests: an empty one is answered by the version. One with `quantized` (the path of a GGUF file that is
written from `model`) and `format` asks llama.cpp's own quantiser; its answer is the version too.

On a CPU, seconds are CPU time of this process, in which every engine computes, divided by its threads. So a busy
machine adds nothing for the time in which the engine waits for the CPU. On a GPU, they are elapsed time. A generation
does not end at the end-of-sequence token, so that all engines do the same work."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Tokens = list[int]


class Engine(NamedTuple):
    """Hold what a loaded model does, and whether it does so on the CPU.

    generate: (prompts, number) -> the greedy tokens of each prompt, all prompts at once. score: tokens -> the
    log-likelihood of each one after the first"""

    generate: Callable[[list[Tokens], int], list[Tokens]]
    score: Callable[[Tokens], list[float]]
    is_on_cpu: bool


def longest(request: dict[str, Any]) -> int:
    """Return the tokens of the longest sequence that an engine reads for a request."""
    return max(max(map(len, request["prompts"])) + request["new_tokens"], *map(len, request["scored"]), 0)


def transformers(request: dict[str, Any]) -> Engine:
    """Load a model in stock transformers, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(request["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype="auto", local_files_only=True).to(device)
    # The model's own settings may sample, punish repetitions or end early.
    model.generation_config = GenerationConfig(pad_token_id=0)

    def generate(prompts: list[Tokens], number: int) -> list[Tokens]:
        ids = torch.tensor(prompts, device=device)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=number)
        return made[:, ids.shape[1] :].tolist()

    @torch.no_grad()
    def score(tokens: Tokens) -> list[float]:
        ids = torch.tensor([tokens], device=device)
        logits = model(ids).logits[0, :-1].float().log_softmax(-1)  # (tokens, V)
        return logits.gather(1, ids[0, 1:, None])[:, 0].tolist()

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
        max_model_len=longest(request) + 1,
        max_num_seqs=max(request["load"]),
        # The same prompt is computed twice.
        enable_prefix_caching=False,
        # On a CPU, the compilation takes longer than it saves here.
        enforce_eager=current_platform.is_cpu(),
    )

    def run(prompts: list[Tokens], **options: Any) -> list[Any]:
        parameters = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, **options)
        return model.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)

    def generate(prompts: list[Tokens], number: int) -> list[Tokens]:
        return [list(one.outputs[0].token_ids) for one in run(prompts, max_tokens=number)]

    def score(tokens: Tokens) -> list[float]:
        rows = run([tokens], max_tokens=1, prompt_logprobs=0)[0].prompt_logprobs[1:]
        return [row[token].logprob for row, token in zip(rows, tokens[1:], strict=True)]

    return Engine(generate, score, current_platform.is_cpu())


def errors_of(library: Any) -> list[str]:
    """Let llama.cpp print nothing, and return the list that gets its errors."""
    errors: list[str] = []

    def log(level: int, text: bytes, _: Any) -> None:
        # GGML_LOG_LEVEL_ERROR, which llama-cpp-python gives a wrong number.
        if level == 4:
            errors.append(text.decode(errors="replace").strip())

    # The library must keep the function that it calls.
    library.own_log = library.llama_log_callback(log)
    library.llama_log_set(library.own_log, None)
    return errors


def llama_cpp(request: dict[str, Any]) -> Engine:
    """Load a GGUF file in llama.cpp, on the GPU if it was built for one. End the program if it cannot be loaded."""
    import llama_cpp as library
    import numpy as np

    errors = errors_of(library)
    library.llama_backend_init()
    whole = library.llama_model_default_params()
    whole.n_gpu_layers = 2**31 - 1
    model = library.llama_model_load_from_file(request["model"].encode(), whole)
    if not model:
        sys.exit(f"llama-cpp-python {installed_version('llama_cpp')} cannot load the file ({errors[0]}): is it older?")
    vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    length = longest(request)

    @cache
    def context(sequences: int, cache_type: int | None = None) -> Any:
        """Return a context with a key-value cache for each of several sequences. All contexts share the model."""
        options = library.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.n_batch = length * sequences, sequences, max(length, sequences)
        options.n_threads = options.n_threads_batch = request["threads"]
        options.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if cache_type is not None:
            options.type_k = options.type_v = cache_type
        return library.llama_init_from_model(model, options)

    def decode(place: Any, rows: list[tuple[int, int, int]], outputs: int) -> Iterator[np.ndarray]:
        """Compute a batch of (token, position, sequence), and yield the logits of the last `outputs` tokens of it."""
        batch = library.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for index, (token, position, sequence) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = index >= len(rows) - outputs
        if library.llama_decode(place, batch):
            sys.exit("llama.cpp cannot compute a batch")
        library.llama_batch_free(batch)
        for index in range(len(rows) - outputs, len(rows)):
            logits = library.llama_get_logits_ith(place, index)
            yield np.ctypeslib.as_array(logits, (vocabulary,)).astype(np.float64)

    def generate(prompts: list[Tokens], number: int) -> list[Tokens]:
        place = context(len(prompts))
        library.llama_memory_clear(library.llama_get_memory(place), True)
        made: list[Tokens] = []
        for sequence, prompt in enumerate(prompts):
            (logits,) = decode(place, [(token, index, sequence) for index, token in enumerate(prompt)], 1)
            made.append([int(logits.argmax())])
        for index in range(len(prompts[0]), len(prompts[0]) + number - 1):
            rows = [(tokens[-1], index, sequence) for sequence, tokens in enumerate(made)]
            for tokens, logits in zip(made, list(decode(place, rows, len(rows))), strict=True):
                tokens.append(int(logits.argmax()))
        return made

    def score(tokens: Tokens) -> list[float]:
        # llama.cpp keeps keys and values in 16 bits. That rounds more than weights in 32 bits, and here the weights are
        # checked.
        exact = context(1, library.GGML_TYPE_F32)
        library.llama_memory_clear(library.llama_get_memory(exact), True)
        rows = decode(exact, [(token, index, 0) for index, token in enumerate(tokens)], len(tokens))
        return [float(row[token] - np.logaddexp.reduce(row)) for row, token in zip(rows, tokens[1:], strict=False)]

    return Engine(generate, score, not library.llama_supports_gpu_offload())


def quantize(request: dict[str, Any]) -> None:
    """Write a GGUF file in another format with llama.cpp's own quantiser. End the program if it cannot."""
    import llama_cpp as library

    errors = errors_of(library)
    options = library.llama_model_quantize_default_params()
    options.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{request['format'].upper()}")
    options.nthread = request["threads"]
    if library.llama_model_quantize(request["model"].encode(), request["quantized"].encode(), options):
        sys.exit(f"the quantiser cannot write {request['format']} ({errors[0]}): is it older than the converter?")


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


def measure(engine: Engine, prompts: list[Tokens], number: int, threads: int, load: list[int]) -> dict[str, Any]:
    """Return the greedy tokens of each prompt, and the speeds and the memory. `load`: see request, with 1 first."""

    def clock() -> float:
        return time.process_time() / threads if engine.is_on_cpu else time.perf_counter()

    answer: dict[str, Any] = {"loads": [], "clock": "CPU" if engine.is_on_cpu else "wall"}
    begin, cpu = time.perf_counter(), time.process_time()
    for at_once in load:
        made, first, whole = [], [], []
        # Prompts are repeated, so that no group is smaller.
        repeated = cycle(prompts)
        groups = [list(islice(repeated, at_once)) for _ in range(0, len(prompts), at_once)]
        count = at_once * len(groups)
        # The first call is the warm-up.
        engine.generate(groups[0], number)
        for group in groups:
            start = clock()
            engine.generate(group, 1)
            middle = clock()
            made += engine.generate(group, number)
            first.append(middle - start)
            whole.append(clock() - middle)
        # A very short generation can take less than the measurements of its first token differ.
        later = sum(whole) - sum(first)
        speeds = {
            "at_once": at_once,
            "prompt_tokens_per_second": count * len(prompts[0]) / sum(first),
            "decode_tokens_per_second": count * (number - 1) / later if later > 0 else None,
        }
        answer["loads"].append(speeds)
        if at_once == 1:
            answer |= {"tokens": made, "tokens_per_second": count * number / sum(whole)}
            answer |= {"first_token_seconds": median(first)} | peak_memory()
    share = (time.process_time() - cpu) / (time.perf_counter() - begin) / threads
    return answer | {"cpu_share": share}


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


def main(engine: str, request_file: str, answer_file: str) -> None:
    """Read the request, and write the answer."""
    request = json.loads(Path(request_file).read_text())
    if prompts := request.get("prompts"):
        loaded = ENGINES[engine][1](request)
        answer = measure(loaded, prompts, request["new_tokens"], request["threads"], request["load"])
        pairs = zip(prompts, request["continuations"] or answer["tokens"], strict=True)
        answer["log_likelihoods"] = [loaded.score(prompt + continuation) for prompt, continuation in pairs]
        answer["scored"] = [sum(loaded.score(tokens)) for tokens in request["scored"]]
    else:
        answer = {"version": installed_version(engine)}
        if request:
            quantize(request)
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
