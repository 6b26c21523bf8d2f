"""The drill: disturbed runs one after the other in the same folder, then an undisturbed one that has to end as ever."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from drills.faults import FAULTS, problem, run
from drills.inputs import Inputs
from drills.subjects import SUBJECTS, Subject
from perception.errors import PerceptionError


@dataclass
class Row:
    """codes: how often runs ended with each exit code.  resumed: whether the last run ended as an undisturbed one."""

    subject: str
    fault: str
    codes: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    resumed: bool = False

    HEADER = f"{'subject':9} {'fault':5} {'runs':>4}  {'exit codes':40} {'then as ever':12} problems"

    def __str__(self) -> str:
        codes = ", ".join(f"{count} x {code}" for code, count in sorted(self.codes.items()))
        resumed, problems = "yes" if self.resumed else "no", "; ".join(dict.fromkeys(self.problems)) or "none"
        return f"{self.subject:9} {self.fault:5} {sum(self.codes.values()):4}  {codes:40} {resumed:12} {problems}"


def drill(inputs: Inputs, subjects: Sequence[str], faults: Sequence[str], times: int, seed: int = 0) -> Iterator[Row]:
    """A row for each subject and fault."""
    for name in subjects:
        subject = SUBJECTS[name](inputs)
        whole = inputs.folder / name
        subject.command(whole)  # what it works on is made before time is measured
        started = time.monotonic()
        first = run(subject.command(whole))
        takes_s = time.monotonic() - started
        if first.code:
            raise PerceptionError(f"drill: {name}: undisturbed, it ends with {first.code}: {first.err.strip()[-300:]}")
        expected = subject.result(whole)
        for fault in (fault for fault in faults if fault in subject.faults):
            chance = random.Random(f"{seed} {name} {fault}")
            row = Row(name, fault)
            _disturb(row, subject, inputs.folder / f"{name}-{fault}", chance, times, takes_s)
            row.resumed = _ends_in(expected, row, subject, inputs.folder / f"{name}-{fault}")
            yield row


def _disturb(row: Row, subject: Subject, out: Path, chance: random.Random, times: int, takes_s: float) -> None:
    for turn in tqdm(range(times), desc=f"{row.subject} {row.fault}", unit="run"):
        found = FAULTS[row.fault](subject.command(out), takes_s, chance, turn)
        row.codes[found.code] += 1
        if wrong := problem(row.fault, found, subject.codes):
            row.problems.append(wrong)
        try:
            subject.left(out)
        except Exception as error:  # whatever it is, it is a result of the drill
            row.problems.append(f"{type(error).__name__}: {error}")
        if found.code == 0 and subject.afresh:
            shutil.rmtree(out)


def _ends_in(expected: object, row: Row, subject: Subject, out: Path) -> bool:
    last = run(subject.command(out))
    if last.code:
        row.problems.append(f"afterwards exit code {last.code}: {last.err.strip()[-200:]}")
        return False
    if subject.result(out) != expected:
        row.problems.append("afterwards another result")
        return False
    return True
