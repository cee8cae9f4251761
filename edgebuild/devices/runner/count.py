"""Marks the region of some inferences, for whoever counts instructions from outside this process."""

from __future__ import annotations

import ctypes

from .artifact import Opened
from .feeding import Data, Loop
from .measure import prepare, rotation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields

#: No system call of Linux: the kernel refuses it, and an emulator's plugin sees it (see devices/emulator/count.c).
MARK = 31337
BEGIN, END = 0, 1
INFERENCES = 4


def count(request: Fields) -> Fields:
    """Run every input once, then some of them between the two marks; return how many: ``{"inferences": n}``."""
    opened = Opened(request)
    data = Data(request["inputs"], opened.contract)
    inputs, firsts = prepare(data, rotation(opened, INFERENCES))
    session = opened.session()
    loop = Loop(session, opened.contract)
    feeds = [loop.feed(each) for each in inputs]
    system = ctypes.CDLL(None).syscall
    for mark in (None, BEGIN):
        if mark is not None:
            system(MARK, mark)
        for feed, first in zip(feeds, firsts):
            if first:
                loop.reset()
            loop.call(feed)
    system(MARK, END)
    return {"inferences": len(feeds)}
