"""A stand-in for the W&B server on loopback: what it was sent, and what it did not understand.

It speaks as much of the protocol as wandb 0.31 uses here. It proves which numbers and bytes left
this machine, and nothing about how W&B would show them.
"""

import gzip
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import command

KEY = "local-" + "k" * 40
ENTITY = "someone"
CREATED = "2026-01-01T00:00:00Z"


@dataclass
class StubRun:
    """A run as the server has it."""

    id: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)  # the lines of each stream
    uploads: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files.get("wandb-history.jsonl", []) if line]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.files.get("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    @property
    def config(self) -> dict[str, Any]:
        found = json.loads(self.fields.get("config") or "{}")
        return {k: v["value"] for k, v in found.items() if isinstance(v, dict) and "value" in v}


@dataclass
class Artifact:
    """A version of an artifact; ``contents`` are the bytes of its files."""

    id: str
    name: str
    type: str
    digest: str
    version: int
    state: str = "PENDING"
    aliases: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    manifest: str = ""


class Stub(ThreadingHTTPServer):
    """The server and all it knows; answers by operation are its methods with that name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, StubRun] = {}
        self.artifacts: list[Artifact] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.lock = threading.Lock()

    # runs

    def do_upsert_bucket(self, v: dict[str, Any]) -> Any:
        name = v.get("name") or v.get("id")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StubRun(name, v.get("project") or "uncategorized"))
        run.fields |= {key: value for key, value in v.items() if value is not None}
        if v.get("summaryMetrics"):
            run.files["wandb-summary.json"] = [v["summaryMetrics"]]
        return {"upsertBucket": {"bucket": self.bucket(run), "inserted": inserted}}

    def bucket(self, run: StubRun) -> dict[str, Any]:
        entity = {"id": "e", "name": ENTITY}
        lines = {name: run.files.get(f"wandb-{name}.jsonl", []) for name in ("history", "events")}
        return {
            "id": run.id,
            "name": run.id,
            "displayName": run.fields.get("displayName") or run.id,
            "description": "",
            "config": run.fields.get("config") or "{}",
            "sweepName": None,
            "project": {"id": "p", "name": run.project, "entity": entity},
            "historyLineCount": len(run.history),
            "eventsLineCount": len(lines["events"]),
            "logLineCount": len(run.files.get("output.log", [])),
            "historyTail": json.dumps(lines["history"][-1:]),
            "eventsTail": json.dumps(lines["events"][-1:]),
            "summaryMetrics": json.dumps(run.summary),
            "tags": run.fields.get("tags") or [],
            "notes": None,
            # without its key t a run counts as not started
            "wandbConfig": '{"t": {}}' if run.files else "{}",
        }

    def do_run_resume_status(self, v: dict[str, Any]) -> Any:
        run = self.runs.get(v["name"])
        model = {"id": "p", "name": v.get("project"), "entity": {"id": "e", "name": ENTITY}}
        return {"model": model | {"bucket": self.bucket(run) if run else None}}

    def do_create_run_files(self, v: dict[str, Any]) -> Any:
        run = v.get("run") or v.get("runName") or v.get("name")
        files = [
            {"name": f, "uploadUrl": self.place(f"run/{run}/{f}"), "displayName": f}
            for f in v["files"]
        ]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def stream(self, run: StubRun, body: dict[str, Any]) -> None:
        """A part of a run's streams: lines from an offset on."""
        for name, chunk in (body.get("files") or {}).items():
            lines = run.files.setdefault(name, [])
            if name == "wandb-summary.json":
                lines[:] = chunk["content"]
            else:
                at = chunk.get("offset") or 0
                lines.extend([""] * (at - len(lines)))
                lines[at : at + len(chunk["content"])] = chunk["content"]
        if body.get("exitcode") is not None:
            run.exit_code = body["exitcode"]

    # artifacts

    def do_create_artifact(self, v: dict[str, Any]) -> Any:
        v = v.get("input") or v
        name = (v.get("artifactCollectionNames") or [v.get("artifactCollectionName")])[0]
        versions = [each for each in self.artifacts if each.name == name]
        found = next((each for each in versions if each.digest == v["digest"]), None)
        if found is None:
            kind = v.get("artifactTypeName")
            number = len(versions)
            found = Artifact(f"a{len(self.artifacts)}", name, kind, v["digest"], number)
            found.aliases = [a["alias"] for a in v.get("aliases") or []]
            self.artifacts.append(found)
        latest = versions[-1] if versions else None
        last = {"id": latest.id, "versionIndex": latest.version} if latest else None
        sequence = {"id": f"s-{name}", "latestArtifact": last}
        state = {"id": found.id, "state": found.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": state}}

    def do_create_artifact_manifest(self, v: dict[str, Any]) -> Any:
        v = v.get("input") or v
        place = self.place(f"manifest/{v.get('artifactID')}")
        file = {"id": "f", "uploadUrl": place, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def do_update_artifact_manifest(self, v: dict[str, Any]) -> Any:
        return {
            "updateArtifactManifest": self.do_create_artifact_manifest(v)["createArtifactManifest"]
        }

    def do_create_artifact_files(self, v: dict[str, Any]) -> Any:
        edges = []
        for spec in (v.get("input") or v)["artifactFiles"]:
            place = f"artifact/{spec['artifactID']}/{spec['name']}"
            node = {
                "id": place,
                "name": spec["name"],
                "displayName": spec["name"],
                "uploadUrl": self.place(place),
                "uploadHeaders": [],
                "storagePath": place,
                "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def do_commit_artifact(self, v: dict[str, Any]) -> Any:
        (found,) = [
            each for each in self.artifacts if each.id == (v.get("input") or v)["artifactID"]
        ]
        found.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": found.id, "digest": found.digest}}}

    # what wandb.Api asks for

    def do_runs(self, v: dict[str, Any]) -> Any:
        runs = [run for run in self.runs.values() if run.project == v["project"]]
        edges = [{"cursor": run.id, "node": self.listed(run)} for run in runs]
        page = {"endCursor": None, "hasNextPage": False}
        found = {"edges": edges, "pageInfo": page}
        return {
            "project": {"internalId": "1", "runCount": len(runs), "readOnly": False}
            | {"runs": found}
        }

    def listed(self, run: StubRun) -> dict[str, Any]:
        bucket = self.bucket(run) | {"group": run.fields.get("groupName"), "jobType": ""}
        return bucket | {
            "projectId": "1",
            "state": "finished",
            "commit": None,
            "readOnly": False,
            "createdAt": CREATED,
            "heartbeatAt": CREATED,
            "user": {"name": ENTITY, "username": ENTITY},
        }

    def do_artifact_by_id(self, v: dict[str, Any]) -> Any:
        (found,) = [each for each in self.artifacts if each.id == v["id"]]
        return {"artifact": self.described(found)}

    def do_artifact_membership_by_name(self, v: dict[str, Any]) -> Any:
        name, _, alias = v["name"].partition(":")
        versions = [each for each in self.artifacts if each.name == name]
        found = versions[-1] if alias in ("", "latest") else versions[int(alias[1:])]
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": "m",
            "versionIndex": found.version,
            "createdAt": CREATED,
            "aliases": [],
            "artifactCollection": self.collection(found, "ArtifactSequence"),
            "artifact": self.described(found),
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def collection(self, found: Artifact, kind: str) -> dict[str, Any]:
        project = {"id": "p", "internalId": "1", "name": "nfbench", "entity": {"name": ENTITY}}
        return {"__typename": kind, "name": found.name, "project": project}

    def described(self, found: Artifact) -> dict[str, Any]:
        alias = {"__typename": "ArtifactAlias", "id": "l", "alias": "latest"}
        collection = self.collection(found, "ArtifactSequence")
        return {
            "__typename": "Artifact",
            "id": found.id,
            "artifactSequence": collection,
            "versionIndex": found.version,
            "artifactType": {"name": found.type},
            "description": None,
            "metadata": "{}",
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": found.state,
            "size": sum(map(len, found.contents.values())),
            "digest": found.digest,
            "digestAlgorithm": None,
            "commitHash": "c",
            "fileCount": len(found.contents),
            "createdAt": CREATED,
            "updatedAt": CREATED,
            "aliases": [alias | {"artifactCollection": collection}],
        }

    def do_fetch_artifact_manifest(self, v: dict[str, Any]) -> Any:
        url = {"directUrl": self.place(f"manifest/{v['id']}")}
        return {"artifact": {"currentManifest": {"file": url}}}

    def do_get_artifact_membership_file_urls(self, v: dict[str, Any]) -> Any:
        found = [each for each in self.artifacts if each.name == v["collection"]][-1]
        edges = [
            {
                "node": {
                    "__typename": "File",
                    "name": name,
                    "directUrl": self.place(f"artifact/{found.id}/{name}"),
                }
            }
            for name in found.contents
        ]
        files = {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}

    # reports

    def do_get_projects(self, v: dict[str, Any]) -> Any:
        names = sorted({run.project for run in self.runs.values()})
        nodes = [
            {
                "id": "p",
                "name": name,
                "entityName": ENTITY,
                "createdAt": CREATED,
                "isBenchmark": False,
                "user": None,
            }
            for name in names
        ]
        edges = [{"cursor": node["name"], "node": node} for node in nodes]
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": edges, "pageInfo": page}}

    def do_project_views(self, v: dict[str, Any]) -> Any:
        edges = [{"cursor": "c", "node": self.view(each)} for each in self.views.values()]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def do_upsert_view(self, v: dict[str, Any]) -> Any:
        name = v.get("id") or f"view{len(self.views)}"
        inserted = name not in self.views
        self.views[name] = self.views.get(name, {}) | v | {"id": name}
        return {"upsertView": {"view": self.view(self.views[name]), "inserted": inserted}}

    def view(self, v: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": v.get("projectName"), "entityName": ENTITY}
        keys = ("id", "type", "name", "displayName", "description", "spec")
        dates = {"createdAt": CREATED, "updatedAt": CREATED}
        user = {"username": ENTITY, "photoUrl": None, "email": ""}
        return {k: v.get(k) for k in keys} | dates | {"project": project, "user": user}

    def place(self, path: str) -> str:
        return f"{self.url}/blob/{path}"

    def keep(self, path: str, content: bytes) -> None:
        """What was uploaded to a place."""
        self.blobs[path] = content
        kind, _, rest = path.partition("/")
        owner, _, name = rest.partition("/")
        if kind == "run":
            self.runs[owner].uploads[name] = content
        elif kind == "artifact":
            next(a for a in self.artifacts if a.id == owner).contents[name] = content
        elif kind == "manifest":
            next(a for a in self.artifacts if a.id == owner).manifest = content.decode()

    def answer(self, operation: str, v: dict[str, Any]) -> Any:
        """The data of a GraphQL operation; None if it is not known."""
        self.operations.append(operation)
        fixed = {
            "Viewer": {"viewer": VIEWER},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": {"entity": {"organization": None}},
            "GetDefaultEntity": {"viewer": VIEWER},
            "RunStoppedStatus": {"project": {"run": {"stopped": False}}},
            "ArtifactType": {"project": {"artifact": None}},
            "ProjectInternalId": {"project": {"id": "p", "internalId": "UHJvamVjdDox"}},
            "CreateProject": {"upsertModel": {"model": {"id": "p"}, "inserted": False}},
        }
        if operation in fixed:
            return fixed[operation]
        words = re.findall("[A-Z]?[a-z0-9]+|[A-Z]+", operation)
        call = getattr(self, "_".join(["do", *words]).lower(), None)
        return call(v) if call else None


VIEWER = {
    "id": "u",
    "entity": ENTITY,
    "username": ENTITY,
    "name": ENTITY,
    "email": "someone@example.org",
    "admin": False,
    "flags": "{}",
    "photoUrl": None,
    "apiKeys": {"edges": []},
    "teams": {"edges": []},
}


class Handler(BaseHTTPRequestHandler):
    """One request; answers 200 to what it does not know too, as clients retry anything else."""

    server: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Silence."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            content = b"".join(parts)
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content

    def reply(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        blob = self.server.blobs.get(self.path.removeprefix("/blob/"))
        if blob is None:
            self.server.unknown.append(f"GET {self.path}")
        self.reply(blob or b"{}")

    def do_HEAD(self) -> None:
        self.reply(b"{}")

    def do_PUT(self) -> None:
        content = self.body()
        with self.server.lock:
            self.server.keep(self.path.removeprefix("/blob/"), content)
        self.reply(b"")

    def do_POST(self) -> None:
        body, path = self.body(), self.path
        if path.startswith("/sdk/otel/"):  # telemetry
            return self.reply(b"{}")
        with self.server.lock:
            try:
                answer = self.post(path, json.loads(body))
            except Exception as error:
                self.server.unknown.append(f"{path}: {error!r}: {body[:300]!r}")
                answer = {"errors": [{"message": repr(error)}]}
        return self.reply(json.dumps(answer).encode())

    def post(self, path: str, body: dict[str, Any]) -> Any:
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self.server.stream(self.server.runs[stream[1]], body)
            return {"exitcode": None, "limits": {}}
        query = body.get("query") or ""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = body.get("operationName") or (found[1] if found else "")
        data = self.server.answer(name, body.get("variables") or {})
        if data is None:
            self.server.unknown.append(f"{name}: {query[:200]} {body.get('variables')}")
            return {"errors": [{"message": f"unknown operation {name}"}]}
        return {"data": data}


@contextmanager
def serving() -> Iterator[Stub]:
    """A stub that answers while the context lasts."""
    with Stub() as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        try:
            yield stub
        finally:
            stub.shutdown()


def environment(stub: Stub, home: Path) -> dict[str, str]:
    """The variables that lead a process of wandb to the stub, with all it keeps in a folder."""
    folders = {f"WANDB_{name}_DIR": str(home / name.lower()) for name in FOLDERS}
    return folders | {
        "WANDB_BASE_URL": stub.url,
        "WANDB_API_KEY": KEY,
        "NETRC": str(home / "netrc"),
        "WANDB_MODE": "online",
    }


FOLDERS = ("DATA", "CACHE", "CONFIG", "ARTIFACT")


def command_in(env: dict[str, str], root: Path, words: Sequence[str], output: Path) -> None:
    """`nfbench ...` in another environment, for a process of its own."""
    os.environ.clear()
    os.environ.update(env)
    command(root, words, output)
