"""Fetch models with the hub's own client from a small hub on this machine, which answers as the real one does."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from project import ROOT, laid_over
from sparseft.common.errors import InputError
from sparseft.study.inputs import check_sources
from tiny_models import change_json

pytestmark = pytest.mark.long

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answer /api/models/ORG/NAME/revision/R, /api/models/ORG/NAME/tree/R and /ORG/NAME/resolve/R/FILE.

    ORG decides what goes wrong. Error codes: huggingface_hub 1, utils/_http.py, hf_raise_for_status."""

    folders: dict[str, Path]  # NAME -> its files
    requested: list[str]  # the paths of all requests

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].removeprefix("/api/models").removeprefix("/api/datasets")
        parts = path.strip("/").split("/")
        (owner, name, kind), files = [*parts, "", ""][:3], self.folders.get(parts[1], Path())
        self.requested.append(self.path)
        if kind == "auth-check" and name != "mistral":
            self.answer(200, b"")
        elif owner == "nobody":
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif kind == "revision" and parts[3] not in ("main", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif kind == "revision" or not kind:
            self.answer(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}).encode())
        elif kind == "tree":
            entries = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                       for file in files.iterdir()]  # fmt: skip
            self.answer(200, json.dumps(entries).encode())
        elif owner == "gated":  # its files are listed, and refused
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not (files / parts[4]).exists():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(200, (files / parts[4]).read_bytes(), {"ETag": f'"{parts[4]}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str] = {}) -> None:  # noqa: B006
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_models) -> Iterator[str]:
    """Yield the address of a hub with the tiny models, and two others.

    pickled    a LLaMA whose weights are a pickle
    gpt2       a LLaMA's files with another class in config.json"""
    folder = tmp_path_factory.mktemp("hub")
    pickled, gpt2 = folder / "pickled", folder / "gpt2"
    pickled.mkdir()
    shutil.copy(tiny_models["llama"] / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"a pickle")
    shutil.copytree(tiny_models["llama"], gpt2)
    change_json(gpt2 / "config.json", architectures=["GPT2LMHeadModel"])
    Hub.requested = []
    handler = type("Served", (Hub,), {"folders": {**tiny_models, "pickled": pickled, "gpt2": gpt2}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def prepare(folder: Path, endpoint: str, source: str, **environment: str) -> subprocess.CompletedProcess:
    """Run prepare_model.py into folder/models/m. The hub is reached with an empty cache."""
    own = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
    script = ROOT / "workflow/scripts/prepare_model.py"
    words = [sys.executable, script, "--source", source, "--output_dir", folder / "models/m"]
    environment = {**os.environ, **own, **environment}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_place_without_a_revision_is_fetched_at_the_one_that_the_study_fixes(tmp_path, hub):
    done = prepare(tmp_path, hub, "hub:somebody/llama", SPARSEFT_REVISIONS="a/b=x hub:somebody/llama=v9")
    assert (done.returncode, "error: hub:somebody/llama: RevisionNotFoundError" in done.stderr) == (2, True)
    done = prepare(tmp_path, hub, "hub:somebody/llama", SPARSEFT_REVISIONS=f"hub:somebody/llama={COMMIT}")
    assert (done.returncode, "warning" in done.stderr) == (0, False)


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
def test_a_model_of_the_hub_becomes_its_files_and_a_manifest(tmp_path, hub, tiny_models, revision):
    done = prepare(tmp_path, hub, f"hub:somebody/mistral{revision}")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "models/m/manifest.json").read_text())
    assert (manifest["source"], manifest["revision"]) == (f"hub:somebody/mistral{revision}", COMMIT)
    # A revision that is not fixed is said, with what fixes it.
    warning = f"warning: hub:somebody/mistral may change; .* set revisions to {{hub:somebody/mistral: {COMMIT}}}\n"
    assert bool(re.search(warning, done.stderr)) == (not revision)
    for file in tiny_models["mistral"].iterdir():
        assert (tmp_path / "models/m" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("source", "environment", "line"), [
    ("gated/mistral", {}, "hub:gated/mistral: GatedRepoError: .*hf auth login.*HF_TOKEN"),
    ("somebody/llama", {"HF_HUB_OFFLINE": "1"}, "hub:somebody/llama: LocalEntryNotFoundError: .*path:DIR"),
    ("somebody/pickled", {}, r".*/model\.safetensors: no such file.*\*\.safetensors"),
])  # fmt: skip
def test_a_model_that_cannot_be_fetched_is_one_line_that_says_how_to_get_it(tmp_path, hub, source, environment, line):
    done = prepare(tmp_path, hub, f"hub:{source}", **environment)
    assert done.returncode == 2, done.stderr
    # The client of the hub may say before it that no file matched.
    assert re.match(f"error: {line}", done.stderr.splitlines()[-1])
    assert done.stdout == ""
    assert list((tmp_path / "models").iterdir()) == []


def fetched_files(start: int) -> set[str]:
    """Return the names of the files that were fetched in all requests from number `start` on."""
    return {path.rpartition("/")[2] for path in Hub.requested[start:] if "/resolve/" in path}


UNKNOWN = r"architecture GPT2LMHeadModel is unknown; use one of LlamaForCausalLM, .*docs/extending\.md.*"


def test_a_model_that_is_not_supported_is_refused_before_its_weights_are_fetched(tmp_path, hub):
    before = len(Hub.requested)
    done = prepare(tmp_path, hub, "hub:somebody/gpt2")
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(f"error: hub:somebody/gpt2: {UNKNOWN}\n", done.stderr)
    assert fetched_files(before) == {"config.json"}


@pytest.fixture
def check(tmp_path, hub, monkeypatch):
    """Return a function that checks models of the hub, by name and place, as a plan of a study does."""

    def check_models(endpoint: str = hub, **places: str) -> None:
        constants = {"ENDPOINT": endpoint, "HF_HUB_OFFLINE": False}
        # The client makes it of the endpoint when it is imported.
        constants["HUGGINGFACE_CO_URL_TEMPLATE"] = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        models = {name: {"source": f"hub:{place}"} for name, place in places.items()}
        check_sources(laid_over({"models": models, "grid": {"models": list(places)}}))

    monkeypatch.chdir(tmp_path)
    return check_models


def test_a_plan_refuses_what_the_hub_s_config_json_already_says(check):
    before = len(Hub.requested)
    with pytest.raises(InputError, match=f"^models.m.*: {UNKNOWN}"):
        check(m="somebody/gpt2")
    assert fetched_files(before) == {"config.json"}
    check(m="somebody/qwen2")
    # Without a network, the class becomes known when the model is prepared.
    check("http://127.0.0.1:9", m="somebody/gpt2@main")


def test_all_that_the_hub_refuses_is_named_before_anything_is_fetched(check):
    before = len(Hub.requested)
    faults = "models.a: hub:gated/mistral is gated, models.c: hub:nobody/mistral is missing or private; "
    with pytest.raises(InputError, match=f"^{faults}"):
        check(a="gated/mistral", b="somebody/llama", c="nobody/mistral@v1")
    assert fetched_files(before) == set()
