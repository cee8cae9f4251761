"""From a build to a rolled-back device, as a user does it: this machine is the device."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgebuild import runtime
from edgebuild.releasing.bundle import read_bundle
from tests.cli.answers import answered, valid
from tests.cli.example import Ended, classifier, classifier_weights, run, write_project
from tests.cli.test_bad_environment import hidden
from tests.releasing.keyless.pretend_sigstore import ALICE, ISSUER, PretendSigstore

if TYPE_CHECKING:
    from pathlib import Path

MEANING = {
    "contract.inputs.image": 'layout = "NCHW"\nscale = 0.5\nmean = [0.25]',
    "contract.outputs.logits": 'labels = ["ant", "bee", "cat", "dog"]',
}


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a key with openssl, as docs/release.md does; return the private and the public file."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


def ok(*words: object, cwd: Path) -> Ended:
    ended = run(*map(str, words), cwd=cwd)
    assert ended.code == 0, ended
    return ended


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built project with two signed releases, 1.0 and 1.1, and a key of somebody else's."""
    folder = write_project(tmp_path_factory.mktemp("commands") / "project", MEANING)
    ok("build", cwd=folder)
    private, _ = keys(folder, "team")
    keys(folder, "other")
    for version in ("1.0", "1.1"):
        ok("release", "create", "--version", version, cwd=folder)
        ok("release", "sign", f"releases/tiny-{version}", "--key", private, cwd=folder)
    return folder


def test_a_release_says_what_its_numbers_mean(project: Path) -> None:
    with closing(runtime.load(project / "releases" / "tiny-1.0")) as model:
        meaning = model.release.meaning
    assert meaning.outputs[0].labels == ("ant", "bee", "cat", "dog")
    assert (meaning.inputs[0].layout, meaning.inputs[0].mean) == ("NCHW", (0.25,))
    bundle = read_bundle(project / "releases" / "tiny-1.0")
    card = bundle.layout.read(bundle.targets[0].files()["MODEL_CARD.md"]).decode()
    assert "`image` = (raw × 0.5 - mean) / std, with mean 0.25 and std 1, axes NCHW." in card
    assert "`logits`: 4 classes, ant, bee, cat, dog." in card


