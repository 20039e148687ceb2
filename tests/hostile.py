"A server on this machine that hands out scenes, and everything that goes wrong on the internet."
import io
import socket
import struct
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from tld.world.captions import SceneDataset


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int = 60_000) -> bytes:
    "A well-formed PNG of some kilobytes that says it is side x side pixels."
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + \
            struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side // 8 + 1) * 100)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def deep(image: Image.Image) -> bytes:
    "The brightness of a picture as a 16-bit PNG; its low bytes are noise."
    high = np.asarray(image.convert("L")).astype(np.uint16) << 8
    low = np.random.default_rng(0).integers(0, 256, high.shape).astype(np.uint16)
    return encoded(Image.fromarray(high | low))


def rgba(image: Image.Image) -> bytes:
    "The left half transparent."
    alpha = np.full((image.height, image.width), 255, np.uint8)
    alpha[:, :image.width // 2] = 0
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return encoded(image)


def animated(image: Image.Image) -> bytes:
    frames = [Image.new("RGB", image.size, "red"), Image.new("RGB", image.size, "blue")]
    return encoded(image, "gif", save_all=True, append_images=frames)


def turned(image: Image.Image) -> bytes:
    "Stored on its side, with the note to turn it upright."
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "png", exif=exif)


FORMS = {  # forms of a picture that must arrive, as bytes
    "ok": encoded,
    "jpeg": lambda image: encoded(image, "jpeg", quality=95),
    "grey": lambda image: encoded(image.convert("L")),
    "rgba": rgba,
    "cmyk": lambda image: encoded(image.convert("CMYK"), "jpeg", quality=95),
    "deep": deep,
    "gif": animated,
    "exif": turned,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            pass

    def answer(self, body: bytes, kind: str = "image/png", status: int = 200, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def redirect(self, to: str):
        self.answer(b"", status=302, Location=to)

    def do_GET(self):
        hostile: Hostile = self.server.hostile
        with hostile.lock:
            hostile.seen[self.path] += 1
            count = hostile.seen[self.path]
        what, number = self.path.strip("/").split("/")[:2]
        image = hostile.image(int(number)) if what in {*FORMS, "500-once", "truncated", "short",
                                                       "robots"} else None
        if what in FORMS:
            self.answer(FORMS[what](image))
        elif what == "500-once":
            self.answer(encoded(image)) if count > 1 else self.answer(b"", status=500)
        elif what in ("404", "500"):
            self.answer(b"gone", "text/plain", int(what))
        elif what == "slow":
            hostile.closing.wait()  # never, as seen from outside
        elif what == "loop":
            self.redirect(self.path)
        elif what == "moved":
            self.redirect(f"/ok/{number}")
        elif what == "truncated":
            body = encoded(image, "jpeg", quality=95)
            self.answer(body[:len(body) // 2], "image/jpeg")
        elif what == "short":  # says it is longer than it is
            body = encoded(image)
            self.answer(body, Content_Length=str(len(body) + 100))
        elif what == "html":
            self.answer(b"<!doctype html><html><body>Not here</body></html>", "image/jpeg")
        elif what == "empty":
            self.answer(b"")
        elif what == "dot":
            self.answer(encoded(Image.new("RGB", (1, 1))))
        elif what == "line":
            self.answer(encoded(Image.new("RGB", (2000, 20))))
        elif what == "bomb":
            self.answer(bomb())
        elif what == "same":
            self.answer(encoded(hostile.image(0)))
        elif what == "to-private":
            self.redirect("http://10.0.0.1/secret.png")
        elif what == "to-file":
            self.redirect("file:///etc/hostname")
        elif what == "robots":
            self.answer(encoded(image), X_Robots_Tag="noai")
        else:
            raise AssertionError(self.path)


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class Hostile:
    "The server, running while in a `with` block; `.url(what, i)` is an address on it."
    def __init__(self, n: int = 1 << 20):
        self.scenes, self.seen = SceneDataset("full", "train", n), Counter()
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.hostile = self
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def image(self, i: int) -> Image.Image:
        "A scene at half its size, 64 pixels: quicker to encode."
        return Image.fromarray(self.scenes[i][0][:, ::2, ::2].permute(1, 2, 0).numpy())

    def caption(self, i: int) -> str:
        return self.scenes.caption(i)

    def url(self, what: str, i: int) -> str:
        return "http://127.0.0.1:{}/{}/{}".format(self.server.server_port, what, i)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


def free_port() -> int:
    "A port of this machine where nobody answers."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
