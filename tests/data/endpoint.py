# SPDX-License-Identifier: Apache-2.0
"""A local OpenAI-compatible endpoint that answers, or misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """
    Serve `/v1/chat/completions` on a free port of this machine.

    Args:
        answer (`Callable[[str], str | dict]`): Writes the reply to the last user message, or the fields of the message.
        faults (`Iterable[str]`, *optional*): What becomes of the first requests, in their order: `"429"`, `"500"` or another
            status, `"cut"` (the connection ends within the body), `"garbage"` (not JSON), `"empty"` (JSON without a choice),
            `"length"` and `"content_filter"` (a reply that was cut off), `"reasoning"` (one cut off before its text began).
            Later requests are answered.
        seconds (`float`, *optional*): How long an answer takes.
    """

    def __init__(self, answer: Callable[[str], str | dict], faults: Iterable[str] = (), seconds: float = 0.0):
        self.answer, self.faults, self.seconds = answer, deque(faults), seconds
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.handle(self)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        request = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        with self._lock:
            self.requests.append(request)
            self.headers.append(dict(http.headers))
            fault = self.faults.popleft() if self.faults else None
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(self.seconds)
        with self._lock:
            self.under_way -= 1
        if fault is not None and fault.isdigit():
            self._send(http, int(fault), json.dumps({"error": {"message": f"fault {fault}"}}))
        elif fault == "garbage":
            self._send(http, 200, "<html>oops</html>")
        elif fault == "empty":
            self._send(http, 200, json.dumps({"object": "chat.completion"}))
        else:
            body = self._completion(request, fault)
            self._send(http, 200, body, cut=fault == "cut")

    def _completion(self, request: dict, fault: str | None) -> str:
        finish_reason = {"reasoning": "length", "length": fault, "content_filter": fault}.get(fault, "stop")
        text = None if fault == "reasoning" else self.answer(request["messages"][-1]["content"])
        message = {"role": "assistant", **(text if isinstance(text, dict) else {"content": text})}
        return json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )

    def _send(self, http: BaseHTTPRequestHandler, status: int, body: str, cut: bool = False) -> None:
        data = body.encode()
        http.send_response(status)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(data)))
        http.send_header("retry-after-ms", "1")
        with suppress(ConnectionError):  # the client has not waited
            http.end_headers()
            http.wfile.write(data[: len(data) // 2] if cut else data)
        http.close_connection = True
