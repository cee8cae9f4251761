"""Reads a bundle as if a stranger had made it: every byte is accounted for before anything acts on one.

A bundle is an OCI image layout. Digests lead from the release index to every byte, and what no digest covers
(``oci-layout``, ``index.json``) has one form only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Set

from .documents import (
    AGAIN,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_BLOBS,
    MAX_JSON_BYTES,
    PLAIN_NAME,
    PLAIN_VERSION,
    Blob,
    Problem,
    canonical,
    digest_of,
    document,
    is_count,
    is_name,
    is_plain_path,
    is_sha256,
    is_texts,
    is_version,
    load_json,
    need,
    open_plain,
    read_exactly,
)

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPES = frozenset(
    "application/vnd.cncf.model.%s.v1.raw" % kind for kind in ("weight", "weight.config", "dataset", "doc", "code")
)
PATH_NAME = "org.cncf.model.filepath"
REF_NAME, TITLE_NAME, VERSION_NAME = ("org.opencontainers.image." + name for name in ("ref.name", "title", "version"))
TARGET_NAME, OVERRIDE_NAME = "dev.edgebuild.target", "dev.edgebuild.gate.override"

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
BLOBS = "blobs/sha256"
LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}'
RELEASE_FILE, RUNNER_FILE, GOLDEN_FILE = "release.json", "runner.pyz", "golden/golden.json"
ARTIFACT_FILE, SEAL = "artifact.json", "sha256"
DIGEST_WRONG = "artifact_digest: it isn't that of %s" % ARTIFACT_FILE
#: No latency is longer, in ms.
MAX_TIME_MS = 1e12
#: Files that several targets share are listed several times.
MAX_LISTED = 10 * MAX_BLOBS
#: OCI's names for what Linux calls otherwise.
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l"}
MAX_TARGETS, MAX_SIGNATURES = 256, 1024


class Signature(NamedTuple):
    """A Sigstore bundle, unread, and the digest of what it is stored as a signature of."""

    subject: str
    blob: Blob


class Target(NamedTuple):
    """What is released for one target. ``files`` are its files by path, ``release`` is what release.json says."""

    name: str
    manifest: Blob
    files: Dict[str, Blob]
    release: Dict[str, Any]


class Bundle:
    """A bundle whose every byte was read and is what the release index, or an index of one form, says.

    Whether somebody vouches for that release index is another matter: see ``signatures``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._there = self._listed()
        need(self._outside(LAYOUT_FILE) == LAYOUT_BYTES, "content", LAYOUT_FILE)
        index = document(self._outside(INDEX_FILE), INDEX_TYPE, INDEX_FILE)
        need(index["manifests"] and "annotations" not in index, "manifests", INDEX_FILE)
        self.index: Blob = index["manifests"][0]
        need(self.index.media_type == INDEX_TYPE, "mediaType", INDEX_FILE)
        self._known: List[Blob] = [self.index]
        self.targets: Dict[str, Target] = {}
        self._read_release()
        self.signatures = self._read_signatures(index["manifests"][1:])
        self._check_every_byte()

    def path(self, blob: Blob) -> Path:
        """Return where a blob lies."""
        return self.folder / BLOBS / blob.sha256

    def read(self, blob: Blob, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return a small blob, checked again."""
        return read_exactly(self.path(blob), blob, "%s/%s" % (BLOBS, blob.sha256), limit)

    def _listed(self) -> Set[str]:
        """Return the names of the blobs; raises for anything that belongs to no layout, unread."""
        found: Set[str] = set()
        wanted = {"": {LAYOUT_FILE, INDEX_FILE, "blobs"}, "blobs": {"sha256"}}
        for parent, names in wanted.items():
            for entry in self._scanned(parent):
                if entry.name not in names or entry.is_dir(follow_symlinks=False) != (
                    entry.name in ("blobs", "sha256")
                ):
                    raise self._stranger(Path(parent, entry.name))
        for entry in self._scanned(BLOBS):
            if not is_sha256(entry.name) or not entry.is_file(follow_symlinks=False) or len(found) > MAX_BLOBS:
                raise self._stranger(Path(BLOBS, entry.name))
            found.add(entry.name)
        return found

    def _scanned(self, name: str) -> List[Any]:
        try:
            with os.scandir(str(self.folder / name)) as entries:
                return list(entries)
        except OSError as error:
            message = "%s is no bundle: %s can't be read (%s)." % (self.folder, name or "it", error.strerror or error)
            raise Problem(message, "A bundle is the folder that holds %s." % INDEX_FILE) from error

    def _stranger(self, path: Path) -> Problem:
        return Problem("%r in %s belongs to no part of the bundle." % (path.as_posix(), self.folder), "Remove it.")

    def _outside(self, name: str) -> bytes:
        """Return a file that no digest covers."""
        try:
            with open_plain(self.folder / name) as file:
                data: bytes = file.read(MAX_JSON_BYTES + 1)
        except OSError as error:
            raise Problem("%s is no bundle: %s can't be read." % (self.folder, name), AGAIN) from error
        return data

    def _read_release(self) -> None:
        name = "The release index"
        index = document(self.read(self.index), INDEX_TYPE, name)
        self._known += index["manifests"]
        said = index.get("annotations", {})
        self.project, self.version = said.get(TITLE_NAME, ""), said.get(VERSION_NAME, "")
        need(is_name(self.project), "title: a project has %s" % PLAIN_NAME, name)
        need(is_version(self.version), "version: it has %s" % PLAIN_VERSION, name)
        need(self.index.fields == {"annotations": {REF_NAME: self.version}}, "version", INDEX_FILE)
        self.overridden = _overridden(said[OVERRIDE_NAME]) if OVERRIDE_NAME in said else ""
        names = [blob.fields.get("annotations", {}).get(TARGET_NAME, "") for blob in index["manifests"]]
        need(0 < len(names) <= MAX_TARGETS and names == sorted(set(names)), "targets", name)
        need(all(map(is_name, names)), "target: its name has %s" % PLAIN_NAME, name)
        for target, blob in zip(names, index["manifests"]):
            self.targets[target] = self._read_target(target, blob)

    def _read_target(self, name: str, blob: Blob) -> Target:
        where = "The manifest of target %r" % name
        need(blob.media_type == MANIFEST_TYPE, "mediaType", where)
        data = self.read(blob)
        manifest, files = target_files(data, where)
        need(blob.fields.get("artifactType", MODEL_TYPE) == MODEL_TYPE, "artifactType", where)
        self._known += [manifest["config"], *files.values()]
        need(len(self._known) <= MAX_LISTED, "number of files", where)
        load_json(self.read(manifest["config"]), "The config of target %r" % name)
        release = release_of(self.read(files[RELEASE_FILE]), files)
        said = {"project": self.project, "version": self.version, "target": name}
        need({field: release[field] for field in said} == said, "project, version or target", RELEASE_FILE)
        artifact = self.read(files["%s/%s" % (release["artifact"], ARTIFACT_FILE)])
        need(artifact_digest(artifact) == release.get("artifact_digest"), DIGEST_WRONG, RELEASE_FILE)
        platform, requires = blob.fields.get("platform", {}), release["requires"]
        same = platform.get("os") == requires["os"] and platform.get("architecture") is not None
        need(
            same and machine_name(platform["architecture"]) == machine_name(requires["architecture"]), "platform", where
        )
        return Target(name, blob, files, release)

    def _read_signatures(self, blobs: List[Blob]) -> List[Signature]:
        digests = [blob.sha256 for blob in blobs]
        need(digests == sorted(set(digests)) and len(blobs) <= MAX_SIGNATURES, "order of signatures", INDEX_FILE)
        known = {
            self.index.sha256: self.index,
            **{each.manifest.sha256: each.manifest for each in self.targets.values()},
        }
        return [self._read_signature(blob, known) for blob in blobs]

    def _read_signature(self, blob: Blob, known: Dict[str, Blob]) -> Signature:
        name = "The manifest of a signature (%s)" % blob.sha256[:16]
        need(blob.media_type == MANIFEST_TYPE and "platform" not in blob.fields, "mediaType", name)
        manifest = document(self.read(blob), MANIFEST_TYPE, name)
        for field in ("artifactType", "annotations"):
            need(field not in blob.fields or blob.fields[field] == manifest.get(field), field, name)
        need("subject" in manifest, "subject", name)
        config, layers, subject = manifest["config"], manifest["layers"], manifest["subject"]
        need(manifest["artifactType"] == SIGNATURE_TYPE and config.media_type == EMPTY_TYPE, "artifactType", name)
        need(self.read(config) == b"{}", "config", name)
        need(len(layers) == 1 and layers[0].media_type == SIGNATURE_TYPE, "layers", name)
        need(subject[:3] == known.get(subject.sha256, ())[:3], "subject", name)
        self._known += [blob, config, layers[0]]
        return Signature(subject.sha256, layers[0])

    def _check_every_byte(self) -> None:
        sizes: Dict[str, int] = {}
        for blob in self._known:
            if sizes.setdefault(blob.sha256, blob.size) != blob.size:
                raise Problem("%s is listed with two sizes." % blob.sha256, AGAIN)
        for sha256 in sorted(self._there - set(sizes)):
            raise self._stranger(Path(BLOBS, sha256))
        for sha256, size in sorted(sizes.items()):
            name = "%s/%s" % (BLOBS, sha256)
            if sha256 not in self._there:
                raise Problem("%s is missing." % name, AGAIN)
            try:
                found = digest_of(self.folder / name, size)
            except OSError as error:
                raise Problem("%s can't be read: %s." % (name, error.strerror or error), AGAIN) from error
            if found != sha256:
                raise Problem("%s was changed: it isn't what its name says." % name, AGAIN)


def _overridden(text: str) -> str:
    """Return why a release follows another though a gate held it up."""
    found = load_json(text.encode("utf-8"), "The override of its gate")
    said = {name: found.get(name) for name in ("against", "reason")}
    need(is_texts(said) and all(said.values()), "override", "The release index")
    return "the gate against %(against)s was overridden: %(reason)s" % said


def target_files(data: bytes, name: str) -> Any:
    """Return the manifest of a target, and its files by path; raises for paths that leave or hide one another."""
    manifest = document(data, MANIFEST_TYPE, name)
    need(manifest["artifactType"] == MODEL_TYPE and manifest["config"].media_type == CONFIG_TYPE, "artifactType", name)
    need("subject" not in manifest, "subject", name)
    files: Dict[str, Blob] = {}
    last = ""
    for blob in manifest["layers"]:
        path = blob.fields.get("annotations", {}).get(PATH_NAME)
        need(is_plain_path(path), "path %r" % (path,), name)
        need(blob.media_type in LAYER_TYPES, "media type of %s (%s)" % (path, blob.media_type), name)
        need(last < path, "order of paths, or a path twice: %s" % path, name)
        files[path], last = blob, path
    for path in files:
        above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        need(not files.keys() & set(above), "path %s: it lies in a file" % path, name)
    for path in (RELEASE_FILE, RUNNER_FILE, GOLDEN_FILE):
        need(path in files, "files: %s is missing" % path, name)
    return manifest, files


def release_of(data: bytes, files: Dict[str, Blob]) -> Dict[str, Any]:
    """Return what release.json says, of the fields that are used here checked; it may say more."""
    release = load_json(data, RELEASE_FILE)
    schema = release.get("schema_version")
    need(schema == 1 and schema is not True, "schema_version", RELEASE_FILE)
    for field, is_right in (("project", is_name), ("version", is_version), ("target", is_name)):
        need(is_right(release.get(field)), field, RELEASE_FILE)
    need(isinstance(release.get("candidate"), str) and release["candidate"], "candidate", RELEASE_FILE)
    settings: Any = release.get("settings")
    plain = isinstance(settings, dict) and all(isinstance(each, (bool, int, str)) for each in settings.values())
    need(plain, "settings", RELEASE_FILE)
    artifact = release.get("artifact")
    need(is_plain_path(artifact) and "%s/%s" % (artifact, ARTIFACT_FILE) in files, "artifact", RELEASE_FILE)
    requires: Any = release.get("requires")
    need(isinstance(requires, dict), "requires", RELEASE_FILE)
    for field in ("architecture", "os", "runtime", "runtime_version"):
        need(isinstance(requires.get(field), str) and requires[field], field, RELEASE_FILE)
    features = requires.get("isa")
    need(isinstance(features, list) and all(isinstance(each, str) for each in features), "isa", RELEASE_FILE)
    need(requires.get("memory_bytes") is None or is_count(requires["memory_bytes"]), "memory_bytes", RELEASE_FILE)
    need(requires.get("facts", {}) == {} or is_texts(requires["facts"]), "facts", RELEASE_FILE)
    latency: Any = release.get("latency")
    if latency is not None:
        need(isinstance(latency, dict) and _is_time(latency.get("point_ms")), "latency", RELEASE_FILE)
        for field in ("low_ms", "high_ms"):
            need(latency.get(field) is None or _is_time(latency[field]), field, RELEASE_FILE)
    return release


def artifact_digest(data: bytes) -> str:
    """Return the digest of the artifact that artifact.json describes; raises where the file isn't what its seal says.

    It is that of its canonical JSON without the seal.
    """
    fields = load_json(data, ARTIFACT_FILE, exact=False)
    seal = fields.pop(SEAL, None)
    try:
        digest = hashlib.sha256(canonical(fields)).hexdigest()
    except (ValueError, RecursionError) as error:
        raise Problem("%s is not what was written: %s." % (ARTIFACT_FILE, error), AGAIN) from error
    need(seal in (None, digest), "seal: it was changed after it was written", ARTIFACT_FILE)
    return digest


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_TIME_MS


def machine_name(architecture: str) -> str:
    """Return what Linux calls an architecture."""
    return ARCHITECTURES.get(architecture, architecture)
