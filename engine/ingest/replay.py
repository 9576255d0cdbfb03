"""Replays quarantined rows: sends them through the gateway again, unchanged or corrected, each exactly once.

A row's id makes its idempotency key, and the row is removed from quarantine only after it is stored. So an
interrupted replay can be repeated: rows that it had stored are recognized by their receipts and only removed. A row
is replayed for the tenant that its sender's token was bound to, so a correction cannot move it to another tenant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from engine.errors import BAD_ROW, QUARANTINE_FULL, UNKNOWN_TENANT, RookeryError
from engine.ingest import quarantine
from engine.ingest.batch import AppendResult
from engine.ingest.gateway import Gateway
from engine.ingest.idempotency.keys import Key, row_key
from engine.ingest.values.rejections import parse_json
from engine.observe import events
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace

CHUNK_BYTES = 4 << 20
"""Approximate size in bytes of the rows that are replayed at the same time."""


@dataclass(frozen=True, slots=True)
class _ReplayedRow:
    """A quarantined row as it will be sent."""

    id: str
    """Its `c__id`."""
    body: bytes
    format: Input
    bound_tenant: str | None
    """The tenant that the first sender's token was bound to."""

    def key(self, datasource: str) -> Key:
        return (self.bound_tenant or "", datasource, row_key(self.id))


