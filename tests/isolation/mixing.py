"""Per-tenant pipes whose authors were careless, clever or hostile: each must be refused, or keep tenants apart."""

from __future__ import annotations

SOURCES: dict[str, str] = {
    "events": """
tenant: tenant
columns:
  - {name: tenant, type: String}
  - {name: kind, type: String}
  - {name: units, type: Int64}
  - {name: arr, type: Array(String)}
  - {name: t, type: "Tuple(tenant String, x Int64)"}
  - {name: e, type: "Tuple(tenant String, kind String)"}
  - {name: j, type: JSON}
engine: {sorting_key: [tenant, kind]}
""",
    "more": """
tenant: {column: tenant, nest_copy: false}
columns:
  - {name: tenant, type: String}
  - {name: kind, type: String}
  - {name: units, type: Int64}
engine: {sorting_key: [tenant, kind]}
""",
    "accounts": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: String}
  - {name: plan, type: String}
  - {name: paid, type: Int64}
engine: {sorting_key: [tenant]}
""",
    # A column of the same name that names no tenant.
    "lands": """
columns:
  - {name: tenant, type: String}
  - {name: kind, type: String}
  - {name: price, type: Int64}
engine: {sorting_key: [kind]}
""",
}

REFUSED: dict[str, str] = {
    # The tenant's name on another value.
    "constant": "SELECT 'acme' AS tenant, kind, units FROM events",
    "renamed": "SELECT kind AS tenant, units FROM events",
    "with": "WITH 'acme' AS tenant SELECT tenant, kind, units FROM events",
    "with a column": "WITH kind AS tenant SELECT tenant, kind, units FROM events",
    "nested alias": "SELECT tenant, concat('x', ('acme' AS tenant)) AS kind, units FROM events",
    "alias in where": "SELECT tenant, kind, units FROM events WHERE ('acme' AS tenant) != ''",
    "alias in order": "SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY ('acme' AS tenant))",
    "alias in group": "SELECT tenant, sum(units) AS units FROM events GROUP BY ('acme' AS tenant)",
    "alias in having": "SELECT tenant, sum(units) AS units FROM events GROUP BY tenant HAVING ('acme' AS tenant) != ''",
    "alias in array join": "SELECT tenant, kind, units FROM events ARRAY JOIN ['acme', 'omega'] AS tenant",
    "array joined column": "SELECT tenant, kind, units FROM events ARRAY JOIN arr AS tenant",
    "alias of a subquery": "SELECT tenant, (SELECT 'acme') AS tenant, units FROM events",
    "tuple's element": "SELECT tenant, t.tenant AS tenant, units FROM events",
    "only the tuple's element": "SELECT t.tenant AS tenant, units FROM events",
    "json's element": "SELECT tenant, j.tenant::String AS tenant, units FROM events",
    "tuple named like the table": "SELECT e.tenant AS tenant, units FROM events AS e",
    "alias named like the table": "WITH CAST(tuple('acme'), 'Tuple(tenant String)') AS x SELECT x.tenant AS tenant, units FROM events AS x",
    "columns of a subquery": "SELECT tenant, kind, units FROM (SELECT kind, tenant, units FROM events) AS x (tenant, kind, units)",
    "columns of a with": "WITH x (tenant, kind) AS (SELECT kind, tenant FROM events) SELECT tenant, kind FROM x",
    "replaced": "SELECT * REPLACE ('acme' AS tenant) FROM events",
    "excluded and added": "SELECT * EXCEPT (tenant), 'acme' AS tenant FROM events",
    "excluded by pattern": "SELECT * EXCEPT ('ten.*'), kind AS tenant FROM events",
    "applied": "SELECT tenant, units FROM (SELECT * APPLY (x -> 'acme'), tenant, units FROM events)",
    "untuple": "SELECT tenant, untuple(t) FROM events",
    "untuple of a copy": "SELECT tenant, kind FROM (SELECT untuple(t), tenant, kind FROM events)",
    "matched and replaced": "SELECT tenant, units FROM (SELECT COLUMNS('tenant|kind') REPLACE ('acme' AS tenant), tenant, units FROM events)",
    "matched twice": "SELECT tenant, units FROM (SELECT COLUMNS(tenant) REPLACE (kind AS tenant), units, tenant FROM events)",
    "maximum": "SELECT max(tenant) AS tenant, sum(units) AS units FROM events",
    "any of a group": "SELECT any(tenant) AS tenant, kind, sum(units) AS units FROM events GROUP BY kind",
    "array joined": "SELECT arrayJoin(groupArray(tenant)) AS tenant, sum(units) AS units FROM events",
    # Over the rows of several tenants.
    "ungrouped": "SELECT tenant, units FROM (SELECT groupArray(tenant) AS tenants, sum(units) AS units FROM events) ARRAY JOIN tenants AS tenant",
    "grouped by position": "SELECT kind, any(tenant) AS tenant, sum(units) AS units FROM events GROUP BY 1",
    "grouped by an alias": "SELECT kind AS x, any(tenant) AS tenant, sum(units) AS units FROM events GROUP BY x",
    "grouped by the tuple's": "SELECT any(tenant) AS tenant, sum(units) AS units FROM events GROUP BY t.tenant",
    "rollup": "SELECT tenant, kind, sum(units) AS units FROM events GROUP BY ROLLUP(tenant, kind)",
    "cube": "SELECT tenant, kind, sum(units) AS units FROM events GROUP BY CUBE(tenant, kind)",
    "grouping sets": "SELECT tenant, kind, sum(units) AS units FROM events GROUP BY GROUPING SETS ((tenant), (kind))",
    "totals": "SELECT tenant, units FROM (SELECT tenant, sum(units) AS units FROM events GROUP BY tenant WITH TOTALS)",
    "window": "SELECT tenant, sum(units) OVER () AS units FROM events",
    "window in with": "WITH sum(units) OVER (ORDER BY units) AS s SELECT tenant, s AS units FROM events",
    "window by the tuple's": "SELECT tenant, sum(units) OVER (PARTITION BY t.tenant) AS units FROM events",
    "window by another's": "SELECT e1.tenant AS tenant, sum(units) OVER (PARTITION BY l.tenant) AS units FROM events AS e1 LEFT JOIN lands AS l ON e1.kind = l.kind",
    "named window": "SELECT tenant, sum(units) OVER w AS units FROM events WINDOW w AS (PARTITION BY kind)",
    "window of a window": "SELECT tenant, sum(units) OVER (w ORDER BY units) AS units FROM events WINDOW w AS (PARTITION BY kind)",
    "lag": "SELECT tenant, lagInFrame(kind) OVER (ORDER BY units) AS kind FROM events",
    "qualified": "SELECT tenant, kind, units FROM events QUALIFY row_number() OVER (ORDER BY units) = 1",
    "window in order": "SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY sum(units) OVER (ORDER BY kind) LIMIT 1 BY tenant)",
    "row number": "SELECT tenant, kind, units FROM events WHERE rowNumberInAllBlocks() < 2",
    "row number in with": "WITH rowNumberInAllBlocks() AS n SELECT tenant, kind, n AS units FROM events",
    "row number in group": "SELECT tenant, sum(units) AS units FROM events GROUP BY tenant, rowNumberInAllBlocks()",
    "row number in array join": "SELECT tenant, x AS units FROM events ARRAY JOIN [rowNumberInAllBlocks()] AS x",
    "row number in limit by": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events LIMIT 1 BY tenant, rowNumberInAllBlocks() > 2)",
    "limited": "SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY units LIMIT 2)",
    "limited by kind": "SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY tenant LIMIT 1 BY kind)",
    "limited by the tuple's": "SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY tenant LIMIT 1 BY t.tenant)",
    "limited by with offset": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY tenant LIMIT 1 OFFSET 1 BY kind)",
    "with ties": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY units LIMIT 1 WITH TIES)",
    "offset": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY units OFFSET 1)",
    "distinct on": "SELECT tenant, kind FROM (SELECT DISTINCT ON (kind) tenant, kind FROM events ORDER BY tenant)",
    "fill": "SELECT tenant, units FROM (SELECT tenant, units FROM events ORDER BY units WITH FILL)",
    "interpolated": "SELECT tenant, units FROM (SELECT tenant, units FROM events ORDER BY units WITH FILL INTERPOLATE (tenant))",
    # Other rows through subqueries.
    "scalar": "SELECT tenant, (SELECT max(units) FROM events) AS units FROM events",
    "scalar in with": "WITH (SELECT max(units) FROM events) AS m SELECT tenant, m AS units FROM events",
    "scalar in a function in with": "WITH (SELECT max(units) FROM events) + 0 AS m SELECT tenant, m AS units FROM events",
    "scalar in array join": "SELECT tenant, k AS kind FROM events ARRAY JOIN (SELECT groupArray(kind) FROM events) AS k",
    "scalar in on": "SELECT events.tenant AS tenant, price AS units FROM events JOIN lands ON events.kind = lands.kind AND lands.price < (SELECT max(units) FROM events)",
    "scalar in limit by": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY kind LIMIT (SELECT max(units) FROM events) BY tenant)",
    "in": "SELECT tenant, kind, units FROM events WHERE kind IN (SELECT kind FROM events)",
    "in a tuple": "SELECT tenant, kind, units FROM events WHERE ('acme', kind) IN (SELECT tenant, kind FROM events)",
    "in a name": "WITH x AS (SELECT tenant, kind FROM more) SELECT tenant, kind, units FROM events WHERE ('omega', kind) IN x",
    "in a datasource": "SELECT tenant, kind, units FROM events WHERE ('omega', kind, units) IN more",
    "not in, as a function": "SELECT tenant, notIn(('omega', kind, units), more) AS units FROM events",
    "exists": "SELECT tenant, kind, units FROM events WHERE EXISTS (SELECT 1 FROM more WHERE units > 5)",
    "correlated": "SELECT tenant, kind, units FROM events AS o WHERE EXISTS (SELECT 1 FROM more AS i WHERE i.kind = o.kind)",
    "any": "SELECT tenant, kind, units FROM events WHERE units >= ALL (SELECT units FROM more)",
    "subquery in a lambda": "SELECT tenant, arrayMap(x -> (SELECT max(kind) FROM events), arr) AS arr FROM events",
    "deep": "SELECT tenant, units FROM events WHERE units > (SELECT max(u) FROM (SELECT 1 AS u UNION ALL SELECT max(units) AS u FROM events GROUP BY tenant))",
    # Joins.
    "cross": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a CROSS JOIN accounts AS b",
    "comma": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a, accounts AS b WHERE a.tenant = b.tenant",
    "on another": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON a.kind = b.plan",
    "on or": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON a.tenant = b.tenant OR a.units = b.paid",
    "on not": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON NOT (a.tenant = b.tenant)",
    "on itself": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON a.tenant = a.tenant AND a.units >= b.paid",
    "on the tuple's": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON t.tenant = b.tenant",
    "third on the first two": "SELECT a.tenant AS tenant, c.kind AS kind FROM events AS a JOIN accounts AS b ON a.tenant = b.tenant JOIN more AS c ON a.tenant = b.tenant AND a.units <= c.units",
    "using another": "SELECT a.tenant AS tenant, b.units AS units FROM events AS a JOIN more AS b USING (kind)",
    "natural": "SELECT a.tenant AS tenant, plan AS kind FROM events AS a NATURAL JOIN accounts AS b",
    "right": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a RIGHT JOIN accounts AS b ON a.tenant = b.tenant",
    "full": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a FULL JOIN accounts AS b ON a.tenant = b.tenant",
    "right of lands": "SELECT events.tenant AS tenant, lands.kind AS kind FROM events RIGHT JOIN lands ON events.kind = lands.kind",
    "tenant of the right": "SELECT b.tenant AS tenant, a.kind AS kind FROM events AS a LEFT JOIN accounts AS b ON a.tenant = b.tenant",
    "star of the right": "SELECT tenant, k AS kind FROM (SELECT b.*, a.kind AS k FROM events AS a LEFT JOIN accounts AS b ON a.tenant = b.tenant)",
    "tenant of the lands": "SELECT tenant, k AS kind FROM (SELECT l.tenant, a.tenant AS mine, a.kind AS k FROM events AS a JOIN lands AS l ON a.kind = l.kind)",
    "both tenants": "SELECT tenant, k AS kind FROM (SELECT l.tenant, a.kind AS k, a.tenant FROM events AS a JOIN lands AS l ON a.kind = l.kind)",
    "star of the lands": "SELECT tenant, k AS kind FROM (SELECT l.*, a.kind AS k, a.tenant FROM events AS a JOIN lands AS l ON a.kind = l.kind)",
    "any inner": "SELECT a.tenant AS tenant, a.kind AS kind FROM events AS a ANY INNER JOIN lands AS l ON a.kind = l.kind",
    "paste": "SELECT a.tenant AS tenant, l.kind AS kind FROM events AS a PASTE JOIN (SELECT kind FROM lands) AS l",
    "asof": "SELECT a.tenant AS tenant, b.kind AS kind FROM events AS a ASOF JOIN more AS b ON a.kind = b.kind AND a.units >= b.units",
    "asof on the tenant": "SELECT a.tenant AS tenant, b.kind AS kind FROM events AS a ASOF JOIN more AS b ON a.kind = b.kind AND a.tenant >= b.tenant",
    "asof using": "SELECT tenant, a.kind AS kind, b.units AS units FROM events AS a ASOF JOIN more AS b USING (kind, tenant)",
    "third on an optional second": "SELECT a.tenant AS tenant, c.kind AS kind FROM events AS a LEFT JOIN accounts AS b ON a.tenant = b.tenant AND b.paid > 99 LEFT JOIN more AS c ON b.tenant = c.tenant",
    "using after lands": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN lands AS l ON a.kind = l.kind JOIN accounts AS b USING (tenant)",
    "using an alias": "SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b USING (tenant AS x)",
    "tuple of the right": "SELECT a.tenant AS tenant, a.kind AS kind FROM events AS a CROSS JOIN (SELECT CAST(tuple('acme'), 'Tuple(tenant String)')) AS l (a)",
    "rows on the right": "SELECT a.tenant AS tenant, l.kind AS kind FROM lands AS l JOIN events AS a ON a.kind = l.kind",
    "two of one name": "SELECT a.tenant AS tenant, plan AS kind FROM events AS a JOIN accounts AS a ON a.tenant = a.tenant",
    # Unions.
    "shifted union": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT kind, tenant FROM events)",
    "shifted star union": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT * EXCEPT (units, arr, t, e, j) FROM (SELECT kind, * FROM events))",
    "distinct union": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION DISTINCT SELECT kind, tenant FROM events)",
    "except": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events EXCEPT SELECT tenant, kind FROM more)",
    "intersect": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events INTERSECT SELECT 'acme' AS tenant, kind FROM more)",
    "union with others": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT 'acme' AS tenant, kind FROM lands)",
    "with of the first": "WITH x AS (SELECT kind, units, tenant FROM events) SELECT tenant, kind FROM (SELECT tenant, kind FROM x) UNION ALL SELECT 'acme' AS tenant, kind FROM x",
    "with of a first without rows": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT tenant, kind FROM (WITH x AS (SELECT kind FROM more) SELECT 'omega' AS tenant, 'no' AS kind UNION ALL SELECT 'omega' AS tenant, kind FROM x))",
    # Names that mean something else where they are used.
    "with again": "WITH x AS (SELECT kind FROM lands) SELECT tenant, kind FROM (WITH y AS (SELECT kind FROM x), x AS (SELECT kind FROM more) SELECT e1.tenant AS tenant, y.kind AS kind FROM events AS e1 CROSS JOIN y)",
    "recursive": "WITH RECURSIVE x AS (SELECT tenant, units FROM events UNION ALL SELECT tenant, units + 1 FROM x WHERE units < 3) SELECT tenant, units FROM x",
    "hidden in with": "WITH x AS (WITH 'acme' AS tenant SELECT tenant, kind FROM events) SELECT tenant, kind FROM x",
    "hidden deep": "SELECT tenant, kind FROM (SELECT tenant, kind FROM (SELECT upper(tenant) AS tenant, kind FROM events))",
    "table alias": "SELECT tenant, kind, units FROM events AS tenant",
    "no tenant inside": "SELECT tenant, kind FROM (SELECT kind, 'acme' AS tenant FROM (SELECT kind FROM events))",
    "nothing of it": "SELECT kind FROM events",
}

KEPT: dict[str, str] = {
    "plain": "SELECT tenant, kind, units FROM events",
    "starred": "SELECT * FROM events",
    "excluded": "SELECT * EXCEPT (arr, j) FROM events",
    "qualified": "SELECT a.tenant AS tenant, a.kind AS kind FROM events AS a",
    "qualified star": "SELECT a.* FROM events AS a",
    "grouped": "SELECT tenant, kind, sum(units) AS units FROM events GROUP BY tenant, kind",
    "grouped by all": "SELECT tenant, kind, sum(units) AS units FROM events GROUP BY ALL",
    "window": "SELECT tenant, kind, sum(units) OVER (PARTITION BY tenant ORDER BY kind) AS units FROM events",
    "named window": "SELECT tenant, kind, sum(units) OVER w AS units FROM events WINDOW w AS (PARTITION BY tenant, kind)",
    "limit by": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY units, kind LIMIT 2 BY tenant)",
    "distinct": "SELECT DISTINCT tenant, kind FROM events",
    "array join": "SELECT tenant, kind, a FROM events ARRAY JOIN arr AS a",
    "array joined": "SELECT tenant, arrayJoin(arr) AS a FROM events",
    "joined lands": "SELECT e1.tenant AS tenant, e1.kind AS kind, price FROM events AS e1 LEFT JOIN lands AS l ON e1.kind = l.kind",
    "joined inner": "SELECT e1.tenant AS tenant, e1.kind AS kind, price FROM events AS e1 JOIN lands AS l ON e1.kind = l.kind",
    "joined lands, bare": "SELECT tenant, events.kind AS kind, price FROM events LEFT JOIN lands ON events.kind = lands.kind",
    "crossed with lands": "SELECT events.tenant AS tenant, price FROM events CROSS JOIN lands",
    "joined using": "SELECT tenant, kind, units, plan FROM events JOIN accounts USING (tenant)",
    "joined left using": "SELECT tenant, kind, units, plan FROM events LEFT JOIN accounts USING (tenant)",
    "joined on": "SELECT a.tenant AS tenant, a.kind AS kind, plan FROM events AS a LEFT JOIN accounts AS b ON b.tenant = a.tenant AND b.paid > 0",
    "joined thrice": "SELECT a.tenant AS tenant, plan, c.units AS units FROM events AS a JOIN accounts AS b ON a.tenant = b.tenant JOIN more AS c ON a.tenant = c.tenant",
    "asof": "SELECT a.tenant AS tenant, a.kind AS kind, b.units AS units FROM events AS a ASOF LEFT JOIN more AS b ON a.tenant = b.tenant AND a.units >= b.units",
    "semi": "SELECT tenant, kind FROM events LEFT SEMI JOIN accounts USING (tenant)",
    "anti": "SELECT tenant, kind FROM events LEFT ANTI JOIN accounts USING (tenant)",
    "any left": "SELECT tenant, kind, plan FROM events ANY LEFT JOIN accounts USING (tenant)",
    "united": "SELECT tenant, kind FROM events UNION ALL SELECT tenant, kind FROM more",
    "united inside": "SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT tenant, upper(kind) FROM events)",
    "in lands": "SELECT tenant, kind, units FROM events WHERE kind IN (SELECT kind FROM lands)",
    "scalar of lands": "SELECT tenant, units * (SELECT max(price) FROM lands) AS units FROM events",
    "with": "WITH x AS (SELECT tenant, kind, units FROM events WHERE units > 1) SELECT tenant, kind, sum(units) AS units FROM x GROUP BY tenant, kind",
    "lambda": "SELECT tenant, arrayMap(tenant -> concat(tenant, 'x'), arr) AS arr FROM events",
}
"""What an honest author writes; some of it joins, windows and unites, always within one tenant."""
