"""Which releases carry a component: the question that comes with every vulnerability, answered from their SBOMs.

What is shipped counts: the components of each target's ``sbom.cdx.json``, and what they consist of. The tools that
built it are named there too, and don't count: they aren't on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.steps import never_stop
from edgebuild.errors import EnvironmentGap, ReleaseError, UsageError
from edgebuild.releasing.bundle import FILE_PATH, SBOM_FILE
from edgebuild.releasing.contents import parse_document, target_of, version_of
from edgebuild.releasing.layout import MAX_JSON_BYTES, Manifest, loads
from edgebuild.releasing.registries.reference import parse_reference
from edgebuild.releasing.registry import find_releases, open_registry, read_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from packaging.requirements import Requirement

    from edgebuild.releasing.layout import Descriptor
    from edgebuild.releasing.registries.port import Registry
    from edgebuild.releasing.registries.reference import Reference

_SPEC = "Write a name and versions, as in 'onnxruntime<1.33' or 'openvino>=2025.1,<2025.3'."


#: No version that anybody reads is longer.
MAX_VERSION = 100


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A target of a release in which a component is, or may be.

    ``unclear`` is why nobody can say: an SBOM that is missing or can't be read, a version that can't be compared. It
    is empty where the component is there for certain. ``found`` is its version, empty where it isn't known.
    """

    where: str
    digest: str
    version: str
    tags: tuple[str, ...]
    target: str
    found: str = ""
    unclear: str = ""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The answer: what carries the component, of how many ``releases`` and ``targets`` that were looked at."""

    component: str
    carried: tuple[Carried, ...]
    releases: int
    targets: int


def affected(
    component: str,
    places: Iterable[str],
    *,
    check: Callable[[], None] = never_stop,
    opened: Callable[[Reference], Registry] = open_registry,
) -> Survey:
    """Return which releases in ``places`` carry ``component``, such as ``onnxruntime<1.33``.

    A place is a repository, one release in it, a folder of releases, or a bundle's folder. ``opened`` opens one.
    Raises ``UsageError`` for a component that can't be understood, ``ReleaseError`` for a place that can't be read at
    all: an answer that leaves one out would look like safety.
    """
    wanted = _requirement(component)
    carried: list[Carried] = []
    releases = targets = 0
    for place in places:
        reference = parse_reference(place)
        registry = opened(reference)
        for digest, (index, tags) in find_releases(registry, reference, check).items():
            releases += 1
            for each in index.manifests:
                check()
                targets += 1
                for found, unclear in _look(registry, each, wanted):
                    carried.append(
                        Carried(
                            where=reference.where,
                            digest=digest,
                            version=version_of(index),
                            tags=tags,
                            target=target_of(each),
                            found=found,
                            unclear=unclear,
                        )
                    )
    return Survey(component=component, carried=tuple(carried), releases=releases, targets=targets)


def _look(registry: Registry, target: Descriptor, wanted: Requirement) -> Iterator[tuple[str, str]]:
    """Yield version and doubt of each component of a target that is, or may be, meant."""
    try:
        components = _components(_sbom(registry, target))
    except ReleaseError as error:
        yield "", error.message
        return
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    versions = {version for name, version in components if canonicalize_name(name) == canonicalize_name(wanted.name)}
    for version in sorted(versions):
        try:
            # Parsed here: a specifier contains no version that it can't read.
            if not wanted.specifier or wanted.specifier.contains(Version(version), prereleases=True):
                yield version, ""
        except ValueError:  # no version, or one with thousands of digits
            yield version, f"the version {version[:MAX_VERSION]!r} can't be compared"


def _sbom(registry: Registry, target: Descriptor) -> Any:
    data = registry.manifest(target.digest)
    if data is None:
        raise ReleaseError("its manifest is missing")
    manifest = parse_document(data, Manifest, target.digest)
    layer = next((each for each in manifest.layers if each.annotations.get(FILE_PATH) == SBOM_FILE), None)
    if layer is None:
        raise ReleaseError(f"it has no {SBOM_FILE}")
    return loads(read_small(registry, layer, MAX_JSON_BYTES))


def _components(sbom: Any) -> list[tuple[str, str]]:
    """Return names and versions of all components, nested ones too; raises ``ReleaseError`` for no CycloneDX."""
    if not isinstance(sbom, dict) or sbom.get("bomFormat") != "CycloneDX":
        raise ReleaseError(f"its {SBOM_FILE} is no CycloneDX")
    metadata = sbom.get("metadata", {})
    todo: list[Any] = [sbom.get("components", []), [metadata.get("component", {})] if isinstance(metadata, dict) else 0]
    found: list[tuple[str, str]] = []
    while todo:
        several = todo.pop()
        if not isinstance(several, list) or not all(isinstance(each, dict) for each in several):
            raise ReleaseError(f"the components in its {SBOM_FILE} can't be read")
        for each in several:
            name, version = each.get("name", ""), each.get("version", "")
            if not isinstance(name, str) or not isinstance(version, str):
                raise ReleaseError(f"a component in its {SBOM_FILE} has a name or version that is no text")
            found.append((name, version))
            todo.append(each.get("components", []))
    return found


def _requirement(component: str) -> Requirement:
    try:
        from packaging.requirements import Requirement
        from packaging.version import Version
    except ImportError as error:
        raise EnvironmentGap(
            "Comparing versions needs the package packaging.", hint="Install it: pip install 'edgebuild[release]'."
        ) from error
    try:
        wanted = Requirement(component)
        # Numbers of thousands of digits are found out about when they are compared.
        wanted.specifier.contains(Version("1"))
    except ValueError as error:
        raise UsageError(f"{component[:MAX_VERSION]!r} names no component.", hint=_SPEC) from error
    if wanted.extras or wanted.marker or wanted.url:
        raise UsageError(f"{component!r} says more than a name and versions.", hint=_SPEC)
    return wanted
