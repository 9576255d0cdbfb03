"""The values that pass through ingestion: an append, its batch, rejected rows and results.

A batch is a series of frozen values: a `StagedBatch` is in its stage, a `JudgedBatch` knows its rejected rows. What
is committed and handed to the fan-out is `engine.fanout.handover.CommittedBatch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from engine.errors import RookeryError
from engine.fanout.handover import DELIVERED, ONLY_APPEND, AppendOfBatch, Delivery
from engine.ingest.unknown_keys import NO_KEYS, UnknownKeys
from engine.ingest.values.staging import BoundTenant, Projection, StageSchema, fast_projection, full_projection
from engine.ingest.values.staging_mode import StagingMode
from engine.schema import Name, quote
from engine.warehouse.port import Input

MAX_JOINED_BYTES = 64 << 10
"""Bodies up to this size are concatenated. The engine reads larger ones separately."""
SMALL_AND_BOUND = ""
"""The value of `Append.sharing` for small appends of bound tenants. No tenant has this id."""


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why one row of an append could not be stored."""

    row: int
    """The row's position among the caller's rows, from 1."""
    columns: tuple[str, ...]
    """The column at fault for each reason; empty if a reason concerns the whole row."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppendResult:
    """The result of an append."""

    batch: str
    """The identity of the batch that the rows were stored with."""
    rows: int
    """Rows stored in the datasource."""
    quarantined: int = 0
    """Rows stored in quarantine."""
    refused: int = 0
    """Bad rows that were discarded, because the writer's quota in quarantine is used up."""
    tenants: Mapping[str, int] = field(default_factory=dict)
    """Stored rows by tenant id. Only appends with an idempotency key have it."""
    delivery: Delivery = DELIVERED
    """The delivery of the batch to its tenants' tables."""
    append: AppendOfBatch = ONLY_APPEND
    """The append as a part of the batch."""
    repeated: bool = False
    """An earlier append with the same idempotency key had stored the rows."""
    ignored_columns: tuple[str, ...] = ()
    """Columns of a file that the datasource does not have."""
    unknown_keys: UnknownKeys = NO_KEYS
    """Keys of events that no column reads."""
    first_bad_row: RowFault | None = None
    """The first row that went to quarantine or was refused."""

    @property
    def visible(self) -> Future[bool] | None:
        """Becomes true when the rows can be read from their tenants' tables; None if they already can."""
        return self.delivery.visible_to(self.append)


@dataclass(slots=True, eq=False)
class Append:
    """One caller's rows on their way into a datasource."""

    datasource: str
    body: bytes
    format: Input
    bound_tenant: str | None = None
    """The tenant that the caller's token is bound to."""
    key: str | None = None
    """The caller's idempotency key."""
    token: str = ""
    """The name of the caller's token. Appends of a token without a tenant are stored in order."""
    target: Name | None = None
    """The table to store in, if it is not the datasource's own. It has the same columns."""
    is_complete: bool = True
    """False for a part of a larger body."""
    lines: Sequence[bytes] | None = None
    """The rows of a small body, each a complete JSON object, or None if they have not been separated."""
    unknown_keys: UnknownKeys = NO_KEYS
    """Keys that no column reads."""
    has_unrelated_event: bool = False
    """Whether at least one event has no key that a column reads."""
    mode: StagingMode | None = None
    """How the rows must be staged; None before it is determined."""
    digest: str = ""
    """The body's SHA-256, for appends with an idempotency key."""
    future: Future[AppendResult] = field(default_factory=Future)
    """Receives the result."""
    writer: str = field(init=False)
    """The writer in whose queue the append waits: the bound tenant, or a token without a tenant."""

    def __post_init__(self) -> None:
        # The token alone would let the tokens of one tenant overtake each other.
        self.writer = writer_id(self.bound_tenant, self.token)

    @property
    def can_be_joined(self) -> bool:
        """Whether the append may share a batch with others, which is the case for JSON that goes to the datasource's
        own table.
        """
        return self.format is Input.NDJSON and self.target is None

    @property
    def sharing(self) -> str | None:
        """Which appends this one may share a batch with: those with the same value.

        Small ones of all bound tenants may share a batch, since each of their lines can name its tenant.
        """
        is_small = self.can_be_joined and len(self.body) <= MAX_JOINED_BYTES
        return SMALL_AND_BOUND if self.bound_tenant is not None and is_small else self.bound_tenant


def writer_id(bound_tenant: str | None, token: str) -> str:
    """The identity of a writer: the tenant that its token is bound to, or else the token."""
    return f"token {token}" if bound_tenant is None else f"tenant {bound_tenant}"


@dataclass(slots=True)
class RejectedRow:
    """A row that cannot be stored, and why."""

    number: int
    """The row's position in its batch, from 0."""
    text: bytes
    """The row as it was sent."""
    format: Input
    columns: list[str] = field(default_factory=list)
    """The column at fault for each of `reasons`; empty if a reason concerns the whole row."""
    reasons: list[str] = field(default_factory=list)
    values: dict[str, str | None] = field(default_factory=dict)
    """The row's values by column, as strings."""
    is_foreign: bool = False
    """The row names another tenant than the one that the token is bound to."""
    header: bytes = b""
    """The header line of the row's CSV file."""

    def add(self, column: str, reason: str) -> None:
        """Add a reason, unless the column has one."""
        if column not in self.columns:
            self.columns.append(column)
            self.reasons.append(reason)

    def set_reason(self, column: str, reason: str) -> None:
        """Set the only reason of a column."""
        self.add(column, reason)
        self.reasons[self.columns.index(column)] = reason


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The rows of one append as they were sent. A row's number is its position, from 0."""

    texts: Sequence[bytes]
    format: Input
    header: bytes = b""
    """The header line of a CSV file."""


