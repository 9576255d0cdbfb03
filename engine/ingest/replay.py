"""Rows back out of quarantine: sent again through the gateway, as they are or mended, each exactly once.

A row's id makes its idempotency key, and it leaves quarantine only after it is stored. So a replay that was
interrupted can be repeated: what it had stored is known by the receipts and only taken out. A row goes again under
the tenant that its sender's token was bound to, so that mending cannot bring it to another one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from engine.errors import BAD_ROW, QUARANTINE_FULL, UNKNOWN_TENANT, RookeryError
from engine.ingest import quarantine
from engine.ingest.batch import AppendResult
from engine.ingest.gateway import Gateway
from engine.ingest.idempotency import Key, row_key
from engine.ingest.values.rejections import loaded
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace

CHUNK_BYTES = 4 << 20
"""Bytes of rows that are under way at once, about."""
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Row:
    """A quarantined row as it will be sent."""

    id: str
    body: bytes
    format: Input
    writer: str | None

    def key(self, datasource: str) -> Key:
        return (self.writer or "", datasource, row_key(self.id))


@dataclass(slots=True)
class Replayed:
    """What became of rows: stored, in quarantine again (with new ids), done by an earlier replay, or left there."""

    rows: int = 0
    quarantined: int = 0
    repeated: list[str] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "successful_rows": self.rows,
            "quarantined_rows": self.quarantined,
            "repeated": self.repeated,
            "refused": self.refused,
            "unknown": self.unknown,
        }

    def refuse(self, id: str, exc: RookeryError) -> None:
        self.refused.append({"id": id, "code": exc.code.id, "error": exc.message})


def replay(
    workspace: Workspace, gateway: Gateway, datasource: str, ids: Sequence[str] | None, mended: Mapping[str, str]
) -> Replayed:
    """Send rows of a datasource's quarantine again: those of the ids, or (None) all.

    `mended` are JSON objects by id, for rows that are not to be sent as they are. Raises RK5005 and RK5006 where
    there is no quarantine, and RK5010, RK5011 and the RK6xxx of a database that fails; it can be repeated then.
    """
    quarantine.existing(workspace, datasource)
    result = Replayed()
    with _one_at_a_time:
        wanted = _all(workspace, datasource) if ids is None else list(dict.fromkeys(ids))
        for some in _chunks(workspace, datasource, wanted, result):
            rows = [r for s in some if (r := _made(workspace, s, mended, result)) is not None]
            _send(workspace, gateway, datasource, rows, result)
    return result


def _all(workspace: Workspace, datasource: str) -> list[str]:
    """What is there now; a row that turns out bad again comes back with a new id, and is not sent twice."""
    table = quarantine.table_of(workspace, datasource).sql()
    found = workspace.warehouse.query(f"SELECT c__id FROM {table} ORDER BY insertion_date, c__import_id, c__row")
    return [str(row[0]) for row in found.rows]


def _chunks(
    workspace: Workspace, datasource: str, ids: Sequence[str], result: Replayed
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in portions of bounded size: id, text and header in hex, format, writer."""
    table = quarantine.table_of(workspace, datasource).sql()
    for at in range(0, len(ids), quarantine.ROWS_PER_STATEMENT):
        some = ids[at : at + quarantine.ROWS_PER_STATEMENT]
        sizes = workspace.warehouse.query(
            f"SELECT c__id, length(c__text) FROM {table} WHERE c__id IN {{i:Array(String)}}", {"i": [*some]}
        )
        size_of = {str(id): int(size) for id, size in sizes.rows}
        result.unknown += [id for id in some if id not in size_of]
        for part in _parts(some, size_of):
            yield workspace.warehouse.query(
                f"SELECT c__id, hex(c__text), hex(c__header), c__format, c__writer FROM {table} "
                "WHERE c__id IN {i:Array(String)} ORDER BY insertion_date, c__import_id, c__row",
                {"i": [*part]},
            ).rows


def _parts(ids: Sequence[str], size_of: Mapping[str, int]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for id in ids:
        if id in size_of:
            part.append(id)
            size += size_of[id]
            if size >= CHUNK_BYTES:
                yield part
                part, size = [], 0
    if part:
        yield part


def _made(workspace: Workspace, found: tuple[Any, ...], mended: Mapping[str, str], result: Replayed) -> _Row | None:
    """A row as it is to be sent; None for one that cannot be, which is refused."""
    id, text, header, kind, writer = (str(v) for v in found)
    try:
        if writer and ((tenant := workspace.current.tenants.get(writer)) is None or tenant.state == "removing"):
            raise RookeryError(UNKNOWN_TENANT, f"tenant `{writer}`, whose token sent the row, does not exist")
        if id in mended or kind != Input.CSV.value:
            body = mended[id].encode() if id in mended else bytes.fromhex(text)
            return _Row(id, _object(body), Input.NDJSON, writer or None)
        return _Row(id, bytes.fromhex(header) + b"\n" + bytes.fromhex(text) + b"\n", Input.CSV, writer or None)
    except RookeryError as exc:
        result.refuse(id, exc)
        return None


def _object(text: bytes) -> bytes:
    """A text that is one JSON object; any other could be more rows than one."""
    if isinstance(loaded(text), dict):
        return text
    raise RookeryError(BAD_ROW, "the text is no JSON object: send it mended")


def _send(workspace: Workspace, gateway: Gateway, datasource: str, rows: Sequence[_Row], result: Replayed) -> None:
    """Send rows, wait for all of them, and take those out that are stored or in quarantine again."""
    done: list[str] = []
    known = gateway.receipts.find([r.key(datasource) for r in rows])
    under_way: list[tuple[_Row, Future[AppendResult]]] = []
    failure: RookeryError | None = None
    with gateway.room() as room:
        for row in rows:
            if row.key(datasource) in known:
                result.repeated.append(row.id)
                done.append(row.id)
                continue
            room.take(len(row.body))
            under_way.append((row, gateway.append(datasource, row.body, row.format, row.writer, row_key(row.id))))
        for row, future in under_way:
            try:
                outcome = future.result()
            except RookeryError as exc:
                if exc.is_server_fault or exc.code.status == 429:
                    failure = failure or exc
                else:
                    result.refuse(row.id, exc)
                continue
            if outcome.refused:
                result.refuse(row.id, RookeryError(QUARANTINE_FULL, "it is still bad, and its quarantine is full"))
                continue
            done.append(row.id)
            result.rows += outcome.rows
            result.quarantined += outcome.quarantined
    quarantine.remove(workspace, datasource, done)
    if failure is not None:
        raise failure
