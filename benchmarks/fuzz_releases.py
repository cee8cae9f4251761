"""What strangers send as a release: coverage-guided mutants of real documents into every parser, for a stated time.

    python benchmarks/fuzz_releases.py --seconds 60            # each; needs `pip install atheris`

Each parser runs in a process of its own under Atheris (libFuzzer), begins with the documents of a signed release, and
may end in its documented errors only. Anything else is a finding, kept under /tmp, and exit code 1. Writes
docs/results/fuzzing.md.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).resolve().parent
FINDINGS = Path("/tmp/edgebuild-fuzzing")  # noqa: S108  findings outlive the run, for whoever looks into them
#: Longer documents say nothing that shorter ones don't.
MAX_BYTES = 16_384


def parsers(scratch: Path) -> Mapping[str, tuple[Callable[[bytes], object], tuple[type[BaseException], ...], str]]:
    """Return what parses strangers' bytes: how, in which errors it may end, and its kind of documents."""
    from edgebuild.errors import EdgebuildError, ReleaseError, UsageError
    from edgebuild.releasing import delta_plan, dsse, keyless, keys, layout, model_signing, override, trust
    from edgebuild.releasing.board import documents, reading, signatures, vectors
    from edgebuild.releasing.registries.reference import parse_reference

    def in_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
        path = scratch / name

        def run(data: bytes) -> object:
            path.write_bytes(data)
            return read(path)

        return run

    def overridden(data: bytes) -> object:
        text = data.decode("utf-8", "replace")
        return override.override_of(layout.Index(manifests=(), annotations={override.OVERRIDE: text}))

    def signature(data: bytes) -> object:
        found = dsse.parse_bundle(data)
        keyless.hint_of(found)
        return dsse.parse_statement(found.payload)

    def signed_files(data: bytes) -> object:
        return model_signing.signed_files(dsse.parse_statement(data))

    board, ours, odd = documents.Problem, (ReleaseError,), (ValueError, RecursionError)
    whole = {name: documents.Blob("", "0" * 64, 1, {}) for name in ("artifact/artifact.json", "runner.pyz")}
    return {
        "index": (lambda data: layout.parsed(data, layout.Index), odd, "index"),
        "manifest": (lambda data: layout.parsed(data, layout.Manifest), odd, "manifest"),
        "signature": (signature, ours, "signature"),
        "files of Model Signing": (signed_files, ours, "statement"),
        "override": (overridden, ours, "override"),
        "trust policy": (in_file(trust.read_policy, "policy.json"), (EdgebuildError,), "policy"),
        "public key": (keys.public_key, (ValueError,), "key"),
        "plan of a delta": (in_file(lambda path: delta_plan.read_plan(path.parent), "delta.json"), ours, "plan"),
        "reference": (lambda data: parse_reference(data.decode("utf-8", "replace")), (UsageError,), "reference"),
        "index, on the board": (lambda data: documents.document(data, documents.INDEX_TYPE, "x"), (board,), "index"),
        "target, on the board": (lambda data: reading.target_files(data, "x"), (board,), "manifest"),
        "release.json, on the board": (lambda data: reading.release_of(data, dict(whole)), (board,), "release"),
        "artifact.json, on the board": (reading.artifact_digest, (board,), "artifact"),
        "signature, on the board": (signatures.opened_envelope, (board,), "signature"),
        "trust policy, on the board": (
            in_file(lambda path: signatures.trust_of_policy(str(path)), "board.json"), (board,), "policy",
        ),
        "golden vector, on the board": (lambda data: vectors.vector_of(data, "x"), (board,), "vector"),
    }  # fmt: skip


