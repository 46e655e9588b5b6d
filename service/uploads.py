"""The picture in a request's body, raw or as a multipart part, within the limits."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from model_store.imaging import (
    FORMATS,
    ImageHeader,
    TooManyPixels,
    UnreadableImage,
    UnsupportedImage,
    probe,
)
from service import errors

# What curl --data-binary says unless told otherwise, and what clients say that do not know.
_UNTYPED = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
_MULTIPART = "multipart/form-data"
_PART = "image"
# A client of which no more comes for so long, or so little, has gone, or means no good: it would keep its
# connection, and a server that is to end, for ever.
_STALLED_S = 20.0
_SLOWEST = 500.0  # bytes a second, once the seconds above are used up


class _Parser(MultiPartParser):
    """Starlette's parser, which would spool parts over 1 MiB to disk, take a part without a file's name for
    text, and what came for all there is."""

    spool_max_size = 1 << 30
    ended = False  # the closing boundary came

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == _PART.encode() and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename="image"'
        super().on_headers_finished()

    def on_end(self) -> None:
        self.ended = True


async def read_picture(request: Request, max_bytes: int) -> bytes:
    """The picture's bytes. Raises BodyTooLarge before more is read, and the problems of bad bodies."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    accepted = media_type in _UNTYPED or media_type == _MULTIPART or media_type.startswith("image/")
    if not accepted:
        how = f" as the body, or multipart/form-data with the part {_PART!r}"
        raise _unsupported(f"the content type is {media_type!r}", how)
    body = await read_body(request, max_bytes)
    return await _image_part(request, body) if media_type == _MULTIPART else body


def check_picture(data: bytes, max_pixels: int, max_pixels_in_full: int | None) -> ImageHeader:
    """The picture's header. Raises the problem that tells what is wrong with it."""
    try:
        return probe(data, max_pixels, max_pixels_in_full)
    except TooManyPixels as error:
        # Only a JPEG of one scan is reduced while it is decoded.
        less = (
            "a smaller picture" if error.limit == max_pixels else "a smaller one, or a JPEG, not progressive"
        )
        raise errors.TooManyPixels(
            f"{error}; send {less}",
            limit_pixels=error.limit,
            width=error.width,
            height=error.height,
        ) from None
    except UnsupportedImage:
        raise _unsupported("the bytes are of another type") from None
    except UnreadableImage as error:
        raise errors.UnreadableImage(str(error)) from None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body as it came. Raises BodyTooLarge before more is read, and MalformedRequest for one that ends
    early or stalls."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise errors.BodyTooLarge(max_bytes)
    chunks: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_STALLED_S) as stalled:
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise errors.MalformedRequest("the connection ended inside the body")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                size += len(chunk)
                if size > max_bytes:
                    raise errors.BodyTooLarge(max_bytes)
                chunks.append(chunk)
                if more:
                    until = (stalled.when() or 0.0) + len(chunk) / _SLOWEST
                    stalled.reschedule(min(until, loop.time() + _STALLED_S))
    except TimeoutError:
        raise errors.MalformedRequest(
            f"too little of the body came in {_STALLED_S:g} s; send it again", headers={"Connection": "close"}
        ) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _image_part(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = _Parser(request.headers, stream(), max_files=4, max_fields=16, max_part_size=len(body) + 1)
    try:
        form = await parser.parse()
        if not parser.ended:
            raise MultiPartException("it ends before its closing boundary")
    except (MultiPartException, LookupError, UnicodeError) as error:
        detail = "its texts are in a wrong or unknown encoding"
        if isinstance(error, MultiPartException):
            detail = error.message
        elif isinstance(error, KeyError):
            detail = "no boundary is given"
        raise errors.MalformedRequest(f"the multipart body cannot be parsed: {detail}") from None
    try:
        parts = [part for part in form.getlist(_PART) if isinstance(part, UploadFile)]
        if len(parts) != 1:
            found = ", ".join(sorted(repr(name) for name, _ in form.multi_items())) or "none"
            raise errors.InvalidParameter(
                _PART, f"expected one part named {_PART!r}; the body has the parts: {found}"
            )
        return await parts[0].read()
    finally:
        await form.close()


def _unsupported(what: str, how: str = "") -> errors.UnsupportedMediaType:
    known = ", ".join(FORMATS)
    return errors.UnsupportedMediaType(
        f"{what}; send {known}{how}",
        supported=[f"image/{name.lower()}" for name in FORMATS],
    )
