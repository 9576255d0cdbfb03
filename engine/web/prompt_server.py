"""uvicorn's server without the waits of a tenth of a second that it makes when it stops.

A command without a running server starts and stops one, and a run of `rookery test` several.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from types import FrameType

import uvicorn

log = logging.getLogger("rookery.server")
TICK_SECONDS = 1.0
"""Seconds between two updates of the response header `Date`."""
POLL_SECONDS = 0.002
"""Seconds between two checks whether all connections are closed and all requests have ended."""


class PromptServer(uvicorn.Server):
    """Stops as soon as no request runs."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask the server to stop. Any thread and any signal handler may call it, also repeatedly."""
        self.should_exit = True
        if self._loop is not None:
            # The loop may be closed already.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.stop()

    async def main_loop(self) -> None:
        """Wait until the server is asked to stop."""
        self._loop = asyncio.get_running_loop()
        # uvicorn updates the header at every tenth of its ticks, beginning with number 0.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let running requests finish for a limited time, and shut the application down."""
        for listener in self.servers:
            listener.close()
        for listening in sockets or ():
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._drained()
        except TimeoutError:
            log.error("requests did not end in time and are canceled: %d", len(self.server_state.tasks))
            for task in self.server_state.tasks:
                task.cancel(msg="the server stops")
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _drained(self) -> None:
        """Wait until all connections are closed and all requests have ended, or until a second Ctrl-C."""
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:
            await asyncio.sleep(POLL_SECONDS)
