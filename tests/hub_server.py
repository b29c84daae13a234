# SPDX-License-Identifier: Apache-2.0
"""
A Hub on the loopback interface: the part of the Hub's HTTP API that `huggingface_hub` uses to push and fetch models.

The real client talks to it through `HF_ENDPOINT`. It keeps git-like commits, branches and tags in memory, takes large
files through Git LFS (set `HF_HUB_DISABLE_XET=1`: Xet's storage protocol is not spoken here), and rejects what the Hub
rejects: bytes that do not match their SHA-256 or size, commits that name a file never uploaded, a card whose metadata
is invalid, a parent commit that is no longer the head, requests without a valid token.

Faults come to order, once or at random:

>>> with HubServer() as hub:
...     hub.fail("500", times=2, path="/commit/")  # the next two commits
...     hub.fail_at_random(0.5, seed=0)  # half of all requests, from now on
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import ModelCard


TOKEN = "hf_loopback"
USER = "tester"
FAULTS = ("500", "429", "cut", "lost", "slow", "auth")  # cut: before it is done; lost: done, but nobody hears of it
LARGE = (".bin", ".pt", ".pth", ".safetensors", ".png", ".parquet")  # of the .gitattributes in a new repository
REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
CODES = {"RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404}


class Refusal(Exception):
    """An answer other than 200: a status, or an error code of the Hub's."""

    def __init__(self, reason: int | str, message: str, **body: Any):
        self.status = CODES[reason] if isinstance(reason, str) else reason
        self.code = reason if isinstance(reason, str) else None
        self.body = {"error": message, **body}


@dataclass(frozen=True)
class File:
    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """The name under which the client compares a file with its own: of git, or of LFS."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return entry | ({"lfs": {"oid": self.oid, "size": entry["size"], "pointerSize": 130}} if self.large else {})


@dataclass
class Repo:
    commits: dict[str, dict[str, File]] = field(default_factory=dict)  # SHA -> path -> file
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def resolve(self, revision: str) -> str:
        for refs in (self.branches, self.tags):
            if revision in refs:
                return refs[revision]
        if revision in self.commits:
            return revision
        raise Refusal("RevisionNotFound", f"Invalid rev id: {revision}")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The content of every file of a revision."""
        return {path: file.content for path, file in self.commits[self.resolve(revision)].items()}

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        listing = json.dumps([len(self.commits), message, sorted((path, file.oid) for path, file in files.items())])
        sha = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.branches[branch] = files, message, sha
        return sha


class HubServer:
    """
    The server, in a thread of this process.

    Attributes:
        url (`str`): What `HF_ENDPOINT` must be.
        repos (`dict[str, Repo]`): What has been pushed.
        requests (`list[str]`): Method and path of every request, the failed ones included.
    """

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # SHA-256 -> content
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._ordered: list[list] = []  # [kind, times left, part of the path]
        self._random: tuple[float, random.Random, tuple[str, ...]] | None = None
        self.slowness = 1.0  # seconds
        self.retry_after = 0  # seconds, told with a 429
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Variables of a client's process."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def fail(self, kind: str, times: int = 1, path: str = "") -> None:
        """Fail the next requests whose path contains `path`."""
        assert kind in FAULTS, f"{kind} is none of {FAULTS}"
        self._ordered.append([kind, times, path])

    def fail_at_random(self, share: float, seed: int = 0, kinds: tuple[str, ...] = ("500", "429", "cut")) -> None:
        """Fail a share of all requests."""
        self._random = (share, random.Random(seed), kinds)

    def recover(self) -> None:
        """Be a good server from now on."""
        self._ordered, self._random = [], None

    def next_fault(self, path: str) -> str | None:
        with self.lock:
            for order in self._ordered:
                if order[1] and order[2] in path:
                    order[1] -= 1
                    return order[0]
            if self._random is not None:
                share, generator, kinds = self._random
                if generator.random() < share:
                    return generator.choice(kinds)
        return None

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise Refusal("RepoNotFound", "Repository not found")
        return self.repos[name]


# What the Hub says of a card's metadata


def card_errors(content: str) -> list[str]:
    """Return what is wrong with the metadata of a model card."""
    block = re.match(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", content, flags=re.DOTALL)
    if block is None:
        return []
    try:
        ModelCard(content)  # checks the YAML and the results of the model-index
    except (ValueError, yaml.YAMLError) as error:
        return [str(error)]
    data = yaml.safe_load(block[1])
    errors = []
    for key, kind in (("base_model", "models"), ("datasets", "datasets")):
        values = data.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not REPO_ID.fullmatch(value):
                errors.append(f'"{key}" with value "{value}" is not valid. Use an id from https://hf.co/{kind}.')
    tags = data.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        errors.append('"tags" must be an array of strings')
    names = ("library_name", "pipeline_tag", "license")
    return errors + [f'"{key}" must be a string' for key in names if not isinstance(data.get(key, ""), str)]


def eval_result_errors(content: str) -> list[str]:
    """Return what is wrong with a file in `.eval_results`."""
    try:
        complete = all(
            {"id", "task_id"} <= set(entry["dataset"]) and "value" in entry for entry in yaml.safe_load(content)
        )
    except (KeyError, TypeError):
        complete = False
    return [] if complete else ["expected a list of results with dataset.id, dataset.task_id and value"]


# The API


def create_repo(hub, body, **_):
    name = f"{body.get('organization') or USER}/{body['name']}"
    if not REPO_ID.fullmatch(name):
        raise Refusal(400, f"Invalid repository name {name}")
    url = f"{hub.url}/{name}"
    if name in hub.repos:
        raise Refusal(409, "You already created this model repo", url=url)
    hub.repos[name] = repo = Repo(private=body.get("visibility") == "private" or body.get("private", False))
    attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE)
    repo.commit("main", {".gitattributes": File(attributes.encode(), False)}, "initial commit")
    return {"url": url, "name": name}


