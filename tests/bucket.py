"""A bucket of Google Cloud Storage in this process: as much of its JSON API as gcsfs, Orbax and TensorStore ask for.

Other processes reach it over HTTP; `environment` tells their clients where.
"""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "bucket"


class Refused(Exception):
    """An answer that is not 200."""


class Bucket:
    """``objects``: name -> (content, generation). ``refuse``: an HTTP status for every request, 0 for none."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], bytes]] = {}
        self.lock, self.generation, self.refuse = threading.Lock(), 0, 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize, disable_nagle_algorithm = 1 << 16, True  # an answer is one packet: none waits 40 ms

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers: dict[str, str] = {}
                try:
                    with bucket.lock:
                        status, out = bucket.ask(self.command, self.path, self.headers, body)
                except Refused as refused:
                    code = refused.args[0]
                    status, out = code, {"error": {"code": code, "message": f"refused with {code}"}}
                if isinstance(out, dict):
                    headers["Content-Type"] = "application/json"
                    out = json.dumps(out).encode()
                elif isinstance(out, tuple):
                    out, headers = out
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(out))}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client may ask two things and wait for the first only
                    self.wfile.write(out)
                    self.wfile.flush()

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that hangs up is nobody's concern
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = url = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "abc",
            "GCE_METADATA_ROOT": "metadata.invalid",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the kind of a bucket by other means
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def names(self, prefix: str) -> list[str]:
        """Return the names of the objects under a prefix, without it."""
        return sorted(name.removeprefix(prefix) for name in self.objects if name.startswith(prefix))

    def text(self, name: str) -> str:
        """Return an object's content."""
        return self.objects[name][0].decode()

    def ask(self, method: str, target: str, headers: object, body: bytes) -> tuple[int, object]:
        """Return the answer to one request: (status, a dictionary, bytes, or (bytes, headers))."""
        if self.refuse:
            raise Refused(self.refuse)
        url = urlsplit(target)
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        path = url.path.removeprefix("/download").removeprefix("/upload").removeprefix("/storage/v1/b/")
        bucket, _, rest = path.partition("/")
        if bucket != NAME:
            raise Refused(404)
        if not rest:
            return 200, {"name": NAME, "kind": "storage#bucket", "id": NAME, "location": "US"}
        if rest == "o":
            return self.upload(query, headers, body) if method in ("POST", "PUT") else (200, self.listing(query))
        name, _, other = (unquote(part) for part in rest.removeprefix("o/").partition("/moveTo/o/"))
        if other:
            self.put(other, self.get(name, query)[0], {})
            del self.objects[name]
            return 200, self.about(other)
        content, generation = self.get(name, query)
        if method == "DELETE":
            del self.objects[name]
            return 204, b""
        if query.get("alt") != "media":
            return 200, self.about(name)
        if headers.get("Range", "").startswith("bytes="):
            first, _, last = headers["Range"][6:].partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            where = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            return 206, (part, {"X-Goog-Generation": str(generation), "Content-Range": where})
        return 200, (content, {"X-Goog-Generation": str(generation)})

    def get(self, name: str, query: dict[str, str]) -> tuple[bytes, int]:
        if name not in self.objects:
            raise Refused(404)
        generation = str(self.objects[name][1])
        if query.get("ifGenerationMatch", generation) != generation:
            raise Refused(412)
        if query.get("ifGenerationNotMatch") == generation:
            raise Refused(304)
        return self.objects[name]

    def about(self, name: str) -> dict[str, object]:
        content, generation = self.objects[name]
        times = dict.fromkeys(("timeCreated", "updated"), "2026-01-01T00:00:00.000Z")
        sizes = {"size": str(len(content)), "generation": str(generation), "metageneration": "1"}
        return {"name": name, "bucket": NAME, "id": name, "contentType": "text/plain", **sizes, **times}

    def put(self, name: str, content: bytes, query: dict[str, str]) -> dict[str, object]:
        now = str(self.objects[name][1]) if name in self.objects else "0"
        if query.get("ifGenerationMatch", now) != now:
            raise Refused(412)
        self.generation += 1
        self.objects[name] = (content, self.generation)
        return self.about(name)

    def upload(self, query: dict[str, str], headers: object, body: bytes) -> tuple[int, object]:
        kind = query["uploadType"]
        if kind == "media":
            return 200, self.put(query["name"], body, query)
        if kind == "multipart":
            about, content = _parts(body, headers["Content-Type"])
            return 200, self.put(json.loads(about)["name"], content, query)
        if "upload_id" not in query:  # in pieces: begin
            self.generation += 1
            self.uploads[key := str(self.generation)] = (json.loads(body)["name"], query, b"")
            where = f"{self.url}/upload/storage/v1/b/{NAME}/o?uploadType=resumable&upload_id={key}"
            return 200, (b"{}", {"Location": where})
        name, first, content = self.uploads[query["upload_id"]]
        content += body
        if headers["Content-Range"].endswith("/*"):
            self.uploads[query["upload_id"]] = (name, first, content)
            return 308, (b"", {"Range": f"bytes=0-{len(content) - 1}"})
        return 200, self.put(name, content, first)

    def listing(self, query: dict[str, str]) -> dict[str, object]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], []
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if query.get("endOffset") and name >= query["endOffset"]:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.append(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.about(name))
        most = int(query.get("maxResults", 10**6))
        return {"kind": "storage#objects", "items": items[:most], "prefixes": sorted(set(prefixes))}


def _parts(body: bytes, content_type: str) -> tuple[bytes, bytes]:
    """Return the two parts of a multipart body: the object's metadata, and its content byte for byte."""
    line = b"--" + content_type.partition("boundary=")[2].strip("\"'").encode()
    _, about, rest = body.split(line, 2)
    content = rest.partition(b"\n\n")[2].rpartition(b"\n" + line)[0]
    return about.partition(b"\n\n")[2], content
