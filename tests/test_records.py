"""Records: what flows between workers has fields and nothing else."""

import pytest

from beam_curate.records import record


def test_a_record_has_fields_alone():
    @record
    class Plain:
        """A record."""

        number: int
        text: str = ""

    assert Plain(3) == Plain(number=3, text="")


@pytest.mark.parametrize("kind", [lambda self: 1, property(lambda self: 1), staticmethod(len), classmethod(len)])
def test_what_a_worker_would_not_have_is_refused(kind):
    with pytest.raises(TypeError, match=r"the record Odd may have only fields.*remove size"):
        record(type("Odd", (), {"__annotations__": {"number": int}, "size": kind}))