def validate_card(hub, body, **_):
    errors = card_errors(body["content"])
    if errors:
        raise Refusal(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
    return {"errors": [], "warnings": []}


def who_am_i(hub, **_):
    return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}


def repo_info(hub, repo, revision="main", **_):
    known = hub.repo(repo)
    sha = known.resolve(revision)
    files = known.commits[sha]
    card = files.get("README.md")
    data = ModelCard(card.content.decode()).data.to_dict() if card else {}
    return {
        "id": repo,
        "modelId": repo,
        "sha": sha,
        "tags": data.get("tags", []),
        "cardData": data,
        "private": known.private,
        "siblings": [{"rfilename": path, "size": len(file.content)} for path, file in sorted(files.items())],
    }


def create_branch(hub, repo, branch, body, **_):
    known = hub.repo(repo)
    if branch in known.branches:
        raise Refusal(409, "Reference already exists")
    known.branches[branch] = known.resolve((body or {}).get("startingPoint", "main"))
    return {}


def delete_branch(hub, repo, branch, **_):
    known = hub.repo(repo)
    if branch not in known.branches:
        raise Refusal("RevisionNotFound", f"Invalid rev id: {branch}")
    if branch == "main":
        raise Refusal(403, "The main branch cannot be deleted")
    del known.branches[branch]
    return {}


def create_tag(hub, repo, revision, body, **_):
    known = hub.repo(repo)
    if body["tag"] in known.tags:
        raise Refusal(409, "Tag reference exists already")
    known.tags[body["tag"]] = known.resolve(revision)
    return {}


def delete_tag(hub, repo, revision, **_):
    if hub.repo(repo).tags.pop(revision, None) is None:
        raise Refusal("RevisionNotFound", f"Invalid rev id: {revision}")
    return {}


def preupload(hub, repo, revision, body, **_):
    known = hub.repo(repo)
    files = known.commits[known.resolve(revision)]

    def answer(file):
        old = files.get(file["path"])
        sample = base64.b64decode(file["sample"])
        large = file["path"].endswith(LARGE) or b"\0" in sample or file["size"] > 10 * 2**20
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": old.oid if old else None}

    return {"files": [answer(file) for file in body["files"]]}


def lfs_batch(hub, repo, body, **_):
    hub.repo(repo)

    def answer(item):
        if item["oid"] in hub.objects:
            return item
        upload = {"href": f"{hub.url}/lfs/{item['oid']}?size={item['size']}"}
        return item | {"actions": {"upload": upload, "verify": {"href": f"{hub.url}/{repo}.git/info/lfs/verify"}}}

    return {"transfer": "basic", "objects": [answer(item) for item in body["objects"]]}


def lfs_upload(hub, oid, content, query, **_):
    if len(content) != int(query["size"][0]) or hashlib.sha256(content).hexdigest() != oid:
        raise Refusal(400, "The bytes do not match their SHA-256 or size")
    hub.objects[oid] = content
    return {}


def lfs_verify(hub, repo, body, **_):
    if len(hub.objects.get(body["oid"], b"")) != body["size"]:
        raise Refusal(404, "Object not found, or of another size")
    return {}


def commit(hub, repo, revision, body, **_):
    known = hub.repo(repo)
    if revision not in known.branches:
        raise Refusal("RevisionNotFound", f"Invalid rev id: {revision}")
    head = known.branches[revision]
    files = dict(known.commits[head])
    message = ""
    for line in body:
        key, value = line["key"], line["value"]
        path = value.get("path", "")
        if key == "header":
            message = value["summary"]
            if not head.startswith(value.get("parentCommit", "")):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[path] = File(base64.b64decode(value["content"]), False)
            if path.endswith(LARGE):
                raise Refusal(400, f"Your push was rejected: {path} must be uploaded with LFS")
        elif key == "lfsFile":
            content = hub.objects.get(value["oid"])
            if content is None or len(content) != value.get("size", len(content)):
                raise Refusal(400, f"LFS pointer of {path} points to a file that does not exist, or has another size")
            files[path] = File(content, True)
        elif path not in files and not any(name.startswith(path.rstrip("/") + "/") for name in files):
            raise Refusal("EntryNotFound", "A file with this name doesn't exist")
        else:
            files = {name: file for name, file in files.items() if not f"{name}/".startswith(path.rstrip("/") + "/")}
        if path == "README.md" and key == "file" and (errors := card_errors(files[path].content.decode())):
            raise Refusal(400, f"Your push was rejected: {errors}")
        if path.startswith(".eval_results/") and key == "file":
            if errors := eval_result_errors(files[path].content.decode()):
                raise Refusal(400, f"Your push was rejected: {errors}")
    sha = known.commit(revision, files, message)
    return {"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{repo}/commit/{sha}"}


