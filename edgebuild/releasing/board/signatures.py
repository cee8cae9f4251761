"""Who vouches for a bundle: signatures held against the keys or the policy that the board has, with openssl.

A signature is a Sigstore bundle: a DSSE envelope around an in-toto statement. One kind is over the release index, and
so over everything; the other is OpenSSF's Model Signing, over the files of one target. Keys are named as
`model-signing` names them. A signature by an unknown key counts for nothing and does no harm; one in a known key's name
that is wrong, or over something else, is refused. Keyless signatures, by certificates, aren't checked here: they count
for nothing, and that is told.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from .documents import AGAIN, LACKING, MAX_JSON_BYTES, USAGE, Problem, is_count, load_json, named
from .reading import SIGNATURE_TYPE, Bundle, Target

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
MODEL_SIGNING_TYPE = "https://model_signing/signature/v1.0"
ED25519 = "Ed25519"
#: The start of the DER of a public key of each kind, and how long all of it is.
KEY_KINDS = {
    "sha256": ("3059301306072a8648ce3d020106082a8648ce3d03010703420004", 91),
    "sha384": ("3076301006072a8648ce3d020106052b8104002203620004", 120),
    "sha512": ("30819b301006072a8648ce3d020106052b810400230381860004", 158),
    ED25519: ("302a300506032b6570032100", 44),
}
PEM_BEGIN, PEM_END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
MAX_SIGNERS, MAX_MADE = 1000, 16
OPENSSL_LIMIT_S = 60.0
KEY_HINT = "A key is a PEM file of a public key: EC on P-256, P-384 or P-521, or Ed25519."
POLICY_HINT = (
    "A policy is JSON with schema_version 1, threshold, and signers with name and public_key, or identity and issuer."
)
KEYLESS = "a keyless signature, by a certificate, isn't checked on a device and counts for nothing here"


class Signer(NamedTuple):
    """A public key and what it may sign; None is everything. ``kind`` is the hash of its curve, or Ed25519."""

    name: str
    der: bytes
    kind: str
    targets: Optional[List[str]] = None
    projects: Optional[List[str]] = None
    revoked: bool = False

    @property
    def hint(self) -> str:
        """The SHA-256 of the key's PEM, in hex."""
        return hashlib.sha256(self.pem.encode("ascii")).hexdigest()

    @property
    def pem(self) -> str:
        """The one PEM of the key."""
        body = base64.b64encode(self.der).decode("ascii")
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        return "\n".join([PEM_BEGIN, *lines, PEM_END, ""])

    def is_named(self, material: Dict[str, Any]) -> bool:
        """Whether a signature says that it is this key's; older ones hold the key itself."""
        material_key = material.get("publicKey")
        if not isinstance(material_key, dict):
            return False
        raw = {base64.b64encode(each).decode("ascii") for each in (self.der, self.pem.encode("ascii"))}
        hint, key = material_key.get("hint"), material_key.get("rawBytes")
        return hint in (self.hint, hashlib.sha256(self.der).hexdigest()) or (isinstance(key, str) and key in raw)

    def refusal(self, project: str, target: str) -> str:
        """Return why its signature doesn't count here, or nothing."""
        if self.revoked:
            return "revoked"
        if self.projects is not None and project not in self.projects:
            return "not for project %s" % project
        return "not for target %s" % target if self.targets is not None and target not in self.targets else ""


class Trust(NamedTuple):
    """Whose signatures are asked for, and how many of them. ``keyless``: others too, who have no key."""

    signers: List[Signer]
    threshold: int
    keyless: bool = False


def trust_in_keys(paths: Sequence[str]) -> Trust:
    """Return the trust that any one of these keys is enough."""
    return Trust([signer_of(path, _read(path).decode("utf-8", "replace")) for path in paths], 1)


def trust_of_policy(path: str) -> Trust:
    """Return what a policy file asks for; raises for anything in it that isn't understood."""
    try:
        fields = load_json(_read(path), path, exact=False)
    except Problem as error:
        raise Problem(error.message, POLICY_HINT, USAGE) from error
    try:
        signers, threshold = fields["signers"], fields["threshold"]
        if set(fields) != {"schema_version", "signers", "threshold"} or fields["schema_version"] != 1:
            raise ValueError("other fields, or another schema_version")
        if not is_count(threshold) or not 1 <= threshold <= MAX_SIGNERS or not isinstance(signers, list):
            raise ValueError("threshold or signers")
        if not 1 <= len(signers) <= MAX_SIGNERS:
            raise ValueError("no signers, or too many")
        known = [_policy_signer(each) for each in signers]
        with_keys = [each for each in known if each is not None]
        return Trust(with_keys, threshold, len(with_keys) < len(known))
    except (KeyError, TypeError, ValueError) as error:
        raise Problem("%s is no policy: wrong %s." % (path, error), POLICY_HINT, USAGE) from error


