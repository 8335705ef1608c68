"""Defects found in a source of scans and what was done about them, one sentence each."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import rich.console
import rich.table
import rich.text

REPAIRED = "repaired"  # used, after a change that the files themselves justify
SKIPPED = "skipped"  # not used, because it cannot be trusted
EXCLUDED = "excluded"  # not used, because of what is known about this data set
NOTED = "noted"  # used as it is, but worth reporting
IGNORED = "ignored"  # not part of the layout
OUTCOMES = (REPAIRED, SKIPPED, EXCLUDED, NOTED, IGNORED)
DEFECTS = (REPAIRED, SKIPPED)  # what --strict refuses


class Defect(NamedTuple):
    """Something wrong inside one file."""

    outcome: str  # one of DEFECTS
    reason: str  # what it is counted as
    phrase: str  # to be written after the file's name: field, found, expected


class Finding(NamedTuple):
    """Something to report about one file or patient."""

    outcome: str  # one of OUTCOMES
    reason: str  # what it is counted as
    sentence: str  # file, field, found, expected


class Report:
    """Collects what the checks of a source find, and what its files hold."""

    def __init__(self, findings: Iterable[Finding] = (), root: str = "") -> None:
        """`root` is what paths begin with that is no part of the source: a folder in a zip file."""
        self.findings = list(findings)
        self._root = root
        self._digests: list[str] = []

    def add(self, outcome: str, reason: str, path: str, phrase: str) -> None:
        """Adds a finding about a file, the phrase being what its sentence says after its name."""
        self.findings.append(Finding(outcome, reason, printable(f"{path}: {phrase}.")))

    def count_file(self, path: str, sha256: str) -> None:
        """Takes a file into the fingerprint: its path in the source, and "" if it is of no use."""
        self._digests.append(f"{path.removeprefix(self._root)} {sha256}")

    @property
    def fingerprint(self) -> str:
        """The sha256 over all files that were counted, in whatever order."""
        return hashlib.sha256("\n".join(sorted(self._digests)).encode()).hexdigest()


def count_findings(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """Number of findings by outcome and reason; every outcome is a key."""
    counts: dict[str, Counter[str]] = {outcome: Counter() for outcome in OUTCOMES}
    for finding in findings:
        counts[finding.outcome][finding.reason] += 1
    return {outcome: dict(sorted(of_outcome.items())) for outcome, of_outcome in counts.items()}


def print_findings(read: dict[str, int], findings: Sequence[Finding]) -> None:
    """Prints a table on standard error: what was read, and each reason with its first example.

    Args:
        read: what was read, as numbers by name.
        findings: all of them.
    """
    table = rich.table.Table("", "what", "count", "for example")
    table.columns[2].justify = "right"
    for name, number in read.items():
        table.add_row("read", name, str(number), "")
    examples: dict[tuple[str, str], str] = {}
    for finding in findings:
        examples.setdefault(finding[:2], finding.sentence)
    for outcome, counts in count_findings(findings).items():
        for reason, number in counts.items():
            example = rich.text.Text(examples[outcome, reason], overflow="fold")
            table.add_row(outcome, reason, str(number), example)
    _print(table)


def print_left_out(findings: Sequence[Finding]) -> None:
    """Prints a table on standard error: every skipped file, and of each ignored kind the first.

    Args:
        findings: SKIPPED or IGNORED.
    """
    if not findings:
        return
    table = rich.table.Table("", "file and reason")
    for finding in findings:
        if finding.outcome == SKIPPED:
            table.add_row(SKIPPED, rich.text.Text(finding.sentence, overflow="fold"))
    for reason, number in count_findings(findings)[IGNORED].items():
        first = next(finding for finding in findings if finding[:2] == (IGNORED, reason))
        more = f" So are {number - 1} others." if number > 1 else ""
        table.add_row(IGNORED, rich.text.Text(first.sentence + more, overflow="fold"))
    _print(table)


def _print(table: rich.table.Table) -> None:
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:  # a log file has no width of its own
        console.width = 160
    console.print(table)


def printable(name: str) -> str:
    """A file's name for a message: characters that cannot be printed are escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
