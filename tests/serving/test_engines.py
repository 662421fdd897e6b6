"""Test the check of engines: what the reference computes, and when an engine agrees with it."""

import json
import math
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from project import program
from sparseft.common.errors import InputError
from sparseft.serving import engine_process, engines
from sparseft.serving.engines import Answer, Engine, _bound, _result, find_engines, measure
from sparseft.serving.settings import Export
from tiny_models import change_json
from transformers import AutoModelForCausalLM

# What an engine measured of two prompts.
ANSWER = {"tokens_per_second": 2.0, "first_token_seconds": 0.5, "clock": "CPU", "cpu_share": 0.9,
          "peak_memory_bytes": 10,
          "peak_memory_kind": "resident",
          "loads": [{"at_once": 1, "prompt_tokens_per_second": 3.0, "decode_tokens_per_second": None}]}  # fmt: skip
PROMPTS = [list(range(3, 15)), list(range(20, 32))]


@pytest.fixture(scope="module")
def model(tiny_models, tmp_path_factory):
    """Return stock transformers' model, in a folder whose own settings would sample and end early."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.float32)
    model.save_pretrained(folder)
    greedy = greedy_tokens(model, PROMPTS[0], 2)
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "eos_token_id": greedy[0]}
    change_json(folder / "generation_config.json", **settings)
    return folder, model


@torch.no_grad()
def greedy_tokens(model, prompt: list[int], number: int) -> list[int]:
    ids = list(prompt)
    for _ in range(number):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_the_reference_gives_stock_transformers_greedy_tokens_and_their_log_likelihoods(model):
    folder, stock = model
    engine = engine_process.transformers({"model": str(folder), "threads": 1})
    answer = engine_process.measure(engine, PROMPTS, 5, threads=1, load=[1, 2, 3])
    expected = [greedy_tokens(stock, prompt, 5) for prompt in PROMPTS]
    assert answer["tokens"] == engine.generate(PROMPTS, 5) == expected
    assert [load["at_once"] for load in answer["loads"]] == [1, 2, 3]
    ids = [*PROMPTS[1], 7, 8, 9]
    with torch.no_grad():
        logits = stock(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(logits[place, token]) for place, token in enumerate(ids[1:])]
    assert engine.score(ids) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("is_on_cpu", "clock", "seconds"), [(True, "CPU", 1), (False, "wall", 2)])
def test_the_time_in_which_an_engine_waits_counts_on_a_gpu_only(monkeypatch, is_on_cpu, clock, seconds):
    """A generation computes for 1 second, and waits for 1 second."""
    calls = []
    monkeypatch.setattr(time, "process_time", lambda: float(len(calls)))
    monkeypatch.setattr(time, "perf_counter", lambda: 2.0 * len(calls))

    def generate(prompts: list[list[int]], number: int) -> list[list[int]]:
        calls.append(number)
        return [[0] * number for _ in prompts]

    engine = engine_process.Engine(generate, lambda tokens: [], is_on_cpu)
    answer = engine_process.measure(engine, PROMPTS, 2, threads=1, load=[1])
    figures = [answer[name] for name in ("clock", "first_token_seconds", "tokens_per_second")]
    assert figures == [clock, seconds, 2 / seconds]


def test_the_speeds_are_those_of_so_many_prompts_at_once_with_prompt_and_decoding_apart(monkeypatch):
    """A prompt's token takes 1 second alone, and a quarter of it in a batch of 4. So does a generated one, in half."""
    now = [0.0]

    def generate(prompts: list[list[int]], number: int) -> list[list[int]]:
        now[0] += sum(map(len, prompts)) / len(prompts) ** 2 + (number - 1) * 2 / len(prompts)
        return [[0] * number for _ in prompts]

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    engine = engine_process.Engine(generate, lambda tokens: [], is_on_cpu=False)
    answer = engine_process.measure(engine, [[7] * 12] * 3, 5, threads=1, load=[1, 4])
    # 12 + 4 x 2 seconds for 5 tokens.
    assert (answer["tokens_per_second"], answer["first_token_seconds"]) == (5 / 20, 12)
    # Three prompts, one of them twice: 48 tokens in 3 seconds, then 16 in 2.
    assert [tuple(load.values()) for load in answer["loads"]] == [(1, 1.0, 0.5), (4, 16.0, 8.0)]


DISKS = ("ext2/ext3", "xfs", "btrfs", "overlayfs")


