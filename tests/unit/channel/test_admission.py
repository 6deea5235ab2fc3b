"""Places of a replica: counted over all gateways; who found none learns of the next."""

from __future__ import annotations

import asyncio

from aloraserve_services.channel.admission import Admission


async def test_there_are_as_many_places_as_the_capacity() -> None:
    admission = Admission(2)
    assert [admission.enter(lambda: None) for _ in range(3)] == [True, True, False]
    admission.leave()
    assert (admission.running, admission.enter(lambda: None)) == (1, True)


async def test_who_found_it_full_is_notified_once_and_not_after_it_is_gone() -> None:
    admission, heard = Admission(1), []
    stays, goes = lambda: heard.append("stays"), lambda: heard.append("goes")
    admission.enter(stays)
    assert not admission.enter(stays)
    assert not admission.enter(goes)
    admission.forget(goes)
    admission.leave()
    assert heard == ["stays"]
    admission.enter(stays)
    admission.leave()
    assert heard == ["stays"]


async def test_one_that_is_closed_lets_nobody_in_and_says_when_it_is_idle() -> None:
    admission = Admission(2)
    admission.enter(lambda: None)
    admission.close()
    assert not admission.enter(lambda: None)
    idle = asyncio.create_task(admission.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    admission.leave()
    await idle