def tree(hub, repo, revision, query, folder="", **_):
    known = hub.repo(repo)
    inside = folder and folder + "/"
    entries = {}
    for path, file in sorted(known.commits[known.resolve(revision)].items()):
        rest = path.removeprefix(inside)
        if path.startswith(inside) and ("/" not in rest or query.get("recursive") in (["true"], ["True"])):
            entries[path] = file.entry(path)
        if path.startswith(inside) and "/" in rest:
            name = inside + rest.split("/")[0]
            entries.setdefault(name, {"type": "directory", "path": name, "size": 0, "oid": "0" * 40})
    return list(entries.values())


def resolve(hub, repo, revision, path, **_):
    known = hub.repo(repo)
    sha = known.resolve(revision)
    if path not in known.commits[sha]:
        raise Refusal("EntryNotFound", "Entry not found", commit=sha)
    return sha, known.commits[sha][path]


REPO, MODEL = r"/(?P<repo>[\w.-]+/[\w.-]+)", r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", r"/api/repos/create", create_repo),
    ("POST", r"/api/validate-yaml", validate_card),
    ("GET", r"/api/whoami-v2", who_am_i),
    ("GET", MODEL, repo_info),
    ("GET", MODEL + r"/revision/(?P<revision>[^/]+)", repo_info),
    ("POST", MODEL + r"/branch/(?P<branch>[^/]+)", create_branch),
    ("DELETE", MODEL + r"/branch/(?P<branch>[^/]+)", delete_branch),
    ("POST", MODEL + r"/tag/(?P<revision>[^/]+)", create_tag),
    ("DELETE", MODEL + r"/tag/(?P<revision>[^/]+)", delete_tag),
    ("POST", MODEL + r"/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", MODEL + r"/commit/(?P<revision>[^/]+)", commit),
    ("GET", MODEL + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", tree),
    ("POST", REPO + r"\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", REPO + r"\.git/info/lfs/verify", lfs_verify),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_upload),
    ("(?:GET|HEAD)", REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]
OPEN = (lfs_upload, validate_card)  # signed by their address, or public


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        hub: HubServer = self.server.hub
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with hub.lock:
            hub.requests.append(f"{self.command} {url.path}")
        fault = hub.next_fault(url.path)
        if fault == "cut":
            return self.cut()
        if fault == "slow":
            time.sleep(hub.slowness)
        try:
            if fault == "500":
                raise Refusal(500, "Internal Server Error - we're working hard to fix this as soon as possible!")
            if fault == "429":
                raise Refusal(429, "We had to rate limit you")
            if fault == "auth":
                raise Refusal(401, "Invalid credentials in Authorization header")
            with hub.lock:
                result = self.route(hub, url, content)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.body["error"]}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Repo-Commit": refusal.body["commit"]} if "commit" in refusal.body else {}
            headers |= {"Retry-After": str(hub.retry_after)} if refusal.status == 429 else {}
            return self.send(refusal.status, json.dumps(refusal.body).encode(), headers)
        if fault == "lost":
            return self.cut()
        if isinstance(result, tuple):
            return self.send_file(*result)
        self.send(200, json.dumps(result).encode(), {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def route(self, hub: HubServer, url, content: bytes) -> Any:
        for method, pattern, handler in ROUTES:
            found = re.fullmatch(pattern, url.path)
            if found is None or not re.fullmatch(method, self.command):
                continue
            authorization = self.headers.get("Authorization")
            writes = self.command in ("POST", "PUT", "DELETE") or handler is who_am_i
            if authorization not in (None, f"Bearer {TOKEN}"):
                raise Refusal(401, "Invalid credentials in Authorization header")
            if writes and handler not in OPEN and authorization is None:
                raise Refusal(401, "Invalid username or password.")
            names = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
            return handler(hub, content=content, body=self.body(content), query=parse_qs(url.query), **names)
        raise Refusal(404, f"Nothing at {self.command} {url.path}")

    def body(self, content: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if "ndjson" in kind:
            return [json.loads(line) for line in content.splitlines()]
        if "json" in kind:
            return json.loads(content or b"null")
        if "form" in kind:
            return parse_qs(content.decode())
        return None

    def send_file(self, sha: str, file: File) -> None:
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"'}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
        self.send(200, file.content, headers)

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def cut(self) -> None:
        self.close_connection = True

    def log_message(self, *_) -> None:
        """Keep quiet."""
