"""Reads a landing datasource as a log: its newest block, the blocks after an offset, and the rows of a log range."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from engine.compiler import storage
from engine.compiler.encoding import own_values
from engine.compiler.scope import TABLE_ALIAS, Relation, SelectOptions, select, tenant_literal
from engine.fanout.offsets import LogRange
from engine.schema import Name, literal, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import newest_block_in_parts
from engine.warehouse.port import Warehouse
from engine.workspace.workspace import Workspace

ROW_TUPLE = "_rk_row"
"""Alias of a whole row as a tuple."""
MAX_BLOCKS = 10_000
"""Maximum number of blocks that one query reads."""
GATEWAY_BATCH_PREFIX = "g:"
"""Prefix of the ids of the gateway's batches. Other programs' blocks have other ids, or none."""


@dataclass(frozen=True, slots=True)
class Block:
    """One insert's rows in landing."""

    number: int
    batch: str
    """The id of its batch, or what another program wrote there."""
    rows: int


class LandingLog:
    """The table of one landing datasource. Readable from any thread."""

    def __init__(self, warehouse: Warehouse, workspace: str, relation: Relation) -> None:
        self._warehouse = warehouse
        self.relation = relation
        self.table = Name(workspace, relation.name)

    def exists(self) -> bool:
        """Whether the table exists. A push drops it before the files without the datasource are deployed."""
        return bool(self._warehouse.query(f"EXISTS TABLE {self.table.sql()}").rows[0][0])

    def head(self) -> int:
        """The number of the newest block; 0 for an empty table. Reads no rows."""
        return newest_block_in_parts(self._warehouse, self.table)

    def blocks(self, after: int, limit: int = MAX_BLOCKS) -> list[Block]:
        """Blocks after a number, oldest first."""
        result = self._warehouse.query(
            # A block is one INSERT, so all its rows name the same batch.
            f"SELECT _block_number AS b, any({storage.BATCH_COLUMN}), count() FROM {self.table.sql()} "
            f"WHERE _block_number > {after} GROUP BY b ORDER BY b LIMIT {limit}"
        )
        return [Block(int(b), str(batch), int(n)) for b, batch, n in result.rows]

    def block_of(self, batch: str, since: float) -> Block | None:
        """The block of a batch; None if it is not in landing. `since` is when it was sent, in seconds since 1970."""
        # The time limits the search to recent parts, with a margin of one day.
        result = self._warehouse.query(
            f"SELECT max(_block_number), count() FROM {self.table.sql()} "
            f"PREWHERE {storage.BATCH_COLUMN} = {{b:String}} "
            f"AND {storage.ARRIVAL_COLUMN} >= toDateTime({int(since)}) - 86400",
            {"b": batch},
        )
        number, rows = result.rows[0]
        return Block(int(number), batch, int(rows)) if rows else None

    def tenants(self, log_range: LogRange) -> set[str]:
        """Tenants with rows in a log range."""
        column = f"{TABLE_ALIAS}.{quote(self.relation.tenant or '')}"
        result = self._warehouse.query(
            f"SELECT DISTINCT toString({column}) FROM {self.table.sql()} AS {TABLE_ALIAS} {self._where(log_range)}"
        )
        return {str(row[0]) for row in result.rows}

    def rows_of(self, tenant: str, log_range: LogRange) -> str:
        """The SELECT of a tenant's rows in a log range."""
        options = SelectOptions(suffix=self._where(log_range), encode="all")
        return select(self.relation, self.table, [self.tenant_condition(tenant)], options)

    def own_values(self, row: str) -> str:
        """The SQL of a row's columns, re-encoded; `row` is a tuple of them."""
        numbered = enumerate(self.relation.types, 1)
        return ", ".join(own_values(f"tupleElement({row}, {n})", kind, types=True) for n, kind in numbered)

    def tenant_condition(self, tenant: str) -> str:
        """The SQL condition of a tenant's rows."""
        own = tenant_literal(self.relation.tenant_type, tenant)
        return f"{TABLE_ALIAS}.{quote(self.relation.tenant or '')} = {own}"

    def outstanding(
        self, after: int, done: Iterable[str], tenants: Collection[str] | None = None
    ) -> dict[str, tuple[int, float]]:
        """For each tenant, or each of `tenants`: its rows after a block, and the age of the oldest in seconds.

        `done` are batches that are not counted.
        """
        if tenants is not None and not tenants:
            return {}
        log_range = LogRange("", after, 1 << 62, skipped=tuple(done))
        column = f"{TABLE_ALIAS}.{quote(self.relation.tenant or '')}"
        ids = [tenant_literal(self.relation.tenant_type, t) for t in sorted(tenants or ())]
        prewhere = f"PREWHERE {column} IN ({', '.join(ids)}) " if ids else ""
        result = self._warehouse.query(
            f"SELECT toString({column}) AS _rk_tenant, count(), now() - min({TABLE_ALIAS}.{storage.ARRIVAL_COLUMN}) "
            f"FROM {self.table.sql()} AS {TABLE_ALIAS} {prewhere}{self._where(log_range)} GROUP BY _rk_tenant"
        )
        return {str(t): (int(rows), max(0.0, float(age))) for t, rows, age in result.rows}

    def bytes_of(self, rows: str) -> int:
        """The bytes that the rows of a SELECT take in memory."""
        ((size,),) = self._warehouse.query(f"SELECT sum(byteSize(*)) FROM ({rows})").rows
        return int(size)

    def insert_into_nest(self, database: str, token: str, rows: str, memory: int) -> None:
        """Insert rows into a nest copy as one block with a deduplication token, with at most `memory` bytes."""
        target = Name(database, self.relation.name).sql()
        # On one thread the rows stay one block, which is what the token names.
        limits = {"max_threads": 1, "max_memory_usage": memory}
        self._warehouse.execute(ddl.insert_block(target, self.relation.columns, token, rows, **limits))

    @staticmethod
    def _where(log_range: LogRange) -> str:
        """The WHERE clause of the rows in a log range."""
        conditions = [f"{TABLE_ALIAS}._block_number > {log_range.after}"]
        if log_range.upto is not None:
            conditions.append(f"{TABLE_ALIAS}._block_number <= {log_range.upto}")
        for names, operator in ((log_range.batches, "IN"), (log_range.skipped, "NOT IN")):
            if names:
                conditions.append(
                    f"{TABLE_ALIAS}.{storage.BATCH_COLUMN} {operator} ({', '.join(map(literal, names))})"
                )
        return "WHERE " + " AND ".join(conditions)


def nest_copies(workspace: Workspace, datasource: str) -> dict[str, Name | None]:
    """Tenants whose nest has a copy of a landing datasource, each with the view that fills the copy, or None for a
    routed copy.

    Nests are identified by name, because tables that are not loaded do not show their marks.
    """
    result = workspace.warehouse.query(
        "SELECT database, max(engine = 'MaterializedView'), max(engine != 'MaterializedView') AS copy "
        "FROM system.tables WHERE startsWith(database, {w:String}) AND name IN ({d:String}, {v:String}) "
        "GROUP BY 1 HAVING copy",
        {"w": f"{workspace.name}_nest", "d": datasource, "v": f"_rk_{datasource}"},
    )
    views = {str(d): Name(d, f"_rk_{datasource}") if view else None for d, view, _ in result.rows}
    nests = {t.id: t.nest(workspace.name) for t in workspace.current.tenants.values()}
    return {t: views[nest] for t, nest in sorted(nests.items()) if nest in views}
