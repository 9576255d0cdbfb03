-- plain
SELECT * FROM events
====
SELECT count() FROM events
====
SELECT ts, v AS value, s || '-x' AS label FROM events WHERE v > 10 AND NOT (s = 'a' OR s IS NULL) ORDER BY ts DESC, v ASC NULLS FIRST LIMIT 10
====
SELECT e.v, events.s FROM events AS e, users AS u WHERE e.id = u.id
====
SELECT events.v FROM events
====
SELECT count(*), uniq(user), max(version) FROM events WHERE user = 'x' AND version >= 2
====
-- our parameters
SELECT {p1:String} AS a, {p2:UInt8} AS b, {p3:Array(String)} AS c, {p4:DateTime64(3)} AS d FROM events WHERE s = {p1:String}
====
-- joins
SELECT a.v FROM events AS a INNER JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM events AS a LEFT OUTER JOIN users AS b USING (id)
====
SELECT a.v FROM events AS a RIGHT JOIN users AS b USING id
====
SELECT a.v FROM events AS a FULL JOIN users AS b ON a.id = b.id AND a.v > b.v
====
SELECT a.v FROM events AS a CROSS JOIN users AS b
====
SELECT a.v FROM events AS a ANY LEFT JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM events AS a SEMI LEFT JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM events AS a ANTI LEFT JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM events AS a ASOF LEFT JOIN users AS b ON a.id = b.id AND a.ts >= b.ts
====
SELECT a.v FROM events AS a ALL INNER JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM events AS a GLOBAL ANY LEFT JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM events AS a LOCAL INNER JOIN users AS b ON a.id = b.id
====
SELECT a.v FROM (SELECT v FROM events) AS a PASTE JOIN (SELECT id FROM users) AS b
====
SELECT a.v FROM (events AS a INNER JOIN users AS b ON a.id = b.id) LEFT JOIN events AS c ON c.id = a.id
====
SELECT a.v FROM events AS a NATURAL JOIN users AS b
====
-- array join
SELECT v, x FROM events ARRAY JOIN arr AS x
====
SELECT v, x, i FROM events LEFT ARRAY JOIN arr AS x, arrayEnumerate(arr) AS i
====
SELECT v, arrayJoin(arr) AS x FROM events
====
-- windows
SELECT v, row_number() OVER (PARTITION BY s ORDER BY ts) AS n, sum(v) OVER w AS total FROM events WINDOW w AS (PARTITION BY s ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)
====
SELECT sum(v) OVER (ORDER BY v RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING), avg(v) OVER (ORDER BY v ROWS 2 PRECEDING), lagInFrame(v, 1, 0) OVER (ORDER BY ts), first_value(v) IGNORE NULLS OVER (ORDER BY ts), last_value(v) RESPECT NULLS OVER (ORDER BY ts ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING) FROM events
====
SELECT count() OVER (), rank() OVER w1, dense_rank() OVER (w1 ROWS UNBOUNDED PRECEDING), ntile(4) OVER w1, nth_value(v, 2) OVER w1 FROM events WINDOW w1 AS (PARTITION BY s, id ORDER BY v DESC), w2 AS ()
====
SELECT sum(v) FILTER (WHERE v > 2) OVER (ORDER BY ts), count() FILTER (WHERE s != '') FROM events GROUP BY ts, v
====
SELECT v FROM events QUALIFY row_number() OVER (PARTITION BY s ORDER BY ts DESC) = 1
====
-- grouping
SELECT s, sum(v) FROM events GROUP BY s HAVING sum(v) > 1 ORDER BY 2 DESC
====
SELECT s, id, sum(v), grouping(s, id) FROM events GROUP BY GROUPING SETS ((s, id), (s), ())
====
SELECT s, id, sum(v) FROM events GROUP BY ROLLUP(s, id)
====
SELECT s, id, sum(v) FROM events GROUP BY s, id WITH ROLLUP
====
SELECT s, id, sum(v) FROM events GROUP BY CUBE(s, id)
====
SELECT s, id, sum(v) FROM events GROUP BY s, id WITH CUBE WITH TOTALS
====
SELECT s, sum(v) FROM events GROUP BY s WITH TOTALS
====
SELECT s, sum(v) FROM events GROUP BY ALL ORDER BY ALL
====
SELECT s, sum(v) FROM events GROUP BY 1 ORDER BY 1
====
-- order, fill, limits
SELECT toDate(ts) AS d, count() AS c FROM events GROUP BY d ORDER BY d WITH FILL FROM toDate('2024-01-01') TO toDate('2024-02-01') STEP INTERVAL 1 DAY INTERPOLATE (c AS c + 1)
====
SELECT v FROM events ORDER BY v WITH FILL STEP 2 INTERPOLATE
====
SELECT v AS a, v + 1 AS b FROM events ORDER BY a WITH FILL FROM 0 TO 10 STEP 1 STALENESS 3 INTERPOLATE (b)
====
SELECT s, v FROM events ORDER BY s COLLATE 'en', v DESC NULLS LAST LIMIT 2 BY s LIMIT 5, 10
====
SELECT s, v FROM events LIMIT 1 OFFSET 2 BY s, id LIMIT 10 OFFSET 3
====
SELECT s, v FROM events ORDER BY v LIMIT 3 WITH TIES
====
SELECT s, v FROM events ORDER BY v OFFSET 1 ROW FETCH FIRST 3 ROWS ONLY
====
SELECT s, v FROM events ORDER BY v OFFSET 1 ROW FETCH FIRST 3 ROWS WITH TIES
====
SELECT s FROM events LIMIT 0.5
====
SELECT s FROM events LIMIT -3
====
SELECT s FROM events ORDER BY v LIMIT {p2:UInt8} OFFSET {p2:UInt8}
====
SELECT s FROM events LIMIT 1 BY ALL
====
SELECT TOP 5 s FROM events
====
-- distinct
SELECT DISTINCT s FROM events
====
SELECT DISTINCT ON (s, id) s, v FROM events
====
SELECT count(DISTINCT s), uniqExact(DISTINCT id), sum(DISTINCT v) FROM events
====
-- matchers
SELECT * EXCEPT (s), events.* EXCEPT id FROM events
====
SELECT * REPLACE (v + 1 AS v), * EXCEPT ('^s') FROM events
====
SELECT COLUMNS('^v'), COLUMNS(v, s), events.COLUMNS('x'), events.COLUMNS(v, id) FROM events
====
SELECT COLUMNS(v, id) APPLY(sum), COLUMNS(v, id) APPLY(x -> x * 2), COLUMNS(v) APPLY(quantile(0.9)) FROM events
====
SELECT * EXCEPT STRICT (s) APPLY(toString) APPLY(length), * REPLACE STRICT (v + 1 AS v) FROM events
====
SELECT untuple((v, s)) FROM events
====
-- lambdas
SELECT arrayMap(x -> x * 2, arr), arrayFilter((x, y) -> x > y, arr, arr), arrayFold((acc, x) -> acc + x, arr, 0::Int64), arrayMap(toString, arr), arraySort(x -> -x, arr), mapApply((k, w) -> (k, w + 1), m) FROM events
====
SELECT arrayMap(() -> 1, []), arrayMap((x) -> v + x, arr) FROM events
====
-- case, cast, interval
SELECT CASE WHEN v > 1 THEN 'a' WHEN v > 2 THEN 'b' ELSE 'c' END, CASE s WHEN 'x' THEN 1 ELSE 0 END, CASE WHEN v = 1 THEN 2 END FROM events
====
SELECT CAST(v AS String), CAST(v, 'String'), v::Float64, '2024-01-01'::Date, CAST(s AS Nullable(Int32)), [1, 2]::Array(UInt8), (1, 'a')::Tuple(x UInt8, y String), accurateCastOrNull(s, 'Int8') FROM events
====
SELECT s::Enum8('a' = 1, 'b' = 2), v::Decimal(10, 2), ts::DateTime64(3, 'UTC'), s::FixedString(4), s::LowCardinality(Nullable(String)), m::Map(String, UInt64), s::JSON, s::JSON(max_dynamic_paths = 8, a.b UInt32, SKIP c), v::Variant(UInt8, String), v::Dynamic(max_types = 3) FROM events
====
SELECT s::Nested(a UInt8, b String), v::Tuple(UInt8, String), v::INT UNSIGNED, v::DOUBLE PRECISION, s::CHAR VARYING, s::VARCHAR(10) FROM events
====
SELECT ts + INTERVAL 1 DAY, ts - INTERVAL '1' HOUR, ts + INTERVAL v MINUTE, INTERVAL '1 day 2 hours', ts + toIntervalDay(1), ts + INTERVAL {p2:UInt8} WEEK FROM events
====
SELECT EXTRACT(YEAR FROM ts), DATE_ADD(DAY, 1, ts), DATE_SUB(ts, INTERVAL 1 DAY), TIMESTAMPADD(HOUR, 1, ts), DATEDIFF('day', ts, now()), dateTrunc('hour', ts), date_diff(DAY, ts, now()), dateName('year', ts) FROM events
====
SELECT DATE '2024-01-01', TIMESTAMP '2024-01-01 00:00:00', POSITION('a' IN s), SUBSTRING(s FROM 1 FOR 2), TRIM(BOTH ' ' FROM s), TRIM(LEADING 'x' FROM s), LTRIM(s), OVERLAY(s PLACING 'x' FROM 1 FOR 2), substring(s, 1, 2) FROM events
====
-- predicates
SELECT v BETWEEN 1 AND 2, v NOT BETWEEN 3 AND 4, s LIKE '%x%', s NOT LIKE 'a', s ILIKE 'b', s NOT ILIKE 'c', s REGEXP 'x', s IS NOT NULL, v <=> 1, v IS DISTINCT FROM 2, v IS NOT DISTINCT FROM 2, s IS NULL FROM events
====
SELECT v IN (1, 2), v NOT IN (1), (v, s) IN ((1, 'a'), (2, 'b')), v IN 1, v IN [1, 2], v IN (SELECT v FROM users), v NOT IN (SELECT 1), v GLOBAL IN (SELECT 1), v GLOBAL NOT IN (1, 2), s IN ('a'), v IN tuple(1, 2), s IN {p3:Array(String)} FROM events
====
SELECT v FROM events WHERE id IN users
====
SELECT v FROM events WHERE (id, v) IN (SELECT id, v FROM users WHERE users.id = events.id)
====
SELECT v FROM events WHERE EXISTS (SELECT 1 FROM users WHERE users.id = events.id) AND NOT EXISTS (SELECT 1 FROM users WHERE id = 100)
====
SELECT v = ANY (SELECT v FROM users), v > ALL (SELECT v FROM users), v != ALL (SELECT 1), v <= ANY (SELECT 1) FROM events
====
SELECT (SELECT max(v) FROM users) AS top, v / (SELECT sum(v) FROM events) FROM events
====
SELECT v + 1, -v, v % 2, v DIV 2, v MOD 2, v == 1, v <> 2, NOT v, xor(v, 1), s || s || 'x' FROM events
====
-- literals
SELECT 1, -1, 1.5, 1e10, 0xFF, 0b101, inf, nan, NULL, TRUE, false, 'x', '', 'it''s', 'a\\b\n', x'4142', b'0101', [], [1, 2], [NULL, 1], ['a'], (1, 2), (1,), tuple(), map('a', 1), 18446744073709551615, 1_000_000, 123456789012345678901234567890, [[1], [2]], [(1, 'a')], '😀', $$heredoc 'quoted'$$, $tag$ here $tag$ FROM events
====
SELECT v AS `a b`, s AS "c.d", v `back``tick`, s AS "dou""ble", v AS `été` FROM events
====
-- elements and subcolumns
SELECT arr[1], arr[-1], m['k'], m.keys, m.values, arr.size0, t.1, t.a, (1, 2).1, n.null, j.a.b, j.a.b::Int64, j.a[1], j.a.:String, j.^a, j.a[].b FROM events
====
SELECT tupleElement(t, 'a'), t.a AS ta, arrayElement(arr, 1), arr[1][2], (SELECT (1, 2)).1, events.t.a FROM events
====
-- unions
SELECT v FROM events UNION ALL SELECT v FROM users
====
SELECT v FROM events UNION DISTINCT SELECT v FROM users UNION ALL SELECT 1
====
SELECT v FROM events INTERSECT SELECT v FROM users
====
SELECT v FROM events EXCEPT SELECT v FROM users
====
SELECT v FROM events INTERSECT DISTINCT SELECT v FROM users EXCEPT DISTINCT SELECT 1
====
(SELECT v FROM events LIMIT 1) UNION ALL (SELECT v FROM users ORDER BY v LIMIT 1)
====
(SELECT v FROM events UNION ALL SELECT 1) UNION DISTINCT (SELECT 2 UNION ALL SELECT 3)
====
SELECT v FROM (SELECT v FROM events UNION ALL SELECT v FROM users) AS q
====
(SELECT v FROM events)
====
((SELECT v FROM events))
====
SELECT * FROM (SELECT * FROM (SELECT v FROM events))
====
-- with
WITH a AS (SELECT v FROM events), b AS (SELECT v FROM a) SELECT * FROM b UNION ALL SELECT * FROM a
====
WITH 10 AS lim, (SELECT max(v) FROM events) AS top, v + 1 AS w SELECT w, top FROM events WHERE v < lim
====
WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n) FROM r
====
WITH c (a, b) AS (SELECT v, s FROM events) SELECT a, b FROM c
====
WITH a AS MATERIALIZED (SELECT v FROM events) SELECT * FROM a
====
WITH a AS (WITH b AS (SELECT v FROM events) SELECT * FROM b) SELECT v FROM a WHERE v IN (WITH z AS (SELECT 1 AS k) SELECT k FROM z) AND v IN a
====
SELECT v FROM (WITH q AS (SELECT v FROM events) SELECT v FROM q) AS k
====
-- from first, table functions, values
FROM events SELECT v
====
SELECT number FROM numbers(10)
====
SELECT number FROM numbers(2, {p2:UInt8}) AS n LEFT JOIN events ON n.number = events.id
====
SELECT * FROM zeros(3)
====
SELECT * FROM generate_series(1, 10, 2)
====
SELECT * FROM generateSeries(1, 10)
====
SELECT * FROM numbers_mt(10)
====
SELECT * FROM VALUES('a UInt8, b String', (1, 'x'), (2, 'y'))
====
SELECT * FROM (VALUES (1, 'x'), (2, 'y')) AS t (a, b)
====
SELECT a, b FROM (SELECT 1, 2) AS t(a, b)
====
-- final, sample, prewhere
SELECT v FROM events FINAL
====
SELECT v FROM events AS e FINAL PREWHERE v > 1 WHERE v < 10
====
SELECT v FROM events PREWHERE v > 1
====
SELECT v FROM (SELECT v FROM users FINAL PREWHERE v > 2) AS q JOIN events FINAL ON 1 = 1
====
-- aggregates
SELECT sumIf(v, v > 1), countIf(s = 'x'), quantile(0.9)(v), quantiles(0.5, 0.9)(v), topK(3)(s), groupArray(10)(s), groupUniqArray(s), argMax(s, ts), uniqCombined(s), avgOrNull(v), sumArray(arr), sumMap(m), uniqState(s), any(s), anyLast(v), quantileTDigestIf(0.5)(v, v > 1), countIfOrNull(v > 1), minMap(m), sumForEach(arr), sumDistinct(v), groupArrayMovingSum(3)(v), histogram(5)(v), sequenceMatch('(?1)(?2)')(ts, v = 1, v = 2), windowFunnel(3600)(ts, s = 'a', s = 'b'), sumResample(0, 10, 2)(v, v), avgMergeState(st), uniqMerge(st), sumSimpleState(v), maxArgMin(v, ts) FROM events
====
SELECT arrayReduce('sum', arr), arrayReduce('quantiles(0.5)', arr), arrayReduceInRanges('max', [(1, 2)], arr), initializeAggregation('sumState', v), finalizeAggregation(sumState(v)) FROM events GROUP BY arr, v
====
SELECT COUNT(*), Sum(v), MAX(v), Min(v), coalesce(s, 'x'), IF(v > 1, 1, 2), ifNull(s, ''), multiIf(v = 1, 'a', 'b'), greatest(v, 1), concat(s, 'x'), LOWER(s), toStartOfInterval(ts, INTERVAL 5 MINUTE), dateDiff('day', ts, now()), splitByChar(',', s)[1], JSONExtractString(s, 'a'), JSONExtract(s, 'b', 'Array(String)'), formatDateTime(ts, '%Y'), toString(v), throwIf(v = 12345678), rand(), now(), today(), yesterday(), generateUUIDv4(), cityHash64(s), isNull(s), nullIf(s, ''), length(arr), has(arr, 1), round(v, 2), toTypeName(v), materialize(1), ignore(v), e(), pi() FROM events GROUP BY ALL
====
SELECT * FROM events WHERE s LIKE '%{x}%' AND s != '-- not a comment' /* comment */ -- trailing
====
SELECT v, -- about v
  s # hash comment
