"""ClickHouse's HTTP interface on top of chDB: a real engine over a real connection, for machines without a server.

As a program: `python -m tests.support.clickhouse_http --port 0 --path DIR` prints its port and serves on loopback
until its standard input ends, so it cannot outlive the test run. In tests: `with serve(tmp_path) as url: ...`.

There are three users: the writer, the reader (a profile with readonly = 2) and one whose profile is too strict
(readonly = 1). Settings of the URL become settings of the request's own engine handle.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

WRITER = ("writer", "writer's secret")
READER = ("reader", "reader's secret")
STRICT_READER = ("strict", "strict's secret")

_USERS = {WRITER[0]: (WRITER[1], 0), READER[0]: (READER[1], 2), STRICT_READER[0]: (STRICT_READER[1], 1)}
# Parameters of the transport, which are no settings of the engine.
_TRANSPORT = {
    "buffer_size",
    "client_protocol_version",
    "compress",
    "database",
    "decompress",
    "default_format",
    "enable_http_compression",
    "http_headers_progress_interval_ms",
    "password",
    "query",
    "query_id",
    "quota_key",
    "role",
    "send_progress_in_http_headers",
    "session_check",
    "session_id",
    "session_timeout",
    "user",
    "wait_end_of_query",
}
# What the engine delivers in blocks that can be joined; everything else is one document.
_STREAMED = {"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"}
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_INSERT = re.compile(rb"\s*(INSERT\s+INTO\s.*?)\s+FORMAT\s+(\w+)[ \t]*(?:\r?\n|$)", re.IGNORECASE | re.DOTALL)
_CODE = re.compile(r"Code: (\d+)\.")
_STATUS = {60: 404, 81: 404, 62: 400, 36: 400, 456: 400, 457: 400, 497: 403, 516: 403}


_BACKUPS = """<clickhouse>
    <storage_configuration>
        <disks><backups><type>local</type><path>{path}/</path></backups></disks>
    </storage_configuration>
    <backups><allowed_disk>backups</allowed_disk><allowed_path>{path}/</allowed_path></backups>
