"""A signal becomes `Interrupted` at once, or when deferred code asks for it; handlers are put back."""

from __future__ import annotations

import signal

import pytest

from ablations.interruption import SIGNALS, Interrupted, deferred, interruptible


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_where_it_arrives_and_a_deferred_one_where_it_is_asked_for(number: signal.Signals) -> None:
    reached = []

    def plain() -> None:
        with interruptible():
            signal.raise_signal(number)
            reached.append("plain code after the signal")

    def patient() -> None:
        with interruptible(), deferred() as heed:
            heed()
            signal.raise_signal(number)
            signal.raise_signal(number)
            reached.append("deferred code after the signal")
            heed()
            reached.append("deferred code after it has asked")

    before = [signal.getsignal(each) for each in SIGNALS]
    for code in (plain, patient):
        with pytest.raises(Interrupted, match=number.name):
            code()
        assert [signal.getsignal(each) for each in SIGNALS] == before
    assert reached == ["deferred code after the signal"]


def test_a_deferred_signal_that_nobody_asks_for_is_raised_at_the_end_and_hides_no_other_error() -> None:
    done = []

    def deaf(error: Exception | None = None) -> None:
        with deferred():
            signal.raise_signal(signal.SIGTERM)
            done.append("all of it")
            if error:
                raise error

    with pytest.raises(Interrupted):
        deaf()
    with pytest.raises(ValueError, match="mine"):
        deaf(ValueError("mine"))
    assert len(done) == 2