def seeds(scratch: Path) -> Path:
    """Write the documents of a signed release, by their kind, and return the folder."""
    from releases import command, keys, released

    from edgebuild.releasing.bundle import read_bundle
    from edgebuild.releasing.delta import delta
    from edgebuild.releasing.dsse import parse_bundle
    from edgebuild.releasing.keys import load_public_key
    from edgebuild.releasing.override import Override
    from edgebuild.releasing.trust import policy_of

    folder = scratch / "seeds"
    bundle = released(scratch, "project", 0.01)
    private, public = keys(scratch)
    command("release", "sign", bundle, "--key", private)
    read = read_bundle(bundle)
    blobs = bundle / "blobs" / "sha256"
    files = read.targets[0].files()
    signatures = [read.layout.read(manifest.layers[0]) for _, manifest in read.signatures]
    delta(bundle, bundle, scratch / "delta")
    override = Override(against="1.0", index=read.descriptor.digest, figures=("latency is worse",), reason="smaller")
    found: dict[str, list[bytes]] = {
        "index": [(bundle / "index.json").read_bytes(), read.layout.read(read.descriptor)],
        "manifest": [read.layout.read(read.targets[0].descriptor), *(read.layout.read(d) for d, _ in read.signatures)],
        "signature": [*signatures, (HERE.parent / "tests/releasing/keyless/sigstore_staging.json").read_bytes()],
        "statement": [parse_bundle(each).payload for each in signatures],
        "override": [override.to_json().encode()],
        "policy": [policy_of([load_public_key(public)]).to_json().encode()],
        "key": [public.read_bytes()],
        "plan": [path.read_bytes() for path in (scratch / "delta").glob("*.json")],
        "reference": [b"registry.example/doors:1.4.0", b"./share@sha256:" + b"ab" * 32],
        "release": [
            (blobs / files["release.json"].sha256).read_bytes(),
        ],
        "artifact": [(blobs / files["artifact/artifact.json"].sha256).read_bytes()],
        "vector": [(blobs / blob.sha256).read_bytes() for path, blob in files.items() if path.endswith(".npy")],
    }
    for kind, documents in found.items():
        (folder / kind).mkdir(parents=True)
        for number, data in enumerate(documents):
            (folder / kind / str(number)).write_bytes(data[:MAX_BYTES])
    return folder


def fuzz(name: str, corpus: Path, seconds: int, scratch: Path) -> None:
    """Fuzz one parser in this process, which ends with it."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["edgebuild.releasing", "edgebuild.core"]):
        parse, allowed, _ = parsers(scratch)[name]

    def once(data: bytes) -> None:
        try:
            parse(data)
        except allowed:
            return

    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=10", "-rss_limit_mb=2048", "-seed=1"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", f"-artifact_prefix={FINDINGS}/", str(corpus)], once)
    atheris.Fuzz()


def run(name: str, kind: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Fuzz one parser in a process of its own and return what came of it."""
    words = [sys.executable, __file__, "--parser", name, "--corpus", str(folder / kind), "--seconds", str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    runs = re.search(r"number_of_executed_units: (\d+)", told)
    covered = re.findall(r"cov: (\d+)", told)
    print(f"{name}: {runs.group(1) if runs else 'no'} runs, exit code {done.returncode}", flush=True)
    if done.returncode:
        print("\n".join(told.splitlines()[-30:]), flush=True)
    return {
        "parser": name,
        "runs": int(runs.group(1)) if runs else 0,
        "covered": int(covered[-1]) if covered else 0,
        "finding": done.returncode != 0,
    }


def main() -> int:
    """Fuzz every parser, or one in this process where `--parser` names it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--parser")
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    FINDINGS.mkdir(exist_ok=True)
    if options.parser is not None:
        with tempfile.TemporaryDirectory(prefix="edgebuild-fuzz-") as scratch:
            fuzz(options.parser, options.corpus, options.seconds, Path(scratch))
        return 0
    from evidence import write_results

    with tempfile.TemporaryDirectory(prefix="edgebuild-fuzzing-") as scratch:
        folder = seeds(Path(scratch))
        rows = [run(name, kind, folder, options.seconds) for name, (_, _, kind) in parsers(Path(scratch)).items()]
    table = ["| parser | mutants | edges covered | findings |", "|---|---|---|---|"]
    table += [f"| {r['parser']} | {r['runs']:,} | {r['covered']:,} | {'1' if r['finding'] else '0'} |" for r in rows]
    text = (
        f"Coverage-guided (Atheris), {options.seconds} s for each parser, beginning with the documents of a signed "
        "release. A finding is any end but a result or the parser's documented error.\n\n" + "\n".join(table)
    )
    command = f"python benchmarks/fuzz_releases.py --seconds {options.seconds}"
    write_results("fuzzing", "What strangers send as a release", command, text, {"rows": rows})
    return int(any(row["finding"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
