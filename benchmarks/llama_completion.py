"""llama.cpp's Self-Extend behind an endpoint, so that it stands in a table beside lcbench's own.

    python -m benchmarks.llama_completion --binary llama-completion --model SmolLM2.gguf --context 12544 \\
        -- --grp-attn-n 4 --grp-attn-w 2048

llama.cpp has it in its command line program alone, not in its server; so this starts the program once a request,
weights and prompt anew each time. What follows `--` is passed on to it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROMPT_TOKENS = re.compile(r"prompt eval time =.*?/ +(\d+) tokens")


def complete(options: argparse.Namespace, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of the program to a text, as of `/v1/completions`."""
    if not isinstance(body["prompt"], str):
        raise TypeError("prompt must be a string")
    with tempfile.TemporaryDirectory() as folder:
        prompt = Path(folder, "prompt.txt")
        prompt.write_text(body["prompt"])
        command = [options.binary, "--model", options.model, "--ctx-size", str(options.context)]
        command += ["--file", str(prompt), "--predict", str(body["max_tokens"]), "--temp", "0", "--no-warmup", "--perf"]
        command += ["--no-conversation", "--no-display-prompt", "--simple-io", *options.rest]
        done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    text, ended, _ = done.stdout.removesuffix("\n\n").partition(" [end of text]")
    counted = PROMPT_TOKENS.search(done.stderr)
    choice = {"index": 0, "text": text, "finish_reason": "stop" if ended else "length"}
    return {
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": int(counted[1])} if counted else {},
    }


class Handler(BaseHTTPRequestHandler):
    options: argparse.Namespace

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": Path(self.options.model).stem}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            self._send(200, complete(self.options, body))
        except TypeError as error:
            self._send(400, {"error": {"message": str(error)}})
        except subprocess.CalledProcessError as error:
            self._send(500, {"error": {"message": error.stderr[-300:]}})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="llama-completion of llama.cpp")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--context", type=int, required=True, help="tokens of prompt and answer")
    parser.add_argument("--port", type=int, default=8392)
    parser.add_argument("rest", nargs="*", help="options of llama-completion, after --")
    options = parser.parse_args()
    handler = type("OwnHandler", (Handler,), {"options": options})
    ThreadingHTTPServer(("127.0.0.1", options.port), handler).serve_forever()


if __name__ == "__main__":
    main()
