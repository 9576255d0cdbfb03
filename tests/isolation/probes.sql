SELECT count(), uniqExactMerge(users) FROM states WHERE throwIf(largest > 1000) = 0
====
SELECT count() FROM states WHERE throwIf(length(finalizeAggregation(names)) > 50) = 0
====
SELECT count() FROM sums WHERE throwIf(toDecimal64(total, 4) > 500) = 0
====
SELECT throwIf(day < '2024-01-01' OR day > '2024-03-01') FROM sums
====
SELECT plan, throwIf(plan LIKE 'omega%') FROM accounts
====
SELECT count() FROM accounts WHERE toInt64(plan) > 0
====
SELECT * FROM accounts
====
SELECT uniqExact(lc), min(lc), max(lc), any(lc) != '' FROM events
====
SELECT count() FROM events
====
SELECT count(), min(day), max(day), min(i), max(i) FROM events
====
SELECT count() FROM events SAMPLE 1 / 2
====
SELECT count() FROM events SAMPLE 1 / 3 OFFSET 1 / 2
====
SELECT count() FROM events SAMPLE 30
====
SELECT count() FROM events SAMPLE 1 / 10 OFFSET 100
====
SELECT count() FROM (SELECT s FROM events LIMIT 3)
====
SELECT lc LIKE '%-kind-%' AS x FROM events LIMIT 1 OFFSET 20
====
SELECT lc != '' AS x FROM logs WHERE i > 5 LIMIT 2
====
SELECT s FROM events ORDER BY i LIMIT 2
====
SELECT s FROM events ORDER BY i LIMIT 2 WITH TIES
====
SELECT DISTINCT lc FROM events ORDER BY lc LIMIT 2
====
SELECT count() FROM events GROUP BY lc ORDER BY lc LIMIT 1
====
SELECT s FROM events ORDER BY s LIMIT 1 BY lc LIMIT 2
====
SELECT blockNumber() AS b FROM events
====
SELECT max(blockSize()) FROM events
====
SELECT max(rowNumberInBlock()) FROM events
====
SELECT max(rowNumberInAllBlocks()) FROM events
====
SELECT toTypeName(j), toTypeName(lc), toTypeName(e) FROM events LIMIT 1
====
SELECT JSONAllPaths(j) AS p FROM events ORDER BY id
====
SELECT JSONDynamicPaths(j) AS p FROM events ORDER BY id
====
SELECT distinctJSONPaths(j) AS p FROM events
====
SELECT distinctJSONPathsAndTypes(j) AS p FROM events
====
SELECT j FROM events ORDER BY id LIMIT 2
====
SELECT j.deep, dynamicType(j.shared), j.omega_path_1 FROM events ORDER BY id LIMIT 2
====
SELECT dumpColumnStructure(lc) FROM events LIMIT 1
====
SELECT byteSize(lc), byteSize(j), byteSize(s) FROM events ORDER BY id LIMIT 2
====
SELECT cityHash64(j), sipHash64(j), toString(j), toJSONString(j) FROM events ORDER BY id LIMIT 9
====
SELECT j, count() FROM events GROUP BY j ORDER BY toString(j) LIMIT 5
====
SELECT uniqExact(j), uniq(j), min(j), max(j) FROM events
====
SELECT hex(maxState(lc)), hex(anyState(lc)), hex(argMaxState(lc, id)) FROM (SELECT * FROM events ORDER BY id)
====
SELECT hex(groupArrayState(lc)) FROM (SELECT * FROM events ORDER BY id)
====
SELECT j.^deep, JSONAllValues(j) FROM events ORDER BY id LIMIT 3
====
SELECT CAST(j AS JSON(max_dynamic_paths=2)) AS x, CAST(j AS Map(String, String)) AS y FROM events ORDER BY id LIMIT 3
====
SELECT arrayMap(x -> toTypeName(x), [j.shared]) AS x, dynamicType(j.acme_path_1), dynamicType(j.zed_path_1)
FROM events ORDER BY id
====
SELECT length(hex(toString(tuple(j, lc)))) AS x FROM events ORDER BY id
====
SELECT finalizeAggregation(groupArrayState(3)(s)) FROM (SELECT s FROM events ORDER BY s)
====
SELECT lowCardinalityIndices(lc), lowCardinalityKeys(lc) FROM events
====
SELECT estimateCompressionRatio(s) > 0 FROM events
====
SELECT hex(toString(groupUniqArrayState(s))) != '' FROM events
====
SELECT cityHash64(*) AS h FROM events ORDER BY h
====
SELECT topK(3)(lc) AS t, quantileExact(i), uniq(s), entropy(lc) FROM events
====
SELECT COLUMNS('.*') FROM events ORDER BY id LIMIT 1
====
SELECT max(rand()) > 0, max(now()) > 0 FROM events
====
SELECT indexHint(i = 7) FROM events
====
SELECT count() FROM events WHERE indexHint(s = 'omega-secret-7')
====
SELECT count() FROM events WHERE s = 'omega-secret-7'
====
SELECT count() FROM events WHERE tenant = 'omega'
====
SELECT count() FROM events WHERE tenant != 'acme' OR throwIf(tenant = 'omega') = 0
====
SELECT tenant, count() FROM events GROUP BY tenant
====
SELECT throwIf(tenant > 'b' AND tenant < 'y') FROM events
====
SELECT * FROM events ORDER BY tenant DESC, id LIMIT 1
====
SELECT _part, _partition_id, _block_number FROM events
====
SELECT _rk_at, _rk_batch FROM events
====
SELECT _rk_t.tenant FROM events
====
SELECT * FROM omega_ds
====
SELECT * FROM omega_pipe
====
SELECT * FROM omega_usage
====
SELECT * FROM omega_us
====
SELECT omega_column FROM events
====
SELECT * FROM full_nest_yeti.events
====
SELECT * FROM full.events
====
SELECT * FROM acme.events
====
SELECT * FROM fill_sums
====
SELECT * FROM system.tables
====
SELECT * FROM nothing_of_that_name
====
SELECT nothing_of_that_name FROM events
====
SELECT hostName(), currentDatabase(), currentUser(), version() FROM events
====
SELECT nofunction(s) FROM events
====
SELECT toInt64(s, 'x') FROM events
====
SELECT s + i FROM events
====
SELECT
====
SELECT * FROM events WHERE
====
SELECT s FROM events WHERE i = {p1:Int64}
====
SELECT s FROM events WHERE tenant = {rk_tenant_string:String}
====
SELECT {rk_tenant_string:String} AS t, s FROM events ORDER BY s LIMIT 1
====
EXPLAIN SELECT * FROM events
====
SELECT * FROM (EXPLAIN indexes = 1 SELECT * FROM events)
====
SELECT * FROM merge('full', 'events')
====
SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM events))
====
DESCRIBE TABLE events
====
SHOW TABLES
====
SELECT * FROM events SETTINGS max_threads = 1
====
SELECT s, i FROM events AS e ASOF JOIN logs AS l ON e.s = l.s AND e.at >= l.at ORDER BY s, i
====
SELECT count() FROM events AS e FULL JOIN logs AS l ON e.s = l.s AND throwIf(l.s LIKE '%secret%') = 0
====
SELECT count() FROM events PASTE JOIN (SELECT s AS other FROM logs ORDER BY id) AS l
====
SELECT sum(price) FROM events JOIN prices USING (lc)
====
SELECT sum(price), count() FROM prices LEFT JOIN events USING (lc)
====
SELECT count() FROM events AS a, events AS b WHERE a.s = b.s AND toInt64(b.s) > 0
====
SELECT count() FROM everything WHERE toInt64(s) > 0
====
SELECT count() FROM all_logs AS a JOIN over AS b ON a.s = b.s WHERE throwIf(a.tenant != b.tenant) = 0
====
SELECT * FROM totals ORDER BY day, lc LIMIT 3
====
SELECT s FROM latest FINAL ORDER BY s
====
SELECT count() FROM latest WHERE throwIf(s LIKE '%secret%') = 0 AND lc >= 'a'
====
SELECT arraySort(groupArray(s)) FROM wrong_tenant
====
SELECT count() FROM joined WHERE toInt64(s) > 0
====
SELECT throwIf(count() > 60) FROM events
====
SELECT throwIf(count() = 60, 'mine alone') FROM events
====
SELECT arrayJoin(range(toUInt64(max(i)))) AS x FROM events ORDER BY x DESC LIMIT 3
====
SELECT toStartOfInterval(at, toIntervalDay(t.b)) FROM events ORDER BY id LIMIT 1
====
SELECT s FROM events ORDER BY day WITH FILL STEP toIntervalDay(1), s LIMIT 20
