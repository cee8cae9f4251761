"""Puts the emulator together from package registries, without root and without touching the system's packages.

``<cache>/emulator/<key>/``: ``debs`` and ``lists`` (apt's own state), ``qemu`` (the emulator, where the system has
none), ``root`` (the guest's system), ``site`` (the guest's Python packages), ``count.so`` (the plugin), and
``emulator.json``, which is written last and makes the whole. Each part is made next to its place and renamed: a set-up
that was stopped goes on with the next part. ``<core>/`` is what a guest with that core sees as its root; ``python`` in
it starts the guest's Python.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress
from edgebuild.core.values import Value
from edgebuild.devices.emulator import cores, recipe
from edgebuild.devices.messages import whole_number
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgebuild.core.steps import Progress

MANIFEST = "emulator.json"
PLUGIN_SOURCE = Path(__file__).with_name("count.c")
#: No single command of the set-up takes longer, downloads included.
COMMAND_LIMIT_S = 600.0
#: QEMU's plugins have another interface from this version on.
PLUGIN_UNTIL = 9
#: Prints what the emulated CPU announces to programs: AT_HWCAP and AT_HWCAP2 (getauxval(3)).
AUXV = (
    "import ctypes; get = ctypes.CDLL(None).getauxval; get.restype = ctypes.c_ulong; "
    "get.argtypes = [ctypes.c_ulong]; print(get(16), get(26))"
)
#: The environment of the host is the host's: only what is asked for reaches the guest's Python.
START = """\
#!/bin/sh
unset PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV LD_PRELOAD
PYTHONPATH={site} PYTHONNOUSERSITE=1 LD_LIBRARY_PATH={libraries}
export PYTHONPATH PYTHONNOUSERSITE LD_LIBRARY_PATH
exec {qemu} -L {prefix} -cpu {core} -U LD_LIBRARY_PATH -0 "$0" {program} "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """An emulator that is ready. ``versions`` are those of QEMU and of what the guest has."""

    folder: Path
    qemu: str
    libraries: str
    python_version: str
    versions: dict[str, str]
    why_no_counts: str

    @property
    def plugin(self) -> Path:
        """The plugin that counts instructions; not there where ``why_no_counts`` says why."""
        return self.folder / "count.so"

    def python(self, core: str) -> Path:
        """Return what starts the guest's Python on ``core``; its root is made where it is missing."""
        start = self.folder / core / "python"
        if not start.is_file():
            _whole(self.folder / core, lambda part: self._make_core(core, part))
        return start

    def _make_core(self, core: str, part: Path) -> None:
        """A root of its own for each core: the common system, linked, and the files that tell of the CPU."""
        for entry in (self.folder / "root").iterdir():
            if entry.name != "etc":
                (part / entry.name).symlink_to(Path("..") / "root" / entry.name)
        final = self.folder / core
        start = part / "python"
        start.write_text(self._start(part, core))
        start.chmod(0o755)
        words = _run([str(start), "-c", AUXV], "The emulated Python doesn't start").split()
        found = cores.features(int(words[-2]), int(words[-1]))
        for path, text in cores.system_files(cores.KNOWN[core], found, self.versions["qemu"]).items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text)
        start.write_text(self._start(final, core))

    def _start(self, prefix: Path, core: str) -> str:
        words = {
            "site": self.folder / "site",
            "libraries": self.libraries,
            "qemu": self.qemu,
            "prefix": prefix,
            "core": core,
            "program": prefix / "usr" / "bin" / f"python{self.python_version}",
        }
        return START.format(**{name: shlex.quote(str(word)) for name, word in words.items()})


class _Manifest(Value):
    """``emulator.json``."""

    qemu: str
    libraries: str
    python_version: str
    versions: dict[str, str]
    why_no_counts: str


