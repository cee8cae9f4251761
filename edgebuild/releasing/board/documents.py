"""JSON, descriptors and files of strangers: bounded, and in the one form that is written."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence

USAGE, LACKING, REFUSED = 2, 6, 7

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CHUNK_BYTES = 1 << 20
MAX_JSON_BYTES = 8 << 20
MAX_BLOB_BYTES = 64 << 30
MAX_BLOBS = 20000
#: More digits have no meaning here, and turning them into a number takes long.
MAX_DIGITS = 20
MAX_PATH_CHARACTERS, MAX_NAME_BYTES = 1024, 255
#: What is shown to people: of a field, of a sentence, of a list.
MAX_SHOWN, MAX_SAID, MAX_NAMED = 200, 2000, 20
MAX_VERSION_CHARACTERS = 64
PLAIN_NAME = "no slash and nothing that can't be printed"
PLAIN_VERSION = "letters, digits, dots, dashes and underscores only"
AGAIN = "Copy or pull it again; what was changed since it was made can't be trusted."


class Problem(Exception):
    """What ends the work: one sentence, how to fix it, and the exit code."""

    def __init__(self, message: str, hint: str = "", code: int = REFUSED) -> None:
        super().__init__(message)
        self.message = shown(message, MAX_SAID)
        self.hint = shown(hint, MAX_SAID)
        self.code = code


def shown(text: object, limit: int = MAX_SHOWN) -> str:
    """Return a text as it may be shown: one line, cut to a length, and nothing in it that moves a cursor."""
    whole = str(text)[: limit + 1]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in whole)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def named(texts: Sequence[str], between: str = ", ", limit: int = MAX_SHOWN) -> str:
    """Return the first of some texts as they may be shown, and how many more there are."""
    more = ["and %d more" % (len(texts) - MAX_NAMED)] if len(texts) > MAX_NAMED else []
    return between.join([shown(text, limit) for text in texts[:MAX_NAMED]] + more)


class Blob(NamedTuple):
    """A descriptor of OCI's; ``fields`` holds its artifactType, platform and annotations, where it has them."""

    media_type: str
    sha256: str
    size: int
    fields: Dict[str, Any]


def canonical(value: Any) -> bytes:
    """Return the one JSON of plain data; raises ``ValueError`` for what has none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def load_json(data: bytes, name: str, exact: bool = True) -> Dict[str, Any]:
    """Return an object of JSON: bounded, no name twice, and byte by byte what we would write where it is ``exact``."""
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number, parse_constant=_refuse_constant
        )
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        if exact and canonical(value) != data:
            raise ValueError("it isn't in the one form that is written")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise Problem("%s is not what was written: %s." % (name, reason), AGAIN) from error
    return value


def _object(pairs: Any) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number in it is too long")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError("%s is no number of JSON" % name)


def need(condition: object, what: str, name: str) -> None:
    """Raise unless a condition holds."""
    if not condition:
        raise Problem("%s is not what was written: wrong %s." % (name, shown(what)), AGAIN)


def is_sha256(text: object) -> bool:
    """Whether it is a SHA-256 in lower-case hex."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def is_count(value: object) -> bool:
    """Whether it is a whole number, zero or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_texts(value: object) -> bool:
    """Whether it is an object of texts, and not empty."""
    return isinstance(value, dict) and bool(value) and all(isinstance(each, str) for each in value.values())


def is_plain_path(path: object) -> bool:
    """Whether it is a relative path in its one POSIX form that stays in its folder."""
    if not isinstance(path, str) or len(path) > MAX_PATH_CHARACTERS or "\\" in path or not path.isprintable():
        return False
    parts = path.split("/")
    return all(part not in ("", ".", "..") and len(part.encode("utf-8")) <= MAX_NAME_BYTES for part in parts)


def is_name(text: object) -> bool:
    """Whether it can name a project or a target: also in a path, and in a line of text."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_SHOWN or text in (".", ".."):
        return False
    return text.isprintable() and "/" not in text and "\\" not in text


def is_version(text: object) -> bool:
    """Whether it can be a version: letters, digits, dots, dashes and underscores, as registries take it."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_VERSION_CHARACTERS or not text.isascii():
        return False
    return text[0].isalnum() and all(c.isalnum() or c in ".-_" for c in text)


def open_plain(path: Path) -> Any:
    """Open a file for reading; raises ``OSError`` for a link, and for what isn't a plain file."""
    handle = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "not a plain file")
    return os.fdopen(handle, "rb")


def digest_of(path: Path, size: int) -> str:
    """Return the SHA-256 of a plain file of that size in hex, or nothing where its size is another one."""
    hasher = hashlib.sha256()
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size != size:
            return ""
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            hasher.update(chunk)
    return hasher.hexdigest()


def read_exactly(path: Path, blob: Blob, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return a small file that must be a blob."""
    if blob.size > limit:
        raise Problem("%s has %d bytes; %d are read at most." % (name, blob.size, limit), AGAIN)
    try:
        with open_plain(path) as file:
            data: bytes = file.read(blob.size + 1)
    except OSError as error:
        raise Problem("%s can't be read: %s." % (name, error.strerror or error), AGAIN) from error
    if hashlib.sha256(data).hexdigest() != blob.sha256 or len(data) != blob.size:
        raise Problem("%s was changed: it isn't what its digest says." % name, AGAIN)
    return data


def blob_of(value: Any, name: str) -> Blob:
    """Return a descriptor; raises for one with other fields than OCI's, or wrong ones."""
    need(isinstance(value, dict), "descriptor", name)
    fields = dict(value)
    media_type, digest, size = (fields.pop(each, None) for each in ("mediaType", "digest", "size"))
    need(isinstance(media_type, str), "mediaType", name)
    need(isinstance(digest, str) and digest[:7] == "sha256:" and is_sha256(digest[7:]), "digest", name)
    need(is_count(size) and size <= MAX_BLOB_BYTES, "size", name)
    need(set(fields) <= {"artifactType", "platform", "annotations"}, "fields of a descriptor", name)
    need(isinstance(fields.get("artifactType", ""), str), "artifactType", name)
    need("annotations" not in fields or is_texts(fields["annotations"]), "annotations", name)
    if "platform" in fields:
        need(is_texts(fields["platform"]) and set(fields["platform"]) == {"architecture", "os"}, "platform", name)
    return Blob(str(media_type), str(digest)[7:], int(size or 0), fields)


def document(data: bytes, media_type: str, name: str) -> Dict[str, Any]:
    """Return an index or a manifest, its fields and types checked; lists hold what they held."""
    value = load_json(data, name)
    inside = {"manifests"} if media_type == INDEX_TYPE else {"artifactType", "config", "layers"}
    optional = {"annotations"} if media_type == INDEX_TYPE else {"annotations", "subject"}
    required = {"schemaVersion", "mediaType"} | inside
    need(required <= set(value) <= required | optional, "fields", name)
    need(value["schemaVersion"] == 2 and value["schemaVersion"] is not True, "schemaVersion", name)
    need(value["mediaType"] == media_type, "mediaType", name)
    need("annotations" not in value or is_texts(value["annotations"]), "annotations", name)
    for field in inside & {"manifests", "layers"}:
        need(isinstance(value[field], list) and len(value[field]) <= MAX_BLOBS, field, name)
        value[field] = [blob_of(each, name) for each in value[field]]
    for field in {"config", "subject"} & set(value):
        value[field] = blob_of(value[field], name)
    return value