def test_an_engine_reads_the_model_from_the_disk_in_every_repeat(tmp_path, tiny_models, monkeypatch):
    """The engine reads the weights, and gives a fixed answer."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=False)
    if kind.stdout.strip() not in DISKS:
        pytest.skip(f"needs files on a disk, not on {kind.stdout.strip()}")
    folder, blocks = Path(shutil.copytree(tiny_models["llama"], tmp_path / "model")), []

    def answer(engine: str, python: str, request: dict, settings: Export, read: Callable) -> Answer:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        Path(request["model"], "model.safetensors").read_bytes()
        blocks.append(resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before)
        return Answer(tokens=[[1, 2]], log_likelihoods=[[-1.0] * 3], **ANSWER)

    monkeypatch.setattr(engines, "call_engine", answer)
    engine = Engine("transformers", "python", "1.0", Export(repeats=2, new_tokens=2), threads=1)
    list(measure([engine], {"dense": folder}, PROMPTS[:1]))
    assert len(blocks) == 2
    assert min(blocks) > 0


@pytest.mark.parametrize(("tokens", "last", "prompt", "same", "difference", "agrees"), [
    ([4, 5, 6], -4.0, -0.5, 1.0, 0.5, False),
    # What follows a token that differs is another text.
    ([4, 9, 6], -2.5, -0.75, 4 / 6, 0.25, True),
    # The prompts are another text too.
    ([4, 5, 6], -1.0, -9.0, 1.0, 0.0, False),
])  # fmt: skip
def test_an_engine_agrees_by_its_log_likelihoods_whatever_its_tokens_are(
    tokens, last, prompt, same, difference, agrees
):
    # After the prompts' second and third token, each token of the reference has -1.
    reference = Answer(tokens=[[1, 2, 3], [4, 5, 6]], log_likelihoods=[[prompt] * 2 + [-1.0] * 3] * 2, **ANSWER)
    scores = [[-0.25, -0.75, -1.0, -1.0, value] for value in (-1.0, last)]
    answer = Answer(tokens=[[1, 2, 3], tokens], log_likelihoods=scores, **ANSWER)
    labels = {"engine": "vllm", "version": "1.0", "model": "run", "weight_bytes": 100, "bound": 0.25}
    result = _result(answer, reference, **labels)
    assert (result.same_tokens, result.difference, result.agrees) == (same, difference, agrees)
    assert result.perplexity == pytest.approx(math.exp(0.5))


def fault_of(engine: str, model: Path, **settings: object) -> str:
    export = Export(engines=[engine], prompts=2, new_tokens=2, repeats=1, **settings)
    with pytest.raises(InputError) as caught:
        list(measure(find_engines(export, threads=1), {"run": model}, PROMPTS))
    return str(caught.value)


# What an engine answers to the request, as Python, and what the error says.
SOUND = {**ANSWER, "tokens": [[1, 2], [3, 4]], "log_likelihoods": [[-1.0] * 13] * 2}
WRONG = {
    "no answer": ("None", "answer.json: no such file"),
    "no JSON": ("b'tokens'", "answer.json: Invalid JSON"),
    "another length": ({**SOUND, "tokens": [[1], [3]]}, "answer.json: not 2 tokens for each of 2 prompts"),
    "NaN": (f"{json.dumps(SOUND)!r}.replace('-1.0', 'NaN').encode()", "answer.json: log_likelihoods.0.0: .*finite"),
    "a failure": ("sys.exit(3)", "exit code 3"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_answer_is_one_line_that_names_the_engine_and_what_it_printed_last(model, tmp_path, what):
    answer, words = WRONG[what]
    text = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
request = json.loads(Path(sys.argv[4]).read_text())
print("loading", flush=True)
os.write(1, b"the last words \\xff\\n")
if request:
    answer = {answer}
else:
    answer = {{"version": "1.0"}}
content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
if answer is not None:
    Path(sys.argv[5]).write_bytes(content)
"""
    # The reference too may have a Python of its own. Then nothing else runs here.
    engine = f"transformers:{program(tmp_path / 'python', text)}"
    fault = fault_of(engine, model[0])
    assert re.search(f"^export.engines: {engine}: {words}", fault), fault
    assert "printed last: the last words \ufffd; name the Python" in fault


@pytest.mark.process
def test_an_engine_that_hangs_is_ended_with_what_it_has_started(model, tmp_path):
    text = f"#!/bin/sh\necho waiting for a device\nsleep 600 &\necho $! > {tmp_path}/started\nwait\n"
    engine = f"vllm:{program(tmp_path / 'python', text)}"
    fault = fault_of(engine, model[0], limit_seconds=2)
    assert f"{engine}: not done after 2 seconds (export.limit_seconds); it printed last: waiting for a device;" in fault
    command = ["ps", "-o", "stat=", "-p", (tmp_path / "started").read_text().strip()]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    # Z: it has ended, and nobody has asked how.
    assert state.strip()[:1] in ("", "Z"), state


@pytest.mark.parametrize(
    ("engine", "gguf", "bound"), [("vllm", "q8_0", 0.05), ("llama_cpp", "q8_0", 0.1), ("llama_cpp", "f32", 0.05)]
)
def test_the_bound_is_that_of_the_coarser_format(tiny_models, engine, gguf, bound):
    settings = Export(gguf=gguf, converter="python convert.py")
    assert _bound(tiny_models["llama"], Engine(engine, "python", "1.0", settings, threads=1)) == bound


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_an_engine_is_not_that_of_the_program_that_started_it():
    held = bytearray(b"1") * 400_000_000
    code = f"import runpy; print(runpy.run_path({engine_process.__file__!r})['peak_memory']()['peak_memory_bytes'])"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(started.stdout) < len(held) / 2
