-- VIEW_SHAPE ORDER BY or LIMIT
SELECT v FROM events ORDER BY v
====
-- VIEW_SHAPE ORDER BY or LIMIT
SELECT v FROM events LIMIT 5
====
-- VIEW_SHAPE ORDER BY or LIMIT
SELECT v FROM events UNION ALL SELECT v FROM users OFFSET 3
====
-- VIEW_SHAPE FINAL or SAMPLE
SELECT v FROM events FINAL
====
-- VIEW_SHAPE FINAL or SAMPLE
SELECT v FROM events SAMPLE 0.1
====
-- VIEW_SHAPE UNION DISTINCT
SELECT v FROM events UNION DISTINCT SELECT v FROM users
====
-- VIEW_SHAPE UNION DISTINCT
(SELECT v FROM events EXCEPT SELECT v FROM users)
====
-- VIEW_SHAPE does not read a datasource first
SELECT number FROM numbers(3)
====
-- VIEW_SHAPE does not read a datasource first
SELECT 1
====
-- VIEW_SHAPE does not read a datasource first
SELECT v FROM events UNION ALL SELECT number FROM numbers(3)
====
-- VIEW_SHAPE does not read a datasource first
WITH n AS (SELECT number FROM numbers(3)) SELECT number FROM n JOIN events ON events.v = n.number
