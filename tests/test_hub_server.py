# SPDX-License-Identifier: Apache-2.0
"""The loopback Hub takes what the real client sends, and refuses what the Hub refuses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.hub_server import TOKEN, HubServer, card_errors


RAW = "application/octet-stream"


def run_client(hub: HubServer, code: str, *arguments: str, **environment: str) -> str:
    """Run code with the real client, in a process of its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **hub.environment(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def request(hub: HubServer, method: str, path: str, body: bytes = b"", kind: str = "application/json"):
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(hub.url + path, body, headers, method=method)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


ROUND_TRIP = """
import sys
from pathlib import Path
from huggingface_hub import HfApi, ModelCard, snapshot_download
folder, target = map(Path, sys.argv[1:])
api = HfApi()
assert api.create_repo("tester/model", exist_ok=True).repo_id == api.create_repo("model", exist_ok=True).repo_id
api.upload_folder(repo_id="tester/model", folder_path=folder, commit_message="first")
api.create_branch("tester/model", branch="step-1")
(folder / "weights.bin").write_bytes(b"changed" * 100)
first = api.model_info("tester/model").sha
api.upload_folder(repo_id="tester/model", folder_path=folder, delete_patterns="*", parent_commit=first)
api.create_tag("tester/model", tag="best", revision="step-1")
try:
    api.upload_file(
        path_or_fileobj=b"x", path_in_repo="late", repo_id="tester/model", parent_commit=first
    )
except Exception as error:
    print(type(error).__name__, error.response.status_code)
snapshot_download("tester/model", revision="best", local_dir=target)
print(ModelCard.load("tester/model").data.tags)
api.delete_branch("tester/model", branch="step-1")
api.delete_tag("tester/model", tag="best")
"""


def test_the_real_client_pushes_and_fetches(tmp_path):
    folder, target = tmp_path / "run", tmp_path / "fetched"
    (folder / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags:\n- a\n---\nText")
    (folder / "deep" / "state.json").write_text("{}")
    (folder / "weights.bin").write_bytes(b"\0weights" * 1000)
    first = (folder / "weights.bin").read_bytes()
    with HubServer() as hub:
        hub.fail("500", path="/preupload/")  # the client's own backoff takes care of these two
        hub.fail("cut", path="/lfs/")
        out = run_client(hub, ROUND_TRIP, folder, target, HF_HUB_CACHE=str(tmp_path / "cache"))
        assert out.splitlines() == ["HfHubHTTPError 412", "['a']"]
        repo = hub.repos["tester/model"]
        assert repo.files()["weights.bin"] == b"changed" * 100
        assert (list(repo.branches), repo.tags) == (["main"], {})
    assert (target / "weights.bin").read_bytes() == first
    assert (target / "deep" / "state.json").read_text() == "{}"


def test_files_with_the_wrong_content_are_refused():
    data = b"weights"
    oid = hashlib.sha256(data).hexdigest()
    with HubServer() as hub:
        request(hub, "POST", "/api/repos/create", b'{"name": "model"}')
        assert request(hub, "PUT", f"/lfs/{'0' * 64}?size=7", data, RAW)[0] == 400  # another hash
        assert request(hub, "PUT", f"/lfs/{oid}?size=8", data, RAW)[0] == 400  # another size
        pointer = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid, "size": 7}}
        header = {"key": "header", "value": {"summary": "s", "description": ""}}
        lines = "\n".join(map(json.dumps, [header, pointer])).encode()
        status, body = request(hub, "POST", "/api/models/tester/model/commit/main", lines, kind="application/x-ndjson")
        assert (status, "does not exist" in body["error"]) == (400, True)
        assert request(hub, "PUT", f"/lfs/{oid}?size=7", data, RAW)[0] == 200
        assert request(hub, "POST", "/api/models/tester/model/commit/main", lines, "application/x-ndjson")[0] == 200
        assert hub.repos["tester/model"].files()["w.bin"] == data


def test_requests_without_a_valid_token_are_refused():
    with HubServer() as hub:
        for headers in ({}, {"Authorization": "Bearer hf_other"}):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(
                    urllib.request.Request(hub.url + "/api/repos/create", b'{"name": "m"}', headers)
                )
        assert hub.repos == {}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("tags: [a, b]\nbase_model: Qwen/Qwen2.5-1.5B", None),
        ("base_model: /home/me/model", "base_model"),
        ("tags: a", "tags"),
        ("tags: [a", "while parsing"),
        ("- a", "dict"),
        ("model-index:\n- name: m\n  results:\n  - task: {type: t}\n    dataset: {type: d}", "'name'"),
    ],
)
def test_metadata_is_checked(metadata, message):
    errors = card_errors(f"---\n{metadata}\n---\n# Card")
    assert (not errors) if message is None else any(message in error for error in errors)


def test_faults_are_injected_on_request_and_at_random():
    with HubServer() as hub:
        hub.fail("429", times=1, path="whoami")
        hub.retry_after = 3
        with pytest.raises(urllib.error.HTTPError, match="429") as error:
            urllib.request.urlopen(
                urllib.request.Request(
                    hub.url + "/api/whoami-v2", None, {"Authorization": f"Bearer {TOKEN}"}, method="GET"
                )
            )
        assert error.value.headers["Retry-After"] == "3"
        assert request(hub, "GET", "/api/whoami-v2", None)[1]["name"] == "tester"
        hub.fail_at_random(0.5, seed=1)
        assert 400 < sum(hub.next_fault("/any") is not None for _ in range(1000)) < 600
        hub.recover()
        assert hub.next_fault("/any") is None