def test_two_environments_make_the_same_bytes_of_one_build(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "another name", ignore=shutil.ignore_patterns("store", "releases"))
    surroundings = {
        project: {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
        copy: {"TZ": "America/Lima", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2", "HOME": str(tmp_path)},
    }
    made = []
    for number, (folder, env) in enumerate(surroundings.items()):
        out = tmp_path / str(number)
        ended = run("release", "create", "--version", "1.0", "--out", str(out), cwd=folder, env=env)
        assert ended.code == 0, ended
        made.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert made[0] == made[1]


def test_what_was_signed_is_installed_and_rolled_back(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "device"
    shown = ok("install", "releases/tiny-1.0", "--key", "team.pub", "--root", root, cwd=project).out
    assert "answers right" not in shown, "told by the check, not by installing"
    assert "signed: release index" in shown
    ok("install", "releases/tiny-1.1", "--key", "team.pub", "--root", root, cwd=project)
    assert json.loads((root / "current" / "release.json").read_bytes())["version"] == "1.1"
    refused = run("install", "releases/tiny-1.0", "--key", "team.pub", "--root", str(root), cwd=project)
    assert refused.code == 7
    assert "1.1" in refused.err
    shown = ok("release", "roll-back", "--root", root, cwd=project).out
    assert "tiny 1.0 for quick" in shown
    assert json.loads((root / "current" / "release.json").read_bytes())["version"] == "1.0"
    shown = ok("release", "installed", "--root", root, cwd=project).out
    assert "current   tiny 1.0 for quick" in shown
    assert "previous  tiny 1.1 for quick" in shown


@pytest.mark.proof
def test_verifying_on_the_device_runs_the_golden_vectors_there(project: Path) -> None:
    shown = ok("release", "verify", "releases/tiny-1.1", "--key", "team.pub", "--here", cwd=project).out
    assert "answers   right on 4 frames" in shown
    assert "latency" in shown


def test_a_release_travels_through_a_folder_of_releases_and_is_installed_by_its_tag(
    project: Path, tmp_path: Path
) -> None:
    share, root = tmp_path / "share", tmp_path / "device"
    shown = ok("release", "push", "releases/tiny-1.0", share, cwd=project).out
    assert "as 1.0, with 2 signatures" in shown
    shown = ok("release", "push", "releases/tiny-1.1", share, cwd=project).out
    ok("release", "promote", f"{share}:1.0", "prod", cwd=project)
    listed = ok("release", "list", share, cwd=project).out
    assert [line.split()[0] for line in listed.splitlines()] == ["version", "1.0", "1.1"]
    assert "prod" in listed.splitlines()[1]
    ok("install", f"{share}:prod", "--key", "team.pub", "--root", root, cwd=project)
    assert json.loads((root / "current" / "release.json").read_bytes())["version"] == "1.0"
    shown = ok("release", "pull", f"{share}:1.1", tmp_path / "got", "--older", "releases/tiny-1.0", cwd=project).out
    assert "taken from what was here" in shown
    ok("release", "verify", tmp_path / "got", "--key", "team.pub", cwd=project)
    ok("release", "delta", "releases/tiny-1.0", "releases/tiny-1.1", tmp_path / "delta", cwd=project)
    shown = ok("release", "push", tmp_path / "delta", share, cwd=project).out
    assert shown.startswith("Pushed the delta from sha256:")
    shown = ok("install", f"{share}:1.1", "--key", "team.pub", "--root", root, cwd=project).out
    # The runner and the models are those that are installed; what is new are small documents.
    assert re.search(r"^Pulled sha256:[0-9a-f]{64}: [\d.]+ KiB fetched$", shown, re.MULTILINE), shown
    assert json.loads((root / "current" / "release.json").read_bytes())["version"] == "1.1"


def test_a_delta_makes_the_new_bundle_of_the_old_one(project: Path, tmp_path: Path) -> None:
    ok("release", "delta", "releases/tiny-1.0", "releases/tiny-1.1", tmp_path / "delta", cwd=project)
    ok("release", "apply", "releases/tiny-1.0", tmp_path / "delta", tmp_path / "made", cwd=project)
    ok("release", "verify", tmp_path / "made", "--key", "team.pub", cwd=project)
    refused = run("release", "apply", "releases/tiny-1.1", str(tmp_path / "delta"), str(tmp_path / "no"), cwd=project)
    assert refused.code == 7


def test_who_carries_a_runtime_is_told(project: Path) -> None:
    ended = run("release", "affected", "--component", "onnxruntime<99", "releases/tiny-1.0", cwd=project)
    assert ended.code == 3, ended
    assert "1.0 (1.0), quick: carries" in ended.out
    ok("release", "affected", "--component", "onnxruntime<0.1", "releases/tiny-1.0", cwd=project)


@pytest.mark.proof
def test_a_replay_says_whether_it_agrees(project: Path) -> None:
    ended = run("release", "replay", "releases/tiny-1.1", cwd=project)
    assert ended.code in {0, 3, 4}, ended
    assert "on record: " in ended.out
    assert ended.out.splitlines()[-1].split(":")[0] in {"agrees", "disagrees", "inconclusive"}


def test_somebody_elses_key_is_refused_before_anything_is_sent(project: Path, tmp_path: Path) -> None:
    for words in (
        ("release", "verify", "releases/tiny-1.1", "--key", "other.pub"),
        ("install", "releases/tiny-1.1", "--key", "other.pub", "--root", str(tmp_path / "device")),
    ):
        ended = run(*words, cwd=project)
        assert ended.code == 7, ended
        assert "Traceback" not in ended.err
    assert not (tmp_path / "device").exists()


def test_a_relative_root_is_here_and_an_empty_one_is_none(project: Path) -> None:
    ended = run("install", "releases/tiny-1.0", "--key", "team.pub", "--root", "", cwd=project)
    assert ended.code == 2
    ok("install", "releases/tiny-1.0", "--key", "team.pub", "--root=-x", cwd=project)
    assert (project / "-x" / "current" / "release.json").is_file()


def test_an_empty_text_names_no_build(project: Path) -> None:
    ended = run("release", "create", "--version", "9", "--build", "", cwd=project)
    assert (ended.code, "An empty text names no build" in ended.err) == (2, True)


def test_a_folder_of_bundles_is_listed(project: Path) -> None:
    listed = ok("release", "list", "releases", cwd=project).out
    assert [line.split()[0] for line in listed.splitlines()] == ["version", "1.0", "1.1"]


def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(project: Path) -> None:
    words = ("release", "gate", "releases/tiny-1.1", "--against", "releases/tiny-1.0", "--junit", "no/where.xml")
    ended = run(*words, cwd=project)
    assert ended.code == 2
    assert "no/where.xml can't be written" in ended.err


def test_a_policy_for_boards_is_written_from_the_one_for_people(project: Path, tmp_path: Path) -> None:
    signer = f'name = "team"\npublic_key = """\n{(project / "team.pub").read_text()}"""'
    (project / "policy.toml").write_text(f"schema_version = 1\nthreshold = 1\n\n[[signers]]\n{signer}\n")
    ok("release", "policy", "policy.toml", tmp_path / "trust.json", cwd=project)
    shown = ok("release", "verify", "releases/tiny-1.0", "--policy", tmp_path / "trust.json", cwd=project).out
    assert "by team" in shown
    assert run("release", "policy", "policy.toml", "no/where.json", cwd=project).code == 2


#: No CI job's.
NO_TOKEN = dict.fromkeys(("SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"), "")


def test_a_release_is_signed_keyless_and_verified_by_identity_or_policy(project: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(project / "releases/tiny-1.0", tmp_path / "tiny")
    pretend = PretendSigstore()
    root, config = tmp_path / "trusted_root.json", tmp_path / "trust_config.json"
    root.write_text(json.dumps(pretend.trusted_root()))
    words = ("release", "sign", str(bundle), "--keyless", "--trust-config", str(config))
    with pretend.served() as url:
        config.write_text(json.dumps(pretend.trust_config(url)))
        assert "There is no identity token" in run(*words, cwd=project, env=NO_TOKEN).err
        ended = run(*words, cwd=project, env={**NO_TOKEN, "SIGSTORE_ID_TOKEN": pretend.token()})
    assert (ended.code, f"Signed tiny:1.0 by {ALICE} ({ISSUER})" in ended.out) == (0, True), ended
    alice = ("--identity", ALICE, "--issuer", ISSUER, "--trusted-root", root)
    shown = ok("release", "verify", bundle, *alice, cwd=project).out
    assert f"signed: release index, by {ALICE} ({ISSUER}); for quick" in shown
    other = run("release", "verify", str(bundle), "--identity", ALICE, "--issuer", "https://x.example", cwd=project)
    assert (other.code, "by an identity that isn't known" in other.err) == (7, True), other
    public = run("release", "verify", str(bundle), *map(str, alice[:4]), cwd=project)
    assert (public.code, "is wrong" in public.err) == (7, True), public

    both = f'name = "alice"\nidentity = "{ALICE}"\nissuer = "{ISSUER}"\ntrusted_root = "trusted_root.json"\n'
    both += f'\n[[signers]]\nname = "team"\npublic_key = """\n{(project / "team.pub").read_text()}"""'
    (tmp_path / "trust.toml").write_text(f"schema_version = 1\nthreshold = 2\n\n[[signers]]\n{both}\n")
    ok("release", "policy", tmp_path / "trust.toml", tmp_path / "trust.json", cwd=project)
    for policy in ("trust.toml", "trust.json"):
        shown = ok("release", "verify", bundle, "--policy", tmp_path / policy, cwd=project).out
        assert ("by alice; for quick" in shown, "by team; for quick" in shown) == (True, True)
    there = run("release", "verify", str(bundle), *map(str, alice), "--here", cwd=project)
    assert (there.code, "a keyless signature, by a certificate, isn't checked on a device" in there.err) == (7, True)


def test_only_what_is_keyless_needs_sigstore(project: Path) -> None:
    without = hidden("sigstore")
    ended = run("release", "verify", "releases/tiny-1.0", "--key", "team.pub", cwd=project, env=without)
    assert ended.code == 0, ended
    ended = run("release", "sign", "releases/tiny-1.0", "--keyless", cwd=project, env=without)
    assert (ended.code, ended.err) == (
        6,
        "edgebuild: sigstore is not installed.\n  how to fix it: pip install 'edgebuild[sigstore]'\n",
    )


def test_nothing_of_an_unvouched_release_runs_unless_it_is_said(project: Path, tmp_path: Path) -> None:
    refused = run("install", "releases/tiny-1.0", "--root", str(tmp_path / "device"), cwd=project)
    assert refused.code == 7
    assert "--trust-unsigned" in refused.err
    ok("install", "releases/tiny-1.0", "--root", tmp_path / "device", "--trust-unsigned", cwd=project)


def test_this_machine_wants_a_folder_named(project: Path) -> None:
    ended = run("install", "releases/tiny-1.1", cwd=project)
    assert ended.code == 2
    assert "Name one with --root." in ended.err


def test_a_gate_of_the_same_artifact_measures_nothing(project: Path) -> None:
    ended = ok("release", "gate", "releases/tiny-1.1", "--against", "releases/tiny-1.0", "--json", cwd=project)
    found = valid("release gate", ended.out)
    assert (found["new"], found["old"], found["outcome"]) == ("1.1", "1.0", "equivalent")


def test_every_command_answers_in_json(project: Path, tmp_path: Path) -> None:
    """All of a release's life in this process, each answer held against its schema."""

    def ask(*words: object, code: int = 0) -> Any:
        return answered(*map(str, words), cwd=project, code=code)

    made, share, root = tmp_path / "3.0", tmp_path / "share", tmp_path / "device"
    created = ask("release", "create", "--version", "3.0", "--out", made)
    assert created["folder"] == str(made)
    assert ask("release", "sign", made, "--key", "team.key")["release_digest"] == created["release_digest"]
    assert not ask("release", "verify", made)["vouched"]
    found = ask("release", "verify", made, "--key", "team.pub")
    assert (found["vouched"], found["release_digest"], found["device"]) == (True, created["release_digest"], None)
    assert all(each["counts_for"] == ["quick"] for each in found["signatures"])
    assert ask("release", "push", made, share)["tag"] == "3.0"
    assert ask("release", "push", "releases/tiny-1.0", share)["there_bytes"] > 0
    assert ask("release", "promote", f"{share}:3.0", "prod")["before"] == ""
    assert {each["version"]: each["tags"] for each in ask("release", "list", share)}["3.0"] == ["3.0", "prod"]
    assert ask("release", "pull", f"{share}:prod", tmp_path / "got")["release_digest"] == created["release_digest"]
    delta = ask("release", "delta", "releases/tiny-1.0", made, tmp_path / "delta")
    assert delta["end"] == created["release_digest"]
    assert ask("release", "push", tmp_path / "delta", share)["end"] == delta["end"]
    applied = ask("release", "apply", "releases/tiny-1.0", tmp_path / "delta", tmp_path / "new")
    assert applied["release_digest"] == created["release_digest"]
    carried = ask("release", "affected", "--component", "onnxruntime<99", made, code=3)["carried"]
    assert [each["target"] for each in carried] == ["quick"]
    exported = ask("release", "export", made, "--to", "triton", "--out", tmp_path / "triton")
    assert exported["path"] == str(tmp_path / "triton")
    signer = f'[[signers]]\nname = "team"\npublic_key = """\n{(project / "team.pub").read_text()}"""\n'
    (project / "trust.toml").write_text(f"schema_version = 1\nthreshold = 1\n{signer}")
    assert ask("release", "policy", "trust.toml", tmp_path / "trust.json")["signers"] == ["team"]
    installed = ask("install", made, "--policy", "trust.toml", "--root", root)["device"]
    assert (installed["exit_code"], installed["report"]["version"]) == (0, "3.0")
    assert ask("release", "installed", "--root", root)["report"]["current"]["version"] == "3.0"
    assert ask("release", "roll-back", "--root", root, code=7)["report"]["message"]


@pytest.mark.proof
def test_a_gate_of_a_model_that_was_trained_anew_compares_in_pairs_and_stores_its_override(
    project: Path, tmp_path: Path
) -> None:
    """Another model on the same test set: what is worse or open passes with a reason, which is shown from then on."""
    weights = classifier_weights()
    weights["c"] = weights["c"] + np.float32(0.3) * np.arange(len(weights["c"]), dtype=np.float32)
    anew = write_project(tmp_path / "project", MEANING)
    onnx.save(classifier(weights), str(anew / "model.onnx"))
    ok("build", cwd=anew)
    ok("release", "create", "--version", "2.0", cwd=anew)
    words = ("release", "gate", "releases/tiny-2.0", "--against", str(project / "releases/tiny-1.0"))
    ended = run(*words, cwd=anew)
    assert "in pairs" in " ".join(ended.out.split()), ended
    assert ended.code == 3, ended
    passed = ok(*words, "--override", "asked for", cwd=anew)
    shown = ok("release", "verify", "releases/tiny-2.0", cwd=anew)
    assert "stored in releases/tiny-2.0" in passed.out
    assert "the gate against 1.0 was overridden (accuracy on" in shown.out
    assert "): asked for" in shown.out
    ok("release", "sign", "releases/tiny-2.0", "--key", project / "team.key", cwd=anew)
    refused = run(*words, "--override", "again", cwd=anew)
    assert (refused.code, "is signed" in refused.err) == (2, True)
