"""The routed fan-out of one landing datasource: batches from their stages into the nests, the rest from landing.

There is one main cohort, which keeps up with landing, and others for tenants that are new or have failed. What is
delivered, when it is written down and what is repeated after a kill is explained in `docs/INGESTION.md`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass, replace

import structlog

from engine import observe
from engine.compiler.scope import tenant_literal
from engine.errors import APPLY_FAILED, BUSY, CLOSED, UNKNOWN_DATASOURCE, RookeryError
from engine.fanout.cursor import Cohort, Cursor, CursorJournal, Piece
from engine.fanout.landed import Landed
from engine.fanout.log import MOST_BLOCKS, Block, Log, copies
from engine.plan.state import Workspace
from engine.schema import Name, nest_database, quote
from engine.warehouse import ddl

log = structlog.get_logger("rookery.fanout")

POLL_SECONDS = 1.0
PIECE_ROWS = 1_000_000
STRAY_ROWS = 250_000
"""Rows of a piece by which others catch up, small enough that nobody who keeps up waits for it."""
STAGED_BYTES = 256 << 20
"""Bytes of batches whose stages are kept for the push; later ones are read from landing again."""
COPIED_FOR = 8
"""Tenants for whom a stage is copied as landing has it: casts and conditions cost more per tenant than the copy."""
LONGEST_PAUSE = 60.0
OURS = "g:"
"""How the identities of the gateway's batches begin."""
DOUBTFUL = 8
"""Batches of which a killed process may have delivered one in part. They are flushed in their order, but one whose
INSERT failed when it was in landing already is left for later."""

Delivery = Callable[[str], str]
"""The SELECT of one tenant's rows."""


@dataclass(frozen=True, slots=True)
class Position:
    """Rows of batches in hand and the age of the oldest in seconds; who keeps up, and who does not."""

    rows: int
    seconds: float
    main: Cohort
    strays: list[Cohort]


