"""Write sample data: the same events and users on every machine.

    python generate.py events --accounts 3 --events 5000 > events.ndjson
    python generate.py users --accounts 3 > users.csv

Values come from a linear congruential generator, so other programs can compute the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

START = datetime(2026, 1, 1)
DAYS = 31
USERS = 40
KINDS = ("login", "api_call", "api_call", "api_call", "export", "error", "payment")
COUNTRIES = ("DE", "FR", "US", "BR")
TEAMS = ("sales", "support", "engineering")


class Numbers:
    """Pseudo-random whole numbers (the generator of Numerical Recipes, modulo 2**32)."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, limit: int) -> int:
        """A number from 0 up to, but not including, `limit`."""
        self._state = (self._state * 1664525 + 1013904223) % 2**32
        # The low bits of such a generator repeat quickly.
        return (self._state >> 8) % limit


def events(accounts: int, count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Events of January 2026, in the order of their time."""
    numbers = Numbers(seed)
    for n in range(count):
        kind = KINDS[numbers.below(len(KINDS))]
        user = numbers.below(USERS)
        event: dict[str, Any] = {
            "account_id": 1 + numbers.below(accounts),
            "at": (START + timedelta(seconds=n * DAYS * 86400 // count)).isoformat(sep=" ", timespec="milliseconds"),
            "event": kind,
            "user_id": f"user-{user:02}",
            "context": {"country": COUNTRIES[user % len(COUNTRIES)], "duration_ms": 5 + numbers.below(500)},
        }
        if kind == "payment":
            event["payment"] = {"amount": f"{numbers.below(20000) / 100:.2f}", "currency": "EUR"}
        yield event


def users(accounts: int) -> Iterator[dict[str, Any]]:
    """The users of every account."""
    for account in range(1, accounts + 1):
        for user in range(USERS):
            yield {
                "account_id": account,
                "user_id": f"user-{user:02}",
                "name": f"User {user} of {account}",
                "team": TEAMS[(user + account) % len(TEAMS)],
                "changed_at": START.isoformat(sep=" "),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write sample data of the example project.")
    parser.add_argument("what", choices=["events", "users"])
    parser.add_argument("--accounts", type=int, default=3, help="number of customers")
    parser.add_argument("--events", type=int, default=5000, help="number of events")
    options = parser.parse_args()
    if options.what == "events":
        for event in events(options.accounts, options.events):
            sys.stdout.write(json.dumps(event) + "\n")
        return
    sys.stdout.write("account_id,user_id,name,team,changed_at\n")
    for user in users(options.accounts):
        sys.stdout.write(",".join(str(v) for v in user.values()) + "\n")


if __name__ == "__main__":
    main()
