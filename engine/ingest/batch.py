"""What travels through ingestion: one caller's append, the batch it is part of, rows that cannot be stored, and what
became of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from engine.errors import RookeryError
from engine.ingest.unknown_keys import NO_KEYS, UnknownKeys
from engine.ingest.values.staging import StageSchema, condition
from engine.schema import Name
from engine.warehouse.port import Input


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row: its number among the caller's rows, from 1, and the columns and reasons."""

    row: int
    columns: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What became of an append: rows in the datasource, rows in quarantine, and the batch that they went with.

    `refused` counts bad rows that were kept nowhere, since the writer's share of quarantine is full. `tenants` counts
    stored rows by tenant id, for appends with a key. `visible` is done when the rows can be read from their tenants'
    tables, None when they can be already. `repeated` says that an earlier try had done it. `ignored` are columns of a
    file that the datasource does not have, `unknown` keys of its events, and `first` is the first bad row.
    """

    batch: str
    rows: int
    quarantined: int = 0
    refused: int = 0
    tenants: Mapping[str, int] = field(default_factory=dict)
    visible: Future[bool] | None = None
    repeated: bool = False
    ignored: tuple[str, ...] = ()
    unknown: UnknownKeys = NO_KEYS
    first: Fault | None = None


@dataclass(slots=True, eq=False)
class Append:
    """One caller's rows on their way into a datasource.

    `bound` is the tenant that the caller writes for, `key` the caller's idempotency key, and `writer` whose turn it
    takes. `lines`, if known, are the body's rows, each a complete JSON object by itself, and `unknown` the keys in
    them that no column takes; `strange` says that one of them has no others. `into` is the table, if it is not the
    datasource's own. `whole` is false for a piece of a larger body.
    """

    datasource: str
    body: bytes
    format: Input
    bound: str | None = None
    key: str | None = None
    lines: Sequence[bytes] | None = None
    answer: Future[AppendResult] = field(default_factory=Future)
    digest: str = ""
    into: Name | None = None
    whole: bool = True
    writer: str = ""
    unknown: UnknownKeys = NO_KEYS
    strange: bool = False

    @property
    def joins(self) -> bool:
        """Whether it may be stored together with others: JSON that goes into the datasource itself."""
        return self.format is Input.NDJSON and self.into is None


@dataclass(slots=True)
class RejectedRow:
    """A row that cannot be stored: its number in the batch, its text, and what is wrong in which columns.

    `header` is the first line of the CSV file that it stood in.
    """

    number: int
    text: bytes
    format: Input
    columns: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    values: dict[str, str | None] = field(default_factory=dict)
    foreign: bool = False
    header: bytes = b""

    def add(self, column: str, reason: str) -> None:
        if column not in self.columns:
            self.columns.append(column)
            self.reasons.append(reason)


@dataclass(slots=True)
class AppendSlice:
    """One append's share of a batch: rows `start` to `stop`. `refused` says why none of them is stored."""

    append: Append
    start: int
    stop: int
    refused: RookeryError | None = None


@dataclass(slots=True)
class Batch:
    """Appends on their way into a datasource together, in a stage table.

    `size` is theirs in bytes. `numbered` says whether rows in the stage carry their numbers, which only those that
    are good do. `searching` says that its bad rows may be searched for now. `usual` says that its rows go by the
    short conditions and values. `refused` are bad rows for which quarantine has no room. `ignored` are columns of its
    file that the datasource does not have. `handed` says that somebody else gives the table back, `visible` is an
    `Outcome`'s.
    """

    id: str
    stage: StageSchema
    table: Name
    portions: list[AppendSlice]
    bound: str | None
    size: int
    rows: int = 0
    numbered: bool = False
    searching: bool = False
    usual: bool = False
    bad: dict[int, RejectedRow] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    header: bytes = b""
    ignored: tuple[str, ...] = ()
    handed: bool = False
    visible: Future[bool] | None = None

    @property
    def condition(self) -> str:
        """SQL that tells which rows of the stage are stored."""
        if self.numbered:
            return "1"
        return condition(self.stage, self.bound, usual=self.usual)

    @property
    def good(self) -> int:
        """Rows that are to be stored."""
        return sum(p.stop - p.start - self.bad_in(p) for p in self.portions if not p.refused)

    def bad_in(self, portion: AppendSlice) -> int:
        """Rows of a portion that cannot be stored."""
        return sum(portion.start <= n < portion.stop for n in self.bad)

    def refused_in(self, portion: AppendSlice) -> int:
        """Bad rows of a portion that are not kept."""
        return sum(portion.start <= n < portion.stop for n in self.refused)

    def first_bad(self, portion: AppendSlice) -> Fault | None:
        """The first row of a portion that cannot be stored."""
        number = min((n for n in self.bad if portion.start <= n < portion.stop), default=None)
        if number is None:
            return None
        bad = self.bad[number]
        return Fault(number - portion.start + 1, tuple(bad.columns), tuple(bad.reasons))
