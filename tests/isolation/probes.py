"""Statements that would reveal rows of other tenants if they were ever evaluated on them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.isolation.two_tenants import statements

PROBES: dict[str, str] = {
    "text is no number": "toInt64(s) >= 0",
    "text thrown on": "throwIf(s LIKE '%secret%') = 0",
    "text is known": "throwIf(s = 'omega-secret-7', 'seen') = 0",
    "cast": "CAST(s AS UInt32) >= 0",
    "zero divisor": "intDiv(1000, i) >= 0 OR i != 0",
    "smallest divided": "intDiv(i, -1) <= 0",
    "out of range": "accurateCast(i, 'UInt16') >= 0",
    "number thrown on": "throwIf(i > 1000 OR i < 1) = 0",
    "round by key": "round(1.5, i) >= 0",
    "julian day": "fromModifiedJulianDay(i) >= '1800-01-01'",
    "low cardinality": "throwIf(lc NOT LIKE '%-kind-%' OR lc LIKE 'omega%' OR lc LIKE 'yeti%') = 0",
}
"""Conditions over the columns that many tables have."""

LANDING_PROBES: dict[str, str] = {
    "empty array": "throwIf(empty(nums)) = 0",
    "array element": "throwIf(arr[1] LIKE '%secret%') = 0",
    "map": "throwIf(mapContains(m, 'omega_key')) = 0",
    "tuple": "intDiv(7, t.b) >= 0",
    "json": "throwIf(toString(j.shared) LIKE '%secret%') = 0",
    "json path": "throwIf(dynamicType(j.deep.omega_deep) != 'None') = 0",
    "nullable": "throwIf(n > 3000) = 0",
    "uuid": "throwIf(u > '00000003-0000-0000-0000-000000000000') = 0",
    "moment": "toUnixTimestamp64Nano(at) > 0 AND throwIf(at > '2024-02-28 00:00:00') = 0",
    "first and last day": "toDateTime(day) > 0 AND throwIf(toYear(day) != 2024) = 0",
    "fixed": "toUInt32(substring(toString(f), 8, 3)) >= 0 AND throwIf(f LIKE 'omega%') = 0",
    "enum": "throwIf(toInt8(e) > 2) = 0",
    "decimal": "toDecimal32(d, 4) < 3 AND throwIf(d >= 3) = 0",
}

SHAPES: dict[str, str] = {
    "where": "SELECT count() FROM {t} WHERE {p}",
    "prewhere": "SELECT count() FROM {t} PREWHERE {p}",
    "prewhere and where": "SELECT count() FROM {t} PREWHERE {p} WHERE i > 3",
    "with a key": "SELECT count() FROM {t} WHERE i BETWEEN 2 AND 30 AND {p}",
    "or": "SELECT count() FROM {t} WHERE i = 4 OR {p}",
    "not": "SELECT count() FROM {t} WHERE NOT ({p})",
    "selected": "SELECT {p} AS x FROM {t} ORDER BY x LIMIT 3",
    "rows": "SELECT s, i FROM {t} WHERE {p} ORDER BY s, i LIMIT 5",
    "rows of the end": "SELECT s, i FROM {t} WHERE {p} ORDER BY i DESC, s LIMIT 3 OFFSET 2",
    "grouped": "SELECT {p} AS x, count() AS c FROM {t} GROUP BY x ORDER BY x",
    "having": "SELECT s, count() AS c FROM {t} GROUP BY s HAVING max({p}) ORDER BY s",
    "ordered": "SELECT s FROM {t} ORDER BY {p}, s LIMIT 4",
    "distinct": "SELECT DISTINCT {p} AS x FROM {t} ORDER BY x",
    "limit by": "SELECT s FROM {t} ORDER BY s LIMIT 1 BY {p}",
    "aggregated if": "SELECT countIf({p}), maxIf(i, {p}) FROM {t}",
    "window": "SELECT s, sum({p}) OVER (ORDER BY s, i) AS w FROM {t} ORDER BY s, i LIMIT 5",
    "qualify": "SELECT s FROM {t} QUALIFY max({p}) OVER () ORDER BY s LIMIT 5",
    "subquery": "SELECT count() FROM (SELECT * FROM {t}) WHERE {p}",
    "cte": "WITH mine AS (SELECT * FROM {t}) SELECT count() FROM mine WHERE {p}",
    "scalar": "SELECT (SELECT count() FROM {t} WHERE {p}) AS c",
    "in": "SELECT count() FROM {t} WHERE s IN (SELECT s FROM {t} WHERE {p})",
    "joined": "SELECT count() FROM {t} AS a JOIN (SELECT s AS k FROM {t} WHERE {p}) AS b ON a.s = b.k",
    "join of a filtered": "SELECT count() FROM (SELECT * FROM {t} WHERE {p}) AS a JOIN prices AS p ON a.lc = p.lc",
    "filtered join": "SELECT count() FROM {t} AS a CROSS JOIN prices AS x WHERE x.price < 2 AND {p}",
    "union": "SELECT count() AS c FROM {t} WHERE {p} UNION ALL SELECT count() AS c FROM {t}",
    "exists": "SELECT count() FROM prices WHERE EXISTS (SELECT 1 FROM {t} WHERE {p})",
    "array join": "SELECT count() FROM {t} ARRAY JOIN [1, 2] AS two WHERE {p}",
    "tuple": "SELECT count() FROM {t} WHERE (s, {p}) IN (SELECT s, 1 FROM {t})",
    "short circuit": "SELECT sum(if(i > 0, {p}, 0)) FROM {t}",
    "lambda": "SELECT sum(length(arrayFilter(x -> {p}, [1, 2]))) FROM {t}",
    "topped": "SELECT i FROM {t} WHERE {p} ORDER BY i LIMIT 1",
    "unlimited": "SELECT s FROM {t} WHERE {p} AND s != ''",
    "minmax": "SELECT min(i), max(i), min(s), max(s), count() FROM {t} WHERE {p}",
    "totals": "SELECT lc, count() AS c FROM {t} WHERE {p} GROUP BY lc WITH TOTALS ORDER BY lc",
    "with a text": "SELECT count() FROM {t} WHERE s = 'omega-secret-3' AND {p}",
    "with a word": "SELECT count() FROM {t} WHERE lower(s) LIKE '%secret%' AND {p}",
}

TABLES = ("events", "logs", "latest", "bare")
FINAL = ("latest",)
SAMPLED = ("events",)

OTHERS = tuple(sql for _, sql in statements("probes.sql"))
"""Statements one by one: what is stored, how it is stored, and what has a name."""


def matrix() -> Iterator[str]:
    """Every probe in every shape on every table that has the columns."""
    for table in TABLES:
        probes = PROBES if table not in ("events", "logs") else {**PROBES, **LANDING_PROBES}
        for name, probe in probes.items():
            if name == "low cardinality" and table == "bare":
                continue
            for title, shape in SHAPES.items():
                if table == "bare" and ("lc" in shape):
                    continue
                yield shape.format(t=table, p=probe)
                modifier = "FINAL" if table in FINAL else "SAMPLE 1 / 2" if table in SAMPLED else ""
                if modifier and title in ("where", "prewhere", "rows", "grouped"):
                    yield shape.format(t=f"{table} {modifier}", p=probe)
