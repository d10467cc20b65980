"""What travels back of work that failed."""

from __future__ import annotations

from cluster.workers.work import travelling
from engine.core.errors import InputError, WorkError


class UnpackableError(Exception):
    def __reduce__(self) -> str:
        raise TypeError("this one stays where it is")


def test_an_error_keeps_its_kind_where_it_can_travel() -> None:
    for error in (InputError("bad rows"), WorkError("no worker"), ZeroDivisionError("by nothing")):
        found = travelling(error)
        assert type(found) is type(error) and str(found) == str(error)


def test_one_that_cannot_is_told_of_in_words() -> None:
    for error, says in ((UnpackableError("no way\nback"), "UnpackableError: no way"), (SystemExit(3), "SystemExit: 3")):
        found = travelling(error)
        assert type(found) is InputError and str(found) == says
