-- TABLE_REFUSED no datasource, pipe or node `ws.users`
SELECT * FROM ws.users
====
-- TABLE_REFUSED `ws.users`
SELECT * FROM `ws.users`
====
-- TABLE_REFUSED `system.tables`
SELECT name FROM system.tables
====
-- TABLE_REFUSED `secrets`
SELECT * FROM events JOIN secrets ON 1 = 1
====
-- TABLE_REFUSED did you mean `events`
SELECT * FROM event
====
-- TABLE_REFUSED `secrets`
SELECT * FROM events WHERE v IN (SELECT v FROM secrets)
====
-- TABLE_REFUSED `secrets`
SELECT * FROM events WHERE v IN secrets
====
-- TABLE_REFUSED `secrets`
SELECT in(1, secrets) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT v GLOBAL NOT IN secrets FROM events
====
-- SQL_REFUSED on the right of IN
SELECT * FROM events WHERE v IN ws.users
====
-- SQL_REFUSED on the right of IN
SELECT * FROM events AS ws WHERE v IN ws.users
====
-- SQL_REFUSED on the right of IN
SELECT globalNullIn(v, ws.users) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT (SELECT max(v) FROM secrets) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT exists((SELECT 1 FROM secrets)) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events ORDER BY v LIMIT (SELECT 1 FROM secrets)
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events ORDER BY v WITH FILL FROM (SELECT 1 FROM secrets)
====
-- TABLE_REFUSED `secrets`
SELECT v AS a FROM events ORDER BY v WITH FILL INTERPOLATE (a AS (SELECT 1 FROM secrets))
====
-- TABLE_REFUSED `secrets`
SELECT sum(v) OVER (ORDER BY (SELECT 1 FROM secrets)) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT sum(v) OVER (ORDER BY v ROWS BETWEEN (SELECT 1 FROM secrets) PRECEDING AND CURRENT ROW) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT sum(v) OVER w FROM events WINDOW w AS (PARTITION BY (SELECT 1 FROM secrets))
====
-- TABLE_REFUSED `secrets`
SELECT * REPLACE ((SELECT 1 FROM secrets) AS v) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT * APPLY(x -> (SELECT 1 FROM secrets)) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT quantile((SELECT 1 FROM secrets))(v) FROM events
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events QUALIFY (SELECT 1 FROM secrets)
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events GROUP BY GROUPING SETS ((v), ((SELECT 1 FROM secrets)))
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events ARRAY JOIN [(SELECT 1 FROM secrets)] AS x
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events UNION ALL SELECT v FROM secrets
====
-- TABLE_REFUSED `secrets`
SELECT v FROM events EXCEPT SELECT v FROM secrets
====
-- TABLE_REFUSED `secrets`
WITH RECURSIVE r AS (SELECT v FROM secrets) SELECT * FROM r
====
-- TABLE_REFUSED `q`
WITH q AS (SELECT * FROM q) SELECT * FROM q
====
-- TABLE_REFUSED `b`
WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM a
====
-- TABLE_REFUSED `inner_name`
SELECT * FROM (WITH inner_name AS (SELECT 1 AS x) SELECT x FROM inner_name) AS q, inner_name
====
-- TABLE_REFUSED table function `merge`
SELECT * FROM merge('ws', '.*')
====
-- TABLE_REFUSED table function `mergeTreeIndex`
SELECT * FROM mergeTreeIndex('ws', 'events')
====
-- TABLE_REFUSED table function `loop`
SELECT * FROM loop('ws', 'events')
====
-- TABLE_REFUSED table function `remote`
SELECT * FROM remote('127.0.0.1', view(SELECT * FROM ws.users))
====
-- TABLE_REFUSED table function `view`
SELECT * FROM view(SELECT * FROM ws.users)
====
-- TABLE_REFUSED table function `file`
SELECT * FROM file('/etc/passwd', 'LineAsString')
====
-- TABLE_REFUSED table function `url`
SELECT * FROM url('http://127.0.0.1/', 'LineAsString')
====
-- TABLE_REFUSED table function `s3`
SELECT * FROM s3('http://x/y', 'CSV')
====
-- TABLE_REFUSED table function `executable`
SELECT * FROM executable('x', 'TSV', 'a String')
====
-- TABLE_REFUSED table function `python`
SELECT * FROM python(secret_df)
====
-- TABLE_REFUSED table function `Python`
SELECT * FROM Python(secret_df)
====
-- TABLE_REFUSED table function `eval`
SELECT * FROM eval('SELECT name FROM ws.users')
====
-- TABLE_REFUSED table function `sqlite`
SELECT * FROM sqlite('x.db', 't')
====
-- TABLE_REFUSED table function `input`
SELECT * FROM input('a String')
====
-- TABLE_REFUSED table function `generateRandom`
SELECT * FROM generateRandom('a String')
====
-- TABLE_REFUSED table function `dictionary`
SELECT * FROM dictionary('ws.d')
====
-- TABLE_REFUSED table function `cluster`
SELECT * FROM cluster('c', ws.users)
====
-- TABLE_REFUSED table function `viewExplain`
SELECT * FROM (EXPLAIN SELECT * FROM events)
====
-- TABLE_REFUSED table function `null`
SELECT * FROM null('a String')
====
-- TABLE_REFUSED table function `my_parameterized_view`
SELECT * FROM my_parameterized_view(a = 1)
====
-- TABLE_REFUSED table function `timeSeriesSelector`
SELECT * FROM timeSeriesSelector('ws', 't', 'x', 1, 2)
====
-- SQL_REFUSED subquery as an argument of a table function
SELECT * FROM numbers((SELECT max(v) FROM events))
====
-- SQL_REFUSED more than names and types
SELECT * FROM VALUES('a String DEFAULT file(\'/etc/passwd\')', ('x'))
====
-- SQL_REFUSED more than names and types
SELECT * FROM VALUES('a AggregateFunction(sum, UInt8)', (''))
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT * FROM VALUES('a String', (file('/etc/passwd')))
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT * FROM VALUES((file('/etc/passwd'), 1))
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT file('/etc/passwd') FROM events
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT v FROM events WHERE 1 IN tuple(1, length(file('/etc/passwd')))
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT sum(v) OVER (PARTITION BY file('/etc/passwd')) FROM events
====
-- SQL_REFUSED IN of this form
SELECT in(1, 2) OVER (PARTITION BY file('/etc/passwd')) FROM events
====
-- SQL_REFUSED
SELECT lambda(tuple(x), 1) OVER (PARTITION BY file('/etc/passwd')) FROM events
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT * APPLY(file) FROM events
====
-- FUNCTION_REFUSED function `file` is not allowed
SELECT COLUMNS('s') APPLY(x -> file(x)) FROM events
====
-- FUNCTION_REFUSED `file` may mean a function
SELECT COLUMNS('s') APPLY(arrayMap(file, ['/etc/hostname'])) FROM events, users
====
-- FUNCTION_REFUSED `file` may mean a function
SELECT arrayMap(file, ['/etc/hostname'])
====
-- FUNCTION_REFUSED `file` may mean a function
SELECT arrayMap(`file`, ['/etc/hostname']) FROM events JOIN users USING (id)
====
-- FUNCTION_REFUSED `FILE` may mean a function
SELECT arrayMap(FILE, ['/etc/hostname'])
====
-- FUNCTION_REFUSED `file` may mean a function
SELECT arrayMap(file AS f, ['/etc/hostname'])
====
-- FUNCTION_REFUSED `file` may mean a function
SELECT arrayMap(x -> arrayMap(file, [x]), ['/etc/hostname'])
====
-- FUNCTION_REFUSED `file` may mean a function
SELECT arrayFold(file, ['/etc/hostname'], '') FROM (SELECT 1)
====
-- FUNCTION_REFUSED `my_udf` may mean a function
SELECT arrayMap(my_udf, ['/etc/hostname'])
====
-- FUNCTION_REFUSED function `generateSnowflakeID` is not allowed
SELECT max(generateSnowflakeID()) FROM events
====
-- FUNCTION_REFUSED no function `other_udf`
SELECT other_udf(v) FROM events
====
-- FUNCTION_REFUSED function `my_udf` is not allowed
SELECT my_udf(v) FROM events
====
-- FUNCTION_REFUSED `currentUser` may mean a function
SELECT currentUser
====
-- FUNCTION_REFUSED `CURRENT_USER` may mean a function
SELECT v FROM events, users WHERE CURRENT_USER = 'default'
====
-- FUNCTION_REFUSED `currentRequestURL` may mean a function
SELECT (SELECT 1 AS currentRequestURL), currentRequestURL FROM events, users
====
-- FUNCTION_REFUSED `user` may mean a function
SELECT (lower(s) AS user), length(user) FROM events
====
-- FUNCTION_REFUSED `database` may mean a function
SELECT database FROM (SELECT 1 AS x)
====
-- FUNCTION_REFUSED may mean a function
SELECT user AS database, database AS user FROM events
====
-- FUNCTION_REFUSED `user` may mean a function
SELECT user AS user
====
-- FUNCTION_REFUSED `user` may mean a function
WITH user AS z SELECT z
====
-- FUNCTION_REFUSED function `getSetting` is not allowed
SELECT getSetting('max_threads')
====
-- FUNCTION_REFUSED function `dictGet` is not allowed
SELECT dictGet('ws.d', 'a', v) FROM events
====
-- FUNCTION_REFUSED function `joinGet` is not allowed
SELECT joinGet('ws.j', 'a', v) FROM events
====
-- FUNCTION_REFUSED function `HOSTNAME` is not allowed
SELECT HOSTNAME()
====
-- FUNCTION_REFUSED function `hasColumnInTable` is not allowed
SELECT hasColumnInTable('ws', 'users', 'x')
====
-- FUNCTION_REFUSED function `globalVariable` is not allowed
SELECT @@version
====
-- FUNCTION_REFUSED function `indexHint` is not allowed
SELECT count() FROM events WHERE indexHint(throwIf(s = 'x'))
====
-- FUNCTION_REFUSED function `sleep` is not allowed
SELECT sleep(3)
====
-- FUNCTION_REFUSED function `dumpColumnStructure` is not allowed
SELECT dumpColumnStructure(s) FROM events
====
-- FUNCTION_REFUSED function `groupFormat` is not allowed
SELECT groupFormat('Native')(j) FROM events
====
-- FUNCTION_REFUSED no function `groupFormatIf`
SELECT groupFormatIf('Native')(j, 1) FROM events
====
-- FUNCTION_REFUSED name of an allowed aggregate function
SELECT arrayReduce('groupFormat(\'Native\')', [1]) FROM events
====
-- FUNCTION_REFUSED name of an allowed aggregate function
SELECT arrayReduce(concat('flame', 'Graph'), [1]) FROM events
====
-- FUNCTION_REFUSED name of an allowed aggregate function
SELECT initializeAggregation('flameGraphState', v) FROM events
====
-- FUNCTION_REFUSED name of an allowed aggregate function
SELECT arrayReduceInRanges({p1:String}, [(1, 2)], [1]) FROM events
====
-- SQL_REFUSED aggregate state
SELECT finalizeAggregation(CAST(unhex('00'), 'AggregateFunction(sum, UInt64)')) FROM events
====
-- SQL_REFUSED aggregate state
SELECT unhex('00')::Array(AggregateFunction(groupBitmap, UInt64)) FROM events
====
-- SQL_REFUSED literal type
SELECT CAST(unhex('00'), concat('Aggregate', 'Function(sum, UInt64)')) FROM events
====
-- SQL_REFUSED literal type
SELECT CAST(v, {p1:String}) FROM events
====
-- SQL_REFUSED a named lambda
WITH (x, y) -> 1 AS equals SELECT * FROM events
====
-- SQL_REFUSED a named lambda
SELECT count() FROM (WITH (x, y) -> 1 AS equals SELECT * FROM events)
====
-- SQL_REFUSED a named lambda
WITH lambda(tuple(x, y), 1) AS equals SELECT * FROM events
====
-- SQL_REFUSED
WITH (x, y) -> 1 AS f, f AS equals SELECT * FROM events
====
-- SQL_REFUSED a named lambda
SELECT arrayMap(((x, y) -> 1) AS equals, [1], [2]), (SELECT count() FROM events)
====
-- SQL_REFUSED a named lambda
SELECT v FROM events ORDER BY ((x -> 1) AS `in`)
====
-- SQL_REFUSED `lambda` as a function
SELECT arrayMap(lambda(tuple(x), 1), [1])
====
-- SQL_REFUSED `lambda` as a function
SELECT arrayMap(LAMBDA(tuple(x), 1), [1])
====
-- SQL_REFUSED the alias `equals`
WITH notEquals AS equals SELECT * FROM events
====
-- SQL_REFUSED the alias `In`
SELECT v AS `In` FROM events
====
-- SQL_REFUSED a WITH query named `ws.events`
WITH `ws.events` AS (SELECT 1 AS v) SELECT * FROM events
====
-- SQL_REFUSED a WITH query named `events`
WITH events AS (SELECT 1 AS v) SELECT * FROM users
====
-- SQL_REFUSED a WITH query named `users`
SELECT * FROM (WITH RECURSIVE users AS (SELECT 1 AS v) SELECT * FROM events)
====
-- SQL_REFUSED the table alias `ws.events`
SELECT * FROM events AS `ws.events`
====
-- SQL_REFUSED the alias `ws.users` of a subquery
WITH (SELECT 1) AS `ws.users` SELECT * FROM events
====
-- SQL_REFUSED `_rk_t`
SELECT _rk_t.v FROM events AS _rk_t
====
-- SQL_REFUSED `_rk_t`
WITH CAST(tuple('b'), 'Tuple(tenant_id String)') AS _rk_t SELECT * FROM events
====
-- SQL_REFUSED `_RK_last`
WITH _RK_last AS (SELECT 1) SELECT * FROM _RK_last
====
-- SQL_REFUSED `_rk_after`
SELECT events._rk_after FROM events
====
-- SQL_REFUSED SETTINGS
SELECT * FROM events SETTINGS max_threads = 1
====
-- SQL_REFUSED SETTINGS
SELECT * FROM (SELECT * FROM events SETTINGS additional_table_filters = {'x': '1'}) AS q
====
-- SQL_REFUSED SETTINGS
SELECT v IN (SELECT 1 SETTINGS max_threads = 1) FROM events
====
-- SQL_REFUSED SETTINGS
WITH q AS (SELECT 1 SETTINGS max_threads = 1) SELECT * FROM q
====
-- SQL_REFUSED SETTINGS
(SELECT 1 SETTINGS max_threads = 1) UNION ALL SELECT 2
====
-- SQL_REFUSED INTO OUTFILE
SELECT 'pwn' FROM events INTO OUTFILE 'o1.txt'
====
-- SQL_REFUSED
SELECT 'pwn' FROM events INTO OUTFILE 'o1.txt' AND STDOUT FORMAT JSON
====
-- SQL_REFUSED FORMAT
SELECT * FROM events FORMAT Native
====
-- SQL_REFUSED STREAM
SELECT * FROM events STREAM
====
-- SQL_REFUSED value placeholder
SELECT * FROM {t:Identifier}
====
-- SQL_REFUSED value placeholder
SELECT {c:Identifier} FROM events
====
-- SQL_REFUSED
SELECT {t:Identifier}.v FROM events
====
-- SQL_REFUSED placeholder `{rk_tenant:String}`
SELECT {rk_tenant:String} FROM events
====
-- SQL_REFUSED placeholder `{p1:UInt8}`
SELECT {p1:UInt8} FROM events
====
-- SQL_REFUSED value placeholder
SELECT {p1:Identifier} FROM events
====
-- SQL_REFUSED placeholder `{p9:String}`
SELECT * FROM numbers({p9:String})
====
-- SQL_SYNTAX
SELECT {`$z$`:String} FROM events
====
-- SQL_REFUSED UNION ALL or UNION DISTINCT
SELECT 1 UNION SELECT 2
====
-- SQL_REFUSED FINAL or SAMPLE on anything but a datasource
SELECT * FROM (SELECT * FROM events) AS q FINAL
====
-- SQL_REFUSED FINAL or SAMPLE on anything but a datasource
WITH q AS (SELECT * FROM events) SELECT * FROM q FINAL
====
-- SQL_REFUSED FINAL or SAMPLE on anything but a datasource
SELECT * FROM numbers(10) FINAL
====
-- SQL_REFUSED with FINAL or SAMPLE in one place and without it in another
SELECT * FROM events FINAL WHERE v IN (SELECT v FROM events)
====
-- SQL_REFUSED with FINAL or SAMPLE in one place and without it in another
SELECT * FROM users FINAL WHERE id IN users
====
-- SQL_REFUSED with FINAL or SAMPLE in one place and without it in another
SELECT * FROM events SAMPLE 0.1 UNION ALL SELECT * FROM events SAMPLE 0.2
====
-- SQL_REFUSED a control character
SELECT 1 FROM events AS `x, identifier: events
  IDENTIFIER id: 9`
====
-- SQL_REFUSED a control character
SELECT v AS `a	b` FROM events
====
-- SQL_REFUSED only SELECT statements
EXPLAIN SELECT * FROM events
====
-- SQL_REFUSED only SELECT statements
INSERT INTO events SELECT 1
====
-- SQL_REFUSED only SELECT statements
DROP TABLE events
====
-- SQL_SYNTAX
SELECT 1; DROP TABLE IF EXISTS ws.events
====
-- SQL_SYNTAX
SELECT 1) SELECT * FROM ws.users --
====
-- SQL_REFUSED only SELECT statements
SHOW TABLES
====
-- SQL_SYNTAX
SELECT * FROM events WHERE s = 'open
====
-- SQL_SYNTAX
SELECT INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (INTERVAL (
