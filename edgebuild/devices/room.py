"""What keeps a board's folder under its quota, as a script for the board's own Python (3.8 or later)."""

from __future__ import annotations

#: ``ROOM_SCRIPT ROOT BYTES SITE``: removes blobs, staged folders and packages, those used longest ago first, until what
#: is left takes no more than so many bytes; prints how many it takes. A file that is linked twice counts once. The
#: packages that are in use (``SITE``) stay.
ROOM_SCRIPT = """
import os, shutil, sys
root, most, site = sys.argv[1], int(sys.argv[2]), sys.argv[3]
seen, items = {}, []
for part in ("blobs", "cas", "runner", "site"):
    folder = os.path.join(root, part)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        files = [path] if os.path.isfile(path) else [os.path.join(d, f) for d, _, fs in os.walk(path) for f in fs]
        stats = [os.stat(f) for f in files]
        for s in stats:
            seen[s.st_ino] = (s.st_size, seen.get(s.st_ino, (0, 0))[1] + 1)
        if part != "runner" and path != site and not name.endswith(".part"):
            items.append((max([max(s.st_atime, s.st_mtime) for s in stats] or [0]), path, [s.st_ino for s in stats]))
used = sum(size for size, _ in seen.values())
for _, path, inodes in sorted(items):
    if used <= most:
        break
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    for inode in inodes:
        size, links = seen[inode]
        seen[inode] = (size, links - 1)
        used -= size if links == 1 else 0
print(used)
"""
