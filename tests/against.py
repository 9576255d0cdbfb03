"""Which of the tests that are new since a revision fail on it: `python -m tests.against REVISION [pytest arguments]`.

A test of a fault must fail where the fault still is. The revision is checked out to a temporary folder, the tests of
today are put in place of its own, and those that it did not have are run over its code. Tests marked `feature` are of
things that the revision does not have at all and are left out. The exit code is 1 if any test passes there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
MARKERS = ("-o", "markers=proves(*ids)\nfeature")
"""The revision's settings do not know the markers of today."""


def collected(directory: Path, *arguments: str) -> set[str]:
    """Names of the tests in a checkout, without their parameters. Files that cannot be imported have none."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--continue-on-collection-errors", *arguments]
    done = subprocess.run(
        command, cwd=directory, env=_environment(directory), capture_output=True, text=True, check=False
    )
    return {line.split("[")[0] for line in done.stdout.splitlines() if "::" in line and not line.startswith("ERROR")}


def _environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(directory)}


def main() -> int:
    base, *arguments = sys.argv[1:] or ["618065d"]
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(old), base], check=True)
        try:
            before = collected(old)
            now = collected(ROOT, "-m", "not feature")
            shutil.rmtree(old / "tests")
            shutil.copytree(ROOT / "tests", old / "tests", ignore=shutil.ignore_patterns("__pycache__"))
            new = sorted(now - before)
            files = sorted({test.split("::")[0] for test in new})
            report = Path(folder) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-q", "-m", "not feature", "--continue-on-collection-errors", *MARKERS,
                       f"--junitxml={report}", "-o", "junit_family=xunit1", *arguments, *files]  # fmt: skip
            subprocess.run(command, cwd=old, env=_environment(old), stdout=subprocess.DEVNULL, check=False)
            return _tell(set(new), report, base)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(old)], check=True)


def _tell(new: set[str], report: Path, base: str) -> int:
    """Print the result of each new test; a test with parameters passes when all of them do."""
    results: dict[str, set[str]] = {name: set() for name in new}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('file')}::{str(case.get('name')).split('[')[0]}"
        if name in results:
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            results[name].add("skipped" if kinds == {"skipped"} else "fails" if kinds else "passes")
    # A file that the revision cannot import has no results: it needs what is not there.
    verdicts = {n: "fails" if "fails" in found or not found else "passes" if "passes" in found else "skipped"
                for n, found in results.items()}  # fmt: skip
    for name, verdict in sorted(verdicts.items(), key=lambda item: (item[1], item[0])):
        print(f"{verdict:8} {name}")
    counts = {v: list(verdicts.values()).count(v) for v in ("fails", "passes", "skipped")}
    print(
        f"\n{len(new)} new tests on {base}: {counts['fails']} fail, {counts['passes']} pass, {counts['skipped']} skipped"
    )
    return int(counts["passes"] > 0)


if __name__ == "__main__":
    sys.exit(main())
