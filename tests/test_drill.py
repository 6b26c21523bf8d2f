"""The drill in its short form: one moment each of a kill, a signal and a full disk."""

import signal

import pytest

drills = pytest.importorskip("drills.run", reason="tools are no part of the package")
from drills.faults import Run, problem, run  # noqa: E402
from drills.inputs import Inputs  # noqa: E402


@pytest.mark.long
@pytest.mark.slow
def test_nothing_is_lost_and_everything_goes_on(tmp_path):
    inputs = Inputs(tmp_path)
    for subject, fault in (("train", "kill"), ("replay", "end"), ("evaluate", "full")):
        (row,) = drills.drill(inputs, [subject], [fault], times=1)
        assert row.problems == [] and row.resumed and row.codes.total() == 1, str(row)


@pytest.mark.parametrize(
    ("fault", "found", "wrong"),
    [
        ("kill", Run(-9, "", 0), None),
        ("kill", Run(-9, "", 2), "2 processes go on"),
        ("end", Run(143, "interrupted\n", 0), None),
        ("end", Run(130, "interrupted\n", 0), None),
        ("end", Run(1, "odd\n", 0), "exit code 1: odd"),
        (
            "end",
            Run(130, "Traceback (most recent call last)\nKeyboardInterrupt\n", 0),
            "a traceback: KeyboardInterrupt",
        ),
        ("full", Run(2, "error: a.mcap: cannot be written\n", 0), None),
        ("full", Run(-11, "", 0), "exit code -11: "),
    ],
)
def test_what_is_wrong_with_an_end(fault, found, wrong):
    assert problem(fault, found, ()) == wrong


def test_processes_that_go_on_are_found_and_ended(monkeypatch):
    monkeypatch.setattr("drills.faults._ENDING_S", 0.2)
    found = run(["sh", "-c", "sleep 60 2>/dev/null & kill -9 $$"])
    assert found.code == -signal.SIGKILL and found.orphans == 1
    assert run(["sh", "-c", "exit 3"]) == Run(3, "", 0)
