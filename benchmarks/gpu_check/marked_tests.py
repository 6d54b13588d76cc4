"""The tests that are marked `gpu`, run by pytest in a process of their own."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.lines import FAILED, OK, SKIPPED, Line
from regvit_lightning import records

NAME = "tests marked gpu"


def marked_tests(check: Check) -> Iterator[Line]:
    """A line with the outcomes of the tests, and one for each that failed."""
    # Only files with such tests: others would be imported to find none, and may need packages that are not there.
    marked = [file for file in sorted((records.ROOT / "tests").rglob("test_*.py")) if _is_marked(file)]
    if not marked:
        yield Line(NAME, state=SKIPPED, source="no folder tests/ with this code")
        return
    if check.size == "tiny":
        yield Line(NAME, len(marked), "files", state=SKIPPED, source="the trial starts none")
        return
    report = check.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += map(str, marked)
    done = subprocess.run(command, cwd=records.ROOT, capture_output=True, text=True)
    if not report.exists():
        yield Line(NAME, state=FAILED, source=(done.stderr or done.stdout).strip()[-300:])
        return
    sys.stderr.write(done.stdout[-6000:])
    yield from outcomes(report)


def _is_marked(file: Path) -> bool:
    return "mark.gpu" in file.read_text(encoding="utf-8")


def outcomes(report: Path) -> Iterator[Line]:
    """Lines of a JUnit report: counts, and the name and first line of each failure."""
    suite = next(ET.parse(report).getroot().iter("testsuite"))
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = counts["failures"] + counts["errors"]
    passed = counts["tests"] - bad - counts["skipped"]
    source = f"{passed} passed, {bad} failed, {counts['skipped']} skipped"
    state = FAILED if bad else OK if passed else SKIPPED
    yield Line(NAME, passed, "passed", state=state, source=source, facts=counts)
    for case in suite.iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            first = (problem.get("message") or "").splitlines()[:1]
            yield Line(f"{NAME}: {case.get('name')}", state=FAILED, source=" ".join(first)[:200])
