"""The bodies of a batch in the form that the engine reads, and checks of them that do not need the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.ingest.batch import Append, AppendSlice
from engine.ingest.formats.body_rows import is_unterminated_array, json_rows
from engine.ingest.formats.csv_records import is_unterminated
from engine.ingest.formats.json_values import BLANK
from engine.ingest.values.plain_keys import may_have_escaped_keys, with_plain_keys
from engine.ingest.values.shared_keys import expand_shared_keys
from engine.ingest.values.staging import BOUND_TENANT_COLUMN, StageSchema
from engine.warehouse.port import Input


@dataclass(frozen=True, slots=True)
class BatchTexts:
    """The appends of a batch, all of one format, and the texts that the engine reads, in which small bodies are
    joined.
    """

    joined: list[Append]
    """Appends whose lines are known. These lines are read first, as one body."""
    lines: list[bytes]
    """Their lines. Each line begins with its tenant if the appends are bound to several tenants."""
    separate: list[Append]
    """Appends whose bodies are read separately."""
    texts: list[bytes]
    """The joined lines, if there are any, and then the separate bodies."""

    @classmethod
    def of(cls, appends: Sequence[Append]) -> BatchTexts:
        """Join the bodies whose lines are known."""
        # Many small bodies are joined, because each text takes a separate INSERT into the stage.
        joined = [a for a in appends if a.lines is not None]
        separate = [a for a in appends if a.lines is None]
        is_mixed = len({a.bound_tenant for a in appends}) > 1
        # The engine could not distinguish the tenants of bodies that it reads separately.
        assert not (is_mixed and separate)
        lines = [line for a in joined for line in (_named_lines(a) if is_mixed else a.lines or ())]
        return cls(joined, lines, separate, [*([b"\n".join(lines)] if joined else []), *(a.body for a in separate)])

    @property
    def appends(self) -> list[Append]:
        """The appends in the order in which their rows are staged."""
        return [*self.joined, *self.separate]

    @property
    def format(self) -> Input:
        return self.appends[0].format

    @property
    def separate_texts(self) -> list[bytes]:
        """The bodies that are read separately."""
        return self.texts[bool(self.joined) :]


def json_rows_of(append: Append) -> list[bytes]:
    """The rows of a JSON body, each as it was sent."""
    return list(append.lines or json_rows(append.body, whole=append.is_complete))


def _named_lines(append: Append) -> Iterator[bytes]:
    """An append's lines with the tenant of its token as the first key.

    The key's name is random, and the engine refuses a row in which a key is repeated, so no line can name a tenant.
    """
    key = b'{"%s":%s' % (BOUND_TENANT_COLUMN.encode(), json.dumps(append.bound_tenant).encode())
    for line in append.lines or ():
        members = line[1:].lstrip(BLANK)
        yield key + (members if members.startswith(b"}") else b"," + members)


def is_truncated(body: bytes, format: Input) -> bool:
    """Whether a list or a quoted value is still open at a body's end. The engine would accept it as complete."""
    return is_unterminated_array(body) if format is Input.NDJSON else format is Input.CSV and is_unterminated(body)


def is_rewritten(schema: StageSchema, batch_texts: BatchTexts) -> bool:
    """Whether the engine reads rows in another form than they were sent in."""
    return bool(schema.shared) or (bool(schema.paths) and any(map(may_have_escaped_keys, batch_texts.texts)))


def as_read(row: bytes, schema: StageSchema) -> bytes | None:
    """A row of JSON in the form that the engine reads: the values of shared keys are repeated under each column's
    name, and keys have no escapes where the engine would not read them. None if the row is not an object.
    """
    spread_row = expand_shared_keys(row, schema.shared) if schema.shared else row
    return with_plain_keys(spread_row, schema.paths) if spread_row is not None and schema.paths else spread_row


def rewritten_texts(schema: StageSchema, batch_texts: BatchTexts) -> list[bytes] | None:
    """The bodies in the form that the engine reads; None if a row is not an object."""
    joined = [batch_texts.lines] if batch_texts.joined else []
    texts = []
    for rows in (*joined, *(json_rows_of(a) for a in batch_texts.separate)):
        rewritten = [as_read(row, schema) for row in rows]
        objects = [row for row in rewritten if row is not None]
        if len(objects) < len(rewritten):
            return None
        texts.append(b"\n".join(objects))
    return texts


def slices_of(appends: Sequence[Append], counts: Sequence[int]) -> tuple[AppendSlice, ...]:
    """The slices of appends that are staged one after the other, with `counts` rows."""
    slices, start = [], 0
    for append, count in zip(appends, counts, strict=True):
        slices.append(AppendSlice(append, start, start + count))
        start += count
    return tuple(slices)