@dataclass(slots=True)
class ReplayResult:
    """The result of a replay."""

    rows: int = 0
    """Rows stored in the datasource."""
    quarantined: int = 0
    """Rows that are in quarantine again, with new ids."""
    repeated: list[str] = field(default_factory=list)
    """Ids of rows that an earlier replay had stored."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    """Rows that remain in quarantine, with the reasons."""
    unknown: list[str] = field(default_factory=list)
    """Ids that are not in quarantine."""

    def as_dict(self) -> dict[str, Any]:
        """The response of a replay."""
        return {
            "successful_rows": self.rows,
            "quarantined_rows": self.quarantined,
            "repeated": self.repeated,
            "refused": self.refused,
            "unknown": self.unknown,
        }

    def refuse(self, id: str, exc: RookeryError) -> None:
        """Add a row that remains in quarantine."""
        self.refused.append({"id": id, "code": exc.code.id, "error": exc.message})


def replay(
    workspace: Workspace, gateway: Gateway, datasource: str, ids: Sequence[str] | None, corrected: Mapping[str, str]
) -> ReplayResult:
    """Replay rows of a datasource's quarantine: those with the ids, or (None) all.

    `corrected` are JSON objects by id, which replace the text of their rows. Raises RK5005 and RK5006 if there is no
    quarantine, and RK5010, RK5011 and the RK6xxx of a failing database; the replay can then be repeated.
    """
    quarantine.require_table(workspace, datasource)
    run = _Replay(workspace, gateway, datasource, corrected)
    with gateway.replay_lock:
        # All ids are read first: a row that is rejected again has a new id, and is not replayed twice.
        for chunk in run.chunks(run.all_ids() if ids is None else list(dict.fromkeys(ids))):
            # An erasure waits for rows that were read before it removed them from quarantine.
            with workspace.pending_appends.sending():
                run.send(run.read(chunk))
    events.note("quarantine replayed", datasource=datasource, rows=run.result.rows, again=run.result.quarantined)
    return run.result


@dataclass(frozen=True, slots=True)
class _Replay:
    """One replay, on the thread of the admin's request."""

    workspace: Workspace
    gateway: Gateway
    datasource: str
    corrected: Mapping[str, str]
    """JSON objects by row id."""
    result: ReplayResult = field(default_factory=ReplayResult)

    @property
    def _table(self) -> str:
        return quarantine.table_of(self.workspace, self.datasource).sql()

    def all_ids(self) -> list[str]:
        """The ids that are in quarantine now. A row that is rejected again gets a new id and is not sent twice."""
        result = self.workspace.warehouse.query(
            f"SELECT c__id FROM {self._table} ORDER BY insertion_date, c__import_id, c__row"
        )
        return [str(row[0]) for row in result.rows]

    def chunks(self, ids: Sequence[str]) -> Iterator[list[str]]:
        """Ids that are in quarantine, in chunks of bounded size of their rows. Unknown ids are recorded."""
        for at in range(0, len(ids), quarantine.ROWS_PER_STATEMENT):
            some = ids[at : at + quarantine.ROWS_PER_STATEMENT]
            sizes = self.workspace.warehouse.query(
                f"SELECT c__id, length(c__text) FROM {self._table} WHERE c__id IN {{i:Array(String)}}", {"i": [*some]}
            )
            size_of = {str(id): int(size) for id, size in sizes.rows}
            self.result.unknown += [id for id in some if id not in size_of]
            yield from _chunks_by_size([id for id in some if id in size_of], size_of)

    def read(self, ids: Sequence[str]) -> list[_ReplayedRow]:
        """The rows of ids as they will be sent. Those that cannot be sent are recorded as refused."""
        result = self.workspace.warehouse.query(
            # In hex, because the text of a row may contain any bytes.
            f"SELECT c__id, hex(c__text), hex(c__header), c__format, c__writer FROM {self._table} "
            "WHERE c__id IN {i:Array(String)} ORDER BY insertion_date, c__import_id, c__row",
            {"i": [*ids]},
        )
        rows = []
        for values in result.rows:
            id, text, header, format, bound_tenant = map(str, values)
            try:
                self._require_tenant(bound_tenant)
                body, kind = self._body(id, bytes.fromhex(text), bytes.fromhex(header), format)
                rows.append(_ReplayedRow(id, body, kind, bound_tenant or None))
            except RookeryError as exc:
                self.result.refuse(id, exc)
        return rows

    def _require_tenant(self, id: str) -> None:
        """Raise RK3004 if the tenant that the sender's token was bound to no longer exists."""
        tenant = self.workspace.current.tenants.get(id)
        if id and (tenant is None or tenant.state == "removing"):
            raise RookeryError(UNKNOWN_TENANT, f"tenant `{id}`, whose token sent the row, does not exist")

    def _body(self, id: str, text: bytes, header: bytes, format: str) -> tuple[bytes, Input]:
        """The body that a row is sent as. Raises RK5001 if it is not exactly one row."""
        if id not in self.corrected and format == Input.CSV.value:
            return b"%s\n%s\n" % (header, text), Input.CSV
        body = self.corrected[id].encode() if id in self.corrected else text
        if not isinstance(parse_json(body), dict):
            # Any other text could be several rows, which must not share one idempotency key.
            raise RookeryError(BAD_ROW, "the text is not a JSON object: send the row corrected")
        return body, Input.NDJSON

    def send(self, rows: Sequence[_ReplayedRow]) -> None:
        """Send rows, wait for all of them, and remove those that are stored or in quarantine again."""
        removable: list[str] = []
        receipts = self.gateway.receipts.find([r.key(self.datasource) for r in rows])
        sent: list[tuple[_ReplayedRow, Future[AppendResult]]] = []
        failure: RookeryError | None = None
        with self.gateway.memory_budget() as budget:
            for row in rows:
                if row.key(self.datasource) in receipts:
                    self.result.repeated.append(row.id)
                    removable.append(row.id)
                    continue
                budget.reserve(len(row.body))
                future = self.gateway.append(self.datasource, row.body, row.format, row.bound_tenant, row_key(row.id))
                sent.append((row, future))
            for row, future in sent:
                try:
                    if self._count(row, future.result()):
                        removable.append(row.id)
                except RookeryError as exc:
                    # A fault of the server, or a limit, does not concern the row: the replay can be repeated.
                    if exc.is_server_fault or exc.code.status == 429:
                        failure = failure or exc
                    else:
                        self.result.refuse(row.id, exc)
        # Done even after a failure, because the rows that were stored must not be sent again.
        quarantine.remove(self.workspace, self.datasource, removable)
        if failure is not None:
            raise failure

    def _count(self, row: _ReplayedRow, result: AppendResult) -> bool:
        """Add a row's result. Returns whether the row can be removed from quarantine."""
        if result.refused:
            self.result.refuse(row.id, RookeryError(QUARANTINE_FULL, "it is still bad, and its quarantine is full"))
            return False
        self.result.rows += result.rows
        self.result.quarantined += result.quarantined
        return True


def _chunks_by_size(ids: Sequence[str], size_of: Mapping[str, int]) -> Iterator[list[str]]:
    """Split ids into chunks whose rows have about `CHUNK_BYTES`."""
    chunk: list[str] = []
    size = 0
    for id in ids:
        chunk.append(id)
        size += size_of[id]
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
