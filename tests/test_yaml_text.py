"""YAML of others is looked over before it is parsed."""

import pytest
import yaml

from perception.yaml_text import DEEPEST, LARGEST, MOST_VALUES, check_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [1, {b: c}]",
        "base: &base {x: 1}\nother: {<<: *base, y: 2}",
        "[" * DEEPEST + "]" * DEEPEST,
        "[" + "1," * (MOST_VALUES - 1) + "]",
        "x: '" + "a" * 1_000_000 + "'",
    ],
)
def test_what_people_write_passes(text):
    check_yaml(text)
    check_yaml(text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "50 deep"),
        ("[" * 1_000_000, "50 deep"),
        ("- " * 100_000, "50 deep"),
        ("{a: " * 100_000, "50 deep"),
        ("[" + "1," * MOST_VALUES + "]", "100000 values"),
        (LAUGHS, "100000 values"),
        ("&a [*a]", "the alias 'a'"),
        ("[*a]", "the alias 'a'"),
        ("#" * (LARGEST + 1), "16777216 bytes"),
        ("[1, 2", "while parsing"),
    ],
)
def test_what_would_take_the_process_with_it_is_an_error(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        check_yaml(text)