FROM events;
====
SELECT DISTINCT s, count() OVER (PARTITION BY s) FROM events WHERE ts >= now() - INTERVAL 1 DAY AND ts < now() AND v IN (SELECT id FROM users WHERE s = 'x') ORDER BY s LIMIT 10
====
SELECT s, groupArray((ts, v)) AS points, arraySort(x -> x.1, points) AS sorted FROM events GROUP BY s
====
SELECT tumbleStart(ts, INTERVAL 1 HOUR) AS h, count() FROM events GROUP BY h
====
SELECT sum(v) AS total, total / count() AS mean FROM events HAVING total > 0
====
SELECT if(v > 1, s, NULL) AS x FROM events WHERE x IS NOT NULL ORDER BY length(x), x DESC
====
SELECT a.*, b.s AS other FROM events AS a LEFT JOIN (SELECT id, s FROM users) AS b ON a.id = b.id WHERE b.id IS NULL
====
-- columns named like refused functions
SELECT user, count() AS c FROM events WHERE user != 'x' GROUP BY user ORDER BY user
====
SELECT upper(user) AS user FROM events ORDER BY user
====
SELECT e.user, u.s FROM events AS e JOIN users AS u USING (id, user)
====
SELECT user FROM (SELECT user FROM events) AS q
====
SELECT arraySum(file), version, hostname FROM (SELECT [v] AS file, v AS version, s AS hostname FROM events) AS q
====
SELECT arrayMap(user -> user || 'x', [s]), * EXCEPT (user) FROM events
====
SELECT count() AS events, events.v FROM events GROUP BY events.v
====
SELECT v FROM (SELECT v FROM events) AS events
====
SELECT v AS ts_bucket FROM events |> WHERE ts_bucket > 1
====
SELECT v IS TRUE, v IS NOT FALSE, ts AT TIME ZONE 'UTC', sum(v) OVER (ORDER BY v GROUPS 1 PRECEDING) FROM events
====
WITH [1, 3] AS ids SELECT v FROM events WHERE v IN ids
====
SELECT COLUMNS(arr) APPLY(arraySum) FROM events
====
SELECT v FROM events AS e SAMPLE 1/10 OFFSET 1/2
====
SELECT v FROM (SELECT v FROM users SAMPLE 0.1) AS q