def _policy_signer(fields: Dict[str, Any]) -> Optional[Signer]:
    """Return a signer with a key; None for one with an identity, whose signatures aren't checked here."""
    keyless = "identity" in fields
    optional = {"targets", "projects", "revoked", *(["trusted_root"] if keyless else [])}
    known_by = {"identity", "issuer"} if keyless else {"public_key"}
    if not {"name", *known_by} <= set(fields) <= {"name", *known_by, *optional}:
        raise ValueError("fields of a signer")
    name, targets, projects = fields["name"], fields.get("targets"), fields.get("projects")
    if not isinstance(name, str) or not name or not all(isinstance(fields[each], str) for each in known_by):
        raise ValueError("name or public_key of a signer")
    for each in (targets, projects):
        if each is not None and not (isinstance(each, list) and all(isinstance(one, str) for one in each)):
            raise ValueError("targets or projects of %s" % name)
    if not isinstance(fields.get("revoked", False), bool):
        raise ValueError("revoked of %s" % name)
    if keyless:
        return None
    signer = signer_of(name, fields["public_key"])
    return signer._replace(targets=targets, projects=projects, revoked=fields.get("revoked", False))


def signer_of(name: str, pem: str) -> Signer:
    """Return a public key in PEM as a signer."""
    try:
        lines = pem.split()
        text = " ".join(lines)
        if not text.startswith(PEM_BEGIN + " ") or not text.endswith(" " + PEM_END):
            raise ValueError
        der = base64.b64decode(text[len(PEM_BEGIN) : -len(PEM_END)].replace(" ", ""), validate=True)
        kinds = [kind for kind, (start, size) in KEY_KINDS.items() if len(der) == size and der.hex().startswith(start)]
        return Signer(name, der, kinds[0])
    except (ValueError, IndexError) as error:
        raise Problem("%s is no public key that can be used here." % name, KEY_HINT, USAGE) from error


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise Problem("%s can't be read: %s." % (path, error.strerror or error), code=USAGE) from error


class Vouched(NamedTuple):
    """Whose signatures were verified: over the release index, and over the files of the target.

    ``keyless`` is whether there are signatures by certificates, which weren't.
    """

    over_index: List[Signer]
    over_files: List[Signer]
    keyless: bool


def verify_signatures(bundle: Bundle, target: Target, trust: Trust, files: bool) -> Vouched:
    """Return who vouches for a bundle; raises unless enough signers of the trust do.

    They must have signed the release index, and with ``files`` the target's files too.
    """
    checker = Checker()
    keyless = trust.keyless
    over: Dict[str, List[Signer]] = {bundle.index.sha256: [], target.manifest.sha256: []}
    with tempfile.TemporaryDirectory(prefix="edgebuild-verify-") as scratch:
        for signature in bundle.signatures:
            if signature.subject in over:
                envelope = opened_envelope(bundle.read(signature.blob))
                keyless = keyless or "certificate" in envelope.material
                claimed = [each for each in trust.signers if each.is_named(envelope.material)]
                for signer in claimed:
                    _require_right(checker, signer, signature.subject, envelope, bundle, target, Path(scratch))
                over[signature.subject] += claimed
    over_index, over_files = over[bundle.index.sha256], over[target.manifest.sha256]
    _require(bundle, target, trust, over_index, "the release index", keyless)
    if files:
        _require(bundle, target, trust, over_files, "the files of target %s" % target.name, keyless)
    counted = [_counted(found, bundle.project, target.name) for found in (over_index, over_files)]
    return Vouched(counted[0], counted[1], keyless)


def _require_right(
    checker: Checker, signer: Signer, subject: str, envelope: Envelope, bundle: Bundle, target: Target, scratch: Path
) -> None:
    """Raise unless a signature in a signer's name is theirs, and over what it is stored as a signature of."""
    what = "files of target %s" % target.name if subject == target.manifest.sha256 else "release index"
    if not checker.verifies(signer, envelope, scratch):
        raise Problem("The signature over the %s in the name of %s is wrong." % (what, signer.name), AGAIN)
    statement = load_json(envelope.payload, "The statement of a signature", exact=False)
    if not (_is_of_files(statement, target) if subject != bundle.index.sha256 else _is_of_index(statement, subject)):
        message = "%s signed another release: the signature isn't over this %s." % (signer.name, what)
        raise Problem(message, "A signature of another release was put here; ask who made the bundle.")


def _counted(found: List[Signer], project: str, target: str) -> List[Signer]:
    """Return those that count, once for each name and each key: two keys of one signer are one signer."""
    names: Dict[str, Signer] = {}
    for signer in found:
        if not signer.refusal(project, target) and signer.hint not in {each.hint for each in names.values()}:
            names.setdefault(signer.name, signer)
    return list(names.values())


