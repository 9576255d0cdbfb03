"""Which of the tests that are new since a revision fail on it: `python -m tests.against [REVISION] [FILE ...]`.

A regression test must fail on a revision with the bug. The revision is checked out to a temporary folder, the tests of
today are put in place of its own, and those that it did not have are run over its code, file by file. Tests of what the
revision lacks altogether (`feature`) are left out; tests of what was right already and must stay so (`guard`) may pass.
What does not end within `--limit` seconds (300) counts as failing. The exit code is 1 if any other test passes there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = (
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=--import-mode=importlib",
    "-o",
    "markers=proves(*ids)\nfeature\nguard\nsoak",
)
"""Replaces the settings of the revision, which lack newer markers."""
_RESULT = re.compile(r"(\S+\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
FAILS, HANGS, PASSES, SKIPPED, GUARD = "fails", "does not end", "passes", "skipped", "guard"


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests that are new since a revision over its code.")
    parser.add_argument("revision", nargs="?", default="618065d")
    parser.add_argument("files", nargs="*", help="only these files or directories")
    parser.add_argument("--limit", type=float, default=300, help="seconds for each file")
    given = parser.parse_args()
    verdicts: Counter[str] = Counter()
    with _checkout(given.revision) as old:
        before = _names(old)
        now = _names(ROOT, "-m", "not feature", *given.files) - before
        guards = _names(ROOT, "-m", "guard", *given.files)
        shutil.rmtree(old / "tests")
        shutil.copytree(ROOT / "tests", old / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        files = sorted({name.partition("::")[0] for name in now})
        for number, file in enumerate(files, 1):
            print(f"[{number}/{len(files)}] {file}", flush=True)
            for name, verdict in _judged(old, file, sorted(n for n in now if n.startswith(f"{file}::")), given.limit):
                verdict = GUARD if verdict == PASSES and name in guards else verdict
                verdicts[verdict] += 1
                if verdict != FAILS:
                    print(f"    {verdict}: {name.partition('::')[2]}", flush=True)
    counts = ", ".join(f"{verdicts[v]} {v}" for v in (FAILS, HANGS, GUARD, SKIPPED, PASSES))
    print(f"{verdicts.total()} new tests on {given.revision}: {counts}")
    return int(verdicts[PASSES] > 0)


@contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", old, revision], check=True)
        try:
            yield old
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", old], check=True)


def _names(directory: Path, *arguments: str) -> set[str]:
    """Tests of a checkout, without their parameters. Files that cannot be imported have none."""
    command = ["--collect-only", "-q", "--continue-on-collection-errors", *OPTIONS, *arguments]
    text = _run(directory, command, None)[0]
    return {line.partition("[")[0] for line in text.splitlines() if "::" in line and not line.startswith("ERROR")}


def _judged(old: Path, file: str, names: Sequence[str], limit: float) -> Iterator[tuple[str, str]]:
    """The verdict on each test; one with parameters passes when all of them do."""
    text, ended = _run(old, ["-v", "--tb=no", *OPTIONS, *names], limit)
    results: dict[str, set[str]] = {name: set() for name in names}
    for found in _RESULT.finditer(text):
        results.setdefault(found[1].partition("[")[0], set()).add(found[2])
    for name in names:
        found_all = results[name]
        if found_all & {"FAILED", "ERROR"}:
            yield name, FAILS
        elif not ended and (not found_all or name == _last(text)):
            yield name, HANGS
        elif not found_all:
            # The revision cannot even import the file: the test needs what is not there.
            yield name, FAILS
        else:
            yield name, PASSES if "PASSED" in found_all else SKIPPED


def _last(text: str) -> str:
    """The test that was running when the output ended."""
    return text.rstrip().rpartition("\n")[2].partition("[")[0].strip()


def _run(directory: Path, arguments: Sequence[str], limit: float | None) -> tuple[str, bool]:
    """The output of pytest, and whether it ended within the limit; its child processes are killed."""
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(limit)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read().decode(errors="replace"), ended


if __name__ == "__main__":
    sys.exit(main())