def read_host() -> recipe.Host:
    """Return what matters of this machine."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    missing = [tool for tool in recipe.NEEDED_TOOLS if shutil.which(tool) is None]
    missing += [] if util.find_spec("pip") else ["pip"]
    try:
        runtime: str | None = metadata.version(recipe.RUNTIME)
    except metadata.PackageNotFoundError:
        runtime = None
    return recipe.Host(
        arch=platform.machine(),
        distribution=release.get("ID", "unknown"),
        codename=release.get("VERSION_CODENAME", ""),
        missing=tuple(missing),
        runtime=runtime,
    )


def set_up(cache: Path, *, progress: Progress | None = None) -> Emulator:
    """Return the emulator, put together where it isn't yet; a ready one is only opened.

    Raises ``EnvironmentGap`` where it can't be: not Debian, no network, a tool that is missing.
    """
    host = read_host()
    folder = cache / "emulator" / host.key
    if ":" in str(folder):
        raise EnvironmentGap(
            f"The emulator can't lie in {folder}: a colon ends a folder's name in the guest's search paths.",
            hint="XDG_CACHE_HOME names another place.",
        )
    if not (folder / MANIFEST).is_file():
        why = recipe.refusal(host)
        if why is not None:
            raise EnvironmentGap(why, hint="Build on a board over SSH instead: `edgebuild device add NAME --ssh …`.")
        with _locked(folder.parent), (progress or NoProgress()).task("Setting up the emulator", total=5) as task:
            if not (folder / MANIFEST).is_file():
                _make(host, folder, task.advance)
    return _open(folder)


def _open(folder: Path) -> Emulator:
    try:
        found = _Manifest.model_validate_json((folder / MANIFEST).read_bytes(), strict=True)
        Path(found.qemu).stat()  # the system's own may have been removed since
        return Emulator(folder=folder, **found.model_dump())
    except (OSError, ValueError) as error:
        raise EnvironmentGap(
            f"The emulator in {folder} is damaged.", hint="Remove that folder: the next command makes it again."
        ) from error


def _make(host: recipe.Host, folder: Path, done: Callable[[], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    apt = _Apt(folder, host)
    apt.update()
    done()
    shown = apt.cache("show", f"python3-minimal:{recipe.GUEST_ARCH}")
    python = recipe.python_of(shown)
    if python is None:
        raise EnvironmentGap("Debian's package lists name no Python for 64-bit Arm.")
    guest = [f"{name}:{recipe.GUEST_ARCH}" for name in recipe.guest_packages(python)]
    _whole(folder / "root", lambda part: _make_root(apt, guest, part))
    done()
    qemu = shutil.which("qemu-aarch64")
    libraries = ""
    if qemu is None:
        _whole(folder / "qemu", lambda part: apt.extract(apt.qemu_packages(), part))
        qemu = str(folder / "qemu/usr/bin/qemu-aarch64")
        libraries = str(folder / "qemu/usr/lib/x86_64-linux-gnu")
    done()
    _whole(folder / "site", lambda part: _install(host, python, part))
    done()
    version = _qemu_version(qemu, libraries)
    why = _build_plugin(folder, version)
    versions = {"qemu": version, **_installed(folder / "site")}
    manifest = {
        "qemu": qemu,
        "libraries": libraries,
        "python_version": python,
        "versions": versions,
        "why_no_counts": why,
    }
    partial = folder / f".{MANIFEST}"
    partial.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    partial.replace(folder / MANIFEST)
    for leftover in ("lists", "debs"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    done()


class _Apt:
    """apt with a state of its own: the system's lists, keys of packages and locks stay as they are."""

    def __init__(self, folder: Path, host: recipe.Host) -> None:
        self._state = folder / "lists"
        self._debs = folder / "debs"
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        self._debs.mkdir(exist_ok=True)
        system = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
        kinds = (".list", ".sources")
        files = [(f.name, f.read_text("utf-8", "replace")) for f in system if f.suffix in kinds and f.is_file()]
        for name, text in recipe.sources_of(host.codename, files):
            (self._state / "sources" / name).write_text(text)

    def _options(self) -> list[str]:
        state = str(self._state)
        settings = {
            "APT::Architecture": recipe.GUEST_ARCH,
            "Dir::State": state,
            "Dir::State::status": f"{state}/status",
            "Dir::Cache": f"{state}/cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{state}/sources",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "APT::Update::Error-Mode": "any",
            **({"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}),
        }
        given = [f"{name}={value}" for name, value in settings.items()]
        given += [f"APT::Architectures::={arch}" for arch in (recipe.GUEST_ARCH, "amd64")]
        return [word for one in given for word in ("-o", one)]

    def update(self) -> None:
        _run(["apt-get", *self._options(), "-q", "update"], "Debian's package lists can't be fetched")

    def cache(self, *words: str) -> str:
        return _run(["apt-cache", *self._options(), *words], "Debian's package lists can't be read")

    def qemu_packages(self) -> list[str]:
        """QEMU and those libraries of it that this system lacks."""
        no = [f"--no-{what}" for what in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
        closure = self.cache("depends", "--recurse", *no, f"{recipe.QEMU}:amd64")
        listed = _run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n"], "dpkg-query fails")
        installed = [line.split()[0] for line in listed.splitlines() if line.split()[1:] == ["ii"]]
        return list(recipe.libraries_to_fetch(closure, installed))

    def extract(self, packages: Sequence[str], into: Path) -> None:
        """Fetch packages (those that lie here already aren't fetched again) and unpack them into a folder."""
        before = set(self._debs.glob("*.deb"))
        _run(
            ["apt-get", *self._options(), "-q", "download", *packages],
            "Debian's packages can't be fetched",
            folder=self._debs,
        )
        found = sorted(set(self._debs.glob("*.deb")) - before) or sorted(before)
        for deb in found:
            _run(["dpkg-deb", "-x", str(deb), str(into)], f"{deb.name} can't be unpacked")
            deb.unlink()


def _make_root(apt: _Apt, guest: Sequence[str], part: Path) -> None:
    apt.extract(guest, part)
    if not (part / "lib").exists():  # newer packages hold /usr/lib only; programs name their loader as /lib/…
        (part / "lib").symlink_to("usr/lib")


def _install(host: recipe.Host, python: str, part: Path) -> None:
    platforms = [word for name in recipe.PLATFORMS for word in ("--platform", name)]
    fixed = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    _run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", str(part), *fixed, *platforms, *recipe.wheels(host)],
        "The Python packages for 64-bit Arm can't be fetched",
    )


def _installed(site: Path) -> dict[str, str]:
    return {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=[str(site)])}


def _qemu_version(qemu: str, libraries: str) -> str:
    shown = _run([qemu, "--version"], f"{qemu} doesn't start", env={"LD_LIBRARY_PATH": libraries})
    words = shown.split()
    return words[words.index("version") + 1] if "version" in words else "unknown"


def _build_plugin(folder: Path, version: str) -> str:
    """Compile the plugin; return why there is none, or nothing."""
    major = version.partition(".")[0]
    if (whole_number(major) or 0) >= PLUGIN_UNTIL:
        return f"the plugin that counts instructions is for QEMU before {PLUGIN_UNTIL}, this is {version}"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "counting instructions needs gcc, which isn't installed"
    partial = folder / ".count.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(partial), str(PLUGIN_SOURCE)]
    try:
        _run(command, "gcc can't compile the plugin")
    except EnvironmentGap as error:
        return error.message
    partial.replace(folder / "count.so")
    return ""


def _whole(place: Path, make: Callable[[Path], None]) -> None:
    """Make a folder next to its place and rename it: it is there whole or not at all."""
    if place.is_dir():
        return
    part = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        make(part)
        try:
            part.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One set-up at a time; the lock ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EnvironmentGap(
            f"{folder} can't be written: {error.strerror}.", hint="XDG_CACHE_HOME moves it."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _run(command: Sequence[str], what: str, *, folder: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Return a command's output; raises ``EnvironmentGap`` with ``what`` and its last line of error output."""
    try:
        ended = subprocess.run(
            list(command),
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentGap(f"{what}: {error}.") from error
    if ended.returncode != 0:
        lines = [line.strip() for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if line.startswith(("E:", "ERROR:"))), lines[-1] if lines else "")
        raise EnvironmentGap(
            f"{what}: {said[:300] or f'{command[0]} ended with {ended.returncode}'}",
            hint="Is there a network? What was fetched is kept: the same command goes on.",
        )
    return ended.stdout
