"""A file sent in a form (multipart/form-data): its bytes, taken out while they arrive."""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Message, Receive

from engine.errors import BAD_ENCODING, MEDIA_TYPE, RookeryError

MAX_PART_HEAD_BYTES = 16 << 10
"""Bytes that the headers of a part may take."""


class Form:
    """A form that has one part, the file.

    Its methods raise RK5019 for another number of parts and an encoding of the part, and RK5007 for what is no form.
    """

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RookeryError(MEDIA_TYPE, "the form's boundary is missing from its Content-Type")
        self._parts = 0
        self._ended = False
        self._head = 0
        self._name = self._value = b""
        self._data: list[bytes] = []
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._field,
                    "on_header_value": self._more,
                    "on_header_end": self._header,
                    "on_part_data": self._take,
                    "on_end": self._end,
                },
            )
        except MultipartParseError as exc:
            raise RookeryError(MEDIA_TYPE, f"the form's boundary cannot be used: {exc}") from exc

    def feed(self, chunk: bytes) -> bytes:
        """What of the file is in a chunk of the form."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as exc:
            raise RookeryError(BAD_ENCODING, f"the body is not the form that its Content-Type says: {exc}") from exc
        found = b"".join(self._data)
        self._data.clear()
        return found

    def finish(self) -> None:
        """Note the end of the body."""
        if not self._ended:
            raise RookeryError(BAD_ENCODING, "the form breaks off before its end", hint="send all of it")
        if not self._parts:
            raise RookeryError(MEDIA_TYPE, "the form has no field", hint="one file in one field")

    def _begin(self) -> None:
        self._parts += 1
        self._head = 0
        if self._parts > 1:
            hint = "one file in one field; the name, mode and format are parameters of the URL"
            raise RookeryError(MEDIA_TYPE, "the form has more than one field", hint=hint)

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._measure(end - start)

    def _more(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._measure(end - start)

    def _measure(self, size: int) -> None:
        self._head += size
        if self._head > MAX_PART_HEAD_BYTES:
            raise RookeryError(
                BAD_ENCODING, f"the headers of the form's field are longer than {MAX_PART_HEAD_BYTES:,} bytes"
            )

    def _header(self) -> None:
        name, value = self._name.strip().lower(), self._value.strip().lower()
        self._name = self._value = b""
        encoded = name == b"content-transfer-encoding" and value not in (b"binary", b"8bit", b"7bit")
        if encoded or name == b"content-encoding":
            hint = "send the file's bytes as they are; gzip and zstd are recognized by them"
            raise RookeryError(MEDIA_TYPE, f"the form's field is encoded ({value[:40].decode('latin-1')})", hint=hint)

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def file_in(content_type: str, receive: Receive) -> Receive:
    """Receiving the file of a form instead of the form."""
    form = Form(content_type)

    async def received() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body = form.feed(message.get("body", b""))
        more = message.get("more_body", False)
        if not more:
            form.finish()
        return {"type": "http.request", "body": body, "more_body": more}

    return received
