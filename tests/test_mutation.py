"""The mutation tester itself: which mistakes it makes, where it makes none, and that its lists fit the sources."""

import ast

import pytest
import yaml

from mutation.mutants import mutants
from mutation.named import MISTAKES, patched
from mutation.runner import ACCEPTED, ROOT, Report, mutation_lines


def made(source: str) -> set[str]:
    return {mutant.what for mutant in mutants(source)}


@pytest.mark.parametrize(
    ("source", "mistakes"),
    [
        ("x = a + b", {"a + b -> (a - b)"}),
        ("x = a < 3", {"a < 3 -> (a <= 3)", "a < 3 -> (a > 3)", "3 -> 4", "3 -> 0"}),
        ("x = -a and not b", {"-a and (not b) -> (-a or not b)", "-a -> a", "not b -> b"}),
        ("x = True", {"True -> False"}),
        ("x = min(a, key=f)", {"min(a, key=f) -> max(a, key=f)", "min(a, key=f) -> min(a)"}),
        ("x = f(a, device=b, c=d)", {"f(a, device=b, c=d) -> f(a, device=b)"}),
        ("x = a.amax(0)", {"a.amax(0) -> a.amin(0)", "0 -> 1"}),
        ("x = a if b else c", {"a if b else c -> (c if b else a)"}),
        ("if a:\n    b()", {"a -> not (a)", "b() -> pass"}),
        ("def f(a: int = 1) -> int:\n    return a", {"return a -> return None", "1 -> 2", "1 -> 0"}),
        ("def f(a):\n    a = b\n    c = d\n    return None", {"a = b -> pass"}),
        ("x[a] = b", {"x[a] = b -> pass"}),
        ("a += b", {"a += b -> pass", "a += b -> a -= b"}),
    ],
)
def test_mistakes(source, mistakes):
    assert made(source) == {what.replace("-a and (not b)", "-a and not b") for what in mistakes}


@pytest.mark.parametrize(
    "source",
    [
        '"""Text of 1 + 1."""', "import a", "raise E(1 + 2)", "log.info('%d', 1)", "x: int | None = None",
        "class A:\n    def __repr__(self):\n        return 1 + 2", "x = f'{a:.3f}'", "x = 'a' 'b'",
    ],
)  # fmt: skip
def test_what_no_test_should_notice_is_left_alone(source):
    assert made(source) == set()


def test_a_mutant_is_the_source_with_one_difference():
    source = '"""é."""\n\n\ndef f(a):\n    """é"""\n    é = a * 2  # é\n    return (é +\n            1)\n'
    found = mutants(source)
    assert len({mutant.source for mutant in found}) == len(found) == 7
    for mutant in found:
        ast.parse(mutant.source)
        removed = [line for line in mutant.diff(source).splitlines() if line.startswith("-")]
        assert 1 <= len(removed) <= 2
    assert {mutant.line: mutant.lines for mutant in found} == {6: (6,), 7: (7, 8), 8: (7, 8)}


def test_the_share_counts_accepted_survivors_as_survivors():
    one = mutants("x = a + b")
    assert Report("m", killed=3, survived=one).share == 0.75
    assert Report("m", killed=3, survived=one, accepted=one).share == 0.6


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_named_mistakes_fit_the_sources(mistake):
    _, file, old, new, tests = mistake
    ast.parse(patched(file, old, new))
    assert (ROOT / f"tests/test_{tests}.py").exists()


def test_accepted_survivors_are_mutants_and_have_reasons():
    for module, entries in (yaml.safe_load(ACCEPTED.read_text()) or {}).items():
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        there = mutation_lines(source, mutants(source))
        for entry in entries:
            assert (entry["line"], entry["mutation"]) in there, f"{module}: {entry}"
            assert len(entry["reason"]) > 10
