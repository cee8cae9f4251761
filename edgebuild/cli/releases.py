"""`edgebuild release …`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgebuild.cli.exporting import export_release
from edgebuild.cli.options import HERE, AnyDeviceOption, NativeOption, ProjectOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.releasing.values import BuildFolder

app = typer.Typer(no_args_is_help=True, help="Releases: what was built, with its proof, in one bundle.")

BundleArgument = Annotated[Path, typer.Argument(help="The folder of the release.")]
KeysOption = Annotated[
    Optional[list[Path]],  # noqa: UP045 - typer reads it when the program runs
    typer.Option("--key", help="A public key in PEM; one of several is enough. Default: no signature is asked for."),
]
PolicyOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="A trust policy: who may sign what, and how many must. Default: none."),
]
IdentityOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Who may have signed keyless, such as a mail address; with --issuer. Default: nobody."),
]
IssuerOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The OIDC issuer that vouches for --identity, a URL. Default: none."),
]
TrustedRootOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="A private Sigstore's trusted_root.json. Default: the public one's, as it is installed."),
]
TargetOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--target", "-t", help="Target of the release. Default: the one that fits the device."),
]
RootOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Folder of the installed releases there. Default on a device: beside its own, -releases/NAME."),
]
UnsignedOption = Annotated[
    bool,
    typer.Option("--trust-unsigned", help="Run the release's own runner there though nobody vouches for it."),
]
OlderOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="A bundle, or a folder of installed releases, whose parts are taken instead of fetched, and changed ones "
        "made by a delta that is there. Default: none; of install, --root on this machine."
    ),
]
NameOption = Annotated[str, typer.Option("--name", help="The project's name, where --root isn't given.")]


@app.command()
def create(
    version: Annotated[str, typer.Option("--version", help="The release's version, such as 1.4.0.")],
    build: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it when the program runs
        typer.Option("--build", help="A build's id or its start; one for each target. Default: the newest."),
    ] = None,
    against: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The bundle of the release before, which this one names as its parent. Default: none."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder to write. Default: releases/NAME-VERSION in the project."),
    ] = None,
    project: ProjectOption = HERE,
) -> None:
    """Write a bundle: artifacts with golden vectors, evidence, SBOM and card. Equal builds give equal bytes."""
    from edgebuild.building.projects import load_project
    from edgebuild.catalogue.contract_table import meaning_of
    from edgebuild.cli.output import say
    from edgebuild.errors import UsageError
    from edgebuild.releasing import bundle
    from edgebuild.releasing.creating import create

    loaded = load_project(project)
    builds = _builds(loaded.folder / ".edgebuild", build or [None])
    before = None if against is None else bundle.read_bundle(against)
    if before is not None and before.project != loaded.name:
        raise UsageError(f"{against} is a release of {before.project}, and this project is {loaded.name}.")
    parent = None if before is None else before.descriptor.digest
    where = out or loaded.folder / "releases" / f"{loaded.name}-{bundle.require_version(version)}"
    meaning = partial(meaning_of, loaded.contract, loaded.folder)
    made = create(builds, where, version=version, parent=parent, meaning=meaning)
    say(f"{made.project} {made.version}: {made.descriptor.digest}")
    for part in made.targets:
        size, files = sum(layer.size for layer in part.manifest.layers), len(part.manifest.layers)
        say(f"  {part.release.target}: {part.release.candidate}, {files} files, {size / 2**20:.1f} MiB")
    say(f"Bundle: {where}")
    say(f"Next: edgebuild release sign {where} --key KEY.pem")


@app.command()
def sign(
    bundle: BundleArgument,
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The private key, a PEM file: EC P-256, P-384, P-521 or Ed25519. Default: none."),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign by an identity instead, with Sigstore: its log is public.")
    ] = False,
    identity_token: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The identity's OIDC token. Default: SIGSTORE_ID_TOKEN, or what the CI job is given."),
    ] = None,
    trust_config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A private Sigstore's configuration of clients, a JSON file. Default: the public one."),
    ] = None,
) -> None:
    """Sign a bundle: its index with provenance, and each target's files by OpenSSF Model Signing."""
    from edgebuild.cli.trusting import sign_bundle

    sign_bundle(bundle, key, keyless=keyless, token=identity_token, trust_config=trust_config)


