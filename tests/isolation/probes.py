"""Statements that would tell something about other tenants' rows, if anything of these were ever looked at."""

from __future__ import annotations

from collections.abc import Iterator

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
    "join of a filtered": "SELECT count() FROM (SELECT * FROM {t} WHERE {p}) AS a LEFT JOIN prices AS p ON a.lc = p.lc",
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

OTHERS: tuple[str, ...] = (
    # Aggregates that are stored as states, sums, and tables with other columns.
    "SELECT count(), uniqExactMerge(users) FROM states WHERE throwIf(largest > 1000) = 0",
    "SELECT count() FROM states WHERE throwIf(length(finalizeAggregation(names)) > 50) = 0",
    "SELECT count() FROM sums WHERE throwIf(toDecimal64(total, 4) > 500) = 0",
    "SELECT throwIf(day < '2024-01-01' OR day > '2024-03-01') FROM sums",
    "SELECT plan, throwIf(plan LIKE 'omega%') FROM accounts",
    "SELECT count() FROM accounts WHERE toInt64(plan) > 0",
    "SELECT * FROM accounts",
    "SELECT uniqExact(lc), min(lc), max(lc), any(lc) != '' FROM events",
    "SELECT count() FROM events",
    "SELECT count(), min(day), max(day), min(i), max(i) FROM events",
    "SELECT count() FROM events SAMPLE 1 / 2",
    "SELECT count() FROM events SAMPLE 1 / 3 OFFSET 1 / 2",
    "SELECT count() FROM events SAMPLE 30",
    "SELECT count() FROM events SAMPLE 100 OFFSET 1 / 10",
    "SELECT s FROM events LIMIT 3",
    "SELECT lc FROM events LIMIT 1 OFFSET 20",
    "SELECT s FROM logs WHERE i > 5 LIMIT 2",
    "SELECT s FROM events ORDER BY i LIMIT 2",
    "SELECT s FROM events ORDER BY i LIMIT 2 WITH TIES",
    "SELECT DISTINCT lc FROM events LIMIT 2",
    "SELECT lc, count() FROM events GROUP BY lc LIMIT 1",
    "SELECT s FROM events LIMIT 1 BY lc LIMIT 2",
    "SELECT blockNumber() AS b FROM events",
    "SELECT max(blockSize()) FROM events",
    "SELECT max(rowNumberInBlock()) FROM events",
    "SELECT max(rowNumberInAllBlocks()) FROM events",
    "SELECT toTypeName(j), toTypeName(lc), toTypeName(e) FROM events LIMIT 1",
    "SELECT JSONAllPaths(j) AS p FROM events ORDER BY id",
    "SELECT JSONDynamicPaths(j) AS p FROM events ORDER BY id",
    "SELECT distinctJSONPaths(j) AS p FROM events",
    "SELECT distinctJSONPathsAndTypes(j) AS p FROM events",
    "SELECT j FROM events ORDER BY id LIMIT 2",
    "SELECT j.deep, dynamicType(j.shared), j.omega_path_1 FROM events ORDER BY id LIMIT 2",
    "SELECT dumpColumnStructure(lc) FROM events LIMIT 1",
    "SELECT byteSize(lc), byteSize(j), byteSize(s) FROM events ORDER BY id LIMIT 2",
    "SELECT lowCardinalityIndices(lc), lowCardinalityKeys(lc) FROM events",
    "SELECT estimateCompressionRatio(s) > 0 FROM events",
    "SELECT hex(toString(groupUniqArrayState(s))) != '' FROM events",
    "SELECT cityHash64(*) AS h FROM events ORDER BY h",
    "SELECT topK(3)(lc) AS t, quantileExact(i), uniq(s), entropy(lc) FROM events",
    "SELECT COLUMNS('.*') FROM events ORDER BY id LIMIT 1",
    "SELECT max(rand()) > 0, max(now()) > 0 FROM events",
    "SELECT indexHint(i = 7) FROM events",
    "SELECT count() FROM events WHERE indexHint(s = 'omega-secret-7')",
    "SELECT count() FROM events WHERE s = 'omega-secret-7'",
    "SELECT count() FROM events WHERE tenant = 'omega'",
    "SELECT count() FROM events WHERE tenant != 'acme' OR throwIf(tenant = 'omega') = 0",
    "SELECT tenant, count() FROM events GROUP BY tenant",
    "SELECT throwIf(tenant > 'b' AND tenant < 'y') FROM events",
    "SELECT * FROM events ORDER BY tenant DESC, id LIMIT 1",
    "SELECT _part, _partition_id, _block_number FROM events",
    "SELECT _rk_at, _rk_batch FROM events",
    "SELECT _rk_t.tenant FROM events",
    "SELECT * FROM omega_ds",
    "SELECT * FROM omega_pipe",
    "SELECT * FROM omega_usage",
    "SELECT * FROM omega_us",
    "SELECT omega_column FROM events",
    "SELECT * FROM full_nest_yeti.events",
    "SELECT * FROM full.events",
    "SELECT * FROM acme.events",
    "SELECT * FROM fill_sums",
    "SELECT * FROM system.tables",
    "SELECT * FROM nothing_of_that_name",
    "SELECT nothing_of_that_name FROM events",
    "SELECT hostName(), currentDatabase(), currentUser(), version() FROM events",
    "SELECT nofunction(s) FROM events",
    "SELECT toInt64(s, 'x') FROM events",
    "SELECT s + i FROM events",
    "SELECT",
    "SELECT * FROM events WHERE",
    "SELECT s FROM events WHERE i = {p1:Int64}",
    "SELECT s FROM events WHERE tenant = {rk_tenant_string:String}",
    "SELECT {rk_tenant_string:String} AS t, s FROM events ORDER BY s LIMIT 1",
    "EXPLAIN SELECT * FROM events",
    "SELECT * FROM (EXPLAIN indexes = 1 SELECT * FROM events)",
    "SELECT * FROM merge('full', 'events')",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM events))",
    "DESCRIBE TABLE events",
    "SHOW TABLES",
    "SELECT * FROM events SETTINGS max_threads = 1",
    "SELECT s, i FROM events AS e ASOF JOIN logs AS l ON e.s = l.s AND e.at >= l.at ORDER BY s, i",
    "SELECT count() FROM events AS e FULL JOIN logs AS l ON e.s = l.s AND throwIf(l.s LIKE '%secret%') = 0",
    "SELECT count() FROM events PASTE JOIN (SELECT s AS other FROM logs ORDER BY id) AS l",
    "SELECT sum(price) FROM events JOIN prices USING (lc)",
    "SELECT sum(price), count() FROM prices LEFT JOIN events USING (lc)",
    "SELECT count() FROM events AS a, events AS b WHERE a.s = b.s AND toInt64(b.s) > 0",
    "SELECT count() FROM everything WHERE toInt64(s) > 0",
    "SELECT count() FROM all_logs AS a JOIN over AS b ON a.s = b.s WHERE throwIf(a.tenant != b.tenant) = 0",
    "SELECT * FROM totals ORDER BY day, lc LIMIT 3",
    "SELECT s FROM latest FINAL ORDER BY s",
    "SELECT count() FROM latest WHERE throwIf(s LIKE '%secret%') = 0 AND lc >= 'a'",
    "SELECT arraySort(groupArray(s)) FROM wrong_tenant",
    "SELECT count() FROM joined WHERE toInt64(s) > 0",
    "SELECT throwIf(count() > 60) FROM events",
    "SELECT throwIf(count() = 60, 'mine alone') FROM events",
    "SELECT arrayJoin(range(toUInt64(max(i)))) AS x FROM events ORDER BY x DESC LIMIT 3",
    "SELECT toStartOfInterval(at, toIntervalDay(t.b)) FROM events ORDER BY id LIMIT 1",
    "SELECT s FROM events ORDER BY day WITH FILL STEP toIntervalDay(1) LIMIT 20",
)
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
