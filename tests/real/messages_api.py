"""Stands in for the Messages API, on 127.0.0.1, so that the real CLI can be run without one.

Scripted by a test, an answer a request. It keeps the method, the path and the length of what it
was asked, never a body: the CLI's requests hold texts that are not ours.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import count, pairwise
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
Trouble: TypeAlias = Literal["drops", "hangs"]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Asked:
    """One request, without its body."""

    method: str
    path: str
    length: int


@dataclass(frozen=True)
class Answer:
    """What is said to one request: a message, or an HTTP error, or less than that."""

    blocks: tuple[Json, ...] = ()
    stop_reason: str = "end_turn"
    pieces: int = 1
    """In how many deltas a text comes."""
    pause: float = 0.0
    """Seconds between two of them."""
    status: int = 200
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    trouble: Trouble | None = None
    """After the last delta, or instead of any answer if there are no blocks."""


class Script:
    """The answers for those who ask at one address, in order; the last may be for ever."""

    def __init__(self, url: str) -> None:
        self.url = url
        """What ANTHROPIC_BASE_URL is to be."""
        self.requests = 0
        """How many were asked for a message."""
        self._answers: list[tuple[Answer, bool]] = []
        self._mutex = threading.Lock()

    def says(self, *texts: str, pieces: int = 1, pause: float = 0.0) -> None:
        """Each text is a block."""
        blocks = tuple({"type": "text", "text": text} for text in texts)
        self._add(Answer(blocks, pieces=pieces, pause=pause))

    def uses_tool(self, name: str, given: Json, *, forever: bool = False) -> None:
        block = {"type": "tool_use", "id": "toolu_scripted", "name": name, "input": given}
        self._add(Answer((block,), "tool_use"), forever=forever)

    def is_empty(self, *, forever: bool = False) -> None:
        self._add(Answer(), forever=forever)

    def fails(
        self,
        status: int,
        message: str = "scripted",
        *,
        headers: Mapping[str, str] | None = None,
        forever: bool = False,
    ) -> None:
        self._add(Answer(status=status, message=message, headers=headers or {}), forever=forever)

    def drops(self, text: str = "", *, forever: bool = False) -> None:
        """Cut the connection after ``text``, or before the headers if there is none."""
        self._add(_troubled("drops", text), forever=forever)

    def hangs(self, text: str = "", *, forever: bool = True) -> None:
        """Say nothing more after ``text``, or nothing at all."""
        self._add(_troubled("hangs", text), forever=forever)

    def next(self) -> Answer:
        with self._mutex:
            self.requests += 1
            if not self._answers:
                return Answer(status=400, message="nothing more is scripted", headers=_DO_NOT_RETRY)
            answer, forever = self._answers[0]
            if not forever:
                del self._answers[0]
            return answer

    def _add(self, answer: Answer, *, forever: bool = False) -> None:
        with self._mutex:
            assert not any(each for _, each in self._answers), "the last answer is for ever"
            self._answers.append((answer, forever))


_DO_NOT_RETRY = {"x-should-retry": "false"}


def _troubled(trouble: Trouble, text: str) -> Answer:
    blocks = ({"type": "text", "text": text},) if text else ()
    return Answer(blocks, trouble=trouble)


class MessagesApi:
    """The server. ``at(name)`` is an address of it with a script of its own."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.scripts: dict[str, Script] = {}
        self.closing = threading.Event()
        self.ids = count(1)
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="messages api", daemon=True
        )
        self._thread.start()

    def at(self, name: str) -> Script:
        return self.scripts.setdefault(name, Script(f"{self.url}/{name}"))

    @property
    def strays(self) -> list[Asked]:
        """What was asked, here or of another host by way of us as a proxy, beside the API."""
        return [
            each
            for each in self.asked
            if not each.path.startswith("/")
            or each.path.split("?")[0].split("/", 2)[-1]
            not in ("v1/messages", "v1/messages/count_tokens", "", "api/hello")
        ]

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MessagesApi:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Server(socketserver.ThreadingTCPServer):
    request_queue_size = 64
    allow_reuse_address = True
    daemon_threads = False  # joined by server_close, once their connections are closed

    def __init__(self, api: MessagesApi) -> None:
        self.api = api
        self._open: set[socket.socket] = set()
        self._mutex = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._mutex:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._mutex:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._mutex:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Nobody reads it."""

    def do_HEAD(self) -> None:
        self._note(0)
        self._reply(200, b"")

    def do_GET(self) -> None:
        self._note(0)
        if self.path.split("?")[0].endswith("/api/hello"):
            self._reply(200, b'{"message":"hello"}')
        else:
            self._reply(404, b"{}")

    def do_CONNECT(self) -> None:
        self._note(0)
        self._reply(502, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._note(len(body))
        _, name, path = [*self.path.split("?")[0].split("/", 2), "", ""][:3]
        script = self.server.api.scripts.get(name)
        if path == "v1/messages/count_tokens":
            self._reply(200, b'{"input_tokens":10}')
        elif path != "v1/messages" or script is None:
            self._reply(404, b"{}")
        else:
            asked = json.loads(body)
            streams, model = asked.get("stream") is True, str(asked.get("model"))
            del asked, body
            self._answer(script.next(), model, streams=streams)

    def _note(self, length: int) -> None:
        self.server.api.asked.append(Asked(self.command, self.path, length))

    def _answer(self, answer: Answer, model: str, *, streams: bool) -> None:
        number = next(self.server.api.ids)
        headers = {**answer.headers, "request-id": f"req_{number:016x}"}
        if answer.status != 200:
            told = {"type": _KINDS.get(answer.status, "api_error"), "message": answer.message}
            error = json.dumps({"type": "error", "error": told}).encode()
            self._reply(answer.status, error, headers)
        elif answer.trouble is not None and not (answer.blocks and streams):
            self._be(answer.trouble)
        elif not streams:
            self._reply(200, json.dumps(_message(answer, number, model)).encode(), headers)
        else:
            self._stream(answer, number, model, headers)

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: Answer, number: int, model: str, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for name, value in {"content-type": "text/event-stream", **headers}.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in _events(answer, number, model, pause=self._pause):
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if answer.trouble is not None:
            self._be(answer.trouble)
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _pause(self, seconds: float) -> None:
        self.server.api.closing.wait(seconds)

    def _be(self, trouble: Trouble) -> None:
        self.close_connection = True
        if trouble == "hangs":
            # Until who asked is gone, or the test over.
            while not self.server.api.closing.is_set():
                self.connection.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    if not self.connection.recv(1):
                        return
        linger = struct.pack("ii", 1, 0)  # a reset, not a polite end
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def _message(answer: Answer, number: int, model: str) -> Json:
    return {
        "id": f"msg_{number:020x}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(answer.blocks),
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
        "usage": _usage(5),
    }


def _usage(made: int) -> Json:
    return {
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": made,
    }


def _events(
    answer: Answer, number: int, model: str, *, pause: Callable[[float], None]
) -> Iterator[Json]:
    begun = {**_message(answer, number, model), "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": {**begun, "usage": _usage(1)}}
    for index, block in enumerate(answer.blocks):
        text = block["type"] == "text"
        empty = {**block, "text": ""} if text else {**block, "input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        whole = block["text"] if text else json.dumps(block["input"])
        for place, piece in enumerate(_pieces(whole, answer.pieces if text else 1)):
            if place:
                pause(answer.pause)
            delta = (
                {"type": "text_delta", "text": piece}
                if text
                else {"type": "input_json_delta", "partial_json": piece}
            )
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if answer.trouble is not None:
            return
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": _usage(5)}
    yield {"type": "message_stop"}


def _pieces(text: str, number: int) -> Sequence[str]:
    cuts = [len(text) * place // number for place in range(number + 1)]
    return [text[start:end] for start, end in pairwise(cuts)]