@app.command()
def verify(
    bundle: BundleArgument,
    key: KeysOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    issuer: IssuerOption = None,
    trusted_root: TrustedRootOption = None,
    device: AnyDeviceOption = None,
    target: TargetOption = None,
    here: Annotated[bool, typer.Option("--here", help="Let this machine be the device.")] = False,
    unsigned: UnsignedOption = False,
) -> None:
    """Check every byte and who signed it; with a device also that it fits there, answers right and takes as long."""
    from edgebuild.cli.trusting import Asked, run_there, verify_bundle

    asked = Asked(key or (), policy, identity, issuer, trusted_root)
    verify_bundle(bundle, asked)
    if device is not None or here:
        words = [] if target is None else [f"--target={target}"]
        words += ["--trust-unsigned"] if unsigned else []
        code = run_there("check", device=device, bundle=bundle, asked=asked, arguments=words)
        raise typer.Exit(code)


@app.command()
def installed(device: AnyDeviceOption = None, root: RootOption = None, project: NameOption = "") -> None:
    """Say what is installed on a device, and whether it is whole."""
    from edgebuild.cli.trusting import run_there

    raise typer.Exit(run_there("status", device=device, root=root, project=project))


@app.command("roll-back")
def roll_back(device: AnyDeviceOption = None, root: RootOption = None, project: NameOption = "") -> None:
    """Make the previous release the current one on a device, where it answers right."""
    from edgebuild.cli.trusting import run_there

    raise typer.Exit(run_there("roll-back", device=device, root=root, project=project))


def install_release(
    bundle: Annotated[str, typer.Argument(help="The folder of the release, or HOST/REPOSITORY:TAG.")],
    device: AnyDeviceOption = None,
    root: RootOption = None,
    key: KeysOption = None,
    policy: PolicyOption = None,
    target: TargetOption = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Allow a version older than the installed one.")
    ] = False,
    unsigned: UnsignedOption = False,
    older: OlderOption = None,
) -> None:
    """Install a release on a device: checked there, switched at once, rolled back where its answers are wrong."""
    from edgebuild.cli.travelling import at_hand
    from edgebuild.cli.trusting import Asked, run_there, verify_bundle
    from edgebuild.releasing.bundle import read_bundle

    words = [] if target is None else [f"--target={target}"]
    words += ["--allow-downgrade"] if allow_downgrade else []
    words += ["--trust-unsigned"] if unsigned else []
    asked = Asked(key or (), policy)
    if older is None and root and device is None:
        older = Path(root)
    with at_hand(bundle, older) as folder:
        verify_bundle(folder, asked)
        code = run_there(
            "install",
            device=device,
            bundle=folder,
            root=root,
            project=read_bundle(folder).project,
            asked=asked,
            arguments=words,
        )
    raise typer.Exit(code)


@app.command()
def policy(
    source: Annotated[Path, typer.Argument(help="A trust policy for people, a TOML file.")],
    out: Annotated[Path, typer.Argument(help="The file to write, such as trust.json.")],
) -> None:
    """Write a trust policy as boards read it."""
    from edgebuild.cli.trusting import write_policy

    write_policy(source, out)


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release, or of a delta to one that is there.")],
    to: Annotated[str, typer.Argument(help="HOST/REPOSITORY[:TAG], or a folder ./… of bundles. The tag: the version.")],
) -> None:
    """Send a bundle or a delta to a registry; parts that are there aren't sent again, an interrupted push goes on."""
    from edgebuild.cli.travelling import push_bundle

    push_bundle(bundle, to)


@app.command()
def pull(
    release: Annotated[str, typer.Argument(help="HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST.")],
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="The new folder. Default: named after the release, here."),
    ] = None,
    older: OlderOption = None,
) -> None:
    """Fetch a release, checked by digest as it comes; an interrupted pull goes on."""
    from edgebuild.cli.travelling import pull_bundle

    pull_bundle(release, folder, older)


