"""An SSH address is read as people write it, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from edgebuild.devices.ssh.address import SshAddress
from edgebuild.errors import UsageError


@pytest.mark.parametrize("text", ["pi@board", "pi@10.0.0.7:2222", "root@[fe80::1]:23", "a.b@host-1.lan"])
def test_an_address_is_read_and_written_back(text: str) -> None:
    assert str(SshAddress.parse(text)) == text


def test_the_parts_of_an_address() -> None:
    assert SshAddress.parse("pi@board:2222") == SshAddress(user="pi", host="board", port=2222)
    assert SshAddress.parse("pi@[::1]") == SshAddress(user="pi", host="::1", port=22)


NO_ADDRESSES = ["board", "@board", "pi@", "pi@-oProxyCommand=x", "pi@b:0", "pi@b:99999", "-l@b", "a b@c"]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="SSH address"):
        SshAddress.parse(text)
