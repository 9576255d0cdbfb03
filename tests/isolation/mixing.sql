-- REFUSED constant
SELECT 'acme' AS tenant, kind, units FROM events
====
-- REFUSED renamed
SELECT kind AS tenant, units FROM events
====
-- REFUSED with
WITH 'acme' AS tenant SELECT tenant, kind, units FROM events
====
-- REFUSED with a column
WITH kind AS tenant SELECT tenant, kind, units FROM events
====
-- REFUSED nested alias
SELECT tenant, concat('x', ('acme' AS tenant)) AS kind, units FROM events
====
-- REFUSED alias in where
SELECT tenant, kind, units FROM events WHERE ('acme' AS tenant) != ''
====
-- REFUSED alias in order
SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY ('acme' AS tenant))
====
-- REFUSED alias in group
SELECT tenant, sum(units) AS units FROM events GROUP BY ('acme' AS tenant)
====
-- REFUSED alias in having
SELECT tenant, sum(units) AS units FROM events GROUP BY tenant HAVING ('acme' AS tenant) != ''
====
-- REFUSED alias in array join
SELECT tenant, kind, units FROM events ARRAY JOIN ['acme', 'omega'] AS tenant
====
-- REFUSED array joined column
SELECT tenant, kind, units FROM events ARRAY JOIN arr AS tenant
====
-- REFUSED alias of a subquery
SELECT tenant, (SELECT 'acme') AS tenant, units FROM events
====
-- REFUSED tuple's element
SELECT tenant, t.tenant AS tenant, units FROM events
====
-- REFUSED only the tuple's element
SELECT t.tenant AS tenant, units FROM events
====
-- REFUSED json's element
SELECT tenant, j.tenant::String AS tenant, units FROM events
====
-- REFUSED tuple named like the table
SELECT e.tenant AS tenant, units FROM events AS e
====
-- REFUSED alias named like the table
WITH CAST(tuple('acme'), 'Tuple(tenant String)') AS x SELECT x.tenant AS tenant, units FROM events AS x
====
-- REFUSED columns of a subquery
SELECT tenant, kind, units FROM (SELECT kind, tenant, units FROM events) AS x (tenant, kind, units)
====
-- REFUSED columns of a with
WITH x (tenant, kind) AS (SELECT kind, tenant FROM events) SELECT tenant, kind FROM x
====
-- REFUSED replaced
SELECT * REPLACE ('acme' AS tenant) FROM events
====
-- REFUSED excluded and added
SELECT * EXCEPT (tenant), 'acme' AS tenant FROM events
====
-- REFUSED excluded by pattern
SELECT * EXCEPT ('ten.*'), kind AS tenant FROM events
====
-- REFUSED applied
SELECT tenant, units FROM (SELECT * APPLY (x -> 'acme'), tenant, units FROM events)
====
-- REFUSED untuple
SELECT tenant, untuple(t) FROM events
====
-- REFUSED untuple of a copy
SELECT tenant, kind FROM (SELECT untuple(t), tenant, kind FROM events)
====
-- REFUSED matched and replaced
SELECT tenant, units FROM (SELECT COLUMNS('tenant|kind') REPLACE ('acme' AS tenant), tenant, units FROM events)
====
-- REFUSED matched twice
SELECT tenant, units FROM (SELECT COLUMNS(tenant) REPLACE (kind AS tenant), units, tenant FROM events)
====
-- REFUSED maximum
SELECT max(tenant) AS tenant, sum(units) AS units FROM events
====
-- REFUSED any of a group
SELECT any(tenant) AS tenant, kind, sum(units) AS units FROM events GROUP BY kind
====
-- REFUSED array joined
SELECT arrayJoin(groupArray(tenant)) AS tenant, sum(units) AS units FROM events
====
-- REFUSED ungrouped
SELECT tenant, units
FROM (SELECT groupArray(tenant) AS tenants, sum(units) AS units
FROM events) ARRAY JOIN tenants AS tenant
====
-- REFUSED grouped by position
SELECT kind, any(tenant) AS tenant, sum(units) AS units FROM events GROUP BY 1
====
-- REFUSED grouped by an alias
SELECT kind AS x, any(tenant) AS tenant, sum(units) AS units FROM events GROUP BY x
====
-- REFUSED grouped by the tuple's
SELECT any(tenant) AS tenant, sum(units) AS units FROM events GROUP BY t.tenant
====
-- REFUSED rollup
SELECT tenant, kind, sum(units) AS units FROM events GROUP BY ROLLUP(tenant, kind)
====
-- REFUSED cube
SELECT tenant, kind, sum(units) AS units FROM events GROUP BY CUBE(tenant, kind)
====
-- REFUSED grouping sets
SELECT tenant, kind, sum(units) AS units FROM events GROUP BY GROUPING SETS ((tenant), (kind))
====
-- REFUSED totals
SELECT tenant, units FROM (SELECT tenant, sum(units) AS units FROM events GROUP BY tenant WITH TOTALS)
====
-- REFUSED window
SELECT tenant, sum(units) OVER () AS units FROM events
====
-- REFUSED window in with
WITH sum(units) OVER (ORDER BY units) AS s SELECT tenant, s AS units FROM events
====
-- REFUSED window by the tuple's
SELECT tenant, sum(units) OVER (PARTITION BY t.tenant) AS units FROM events
====
-- REFUSED window by another's
SELECT e1.tenant AS tenant, sum(units) OVER (PARTITION BY l.tenant) AS units
FROM events AS e1
LEFT JOIN lands AS l ON e1.kind = l.kind
====
-- REFUSED named window
SELECT tenant, sum(units) OVER w AS units FROM events WINDOW w AS (PARTITION BY kind)
====
-- REFUSED window of a window
SELECT tenant, sum(units) OVER (w ORDER BY units) AS units FROM events WINDOW w AS (PARTITION BY kind)
====
-- REFUSED lag
SELECT tenant, lagInFrame(kind) OVER (ORDER BY units) AS kind FROM events
====
-- REFUSED qualified
SELECT tenant, kind, units FROM events QUALIFY row_number() OVER (ORDER BY units) = 1
====
-- REFUSED window in order
SELECT tenant, kind, units
FROM (SELECT tenant, kind, units
FROM events ORDER BY sum(units) OVER (ORDER BY kind) LIMIT 1 BY tenant)
====
-- REFUSED row number
SELECT tenant, kind, units FROM events WHERE rowNumberInAllBlocks() < 2
====
-- REFUSED row number in with
WITH rowNumberInAllBlocks() AS n SELECT tenant, kind, n AS units FROM events
====
-- REFUSED row number in group
SELECT tenant, sum(units) AS units FROM events GROUP BY tenant, rowNumberInAllBlocks()
====
-- REFUSED row number in array join
SELECT tenant, x AS units FROM events ARRAY JOIN [rowNumberInAllBlocks()] AS x
====
-- REFUSED row number in limit by
SELECT tenant, kind FROM (SELECT tenant, kind FROM events LIMIT 1 BY tenant, rowNumberInAllBlocks() > 2)
====
-- REFUSED limited
SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY units LIMIT 2)
====
-- REFUSED limited by kind
SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY tenant LIMIT 1 BY kind)
====
-- REFUSED limited by the tuple's
SELECT tenant, kind, units FROM (SELECT tenant, kind, units FROM events ORDER BY tenant LIMIT 1 BY t.tenant)
====
-- REFUSED limited by with offset
SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY tenant LIMIT 1 OFFSET 1 BY kind)
====
-- REFUSED with ties
SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY units LIMIT 1 WITH TIES)
====
-- REFUSED offset
SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY units OFFSET 1)
====
-- REFUSED distinct on
SELECT tenant, kind FROM (SELECT DISTINCT ON (kind) tenant, kind FROM events ORDER BY tenant)
====
-- REFUSED fill
SELECT tenant, units FROM (SELECT tenant, units FROM events ORDER BY units WITH FILL)
====
-- REFUSED interpolated
SELECT tenant, units FROM (SELECT tenant, units FROM events ORDER BY units WITH FILL INTERPOLATE (tenant))
====
-- REFUSED scalar
SELECT tenant, (SELECT max(units) FROM events) AS units FROM events
====
-- REFUSED scalar in with
WITH (SELECT max(units) FROM events) AS m SELECT tenant, m AS units FROM events
====
-- REFUSED scalar in a function in with
WITH (SELECT max(units) FROM events) + 0 AS m SELECT tenant, m AS units FROM events
====
-- REFUSED scalar in array join
SELECT tenant, k AS kind FROM events ARRAY JOIN (SELECT groupArray(kind) FROM events) AS k
====
-- REFUSED scalar in on
SELECT events.tenant AS tenant, price AS units
FROM events JOIN lands ON events.kind = lands.kind AND lands.price < (SELECT max(units)
FROM events)
====
-- REFUSED scalar in limit by
SELECT tenant, kind
FROM (SELECT tenant, kind
FROM events ORDER BY kind LIMIT (SELECT max(units)
FROM events) BY tenant)
====
-- REFUSED in
SELECT tenant, kind, units FROM events WHERE kind IN (SELECT kind FROM events)
====
-- REFUSED in a tuple
SELECT tenant, kind, units FROM events WHERE ('acme', kind) IN (SELECT tenant, kind FROM events)
====
-- REFUSED in a name
WITH x AS (SELECT tenant, kind FROM more) SELECT tenant, kind, units FROM events WHERE ('omega', kind) IN x
====
-- REFUSED in a datasource
SELECT tenant, kind, units FROM events WHERE ('omega', kind, units) IN more
====
-- REFUSED not in, as a function
SELECT tenant, notIn(('omega', kind, units), more) AS units FROM events
====
-- REFUSED exists
SELECT tenant, kind, units FROM events WHERE EXISTS (SELECT 1 FROM more WHERE units > 5)
====
-- REFUSED correlated
SELECT tenant, kind, units FROM events AS o WHERE EXISTS (SELECT 1 FROM more AS i WHERE i.kind = o.kind)
====
-- REFUSED any
SELECT tenant, kind, units FROM events WHERE units >= ALL (SELECT units FROM more)
====
-- REFUSED subquery in a lambda
SELECT tenant, arrayMap(x -> (SELECT max(kind) FROM events), arr) AS arr FROM events
====
-- REFUSED deep
SELECT tenant, units
FROM events
WHERE units > (SELECT max(u)
FROM (SELECT 1 AS u
UNION ALL SELECT max(units) AS u
FROM events GROUP BY tenant))
====
-- REFUSED cross
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a CROSS JOIN accounts AS b
====
-- REFUSED comma
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a, accounts AS b WHERE a.tenant = b.tenant
====
-- REFUSED on another
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON a.kind = b.plan
====
-- REFUSED on or
SELECT a.tenant AS tenant, b.plan AS kind
FROM events AS a JOIN accounts AS b ON a.tenant = b.tenant OR a.units = b.paid
====
-- REFUSED on not
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON NOT (a.tenant = b.tenant)
====
-- REFUSED on itself
SELECT a.tenant AS tenant, b.plan AS kind
FROM events AS a JOIN accounts AS b ON a.tenant = a.tenant AND a.units >= b.paid
====
-- REFUSED on the tuple's
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b ON t.tenant = b.tenant
====
-- REFUSED third on the first two
SELECT a.tenant AS tenant, c.kind AS kind
FROM events AS a JOIN accounts AS b ON a.tenant = b.tenant JOIN more AS c ON a.tenant = b.tenant AND a.units <= c.units
====
-- REFUSED using another
SELECT a.tenant AS tenant, b.units AS units FROM events AS a JOIN more AS b USING (kind)
====
-- REFUSED natural
SELECT a.tenant AS tenant, plan AS kind FROM events AS a NATURAL JOIN accounts AS b
====
-- REFUSED right
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a RIGHT JOIN accounts AS b ON a.tenant = b.tenant
====
-- REFUSED full
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a FULL JOIN accounts AS b ON a.tenant = b.tenant
====
-- REFUSED right of lands
SELECT events.tenant AS tenant, lands.kind AS kind FROM events RIGHT JOIN lands ON events.kind = lands.kind
====
-- REFUSED tenant of the right
SELECT b.tenant AS tenant, a.kind AS kind FROM events AS a LEFT JOIN accounts AS b ON a.tenant = b.tenant
====
-- REFUSED star of the right
SELECT tenant, k AS kind
FROM (SELECT b.*, a.kind AS k
FROM events AS a
LEFT JOIN accounts AS b ON a.tenant = b.tenant)
====
-- REFUSED tenant of the lands
SELECT tenant, k AS kind
FROM (SELECT l.tenant, a.tenant AS mine, a.kind AS k
FROM events AS a JOIN lands AS l ON a.kind = l.kind)
====
-- REFUSED both tenants
SELECT tenant, k AS kind
FROM (SELECT l.tenant, a.kind AS k, a.tenant
FROM events AS a JOIN lands AS l ON a.kind = l.kind)
====
-- REFUSED star of the lands
SELECT tenant, k AS kind FROM (SELECT l.*, a.kind AS k, a.tenant FROM events AS a JOIN lands AS l ON a.kind = l.kind)
====
-- REFUSED any inner
SELECT a.tenant AS tenant, a.kind AS kind FROM events AS a ANY INNER JOIN lands AS l ON a.kind = l.kind
====
-- REFUSED paste
SELECT a.tenant AS tenant, l.kind AS kind FROM events AS a PASTE JOIN (SELECT kind FROM lands) AS l
====
-- REFUSED asof
SELECT a.tenant AS tenant, b.kind AS kind
FROM events AS a
ASOF JOIN more AS b ON a.kind = b.kind AND a.units >= b.units
====
-- REFUSED asof on the tenant
SELECT a.tenant AS tenant, b.kind AS kind
FROM events AS a
ASOF JOIN more AS b ON a.kind = b.kind AND a.tenant >= b.tenant
====
-- REFUSED asof using
SELECT tenant, a.kind AS kind, b.units AS units FROM events AS a ASOF JOIN more AS b USING (kind, tenant)
====
-- REFUSED third on an optional second
SELECT a.tenant AS tenant, c.kind AS kind
FROM events AS a
LEFT JOIN accounts AS b ON a.tenant = b.tenant AND b.paid > 99
LEFT JOIN more AS c ON b.tenant = c.tenant
====
-- REFUSED using after lands
SELECT a.tenant AS tenant, b.plan AS kind
FROM events AS a JOIN lands AS l ON a.kind = l.kind JOIN accounts AS b USING (tenant)
====
-- REFUSED using an alias
SELECT a.tenant AS tenant, b.plan AS kind FROM events AS a JOIN accounts AS b USING (tenant AS x)
====
-- REFUSED tuple of the right
SELECT a.tenant AS tenant, a.kind AS kind
FROM events AS a
CROSS JOIN (SELECT CAST(tuple('acme'), 'Tuple(tenant String)')) AS l (a)
====
-- REFUSED rows on the right
SELECT a.tenant AS tenant, l.kind AS kind FROM lands AS l JOIN events AS a ON a.kind = l.kind
====
-- REFUSED two of one name
SELECT a.tenant AS tenant, plan AS kind FROM events AS a JOIN accounts AS a ON a.tenant = a.tenant
====
-- REFUSED shifted union
SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT kind, tenant FROM events)
====
-- REFUSED shifted star union
SELECT tenant, kind
FROM (SELECT tenant, kind
FROM events
UNION ALL SELECT * EXCEPT (units, arr, t, e, j)
FROM (SELECT kind, *
FROM events))
====
-- REFUSED distinct union
SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION DISTINCT SELECT kind, tenant FROM events)
====
-- REFUSED except
SELECT tenant, kind FROM (SELECT tenant, kind FROM events EXCEPT SELECT tenant, kind FROM more)
====
-- REFUSED intersect
SELECT tenant, kind FROM (SELECT tenant, kind FROM events INTERSECT SELECT 'acme' AS tenant, kind FROM more)
====
-- REFUSED union with others
SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT 'acme' AS tenant, kind FROM lands)
====
-- REFUSED with of the first
WITH x AS (SELECT kind, units, tenant
FROM events) SELECT tenant, kind
FROM (SELECT tenant, kind
FROM x)
UNION ALL SELECT 'acme' AS tenant, kind
FROM x
====
-- REFUSED with of a first without rows
SELECT tenant, kind
FROM (SELECT tenant, kind
FROM events
UNION ALL SELECT tenant, kind
FROM (WITH x AS (SELECT kind
FROM more) SELECT 'omega' AS tenant, 'no' AS kind
UNION ALL SELECT 'omega' AS tenant, kind
FROM x))
====
-- REFUSED with again
WITH x AS (SELECT kind
FROM lands) SELECT tenant, kind
FROM (WITH y AS (SELECT kind
FROM x), x AS (SELECT kind
FROM more) SELECT e1.tenant AS tenant, y.kind AS kind
FROM events AS e1
CROSS JOIN y)
====
-- REFUSED recursive
WITH RECURSIVE x AS (SELECT tenant, units
FROM events
UNION ALL SELECT tenant, units + 1
FROM x
WHERE units < 3) SELECT tenant, units
FROM x
====
-- REFUSED hidden in with
WITH x AS (WITH 'acme' AS tenant SELECT tenant, kind FROM events) SELECT tenant, kind FROM x
====
-- REFUSED hidden deep
SELECT tenant, kind FROM (SELECT tenant, kind FROM (SELECT upper(tenant) AS tenant, kind FROM events))
====
-- REFUSED table alias
SELECT tenant, kind, units FROM events AS tenant
====
-- REFUSED no tenant inside
SELECT tenant, kind FROM (SELECT kind, 'acme' AS tenant FROM (SELECT kind FROM events))
====
-- REFUSED nothing of it
SELECT kind FROM events
====
-- KEPT plain
SELECT tenant, kind, units FROM events
====
-- KEPT starred
SELECT * FROM events
====
-- KEPT excluded
SELECT * EXCEPT (arr, j) FROM events
====
-- KEPT qualified
SELECT a.tenant AS tenant, a.kind AS kind FROM events AS a
====
-- KEPT qualified star
SELECT a.* FROM events AS a
====
-- KEPT grouped
SELECT tenant, kind, sum(units) AS units FROM events GROUP BY tenant, kind
====
-- KEPT grouped by all
SELECT tenant, kind, sum(units) AS units FROM events GROUP BY ALL
====
-- KEPT window
SELECT tenant, kind, sum(units) OVER (PARTITION BY tenant ORDER BY kind) AS units FROM events
====
-- KEPT named window
SELECT tenant, kind, sum(units) OVER w AS units FROM events WINDOW w AS (PARTITION BY tenant, kind)
====
-- KEPT limit by
SELECT tenant, kind FROM (SELECT tenant, kind FROM events ORDER BY units, kind LIMIT 2 BY tenant)
====
-- KEPT distinct
SELECT DISTINCT tenant, kind FROM events
====
-- KEPT array join
SELECT tenant, kind, a FROM events ARRAY JOIN arr AS a
====
-- KEPT array joined
SELECT tenant, arrayJoin(arr) AS a FROM events
====
-- KEPT joined lands
SELECT e1.tenant AS tenant, e1.kind AS kind, price FROM events AS e1 LEFT JOIN lands AS l ON e1.kind = l.kind
====
-- KEPT joined inner
SELECT e1.tenant AS tenant, e1.kind AS kind, price FROM events AS e1 JOIN lands AS l ON e1.kind = l.kind
====
-- KEPT joined lands, bare
SELECT tenant, events.kind AS kind, price FROM events LEFT JOIN lands ON events.kind = lands.kind
====
-- KEPT crossed with lands
SELECT events.tenant AS tenant, price FROM events CROSS JOIN lands
====
-- KEPT joined using
SELECT tenant, kind, units, plan FROM events JOIN accounts USING (tenant)
====
-- KEPT joined left using
SELECT tenant, kind, units, plan FROM events LEFT JOIN accounts USING (tenant)
====
-- KEPT joined on
SELECT a.tenant AS tenant, a.kind AS kind, plan
FROM events AS a
LEFT JOIN accounts AS b ON b.tenant = a.tenant AND b.paid > 0
====
-- KEPT joined thrice
SELECT a.tenant AS tenant, plan, c.units AS units
FROM events AS a JOIN accounts AS b ON a.tenant = b.tenant JOIN more AS c ON a.tenant = c.tenant
====
-- KEPT asof
SELECT a.tenant AS tenant, a.kind AS kind, b.units AS units
FROM events AS a
ASOF LEFT JOIN more AS b ON a.tenant = b.tenant AND a.units >= b.units
====
-- KEPT semi
SELECT tenant, kind FROM events LEFT SEMI JOIN accounts USING (tenant)
====
-- KEPT anti
SELECT tenant, kind FROM events LEFT ANTI JOIN accounts USING (tenant)
====
-- KEPT any left
SELECT tenant, kind, plan FROM events ANY LEFT JOIN accounts USING (tenant)
====
-- KEPT united
SELECT tenant, kind FROM events UNION ALL SELECT tenant, kind FROM more
====
-- KEPT united inside
SELECT tenant, kind FROM (SELECT tenant, kind FROM events UNION ALL SELECT tenant, upper(kind) FROM events)
====
-- KEPT in lands
SELECT tenant, kind, units FROM events WHERE kind IN (SELECT kind FROM lands)
====
-- KEPT scalar of lands
SELECT tenant, units * (SELECT max(price) FROM lands) AS units FROM events
====
-- KEPT with
WITH x AS (SELECT tenant, kind, units
FROM events
WHERE units > 1) SELECT tenant, kind, sum(units) AS units
FROM x GROUP BY tenant, kind
====
-- KEPT lambda
SELECT tenant, arrayMap(tenant -> concat(tenant, 'x'), arr) AS arr FROM events