@app.command()
def promote(
    release: Annotated[str, typer.Argument(help="HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST.")],
    tag: Annotated[str, typer.Argument(help="The tag that is to mean this release, such as prod.")],
) -> None:
    """Let a tag mean a release; nothing else is sent."""
    from edgebuild.cli.travelling import promote_release

    promote_release(release, tag)


@app.command("list")
def list_(where: Annotated[str, typer.Argument(help="HOST/REPOSITORY, or a folder ./… of bundles.")]) -> None:
    """Show the releases of a repository, with their tags and targets."""
    from edgebuild.cli.travelling import list_releases

    list_releases(where)


@app.command()
def delta(
    old: Annotated[Path, typer.Argument(help="The bundle that the receiver has.")],
    new: Annotated[Path, typer.Argument(help="The bundle that it is to have.")],
    out: Annotated[Path, typer.Argument(help="The new folder of the delta.")],
) -> None:
    """Write what makes one bundle of another: unchanged parts left out, large ones as zstd patches."""
    from edgebuild.cli.travelling import make_delta

    make_delta(old, new, out)


@app.command()
def apply(
    old: Annotated[Path, typer.Argument(help="The bundle that the delta was made against.")],
    delta: Annotated[Path, typer.Argument(help="The folder of the delta.")],
    out: Annotated[Path, typer.Argument(help="The new folder of the bundle.")],
) -> None:
    """Make the new bundle of an old one and a delta, every part of it checked by digest."""
    from edgebuild.cli.travelling import apply_delta

    apply_delta(old, delta, out)


@app.command()
def affected(
    component: Annotated[str, typer.Option(help='A component and its versions, such as "onnxruntime<1.33".')],
    places: Annotated[list[str], typer.Argument(help="Repositories, releases in them, or folders of bundles.")],
) -> None:
    """Say which releases carry a component, by their SBOMs. Exit code 0: none, 3: some, 4: only doubts are left."""
    from edgebuild.cli.travelling import show_affected

    raise typer.Exit(show_affected(component, places))


@app.command()
def replay(
    bundle: BundleArgument,
    target: TargetOption = None,
    device: AnyDeviceOption = None,
    native: NativeOption = False,
) -> None:
    """Measure a release again and say whether that agrees with its record. Exit code 0: yes, 3: no, 4: can't tell."""
    from edgebuild.cli.gating import run_replay

    raise typer.Exit(run_replay(bundle, target=target, device=device, native=native))


@app.command()
def gate(
    new: Annotated[Path, typer.Argument(help="The bundle of the new release.")],
    against: Annotated[Path, typer.Option(help="The bundle of the release that it is to follow.")],
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--target", "-t", help="Only this target. Default: all that both have."),
    ] = None,
    device: AnyDeviceOption = None,
    native: NativeOption = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write a JUnit report to this file, too. Default: none."),
    ] = None,
    override: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Let it pass though a figure is worse or open: the reason, stored in NEW. Default: none."),
    ] = None,
) -> None:
    """Compare two releases, interleaved on one device. Exit code 0: no figure is worse, 3: one is, 4: one is open."""
    from edgebuild.cli.gating import run_gate

    raise typer.Exit(
        run_gate(
            new, against, target=target, device=device, native=native, as_json=json, junit=junit, override=override
        )
    )


app.command("export")(export_release)


def _builds(home: Path, names: Sequence[str | None]) -> tuple[BuildFolder, ...]:
    from edgebuild.building.record import find_build, load_record
    from edgebuild.releasing.values import NEEDED, BuildFolder

    found = []
    for name in names:
        folder = find_build(home, name)
        record = load_record(folder)
        found.append(
            BuildFolder(
                home=home,
                folder=folder,
                record=record,
                missing=tuple(each for each in NEEDED if not (folder / each).is_file()),
            )
        )
    return tuple(found)