def _require(bundle: Bundle, target: Target, trust: Trust, found: List[Signer], what: str, keyless: bool) -> None:
    counted = _counted(found, bundle.project, target.name)
    if len(counted) >= trust.threshold:
        return
    said = ["%s (%s)" % (each.name, each.refusal(bundle.project, target.name)) for each in found]
    barred = sorted({text for each, text in zip(found, said) if each.refusal(bundle.project, target.name)})
    if not bundle.signatures:
        raise Problem("%s isn't signed, and a signature is asked for." % bundle.folder, "Ask its maker to sign it.")
    message = "%s of the asked signers signed %s, %d must have" % (len(counted) or "None", what, trust.threshold)
    message += "; of no account: %s" % named(barred) if barred else ""
    message += "; %s." % KEYLESS if keyless else "."
    raise Problem(message, "Have it signed by whom the policy or the key names, or ask for the right key.")


class Envelope(NamedTuple):
    """What a Sigstore bundle holds, not verified: the payload, its signatures, and which key it names."""

    payload: bytes
    made: List[bytes]
    material: Dict[str, Any]


def opened_envelope(data: bytes) -> Envelope:
    """Return what a Sigstore bundle holds."""
    outer = load_json(data, "A signature", exact=False)
    try:
        if outer["mediaType"] != SIGNATURE_TYPE:
            raise ValueError("media type")
        envelope = outer["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("payload type")
        payload = base64.b64decode(envelope["payload"], validate=True)
        made = [base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"]]
        material = outer["verificationMaterial"]
        if not isinstance(material, dict):
            raise ValueError("verification material")
        if not 1 <= len(made) <= MAX_MADE:
            raise ValueError("number of signatures")
    except (KeyError, TypeError, ValueError) as error:
        raise Problem("A signature can't be read: wrong %s." % error) from error
    return Envelope(payload, made, material)


def pre_authentication(payload: bytes) -> bytes:
    """Return what DSSE signs: the type and the payload, each with its length."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode("ascii"), len(payload), payload)


def _is_of_index(statement: Dict[str, Any], sha256: str) -> bool:
    subjects = statement.get("subject")
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != PROVENANCE_TYPE:
        return False
    return isinstance(subjects, list) and len(subjects) == 1 and _sha256_of(subjects[0]) == sha256


def _is_of_files(statement: Dict[str, Any], target: Target) -> bool:
    """Whether it speaks of each file of a target, with its digest, and of nothing else."""
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != MODEL_SIGNING_TYPE:
        return False
    try:
        resources, subject = statement["predicate"]["resources"], statement["subject"]
        how = statement["predicate"]["serialization"]
        listed = [(each["name"], each["algorithm"], each["digest"]) for each in resources]
        plain = (how["method"], how["hash_type"], how["allow_symlinks"]) == ("files", "sha256", False)
    except (KeyError, TypeError):
        return False
    wanted = sorted((path, "sha256", blob.sha256) for path, blob in target.files.items())
    if not plain or sorted(map(repr, listed)) != sorted(map(repr, wanted)):
        return False
    # In their order there, which is another one with tools that sort by the parts of paths.
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, _, digest in listed)).hexdigest()
    return isinstance(subject, list) and len(subject) == 1 and _sha256_of(subject[0]) == root


def _sha256_of(subject: Any) -> Any:
    digest = subject.get("digest") if isinstance(subject, dict) else None
    return digest.get("sha256") if isinstance(digest, dict) else None


class Checker:
    """Asks openssl; raises where there is none, or one that is too old for a key."""

    def __init__(self) -> None:
        self._program = shutil.which("openssl") or ""
        if not self._program:
            message = "There is no openssl here, and so no signature can be verified."
            raise Problem(message, "Install the package openssl.", LACKING)
        words = self._run(["version"]).decode("ascii", "replace").split()
        self._knows_raw = len(words) > 1 and words[0] == "OpenSSL" and words[1].split(".")[0] not in ("0", "1")

    def verifies(self, signer: Signer, envelope: Envelope, scratch: Path) -> bool:
        """Whether one of the signatures is that key's over the payload."""
        key, text, signature = (scratch / name for name in ("key", "message", "signature"))
        key.write_text(signer.pem)
        text.write_bytes(pre_authentication(envelope.payload))
        for each in envelope.made:
            signature.write_bytes(each)
            if self._verifies(signer.kind, str(key), str(text), str(signature)):
                return True
        return False

    def _verifies(self, kind: str, key: str, text: str, signature: str) -> bool:
        if kind != ED25519:
            return self._run(["dgst", "-" + kind, "-verify", key, "-signature", signature, text]) == b"Verified OK\n"
        if not self._knows_raw:
            message = "The openssl here can't verify signatures by Ed25519 keys: OpenSSL 3 can."
            raise Problem(message, "Have the release signed by an EC key too.", LACKING)
        start = ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin"]
        return self._run([*start, "-in", text, "-sigfile", signature]) == b"Signature Verified Successfully\n"

    def _run(self, words: List[str]) -> bytes:
        """Return what openssl says, and nothing where it fails."""
        try:
            done = subprocess.run(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=OPENSSL_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Problem("openssl can't be run here: %s." % error, code=LACKING) from error
        return done.stdout if done.returncode == 0 else b""
