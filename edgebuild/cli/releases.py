"""`edgebuild release …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgebuild.cli.answering import answer
from edgebuild.cli.exporting import export_release
from edgebuild.cli.options import HERE, AnyDeviceOption, JsonOption, NativeOption, ProjectOption

if TYPE_CHECKING:
    from edgebuild.cli.answering import Answer

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
    json: JsonOption = False,
) -> None:
    """Write a bundle: artifacts with golden vectors, evidence, SBOM and card. Equal builds give equal bytes."""
    from edgebuild.cli import bundling

    answer(lambda: bundling.create(project, build or [None], version=version, against=against, out=out), as_json=json)


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
    json: JsonOption = False,
) -> None:
    """Sign a bundle: its index with provenance, and each target's files by OpenSSF Model Signing."""
    from edgebuild.cli.trusting import sign_bundle

    answer(
        lambda: sign_bundle(bundle, key, keyless=keyless, token=identity_token, trust_config=trust_config),
        as_json=json,
    )


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
    json: JsonOption = False,
) -> None:
    """Check every byte and who signed it; with a device also that it fits there, answers right and takes as long."""
    from edgebuild.cli.there import run_there
    from edgebuild.cli.trusting import Asked, verified, verify_bundle

    def work() -> Answer:
        trust = Asked(key or (), policy, identity, issuer, trusted_root).read()
        found = verify_bundle(bundle, trust)
        if device is None and not here:
            return verified(found)
        words = [] if target is None else [f"--target={target}"]
        words += ["--trust-unsigned"] if unsigned else []
        return verified(found, run_there("check", device=device, bundle=bundle, trust=trust, arguments=words))

    answer(work, as_json=json)


@app.command()
def installed(
    device: AnyDeviceOption = None, root: RootOption = None, project: NameOption = "", json: JsonOption = False
) -> None:
    """Say what is installed on a device, and whether it is whole."""
    from edgebuild.cli.there import run_there, told_there

    answer(lambda: told_there(run_there("status", device=device, root=root, project=project)), as_json=json)


@app.command("roll-back")
def roll_back(
    device: AnyDeviceOption = None, root: RootOption = None, project: NameOption = "", json: JsonOption = False
) -> None:
    """Make the previous release the current one on a device, where it answers right."""
    from edgebuild.cli.there import run_there, told_there

    answer(lambda: told_there(run_there("roll-back", device=device, root=root, project=project)), as_json=json)


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
    json: JsonOption = False,
) -> None:
    """Install a release on a device: checked there, switched at once, rolled back where its answers are wrong."""
    from edgebuild.cli.there import run_there
    from edgebuild.cli.travelling import at_hand
    from edgebuild.cli.trusting import Asked, verified, verify_bundle

    words = [] if target is None else [f"--target={target}"]
    words += ["--allow-downgrade"] if allow_downgrade else []
    words += ["--trust-unsigned"] if unsigned else []

    def work() -> Answer:
        trust = Asked(key or (), policy).read()
        with at_hand(bundle, Path(root) if older is None and root and device is None else older) as folder:
            found = verify_bundle(folder, trust)
            there = run_there(
                "install",
                device=device,
                bundle=folder,
                root=root,
                project=found.project,
                trust=trust,
                arguments=words,
            )
        return verified(found, there)

    answer(work, as_json=json)


@app.command()
def policy(
    source: Annotated[Path, typer.Argument(help="A trust policy for people, a TOML file.")],
    out: Annotated[Path, typer.Argument(help="The file to write, such as trust.json.")],
    json: JsonOption = False,
) -> None:
    """Write a trust policy as boards read it."""
    from edgebuild.cli.trusting import write_policy

    answer(lambda: write_policy(source, out), as_json=json)


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release, or of a delta to one that is there.")],
    to: Annotated[str, typer.Argument(help="HOST/REPOSITORY[:TAG], or a folder ./… of bundles. The tag: the version.")],
    json: JsonOption = False,
) -> None:
    """Send a bundle or a delta to a registry; parts that are there aren't sent again, an interrupted push goes on."""
    from edgebuild.cli.travelling import push_bundle

    answer(lambda: push_bundle(bundle, to), as_json=json)


@app.command()
def pull(
    release: Annotated[str, typer.Argument(help="HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST.")],
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="The new folder. Default: named after the release, here."),
    ] = None,
    older: OlderOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch a release, checked by digest as it comes; an interrupted pull goes on."""
    from edgebuild.cli.travelling import pull_bundle

    answer(lambda: pull_bundle(release, folder, older), as_json=json)


@app.command()
def promote(
    release: Annotated[str, typer.Argument(help="HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST.")],
    tag: Annotated[str, typer.Argument(help="The tag that is to mean this release, such as prod.")],
    json: JsonOption = False,
) -> None:
    """Let a tag mean a release; nothing else is sent."""
    from edgebuild.cli.travelling import promote_release

    answer(lambda: promote_release(release, tag), as_json=json)


@app.command("list")
def list_(
    where: Annotated[str, typer.Argument(help="HOST/REPOSITORY, or a folder ./… of bundles.")],
    json: JsonOption = False,
) -> None:
    """Show the releases of a repository, with their tags and targets."""
    from edgebuild.cli.travelling import list_releases

    answer(lambda: list_releases(where), as_json=json)


@app.command()
def delta(
    old: Annotated[Path, typer.Argument(help="The bundle that the receiver has.")],
    new: Annotated[Path, typer.Argument(help="The bundle that it is to have.")],
    out: Annotated[Path, typer.Argument(help="The new folder of the delta.")],
    json: JsonOption = False,
) -> None:
    """Write what makes one bundle of another: unchanged parts left out, large ones as zstd patches."""
    from edgebuild.cli.travelling import make_delta

    answer(lambda: make_delta(old, new, out), as_json=json)


@app.command()
def apply(
    old: Annotated[Path, typer.Argument(help="The bundle that the delta was made against.")],
    delta: Annotated[Path, typer.Argument(help="The folder of the delta.")],
    out: Annotated[Path, typer.Argument(help="The new folder of the bundle.")],
    json: JsonOption = False,
) -> None:
    """Make the new bundle of an old one and a delta, every part of it checked by digest."""
    from edgebuild.cli.travelling import apply_delta

    answer(lambda: apply_delta(old, delta, out), as_json=json)


@app.command()
def affected(
    component: Annotated[str, typer.Option(help='A component and its versions, such as "onnxruntime<1.33".')],
    places: Annotated[list[str], typer.Argument(help="Repositories, releases in them, or folders of bundles.")],
    json: JsonOption = False,
) -> None:
    """Say which releases carry a component, by their SBOMs. Exit code 0: none, 3: some, 4: only doubts are left."""
    from edgebuild.cli.travelling import find_affected

    answer(lambda: find_affected(component, places), as_json=json)


@app.command()
def replay(
    bundle: BundleArgument,
    target: TargetOption = None,
    device: AnyDeviceOption = None,
    native: NativeOption = False,
    json: JsonOption = False,
) -> None:
    """Measure a release again and say whether that agrees with its record. Exit code 0: yes, 3: no, 4: can't tell."""
    from edgebuild.cli.gating import run_replay

    answer(lambda: run_replay(bundle, target=target, device=device, native=native), as_json=json)


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
    json: JsonOption = False,
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

    answer(
        lambda: run_gate(new, against, target=target, device=device, native=native, junit=junit, override=override),
        as_json=json,
    )


app.command("export")(export_release)
