"""A stand-in for the Hugging Face hub on a local port: the endpoints that uploading and downloading a model call."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_test"


class StandIn(ThreadingHTTPServer):
    """Repositories in memory. ``files`` is {repo: {path: bytes}}, ``requests`` what was asked, with the tokens."""

    def __init__(self):
        self.files, self.private, self.objects, self.requests = {}, {}, {}, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, values, status=200, **headers):
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        hub, path, body = self.server, self.path, self.body()
        hub.requests.append((path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            values = json.loads(body)
            repo = f"{values['organization']}/{values['name']}"
            created = repo not in hub.files
            hub.files.setdefault(repo, {})
            hub.private.setdefault(repo, values.get("visibility") == "private" or bool(values.get("private")))
            self.answer({"url": f"{hub.url}/{repo}"}, 200 if created else 409)
        elif path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif path.endswith("/preupload/main"):
            self.answer({"files": [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False} for f in json.loads(body)["files"]
            ]})  # fmt: skip
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{hub.url}/objects/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]})  # fmt: skip
        elif path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    hub.files[repo][line["value"]["path"]] = hub.objects[line["value"]["oid"]]
            self.answer({"commitUrl": f"{hub.url}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self.answer({"error": path}, 404)

    def do_PUT(self):
        data = self.body()
        assert hashlib.sha256(data).hexdigest() == self.path.split("/")[-1]
        self.server.objects[self.path.split("/")[-1]] = data
        self.answer(b"")

    def do_GET(self):
        owner, name, *rest = self.path.removeprefix("/api/models").split("?")[0].strip("/").split("/")
        repo = f"{owner}/{name}"
        data = self.server.files.get(repo, {}).get("/".join(rest[2:])) if rest[:1] == ["resolve"] else None
        if data is not None:
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(data, ETag=tag, X_Repo_Commit="0" * 40, X_Linked_Size=len(data))
        elif repo in self.server.files and not rest:
            self.answer({"id": repo, "private": self.server.private[repo], "sha": "0" * 40, "siblings": []})
        else:
            kind = "EntryNotFound" if repo in self.server.files else "RepoNotFound"
            self.answer({}, 404, X_Error_Code=kind, X_Repo_Commit="0" * 40)

    do_HEAD = do_GET
