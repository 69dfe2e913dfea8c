"""For what downloads: a web server on this machine that fails as real ones do, and a hub cache as the real one."""

import hashlib
import http.server
import re
import threading
import time
from pathlib import Path

B0 = "models--timm--tf_efficientnet_b0.aa_in1k"  # folder of a repository in a cache
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, path -> content, as a web server, and as Hugging Face's hub does under /<repository>/resolve/."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.tags = {}  # path -> what the hub says is the file's SHA-256, where it is another
        self.cuts = []  # bytes after which the next answers break off
        self.pause = 0.0  # seconds in the middle of an answer
        self.ranges = True  # whether it can begin in the middle
        self.length = ""  # what it says of an answer's length, where that is not so; None: nothing
        self.redirects = {}  # path -> address that it redirects to
        self.requests = []  # (method, path, range) of what came
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the settings of its server say."""

    server: Server

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        content = self.answer()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        half = cut // 2
        self.wfile.write(content[:half])
        time.sleep(self.server.pause)
        self.wfile.write(content[half:cut])
        self.close_connection = True

    def answer(self):
        asked = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, asked))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return b""
        whole = self.server.files.get(self.path)
        begin = int(re.findall(r"\d+", asked)[0]) if asked and self.server.ranges and whole is not None else 0
        if whole is None or (begin and begin >= len(whole)):
            self.send_response(404 if whole is None else 416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        self.send_response(206 if begin else 200)
        if self.server.length is not None:
            self.send_header("Content-Length", self.server.length or str(len(whole) - begin))
        if "/resolve/" in self.path:
            tag = self.server.tags.get(self.path, hashlib.sha256(whole).hexdigest())
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        return whole[begin:]

    def log_message(self, format, *arguments):
        pass


def place(home, content, revision="0" * 40):
    """Puts B0's file into a hub cache as huggingface_hub does."""
    folder = Path(home) / "hub" / B0
    digest = hashlib.sha256(content).hexdigest()
    for name in ("blobs", "refs", f"snapshots/{revision}"):
        (folder / name).mkdir(parents=True)
    (folder / "blobs" / digest).write_bytes(content)
    (folder / "refs/main").write_text(revision)
    path = folder / "snapshots" / revision / "model.safetensors"
    path.symlink_to(Path("../../blobs") / digest)
    return path