@dataclass(frozen=True, slots=True)
class AppendSlice:
    """One append's share of a batch: the rows from `start` up to, but not including, `stop`."""

    append: Append
    """Whose rows they are."""
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def __contains__(self, number: int) -> bool:
        return self.start <= number < self.stop


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """Appends whose rows are in a stage."""

    id: str
    """Its identity, which is also its deduplication token."""
    schema: StageSchema
    """How the rows are staged."""
    table: Name
    """The stage."""
    slices: tuple[AppendSlice, ...]
    """The rows of each append, in the order of the stage."""
    size: int
    """Bytes of the bodies."""
    may_inspect: bool = False
    """Whether bad rows may be searched for on this thread. Otherwise the batch fails if it has any."""
    ignored_columns: tuple[str, ...] = ()
    """Columns of a file that the datasource does not have."""

    @property
    def datasource(self) -> str:
        return self.schema.source.name

    @property
    def target(self) -> Name | None:
        """The table to store in, if it is not the datasource's own."""
        return self.slices[0].append.target

    @property
    def bound_tenants(self) -> frozenset[str]:
        """The tenants that the appends' tokens are bound to; empty for tokens without a tenant."""
        ids = {s.append.bound_tenant for s in self.slices}
        # Rows of an unbound token must not get the tenant of a bound one.
        assert None not in ids or len(ids) == 1
        return frozenset(id for id in ids if id is not None)

    @property
    def bound(self) -> BoundTenant | None:
        """The tenant that each row must belong to, if the tokens are bound to tenants."""
        tenants = self.bound_tenants
        return BoundTenant(next(iter(tenants)) if len(tenants) == 1 else None) if tenants else None

    @property
    def bound_tenant(self) -> str | None:
        """The tenant that the token of the batch's only append is bound to."""
        (share,) = self.slices
        return share.append.bound_tenant

    @property
    def tenant_text(self) -> str | None:
        """Each row's tenant as SQL; None for a datasource without a tenant column."""
        if self.schema.tenant is None:
            return None
        return self.schema.tenant.value if self.bound is None else self.bound.text


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """A staged batch with the rows that are known to be bad.

    Before the batch is inspected, there may be bad rows that are not listed; they are found when the batch is stored.
    """

    staged: StagedBatch
    fast: bool = False
    """Whether rows are validated by the fast checks."""
    inspected: bool = False
    """Whether every row has been validated, so that `rejected` is complete."""
    numbered: bool = False
    """Whether the stage has row numbers, and only rows that can be stored."""
    rejected: Mapping[int, RejectedRow] = field(default_factory=dict)
    """Rows that cannot be stored, by their number."""
    discarded: frozenset[int] = frozenset()
    """Rejected rows that exceed the writer's quota in quarantine."""
    refusal: RookeryError | None = None
    """Why the batch, of one append, is refused as a whole."""

    @property
    def projection(self) -> Projection:
        """How staged rows are validated and converted: by the fast rules or the full ones."""
        make = fast_projection if self.fast else full_projection
        return make(self.staged.schema, self.staged.bound)

    @property
    def condition(self) -> str:
        """The SQL condition for staged rows that are stored."""
        if self.numbered:
            return "1"
        # An inspection rejects rows whose TTL overflows, and a filter must not compute values of invalid rows.
        expiry = None if self.inspected else self._expiry_condition()
        return self.projection.condition + (f" AND {expiry}" if expiry else "")

    def _expiry_condition(self) -> str | None:
        """The condition for rows whose TTL does not overflow: the engine would remove others as soon as they are
        stored.
        """
        schema, values = self.staged.schema, self.projection.values
        if schema.expiry is None:
            return None
        stored = dict(zip((c.name for c in schema.source.columns), values, strict=True))
        names = ", ".join(map(quote, schema.expiry.columns))
        arrays = ", ".join(f"[{stored[c]}]" for c in schema.expiry.columns)
        # The stage's columns of these names may hold other values. In the lambda, the names mean the stored values.
        return f"arrayAll(({names}) -> {schema.expiry.condition}, {arrays})"

    @property
    def stored_rows(self) -> int:
        """How many rows are to be stored."""
        return 0 if self.refusal else sum(s.rows - self.rejected_in(s) for s in self.staged.slices)

    def rejected_in(self, share: AppendSlice) -> int:
        """How many rows of an append cannot be stored."""
        return sum(number in share for number in self.rejected)

    def discarded_in(self, share: AppendSlice) -> int:
        """How many rejected rows of an append are not kept in quarantine."""
        return sum(number in share for number in self.discarded)

    def leaves_nothing(self, share: AppendSlice) -> bool:
        """Whether no row of an append is stored or quarantined, so that it can be sent again like a new append."""
        return 0 < share.rows == self.discarded_in(share)

    def first_bad_row(self, share: AppendSlice) -> RowFault | None:
        """The first row of an append that cannot be stored."""
        number = min((n for n in self.rejected if n in share), default=None)
        if number is None:
            return None
        row = self.rejected[number]
        return RowFault(number - share.start + 1, tuple(row.columns), tuple(row.reasons))
