"""The folder on a board: claimed over SFTP when it is first used, emptied and kept under its quota by a script."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from edgebuild.devices.local_folder import OTHER, unfit
from edgebuild.devices.runner import room
from edgebuild.errors import UsageError

_ROOM = Path(room.__file__).read_text(encoding="utf-8") + "\n\nrequire_marked(sys.argv[1])\n"
#: ``ROOM ROOT BYTES SITE`` makes room (``make_room``) and prints how many bytes are left.
ROOM = _ROOM + "print(make_room(sys.argv[1], int(sys.argv[2]), sys.argv[3]))\n"
#: ``CLEAR ROOT`` removes what edgebuild put there (``clear``) and prints what isn't its own.
CLEAR = _ROOM + "print('\\n'.join(clear(sys.argv[1])))\n"


async def claim(sftp: Any, wanted: str) -> str:
    """Return the absolute path of the folder ``wanted``, links resolved; it is made, or found to be one of ours.

    Raises ``UsageError`` for a home and for a folder that holds anything else.
    """
    import asyncio

    home = await sftp.realpath(".")
    path = posixpath.join(home, "" if wanted == "~" else wanted.removeprefix("~/"))
    if not await sftp.exists(path):
        await sftp.makedirs(path, exist_ok=True)
    root: str = await sftp.realpath(path)
    if problem := unfit(root, home):
        raise UsageError(f"{wanted} on the board {problem}, and can't be edgebuild's folder.", hint=OTHER)
    marker = posixpath.join(root, room.MARKER)
    if await _is_file(sftp, marker):
        return root
    names, runners = await asyncio.gather(_names(sftp, root), _names(sftp, posixpath.join(root, "runner")))
    if names and not room.looks_older(names, runners):
        raise UsageError(f"{wanted} on the board isn't empty, and isn't a folder of edgebuild's.", hint=OTHER)
    async with sftp.open(marker, "w") as file:
        await file.write(room.MARKER_TEXT)
    return root


async def _is_file(sftp: Any, path: str) -> bool:
    import asyncssh

    try:
        return bool((await sftp.lstat(path)).type == asyncssh.FILEXFER_TYPE_REGULAR)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return False


async def _names(sftp: Any, folder: str) -> list[str]:
    import asyncssh

    try:
        return [name for name in await sftp.listdir(folder) if name not in (".", "..")]
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return []