</clickhouse>
"""


@contextmanager
def serve(path: Path, *, late: str = "tagged", backups: Path | None = None) -> Iterator[str]:
    """A server over the engine directory `path`, as its URL. `late`: how it reports an error after the first row,
    as servers of different ages do: `tagged`, `bare` or `cut`. `backups`: a directory that exists, to which it may
    write backups, as the disk `backups`."""
    root = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-m",
        "tests.support.clickhouse_http",
        "--port",
        "0",
        "--path",
        str(path),
        "--late",
        late,
        *(["--backups", str(backups)] if backups is not None else []),
    ]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the helper did not start"
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def server_settings(url: str) -> dict[str, str]:
    """The environment of a rookery whose workspace is on such a server."""
    user, password = WRITER
    settings = {"CLICKHOUSE_URL": url, "CLICKHOUSE_USER": user, "CLICKHOUSE_PASSWORD": password}
    return {f"ROOKERY_{name}": value for name, value in settings.items()}


@dataclass
class Request:
    """One query as it came: its text, data of an INSERT, settings and parameters."""

    text: str
    data: bytes | None = None
    format: str = ""
    database: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    query_id: str = ""


class Refused(Exception):
    """An answer with an error, before anything was sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        match = _CODE.search(text)
        self.code = int(match[1]) if match else 1002
        self.text = text[text.find("Code: ") :] if match else text


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests, each on an engine handle of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    path_of_engine = ""
    version = ""
    late = "tagged"

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._whole(200, b"Ok.\n", {})
        else:
            self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._body()
        try:
            readonly = self._login()
            self._run(self._request(body), readonly)
        except Refused as exc:
            text = exc.text if "(version" in exc.text else f"{exc.text} (version {self.version})"
            headers = {"X-ClickHouse-Exception-Code": str(exc.code), "Content-Type": "text/plain; charset=UTF-8"}
            self._whole(_STATUS.get(exc.code, 500), text.encode() + b"\n", headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _login(self) -> int:
        """The readonly level of the user's profile."""
        user, password = self.headers.get("X-ClickHouse-User", "default"), self.headers.get("X-ClickHouse-Key", "")
        authorization = self.headers.get("Authorization", "")
        if authorization.startswith("Basic "):
            user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
        known = _USERS.get(user)
        if known is None or not secrets.compare_digest(known[0].encode(), password.encode()):
            raise Refused(
                f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, "
                "or there is no user with such name. (AUTHENTICATION_FAILED)"
            )
        return known[1]

    def _request(self, body: bytes) -> Request:
        given = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            given |= _form(body, kind.partition("boundary=")[2].strip('"'))
            body = b""
        text, data, format = given.get("query", ""), None, ""
        whole = _INSERT.match(text.encode() if text else body)
        if whole and b"SELECT" not in whole[1].upper():
            data = body if text else body[whole.end() :]
            text, format = whole[1].decode(), whole[2].decode()
        else:
            text += body.decode()
        text = text.replace("KILL QUERY WHERE query_id =", "KILL QUERY WHERE Settings['log_comment'] =")
        return Request(
            text,
            data,
            format,
            given.get("database", "default"),
            {k: v for k, v in given.items() if k not in _TRANSPORT and not k.startswith("param_")},
            {k.removeprefix("param_"): v for k, v in given.items() if k.startswith("param_")},
            given.get("query_id", ""),
        )

    def _run(self, request: Request, readonly: int) -> None:
        import chdb

        with closing(chdb.connect(self.path_of_engine)) as connection:
            try:
                if request.database:
                    connection.query(f"USE `{request.database}`")
                if readonly:
                    connection.query(f"SET readonly = {readonly}")
                if request.query_id:
                    # Here a query has no id of its own choosing; a comment shows in the list of processes as well.
                    connection.query(f"SET log_comment = {_literal(request.query_id)}")
                if request.settings:
                    pairs = (f"{k} = {_literal(v)}" for k, v in request.settings.items())
                    connection.query("SET " + ", ".join(pairs))
                if request.data is not None:
                    self._insert(connection, request)
                else:
                    self._select(connection, request)
            except RuntimeError as exc:
                raise Refused(str(exc)) from exc

    def _insert(self, connection: Any, request: Request) -> None:
        head, _, settings = request.text.partition(" SETTINGS ")
        with tempfile.NamedTemporaryFile() as file:
            file.write(request.data or b"")
            file.flush()
            clause = f" SETTINGS {settings}" if settings else ""
            result = connection.query(f"{head} FROM INFILE '{file.name}'{clause} FORMAT {request.format}")
        rows, size = str(result.rows_read()), str(result.bytes_read())
        self._whole(200, b"", _summary({"read_rows": rows, "written_rows": rows, "written_bytes": size}))

    def _select(self, connection: Any, request: Request) -> None:
        named = _FORMAT.search(request.text)
        format = named[1] if named else "TabSeparated"
        headers = {"X-ClickHouse-Format": format, "X-ClickHouse-Timezone": "UTC"}
        if format not in _STREAMED or not re.match(r"\s*(SELECT|WITH)\b", request.text, re.IGNORECASE):
            result = connection.query(request.text, format, params=request.parameters)
            body = result.bytes() or b""
            if not body:
                headers.pop("X-ClickHouse-Format")
            rows = str(result.rows_read())
            self._whole(200, body, {**headers, **_summary({"read_rows": rows, "written_rows": rows})})
            return
        with closing(connection.send_query(request.text, format, params=request.parameters)) as stream:
            first = stream.fetch()
            if first is None and format == "Native":
                # A server describes the columns of an empty result; the engine's stream says nothing at all.
                self._whole(200, _empty_native(connection, request), {**headers, **_summary({})})
                return
            self._chunked(first, stream, headers)

    def _chunked(self, first: Any, stream: Any, headers: dict[str, str]) -> None:
        tag = secrets.token_hex(8)
        if self.late == "tagged":
            headers["X-ClickHouse-Exception-Tag"] = tag
        self._head(200, {**headers, **_summary({}), "Transfer-Encoding": "chunked"})
        block = first
        try:
            while block is not None:
                self._chunk(block.bytes())
                block = stream.fetch()
        except RuntimeError as exc:
            text = f"{str(exc)[str(exc).find('Code: ') :]} (version {self.version})".encode()
            if self.late == "cut":
                self.close_connection = True
                return
            if self.late == "tagged":
                end = f"{len(text)} {tag}\r\n__exception__\r\n".encode()
                text = f"\r\n__exception__\r\n{tag}\r\n".encode() + text + b"\n" + end
            self._chunk(text)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-ClickHouse-Query-Id": secrets.token_hex(16), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _summary(found: dict[str, str]) -> dict[str, str]:
    names = ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows")
    return {"X-ClickHouse-Summary": json.dumps({**dict.fromkeys(names, "0"), **found})}


def _empty_native(connection: Any, request: Request) -> bytes:
    """A Native block without rows: the columns' number, none of their rows, and their names and types."""
    text = _FORMAT.sub("", request.text)
    try:
        result = connection.query(f"DESCRIBE TABLE ({text}\n)", "JSONCompact", params=request.parameters)
    except RuntimeError:
        return b""
    columns = [(row[0].encode(), row[1].encode()) for row in json.loads(result.bytes())["data"]]
    names = b"".join(_number(len(n)) + n + _number(len(t)) + t for n, t in columns)
    return _number(len(columns)) + _number(0) + names


def _number(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(digits) + bytes([value])


def _form(body: bytes, boundary: str) -> dict[str, str]:
    fields = {}
    for part in body.split(b"--" + boundary.encode())[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name:
            fields[name[1].decode()] = value.removesuffix(b"\r\n").decode()
    return fields


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    import chdb

    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--path", required=True)
    arguments.add_argument("--late", choices=("tagged", "bare", "cut"), default="tagged")
    arguments.add_argument("--backups")
    given = arguments.parse_args()
    Handler.path_of_engine = given.path
    if given.backups is not None:
        config = Path(given.backups, "config.xml")
        config.write_text(_BACKUPS.format(path=given.backups))
        Handler.path_of_engine += f"?config-file={config}"
    keep = chdb.connect(Handler.path_of_engine)
    Handler.late = given.late
    Handler.version = keep.query("SELECT version()", "TabSeparated").bytes().decode().strip()
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    server.daemon_threads = True
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
