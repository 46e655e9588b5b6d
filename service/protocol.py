"""HTTP/1.1 as uvicorn speaks it, with limits to what a connection may hold, and errors as problems."""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import errors
from service.middleware import CONNECTION_LOST, REQUEST_ID, new_request_id
from service.responses import problem_response

# Longer than proxies and clients keep idle connections (60 s is common): whoever closes first must be the one
# who sends, or a request meets a connection that is just being closed. A head has to come as soon.
KEEP_ALIVE_S = 75
_LARGEST_HEAD = 64 << 10  # bytes, and what is read with its end
_MOST_PIPELINED = 256  # requests on one connection whose turn has not come
_CONTINUE = b"HTTP/1.1 100 "
_REST_S = 30.0  # for what is still on its way of a body that was answered before its end


class Protocol(HttpToolsProtocol):
    """uvicorn's sets no limits to heads, to how long they take, and to pipelines; it takes the body of a
    request that offers an upgrade for what would follow the upgrade; and it closes with what it has not read,
    so that who is still sending gets a reset in place of the answer."""

    _unparsed = 0  # bytes since the last head or part of a body
    _in_head = _in_body = _lingers = _ends = False
    _timer: asyncio.TimerHandle | None = None  # for the rest of a head, or of a body that is answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._lost: asyncio.Future[None] = self.loop.create_future()
        self._limit_wait(KEEP_ALIVE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        self._tell_lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        self._unset_keepalive_if_required()
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        else:
            if self._unparsed > _LARGEST_HEAD:
                self._refuse(errors.MalformedRequest(f"the head has more than {_LARGEST_HEAD} bytes"))
            elif self._in_head:
                self._limit_wait(KEEP_ALIVE_S)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unparsed, self._in_head = 0, False
        self._end_wait()
        if self._offers_upgrade():
            return  # it comes again without
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError("too many requests wait on one connection")  # the parser stops, and it is 400
        self._in_body = True
        self.scope["extensions"] = {CONNECTION_LOST: self._lost}  # type: ignore[dict-item]
        super().on_headers_complete()
        self.cycle.transport = _Answering(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if not self._offers_upgrade():
            self._in_body = False
            self._end_wait()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._lingers:
            return  # whose turn has not come is not answered any more
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._limit_wait(_REST_S)

    def shutdown(self) -> None:
        self._ends = True
        if self._lingers:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._refuse(errors.MalformedRequest("this is not an HTTP request that can be parsed"))

    def _tell_lost(self) -> None:
        if not self._lost.done():
            self._lost.set_result(None)

    def _offers_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _ignore_upgrade(self, rest: bytes) -> None:
        """As RFC 9110 (7.8) allows: the same request without the offer, which HTTP/2's clients make."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            return
        lines = [
            name + b": " + (b"close" if name == b"connection" else value)
            for name, value in self.headers
            if name not in (b"upgrade", b"http2-settings")
            and (name != b"connection" or b"close" in value.lower())
        ]
        head = b"\r\n".join([method + b" " + self.url + b" HTTP/" + version, *lines, b"", b""])
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _limit_wait(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _end_wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answer(self, data: bytes) -> None:
        """Writes a part of an answer, but none behind the last."""
        if not self._lingers:
            self.transport.write(data)

    def close(self) -> None:
        """At once when the request has been read; else only the way out, and what comes is thrown away."""
        if self._lingers:
            return
        unread = self._in_body and not self.transport.is_closing()
        if self._ends or not unread or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self._lingers = True
        self.flow.resume_reading()  # it may wait for the turn of pipelined requests
        self._end_wait()
        self._limit_wait(_REST_S)

    def _refuse(self, problem: errors.Problem) -> None:
        """The connection ends with it: where the next request would begin is not known."""
        request_id = new_request_id()
        response = problem_response(problem, request_id)
        headers = [*response.raw_headers, (REQUEST_ID, request_id.encode()), (b"connection", b"close")]
        status = b"HTTP/1.1 %d %s" % (problem.status, problem.title.encode())
        lines = [status, *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # an answer that was still to come would follow this one
            self.cycle.message_event.set()
            self._tell_lost()
        self._in_body = True  # what follows cannot be told apart
        self.close()


class _Answering:
    """What a request's answer is written to. Its head leaves with the first part of its body, in one call of
    the system; where it ends is the protocol's to decide."""

    __slots__ = ("_begun", "_head", "_protocol", "is_closing")

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._begun, self._head = protocol.scope["method"] == "HEAD", b""  # to which there is no body
        self.is_closing = protocol.transport.is_closing

    def write(self, data: bytes) -> None:
        if self._begun or data.startswith(_CONTINUE):
            self._protocol.answer(self._head + data)
            self._head = b""
        else:
            self._begun, self._head = True, data

    def close(self) -> None:
        if self._head:  # the answer broke off
            self.write(b"")
        self._protocol.close()
