"""A real engine with two tenants' rows, its parser, and the corpus files, for the tests of isolation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from engine.errors import SQL_SYNTAX, RookeryError

SENTINEL = "FOREIGN"
"""A text in every row of the other tenant and nowhere else."""

COLUMNS = "id UInt64, ts DateTime, s String, v Int64, user String, arr Array(Int64), m Map(String, Int64)"
NAMES = ("id", "ts", "s", "v", "user", "arr", "m")
PARSE = "WITH parseQueryToJSON({x:String}) AS j SELECT j, formatQueryFromJSON(j) " + (
    "SETTINGS max_parser_backtracks = 20000, max_parser_depth = 300, max_query_size = 400000"
)


class Engine:
    """chDB in this process: `ws` holds both tenants' rows, `own` only those of tenant `a`, `none` nothing."""

    def __init__(self, path: str) -> None:
        self.client = clickhouse_connect.get_client(interface="chdb", path=path)
        for database in ("ws", "own", "none"):
            self.client.command(f"CREATE DATABASE {database}")
        for table, rows in (("events", 40), ("users", 12)):
            self._fill(table, rows)
        self.client.command("USE none")
        self._functions = frozenset(r[0] for r in self.rows("SELECT name FROM system.functions")) | {"my_udf"}

    def _fill(self, table: str, rows: int) -> None:
        ddl = "ENGINE = ReplacingMergeTree ORDER BY (tenant_id, cityHash64(id)) SAMPLE BY cityHash64(id)"
        self.client.command(f"CREATE TABLE ws.{table} (tenant_id String, {COLUMNS}) {ddl}")
        for tenant, text in (("a", "own"), ("b", SENTINEL)):
            self.client.command(
                f"INSERT INTO ws.{table} SELECT '{tenant}', number, toDateTime('2024-01-01 00:00:00') + number, "
                f"'{text}-' || toString(number % 5), number % 7 - 2, '{text}' || toString(number % 3), "
                f"[number, number % 3], map('{text}', number) FROM numbers({rows})"
            )
        self.client.command(
            f"CREATE TABLE own.{table} ENGINE = ReplacingMergeTree ORDER BY cityHash64(id) SAMPLE BY cityHash64(id) "
            f"AS SELECT {', '.join(NAMES)} FROM ws.{table} WHERE tenant_id = 'a'"
        )

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in self.client.query(sql, parameters=parameters).result_rows]
        except ClickHouseError:
            self.client.command("SET max_threads = 2")  # a failed query leaves the handle dirty
            raise

    def named(self, sql: str, parameters: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        result = self.client.query(sql, parameters=parameters)
        return tuple(result.column_names), [tuple(row) for row in result.result_rows]

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        tree, text = self._ask(PARSE, sql)
        document: dict[str, Any] = json.loads(tree)
        return document, text

    def format(self, tree: dict[str, Any]) -> str:
        return str(self._ask("SELECT formatQueryFromJSON({x:String})", json.dumps(tree))[0])

    def functions(self) -> frozenset[str]:
        return self._functions

    def _ask(self, sql: str, value: str) -> tuple[Any, ...]:
        try:
            return self.rows(sql, {"x": value})[0]
        except ClickHouseError as exc:
            raise RookeryError(SQL_SYNTAX, "SQL cannot be parsed", detail=str(exc)) from exc


def relation(table: str, *, final: bool = False, sample: tuple[str, str | None] | None = None) -> str:
    """The relation behind the name of a datasource, for a pooled tenant."""
    columns = ", ".join(f"_rk_t.`{c}`" for c in NAMES)
    text = f"SELECT {columns} FROM ws.{table} AS _rk_t{' FINAL' if final else ''}"
    if sample:
        text += f" SAMPLE {sample[0]}" + (f" OFFSET {sample[1]}" if sample[1] else "")
    return text + " PREWHERE (_rk_t.tenant_id = {rk_tenant:String})"


def statements(file: str) -> list[tuple[str, str]]:
    """The statements of a corpus file: (what the first comment line says, SQL)."""
    blocks = []
    for block in (Path(__file__).parent / file).read_text(encoding="utf-8").split("====\n"):
        sql = block.strip("\n")
        head = sql.partition("\n")[0].removeprefix("-- ") if sql.startswith("-- ") else ""
        blocks.append((head, sql))
    return blocks
