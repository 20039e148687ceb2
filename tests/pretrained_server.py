"A server on this machine that hands out files as a hub or a web server does, and its failures."
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str):
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Connection": "close", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True
        if self.command == "GET":
            self.send(body)

    def send(self, body: bytes):
        "All of it, or what `cut` allows, at the speed of `pause`."
        files: FileServer = self.server.files
        body = body if files.cut is None else body[:files.cut]
        try:
            for start in range(0, len(body), 1 << 14):
                self.wfile.write(body[start:start + (1 << 14)])
                time.sleep(files.pause)
        except OSError:  # the other side has gone
            pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        files: FileServer = self.server.files
        path = self.path.split("?")[0]
        asked = self.headers.get("Range")
        files.seen.append((self.command, path, asked))
        if files.status != 200:
            return self.answer(b"no", files.status)
        if path.startswith("/api/models/"):
            return self.api(path)
        if asked and files.on_range:
            files.on_range()
        body = files.content.get(path)
        if body is None:
            return self.answer(b"no", 404, X_Error_Code="EntryNotFound")
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        same = self.headers.get("If-Range", tag) == tag
        headers = {"X_Repo_Commit": "c" * 40}
        headers |= {"ETag": tag} if files.versions else {}
        headers |= {"Content_Type": files.kind}
        if asked and files.ranges and same:
            first = int(asked[len("bytes="):-1])
            first = 0 if files.confused else first
            headers["Content_Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            return self.answer(body[first:], 206, **headers)
        self.answer(body, **headers)

    def api(self, path: str):
        "What the hub says of a repository: its commit and its files."
        files: FileServer = self.server.files
        repo = "/".join(path.split("/")[3:5])
        start = f"/{repo}/resolve/"
        names = sorted({p[len(start):].split("/", 1)[1] for p in files.content
                        if p.startswith(start)})
        if not names:
            return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
        if "/tree/" in path:
            about = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in names]
        else:
            about = {"id": repo, "sha": "c" * 40, "siblings": [{"rfilename": n} for n in names]}
        self.answer(json.dumps(about).encode(), Content_Type="application/json")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class FileServer:
    "Serves `content` while in a `with` block; its other attributes are what it does wrong."
    def __init__(self, **content: bytes):
        self.content = {f"/{name}": body for name, body in content.items()}
        self.ranges = self.versions = True    # whether it knows ranges, and sends an ETag
        self.cut: int | None = None           # bytes after which a connection ends
        self.confused = False                 # whether it sends another range than asked for
        self.on_range = None                  # called before a range is answered
        self.pause = 0.0                      # seconds between blocks of 16 KB
        self.status, self.kind = 200, "application/octet-stream"
        self.seen: list[tuple] = []           # method, path and range of each request
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.files = self
        self.home = f"http://127.0.0.1:{self.server.server_port}"

    def repo(self, name: str, folder):
        "Serve a folder as a repository of the hub."
        for path in folder.iterdir():
            for revision in ("main", "c" * 40):
                self.content[f"/{name}/resolve/{revision}/{path.name}"] = path.read_bytes()

    def ranges_asked(self) -> list[str]:
        return [asked for _, _, asked in self.seen if asked]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