class Lane(threading.Thread):
    """One datasource's fan-out."""

    def __init__(self, workspace: Workspace, datasource: str, journal: CursorJournal, hands: Executor) -> None:
        super().__init__(name=f"fan-out {datasource}", daemon=True)
        self.datasource = datasource
        self._workspace = workspace
        self._journal = journal
        self._hands = hands
        self._wake = threading.Condition()
        self._queue: list[Landed] = []
        self._announced: set[str] = set()
        self._staged = 0
        self._closed = False
        self._polled = 0.0
        self._busy_since: float | None = None
        self._merged: tuple[str, Name] | None = None
        self._again: list[Landed] = []
        self._missed: set[str] = set()
        self.main = Cohort(Cursor.start())
        self.strays: list[Cohort] = []
        self.held = threading.RLock()
        """Held while anything is delivered; whoever changes views holds it with the fence."""

    # --- what others call ------------------------------------------------------------------------------------------

    def announce(self, batch: str) -> None:
        with self._wake:
            self._announced.add(batch)

    def withdraw(self, batch: str) -> None:
        with self._wake:
            self._announced.discard(batch)

    def landed(self, batch: Landed) -> None:
        """Take a batch over. Beyond what stages may hold, its rows are read from landing later."""
        with self._wake:
            self._announced.discard(batch.batch)
            keep = self._staged + batch.size <= STAGED_BYTES
            self._queue.append(batch if keep else replace(batch, table="", size=0))
            self._staged += batch.size if keep else 0
            self._wake.notify_all()
        if not keep:
            batch.release()

    def start_reader(self, tenants: Sequence[str]) -> None:
        """Let tenants read the log from its beginning; their copies must be empty."""
        cursor = Cursor.start()
        self._journal.write_own(self.datasource, tenants, cursor)
        with self._wake:
            self._forget(tenants)
            self.strays.append(Cohort(cursor, set(tenants), since=time.time()))
            self._wake.notify_all()

    def take_over(self, tenants: Sequence[str], at: int) -> None:
        """Let tenants read on from a block up to which they have everything."""
        cursor = Cursor.start(at)
        self._journal.write_own(self.datasource, tenants, cursor)
        with self._wake:
            self._forget(tenants)
            self.strays.append(Cohort(cursor, set(tenants), since=time.time()))
            self._wake.notify_all()

    def forget(self, tenants: Sequence[str]) -> None:
        """Deliver nothing more to tenants."""
        with self._wake:
            self._forget(tenants)
        self._journal.strike(self.datasource, tenants)

    def nudge(self) -> None:
        """Try again at once what is waiting for its next try."""
        with self._wake:
            for cohort in self.strays:
                cohort.due = 0.0
            self._wake.notify_all()

    def wait_for(self, tenants: Iterable[str], patience: float, progress: Callable[[int, int], None]) -> None:
        """Wait until tenants have caught up. Raises what keeps one of them from it, or RK6003 after the patience."""
        wanted = set(tenants)
        deadline = time.monotonic() + patience
        with self._wake:
            # What failed before, perhaps for want of a table that is there by now, is tried again at once.
            for cohort in self.strays:
                if cohort.members & wanted:
                    cohort.error, cohort.due = "", 0.0
            self._wake.notify_all()
        while True:
            with self._wake:
                missing = wanted - self.main.members
                failed = next((c for c in self.strays if c.error and c.members & missing), None)
                if failed is not None:
                    raise RookeryError(
                        APPLY_FAILED,
                        f"the tables of tenant `{min(failed.members)}` do not take its rows",
                        hint="the others go on; it is tried again by itself: rookery fanout",
                        detail=failed.error,
                    )
                if not missing or self._closed:
                    return
                self._wake.wait(0.05)
            progress(len(wanted) - len(missing), len(wanted))
            if time.monotonic() > deadline:
                raise RookeryError(
                    APPLY_FAILED, "tenants have not caught up yet; they go on to", hint="rookery fanout"
                )

    def settled(self) -> int:
        """The newest block, which all members have with all before it. The fence must be held. Raises RK6004."""
        while not self._closed:
            if self._again or self._queue or self.main.cursor.piece is not None:
                self._turn()
                continue
            self._poll()
            if not self._log().blocks(self.main.cursor.at, 1):
                return self.main.cursor.at
            # A batch is in landing and about to be handed over.
            time.sleep(0.001)
        raise RookeryError(CLOSED, "the server is stopping", headers={"Retry-After": "1"})

    def in_doubt(self, tenant: str) -> set[str]:
        """Tokens of what will be delivered to a tenant again. The lane must be held."""
        with self._wake:
            cursors = [c.cursor for c in self.strays if tenant in c.members]
            if tenant in self.main.members:
                cursors.append(self.main.cursor)
                if self._again:
                    return {self._piece(self._again).token}
        return {c.piece.token for c in cursors if c.piece is not None}

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def position(self) -> Position:
        """Where everybody stands at this moment."""
        with self._wake:
            oldest = min((b.at for b in (*self._again, *self._queue)), default=None)
            since = min((s for s in (oldest, self._busy_since) if s is not None), default=None)
            return Position(
                sum(b.rows for b in (*self._again, *self._queue)),
                round(max(0.0, time.time() - since), 3) if since else 0.0,
                _copy(self.main),
                [_copy(c) for c in self.strays],
            )

    def status(self) -> dict[str, object]:
        """How far the fan-out is behind: rows and seconds for tenants in step, and each stray with its error."""
        now = self.position()
        return {
            "rows": now.rows,
            "seconds": now.seconds,
            "in_step": len(now.main.members),
            "strays": [
                {
                    "tenants": sorted(c.members),
                    "at": c.cursor.at,
                    "error": c.error,
                    "tries": c.tries,
                    "since": c.since,
                }
                for c in now.strays
            ],
        }

    # --- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._closed:
            try:
                self._wait()
                with self.held:
                    self._turn()
            except RookeryError as exc:
                if self._closed or exc.code is CLOSED:
                    break
                log.error("fan-out failed", datasource=self.datasource, error=exc.detail or exc.message)
                time.sleep(0.5)
            except Exception:
                log.exception("fan-out failed", datasource=self.datasource)
                time.sleep(0.5)
        for batch in (*self._again, *self._queue):
            if not batch.visible.done():
                batch.visible.set_result(False)

    def _wait(self) -> None:
        with self._wake:
            now = time.monotonic()
            due = any(c.due <= now for c in self.strays)
            if self._queue or self._again or due or now - self._polled >= POLL_SECONDS or self._closed:
                return
            self._wake.wait(min([POLL_SECONDS, *(max(0.01, c.due - now) for c in self.strays)]))

    def _turn(self) -> None:
        if self._closed:
            return
        if self.main.cursor.piece is not None:
            self._deliver_main(self.main.cursor.piece, self._log())
        batches = self._take()
        if batches:
            self._flush(batches)
        if time.monotonic() - self._polled >= POLL_SECONDS:
            self._poll()
        for cohort in [c for c in self.strays if c.due <= time.monotonic()]:
            self._step(cohort)
            if self._queue:
                break

    def recover(self) -> None:
        """Take up where the last process stopped: deliver again what it may have delivered in part."""
        main, own = self._journal.read(self.datasource)
        reader = self._log()
        head = reader.head()
        if main is None:
            main = Cursor.start(head)
            self._journal.write(self.datasource, main)
        elif main.at > head:
            # The newest blocks were taken away, and their numbers will come again.
            main = Cursor.start(head)
            self._journal.write(self.datasource, main)
        nests = copies(self._workspace, self.datasource)
        members = {t for t, direct in nests.items() if not direct} - own.keys()
        strays: dict[Cursor, set[str]] = {}
        for tenant, cursor in own.items():
            if not nests.get(tenant, True):
                position = cursor if cursor.at <= head else Cursor.start(head)
                strays.setdefault(position, set()).add(tenant)
        self._journal.strike(self.datasource, [t for t in own if nests.get(t, True)])
        with self._wake:
            self.main = Cohort(main, members)
            self.strays = [Cohort(c, set(m), since=time.time()) for c, m in strays.items()]
        for piece in [main.piece] if main.piece else self._doubtful(reader, main):
            self.main.cursor = self.main.cursor.began(piece)
            self._deliver_main(piece, reader)

    def _doubtful(self, reader: Log, main: Cursor) -> list[Piece]:
        """The batches of which one was perhaps under way, each by itself: the oldest that are not done."""
        ours = dict.fromkeys(b.batch for b in reader.blocks(main.at) if b.batch.startswith(OURS))
        return [Piece(b, main.at, batches=(b,)) for b in ours if b not in main.done][:DOUBTFUL]

    def _in_hand(self) -> set[str]:
        """Batches that are being stored or have been handed over. To be asked after landing has been read."""
        with self._wake:
            return {*self._announced, *(b.batch for b in (*self._queue, *self._again))}

    # --- keeping up ------------------------------------------------------------------------------------------------

    def _take(self) -> list[Landed]:
        """The batches of the next flush; after a failure the same ones, so that their token means the same rows."""
        with self._wake:
            taken, rows = list(self._again), 0
            while not self._again and self._queue and (not taken or rows + self._queue[0].rows <= PIECE_ROWS):
                batch = self._queue.pop(0)
                taken.append(batch)
                rows += batch.rows
            self._busy_since = taken[0].at if taken else None
        return taken

    def _piece(self, batches: Sequence[Landed]) -> Piece:
        names = tuple(b.batch for b in batches)
        token = names[0] if len(names) == 1 else f"f:{self.main.cursor.epoch}:{names[0]}:{len(names)}"
        return Piece(token, self.main.cursor.at, batches=names)

    def _flush(self, batches: list[Landed]) -> None:
        """Deliver batches: one from its stage, several put together first, and written down before."""
        self._again = batches
        begun = time.monotonic()
        reader = self._log()
        piece = self._piece(batches)
        if len(batches) > 1:
            self._journal.write(self.datasource, self.main.cursor.began(piece))
        self._missed = set()
        if all(b.table and b.columns == reader.relation.columns for b in batches):
            failed = self._push(reader, piece, batches)
        else:
            failed = self._pull(reader, piece, self.main.members)
        self._done_main(piece, failed)
        observe.record("fanout_flush_seconds", time.monotonic() - begun, datasource=self.datasource)
        self._again = []
        behind = self._missed | failed.keys()
        for batch in batches:
            if not batch.visible.done():
                batch.visible.set_result(not behind or self._passed(batch, behind))
            if batch.table:
                batch.release()
        with self._wake:
            self._staged -= sum(b.size for b in batches)
            self._busy_since = None

    def _passed(self, batch: Landed, behind: set[str]) -> bool:
        """Whether a batch, delivered together with others, has no rows of tenants that are behind."""
        if not batch.table:
            return False
        try:
            found = self._workspace.warehouse.query(
                f"SELECT DISTINCT assumeNotNull({batch.tenant}) FROM {batch.table} WHERE {batch.condition}"
            )
        except RookeryError:
            return False
        return not behind & {str(row[0]) for row in found.rows}

    def _merge(self, reader: Log, batches: Sequence[Landed]) -> tuple[str, str, str, str]:
        """A table with the rows of the batches, and the SQL of values, tenant and condition over it."""
        columns = [quote(c) for c in reader.relation.columns]
        merged = self._merge_table(reader)
        parts = " UNION ALL ".join(
            f"SELECT {b.values}, {b.tenant} FROM {b.table} WHERE {b.condition}" for b in batches
        )
        self._workspace.warehouse.execute(f"TRUNCATE TABLE {merged.sql()}")
        self._workspace.warehouse.execute(f"INSERT INTO {merged.sql()} ({', '.join(columns)}, _rk_tenant) {parts}")
        return merged.sql(), ", ".join(columns), "_rk_tenant", "1"

    def _merge_table(self, reader: Log) -> Name:
        """A table in memory with landing's columns and the tenant's text."""
        source = self._workspace.current.build.datasources[self.datasource]
        columns = ", ".join(f"{quote(c.name)} {c.type}" for c in source.columns)
        if self._merged is None or self._merged[0] != columns:
            name = Name(f"{self._workspace.name}_stage", f"_rk_flush_{self.datasource}"[:150])
            self._workspace.warehouse.execute(ddl.drop_table(name))
            self._workspace.warehouse.execute(
                f"CREATE TABLE {name.sql()} ({columns}, _rk_tenant String) ENGINE = Memory"
            )
            self._merged = (columns, name)
        return self._merged[1]

    def _push(self, reader: Log, piece: Piece, batches: Sequence[Landed]) -> dict[str, str]:
        """Put each present member's rows into its nest. Returns what kept some from taking theirs."""
        only = batches[0]
        source, values, tenant, condition = only.table, only.values, only.tenant, only.condition
        if len(batches) > 1:
            source, values, tenant, condition = self._merge(reader, batches)
        found = self._workspace.warehouse.query(
            f"SELECT DISTINCT assumeNotNull({tenant}) FROM {source} WHERE {condition}", None, {"max_threads": 1}
        )
        present = self._members_in({str(row[0]) for row in found.rows})
        if len(batches) == 1 and len(present) >= COPIED_FOR:
            source, values, tenant, condition = self._merge(reader, batches)

        def rows(one: str) -> str:
            mine = tenant_literal("String", one)
            return f"SELECT {values} FROM {source} WHERE ({condition}) AND {tenant} = {mine}"

        return self._spread(reader, piece, present, rows)

    def _pull(self, reader: Log, piece: Piece, members: set[str]) -> dict[str, str]:
        """Put members' rows of a piece of landing into their nests. Returns what kept some from taking theirs."""
        if members is self.main.members:
            present = self._members_in(reader.tenants(piece))
        else:
            present = reader.tenants(piece) & members if len(members) > 1 else set(members)
        return self._spread(reader, piece, present, lambda one: reader.rows_of(one, piece))

    def _members_in(self, tenants: set[str]) -> set[str]:
        with self._wake:
            self._missed.update(*(c.members & tenants for c in self.strays))
            return tenants & self.main.members

    def _spread(self, reader: Log, piece: Piece, present: set[str], rows: Delivery) -> dict[str, str]:
        failed: dict[str, str] = {}

        def give(tenant: str) -> None:
            try:
                with self._workspace.fence.shared():
                    reader.insert(nest_database(self._workspace.name, tenant), piece.token, rows(tenant))
            except RookeryError as exc:
                if exc.code is BUSY:
                    raise
                failed[tenant] = exc.detail or exc.message

        if len(present) == 1 or self._workspace.fence.mine:
            for tenant in sorted(present):
                give(tenant)
        else:
            under_way = [self._hands.submit(give, t) for t in sorted(present)]
            wait(under_way)
            for done in under_way:
                done.result()
        return failed

    def _deliver_main(self, piece: Piece, reader: Log) -> None:
        self._done_main(piece, self._pull(reader, piece, self.main.members))

    def _done_main(self, piece: Piece, failed: dict[str, str]) -> None:
        """Note that a piece has arrived. Whoever it did not arrive at goes on by itself from where it stood."""
        with self._wake:
            failed = {t: why for t, why in failed.items() if t in self.main.members}
        if failed:
            stray = Cohort(self.main.cursor.began(piece), set(failed), since=time.time())
            self._journal.write_own(self.datasource, stray.members, stray.cursor)
            for tenant, why in failed.items():
                log.error("a tenant's tables do not take its rows", tenant=tenant, error=why)
            with self._wake:
                self.main.members -= stray.members
                for tenant, why in failed.items():
                    self.strays.append(_pausing(Cohort(stray.cursor, {tenant}, since=stray.since), why))
        self.main.cursor = self.main.cursor.finished(piece)
        self._journal.write(self.datasource, self.main.cursor)

    def _poll(self) -> None:
        """Move the main cursor over what is done, and deliver blocks that came past the gateway."""
        self._polled = time.monotonic()
        reader = self._log()
        while not self._closed:
            cursor = self.main.cursor
            blocks = reader.blocks(cursor.at)
            moved, foreign, passed = _walk(blocks, cursor, self._in_hand())
            if foreign:
                last = foreign[-1].number
                without = tuple(b.batch for b in passed if b.number < last)
                token = f"b:{moved.epoch}:{foreign[0].number}:{last}"
                moved = moved.began(Piece(token, moved.at, last, without=without))
            if moved != cursor:
                self._journal.write(self.datasource, moved)
                self.main.cursor = moved
            if moved.piece is None:
                return
            self._deliver_main(moved.piece, reader)
            if self._queue:
                # Others' rows do not keep the gateway's waiting.
                self._polled = 0.0
                return

    # --- catching up -----------------------------------------------------------------------------------------------

    def _step(self, cohort: Cohort) -> None:
        """Deliver one piece to a stray cohort, or take it into the main one if it has come as far."""
        reader = self._log()
        if self.main.cursor.done and cohort.cursor.at >= self.main.cursor.at:
            self._poll()
        piece = cohort.cursor.piece or self._next_piece(reader, cohort)
        if piece is None:
            self._join(cohort)
            return
        if cohort.cursor.piece is None:
            cohort.cursor = cohort.cursor.began(piece)
            self._journal.write_own(self.datasource, cohort.members, cohort.cursor)
        failed = self._pull(reader, piece, set(cohort.members))
        with self._wake:
            failed = {t: why for t, why in failed.items() if t in cohort.members}
            for tenant, why in failed.items():
                alone = Cohort(cohort.cursor, {tenant}, tries=cohort.tries, since=cohort.since)
                self.strays.append(_pausing(alone, why))
            cohort.members -= failed.keys()
            if not cohort.members:
                self.strays.remove(cohort)
                return
            cohort.cursor = cohort.cursor.finished(piece)
            cohort.error, cohort.tries = "", 0
        self._journal.write_own(self.datasource, cohort.members, cohort.cursor)
        if cohort.cursor.at == self.main.cursor.at:
            # At once, since the next flush would take the main cohort further again.
            self._join(cohort)

    def _next_piece(self, reader: Log, cohort: Cohort) -> Piece | None:
        """The next blocks that the main cohort has and this one lacks; where there are none, it moves on."""
        cursor, goal = cohort.cursor, self.main.cursor.at
        if cursor.at >= goal:
            return None
        blocks = [b for b in reader.blocks(cursor.at) if b.number <= goal]
        taken, rows = list[Block](), 0
        for block in blocks:
            missing = 0 if block.batch in cursor.done else block.rows
            if rows and rows + missing > STRAY_ROWS:
                break
            rows += missing
            taken.append(block)
        without = tuple(b.batch for b in taken if b.batch in cursor.done)
        upto = taken[-1].number if taken else goal
        if not rows:
            cohort.cursor = replace(cursor, at=upto, done=cursor.done - set(without))
            return self._next_piece(reader, cohort)
        return Piece(f"t:{cursor.epoch}:{cursor.at}:{upto}", cursor.at, upto, without=without)

    def _join(self, cohort: Cohort) -> None:
        """Make a cohort that stands where the main one does part of it."""
        main = self.main.cursor
        if main.done or cohort.cursor.done or cohort.cursor.at != main.at:
            cohort.due = time.monotonic() + 0.02
            return
        self._journal.strike(self.datasource, cohort.members)
        with self._wake:
            if cohort in self.strays:
                self.strays.remove(cohort)
                self.main.members |= cohort.members
            self._wake.notify_all()

    # --- the rest --------------------------------------------------------------------------------------------------

    def _forget(self, tenants: Sequence[str]) -> None:
        self.main.members -= set(tenants)
        for cohort in list(self.strays):
            cohort.members -= set(tenants)
            if not cohort.members:
                self.strays.remove(cohort)

    def _log(self) -> Log:
        relation = self._workspace.current.build.relations.get(self.datasource)
        if relation is None or relation.tenant is None:
            raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{self.datasource}` any more")
        return Log(self._workspace.warehouse, self._workspace.name, relation)


def _walk(blocks: Sequence[Block], cursor: Cursor, ours: set[str]) -> tuple[Cursor, list[Block], list[Block]]:
    """The cursor moved over what is done, the blocks behind it that nobody has in hand, and those done among them."""
    at, done, foreign, passed, rows = cursor.at, set(cursor.done), list[Block](), list[Block](), 0
    for block in blocks:
        if block.batch in ours:
            break
        if block.batch in done:
            if foreign:
                passed.append(block)
                continue
            done.discard(block.batch)
            at = block.number
        elif foreign and rows + block.rows > PIECE_ROWS:
            break
        else:
            foreign.append(block)
            rows += block.rows
    else:
        if len(blocks) < MOST_BLOCKS:
            # Whatever is done and not among the blocks has no rows in landing any more.
            done.intersection_update(b.batch for b in blocks)
    return replace(cursor, at=at, done=frozenset(done)), foreign, passed


def _copy(cohort: Cohort) -> Cohort:
    return replace(cohort, members=set(cohort.members))


def _pausing(cohort: Cohort, why: str) -> Cohort:
    """A cohort that has failed, to be tried again after a pause that doubles each time."""
    cohort.tries += 1
    cohort.error = why
    cohort.due = time.monotonic() + min(LONGEST_PAUSE, 2.0 ** (cohort.tries - 1))
    return cohort
