"""Files sent in a form (multipart/form-data): the bytes of the file are extracted while they arrive."""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Message, Receive

from engine.errors import BAD_ENCODING, MEDIA_TYPE, RookeryError

MAX_PART_HEADER_BYTES = 16 << 10
"""Maximum number of bytes in the headers of a part."""


class Form:
    """A form with one part, the file.

    Its methods raise RK5019 if the number of parts is not one or the part is encoded, and RK5007 for a body that is
    not a form.
    """

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RookeryError(MEDIA_TYPE, "the Content-Type of the form has no boundary")
        self._parts = 0
        self._ended = False
        self._header_bytes = 0
        self._name = self._value = b""
        self._data: list[bytes] = []
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except MultipartParseError as exc:
            raise RookeryError(MEDIA_TYPE, f"the form's boundary is not valid: {exc}") from exc

    def feed(self, chunk: bytes) -> bytes:
        """The bytes of the file that a chunk of the form contains."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as exc:
            raise RookeryError(
                BAD_ENCODING, f"the body is not a form with the boundary of its Content-Type: {exc}"
            ) from exc
        # The callbacks have collected what this chunk contains, so memory is bounded by its size.
        data = b"".join(self._data)
        self._data.clear()
        return data

    def finish(self) -> None:
        """Check at the end of the body that the form is complete."""
        if not self._ended:
            raise RookeryError(BAD_ENCODING, "the form is truncated", hint="send the complete form")
        if not self._parts:
            raise RookeryError(MEDIA_TYPE, "the form has no field", hint="send one file in one field")

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._header_bytes = 0
        if self._parts > 1:
            hint = "send one file in one field; name, mode and format are parameters of the URL"
            raise RookeryError(MEDIA_TYPE, "the form has more than one field", hint=hint)

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        # A name or value may be split between two chunks of the body.
        self._name += data[start:end]
        self._count_header_bytes(end - start)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count_header_bytes(end - start)

    def _count_header_bytes(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            raise RookeryError(
                BAD_ENCODING, f"the headers of the form's field are longer than {MAX_PART_HEADER_BYTES:,} bytes"
            )

    def _on_header_end(self) -> None:
        name, value = self._name.strip().lower(), self._value.strip().lower()
        self._name = self._value = b""
        encoded = name == b"content-transfer-encoding" and value not in (b"binary", b"8bit", b"7bit")
        if encoded or name == b"content-encoding":
            hint = "send the file's bytes unchanged; gzip and zstd are recognized by their first bytes"
            raise RookeryError(MEDIA_TYPE, f"the form's field is encoded ({value[:40].decode('latin-1')})", hint=hint)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def receive_file(content_type: str, receive: Receive) -> Receive:
    """Receives only the file in a form."""
    form = Form(content_type)

    async def receive_chunk() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body = form.feed(message.get("body", b""))
        more = message.get("more_body", False)
        if not more:
            form.finish()
        return {"type": "http.request", "body": body, "more_body": more}

    return receive_chunk
