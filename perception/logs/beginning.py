"""The first seconds of a log, in which its topics are seen, and what is known of the vehicle from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from perception.logs.messages import Calibration, Cloud, Image, Message, is_timeless

BEGINNING_S = 5.0


def beginning(
    messages: Iterable[Message],
    seconds: float = BEGINNING_S,
    is_measurement: Callable[[Message], bool] = lambda message: isinstance(message.data, Image | Cloud),
) -> Iterator[Message]:
    """The messages up to ``seconds`` after the first measurement, by log time."""
    end_ns = None
    for message in messages:
        if end_ns is not None and message.log_time_ns > end_ns:
            return
        if end_ns is None and is_measurement(message):
            end_ns = message.log_time_ns + round(1e9 * seconds)
        yield message


def known_from_the_start(messages: Iterable[Message]) -> list[Message]:
    """The static transforms in the beginning of a log, and the first calibration of every topic.

    Recorders often start before the publishers of these do, but the sensors were mounted before that.
    """
    known, calibrated = [], set()
    for message in messages:
        if is_timeless(message):
            known.append(message)
        elif isinstance(message.data, Calibration) and message.topic not in calibrated:
            calibrated.add(message.topic)
            known.append(message)
    return known
