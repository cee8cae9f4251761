"""A connection over SSH and its host keys: nothing is trusted at first sight, and a changed key ends it."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

from edgebuild.devices.messages import one_line
from edgebuild.devices.ssh.loop import Loop, import_asyncssh
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from edgebuild.devices.ssh.address import SshAddress

CONNECT_S = 20.0
#: A cut link is noticed after this many seconds times ``KEEPALIVES``.
KEEPALIVE_S = 5.0
KEEPALIVES = 3


async def connected(
    who: str, address: SshAddress, host_keys: Sequence[str], *, key_file: Path | None, tunnel: Any = None
) -> Any:
    """Return a connection to a machine that shows one of these host keys, through another one's where given.

    ``who`` is how errors call it. Raises ``DeviceError`` for another host key, for keys that aren't let in, and for a
    machine that doesn't answer.
    """
    asyncssh = import_asyncssh()
    keys = () if key_file is None else [_private_key(key_file, who)]
    try:
        pinned = _pinned(host_keys, who)
        return await asyncssh.connect(
            address.host,
            address.port,
            tunnel=tunnel or (),
            username=address.user,
            known_hosts=pinned,
            server_host_key_algs=_algorithms(host_keys),
            client_keys=keys,
            config=None,
            password=None,
            agent_forwarding=False,
            connect_timeout=CONNECT_S,
            login_timeout=CONNECT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES,
        )
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        found = await _presented(address, tunnel)
        raise DeviceError(
            f"{who}: the host key of {address} changed: {', '.join(map(fingerprint, host_keys)) or 'none'} is "
            f"pinned, {', '.join(map(fingerprint, found)) or 'another'} was shown.",
            hint="Somebody may stand between you and the board. If it was set up again: `edgebuild device remove` "
            "and `edgebuild device add`.",
        ) from error
    except asyncssh.PermissionDenied as error:
        raise DeviceError(
            f"{who}: {address} lets none of your keys in.", hint=f"`ssh-copy-id {address.user}@…` adds one."
        ) from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise DeviceError(
            f"{who}: {address} doesn't answer: {str(error) or 'no answer in time'}.",
            hint="Is the board on, and its address right? `edgebuild device check` tries again.",
        ) from error
    except ValueError as error:  # a key in ~/.ssh that can't be read, a host name that is none
        raise DeviceError(
            f"{who}: {address} can't be asked: {one_line(str(error))}.",
            hint="Name a key that can be read with --key, or let ssh-agent offer yours: `ssh-add`.",
        ) from error


def _private_key(path: Path, who: str) -> Any:
    """Return the user's key; raises ``DeviceError`` for one that needs a passphrase, and for what is no key."""
    asyncssh = import_asyncssh()
    try:
        return asyncssh.read_private_key(str(path))
    except OSError as error:
        raise DeviceError(
            f"{who}: the key {path} can't be read: {error.strerror}.", hint="key_file in devices.toml names it."
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        if "assphrase" in str(error):
            raise DeviceError(
                f"{who}: the key {path} is protected by a passphrase, and nobody is asked for it.",
                hint=f"Let ssh-agent offer it: `ssh-add {path}`, and leave key_file (--key) out.",
            ) from error
        raise DeviceError(
            f"{who}: {path} is no private key.", hint="Name the file without .pub, as ssh-keygen made it."
        ) from error


def _pinned(host_keys: Sequence[str], who: str) -> Any:
    """Return the pinned keys as asyncssh wants them; raises ``DeviceError`` where one is none."""
    asyncssh = import_asyncssh()
    for key in host_keys:
        try:
            asyncssh.import_public_key(key)
        except ValueError as error:
            raise DeviceError(
                f"{who}: the pinned host key {key[:60]!r} is none.",
                hint="`edgebuild device remove` and `edgebuild device add` pin it again.",
            ) from error
    return asyncssh.import_known_hosts("".join(f"* {' '.join(key.split()[:2])}\n" for key in host_keys))


def read_host_keys(address: SshAddress, jump: Callable[[], Awaitable[Any]] | None = None) -> tuple[str, ...]:
    """Return the host key that a machine shows, in OpenSSH's form, for a person to compare; nothing is trusted.

    ``jump`` opens the connection to go through (``SshDevice.reach``), its own key pinned.
    """
    loop = Loop()
    try:
        found = loop.call(_presented(address, None) if jump is None else _through(jump, address), CONNECT_S * 2)
    except TimeoutError:
        found = ()
    finally:
        loop.stop()
    if not found:
        raise DeviceError(f"{address} shows no host key.", hint="Is it on, is its address right, does sshd run there?")
    keys: tuple[str, ...] = found
    return keys


async def _through(jump: Callable[[], Awaitable[Any]], address: SshAddress) -> tuple[str, ...]:
    async with await jump() as tunnel:
        return await _presented(address, tunnel)


async def _presented(address: SshAddress, tunnel: Any) -> tuple[str, ...]:
    asyncssh = import_asyncssh()
    try:
        key = await asyncio.wait_for(
            asyncssh.get_server_host_key(address.host, address.port, tunnel=tunnel or (), config=None), CONNECT_S
        )
    except (asyncssh.Error, OSError, TimeoutError, ValueError):
        return ()
    if key is None:
        return ()
    return (" ".join(key.export_public_key("openssh").decode().split()[:2]),)


def fingerprint(host_key: str) -> str:
    """Return SHA256:… of a key, as ssh-keygen prints it."""
    import base64
    import binascii

    try:
        blob = base64.b64decode(host_key.split()[1], validate=True)
    except (IndexError, binascii.Error):
        return "an unreadable key"
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _algorithms(host_keys: Sequence[str]) -> list[str] | tuple[()]:
    """Ask for the kinds of key that are pinned, so that a board with several shows the one that is known."""
    kinds = {key.split()[0] for key in host_keys}
    rsa = ["rsa-sha2-512", "rsa-sha2-256"] if "ssh-rsa" in kinds else []
    return sorted(kinds - {"ssh-rsa"}) + rsa or ()
