"""Checks a release on the device that it is for, and installs it there: Python 3.8's standard library, nothing else.

::

    verify.py check BUNDLE --key team.pub | --policy trust.json | --trust-unsigned | --no-run
    verify.py install BUNDLE --root FOLDER --key team.pub | --policy trust.json | --trust-unsigned
    verify.py roll-back --root FOLDER
    verify.py status --root FOLDER

To see whether a device fits and answers right, the bundle's own runner is run there. So a key or a policy has to say
who vouches for it; --trust-unsigned runs the bundle's own runner though nobody vouches for it. --no-run runs nothing.

Exit codes: 0 all is as it should be; 7 refused (changed, not trusted, for another device, wrong answers); 6 something
is missing on this machine; 2 the command makes no sense; 130 stopped by Ctrl-C; 1 a fault of this program, whose
traceback EDGEBUILD_TRACEBACK=1 prints.

A verify.py that came in a bundle says of that bundle what the bundle's maker wants it to say: keep one from a maker
whom you trust, and check bundles with that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .documents import LACKING, MAX_NAMED, MAX_SAID, REFUSED, USAGE, Problem, named, shown
from .installing import install, roll_back, status
from .printing import Parser, hold_streams, print_lines
from .reading import Bundle, Target
from .running import LATENCY_FACTOR, How, Runner, Source, latency_of, require_fit, require_right_answers
from .signatures import KEYLESS, Signer, Trust, Vouched, trust_in_keys, trust_of_policy, verify_signatures
from .slots import Slot, opened_slots, slots_in

KEEP = 3
UNFORESEEN, INTERRUPTED = 1, 130
TRACEBACK = "EDGEBUILD_TRACEBACK"


def main(words: Optional[List[str]] = None) -> int:
    """Run one command and return its exit code, whether or not its report can be printed."""
    hold_streams()
    options = _parser().parse_args(words)
    report: Dict[str, Any] = {"command": options.command, "warnings": []}
    code = 0
    try:
        code = options.run(options, report)
    except Problem as error:
        code = error.code
        report.update(message=error.message, hint=error.hint)
    except OSError as error:
        code = LACKING
        report.update(message="This machine stops it: %s." % error, hint="Check the disk's room and the rights.")
    except KeyboardInterrupt:
        code = INTERRUPTED
        report.update(message="It was stopped.", hint="")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told in a sentence
        code = UNFORESEEN
        message = "A fault of this program stopped it: %s: %s." % (type(error).__name__, shown(error))
        report.update(message=message, hint="Report it, with what it prints where %s=1 is set." % TRACEBACK)
        if os.environ.get(TRACEBACK):
            print_lines(traceback.format_exc().split("\n"), sys.stderr)
    report.update(ok=code == 0, exit_code=code)
    if options.json:
        print_lines([json.dumps(report, sort_keys=True, allow_nan=False)], sys.stdout)
    else:
        print_lines(told(report), sys.stderr if code else sys.stdout)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="verify.py", description="Checks and installs a release on its device.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    check = commands.add_parser("check", help="check a bundle: every byte, who signed it, this device, its answers")
    check.set_defaults(run=_check)
    check.add_argument("--no-run", action="store_true", help="run nothing: only check the bytes and the signatures")
    check.add_argument("--no-latency", action="store_true", help="don't measure what it takes here")
    check.add_argument("--strict", action="store_true", help="refuse a latency that is not as recorded")
    put = commands.add_parser("install", help="check a bundle, and make it the current release in a folder")
    put.set_defaults(run=_install)
    put.add_argument("--keep", type=_whole, default=KEEP, help="how many releases are kept (%d)" % KEEP)
    put.add_argument("--allow-downgrade", action="store_true", help="allow a version older than the installed one")
    back = commands.add_parser("roll-back", help="make the previous release the current one")
    back.set_defaults(run=_roll_back)
    state = commands.add_parser("status", help="say what is installed, and whether it is whole")
    state.set_defaults(run=_status)
    for command in (check, put):
        command.add_argument("bundle", metavar="BUNDLE", help="the folder of the release")
        command.add_argument("--target", help="which of its targets; where left out, the one that fits this device")
        trust = command.add_mutually_exclusive_group()
        trust.add_argument("--key", action="append", default=[], help="a public key; one of several is enough")
        trust.add_argument("--policy", help="a file that says who may sign what, and how many must")
        trust.add_argument(
            "--trust-unsigned", action="store_true", help="run the bundle's own runner though nobody vouches for it"
        )
        command.add_argument(
            "--files", action="store_true", help="ask for a Model Signing signature over the files too"
        )
    for command in (put, back, state):
        command.add_argument("--root", required=True, help="the folder of the installed releases")
    for command in (check, put, back):
        command.add_argument("--python", default=sys.executable, help="the Python that has the runtime")
        command.add_argument("--allow-native-libraries", action="store_true", help="let it run native code it brings")
    for command in (check, put, back, state):
        command.add_argument("--json", action="store_true", help="print one object of JSON")
    return parser


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _check(options: Any, report: Dict[str, Any]) -> int:
    bundle, trust = _opened(options, report)
    if options.no_run:
        targets = [_named(bundle, options.target)] if options.target else list(bundle.targets.values())
        for target in targets:
            _vouch(bundle, target, trust, options, report)
        report["warnings"].append("nothing was run: whether it fits this device and answers right is open")
        return 0
    _require_trust(trust, options)
    with _fitting(bundle, trust, options, report) as (source, runner):
        report["answers"] = require_right_answers(source, runner)._asdict()
        latency = None if options.no_latency else latency_of(source, runner)
    if latency is None:
        return 0
    report["latency"] = {**latency._asdict(), "inside": latency.inside}
    if latency.inside:
        return 0
    message = "it takes %.3g ms here, recorded is %.3g to %.3g ms (with a factor of %g on each side)"
    message %= (latency.found_ms, latency.low_ms, latency.high_ms, LATENCY_FACTOR)
    if options.strict:
        raise Problem("The latency is outside: %s." % message, "Look for other load, clocks and power modes.")
    report["warnings"].append(message)
    return 0


def _install(options: Any, report: Dict[str, Any]) -> int:
    bundle, trust = _opened(options, report)
    _require_trust(trust, options)
    with _fitting(bundle, trust, options, report) as (source, _):
        target = source.target
    with opened_slots(options.root, new=True) as slots:
        slot = install(slots, bundle, target, _how(options), options.allow_downgrade)
        report["removed"] = slots.collect(options.keep)
    _tell_slot(slot, report)
    return 0


def _roll_back(options: Any, report: Dict[str, Any]) -> int:
    with opened_slots(options.root) as slots:
        _tell_slot(roll_back(slots, _how(options)), report)
    return 0


def _status(options: Any, report: Dict[str, Any]) -> int:
    report.update(status(slots_in(options.root)))
    if report["damaged"]:
        raise Problem("The current release is damaged: %s." % named(report["damaged"]), "Install it again.")
    return 0


def _tell_slot(slot: Slot, report: Dict[str, Any]) -> None:
    release = slot.target.release
    report.update({field: release[field] for field in ("project", "version", "target")})
    report["slot"] = str(slot.folder)


def _opened(options: Any, report: Dict[str, Any]) -> Tuple[Bundle, Optional[Trust]]:
    """Return a bundle whose every byte was checked, and whom it has to be signed by."""
    trust = trust_in_keys(options.key) if options.key else None
    if options.policy:
        trust = trust_of_policy(options.policy)
    if options.files and trust is None:
        raise Problem("--files asks for a signature, and nothing says by whom.", "Give --key or --policy.", USAGE)
    bundle = Bundle(Path(options.bundle))
    report.update(project=bundle.project, version=bundle.version, digest="sha256:" + bundle.index.sha256)
    if bundle.overridden:
        report["warnings"].append(bundle.overridden)
    if trust is None:
        said = "signed, but no key was given to check it with" if bundle.signatures else "not signed"
        report["warnings"].append("nobody vouches for this bundle: it is %s" % said)
    return bundle, trust


def _require_trust(trust: Optional[Trust], options: Any) -> None:
    """Raise where nobody vouches for what would be run, and nobody said to run it all the same."""
    if trust is None and not options.trust_unsigned:
        message = "Nobody vouches for this bundle, and to go on its own runner would be run."
        hint = "Give --key or --policy; or --trust-unsigned, where you trust its maker. check --no-run runs nothing."
        raise Problem(message, hint)


def _named(bundle: Bundle, name: str) -> Target:
    if name not in bundle.targets:
        raise Problem("It has no target '%s', but %s." % (shown(name), named(sorted(bundle.targets))), code=USAGE)
    return bundle.targets[name]


def _vouch(bundle: Bundle, target: Target, trust: Optional[Trust], options: Any, report: Dict[str, Any]) -> None:
    if trust is not None:
        vouched = verify_signatures(bundle, target, trust, options.files)
        if vouched.keyless and KEYLESS not in report["warnings"]:
            report["warnings"].append(KEYLESS)
        report.setdefault("signed", {})[target.name] = {what: _who(vouched, what) for what in ("index", "files")}


def _who(vouched: Vouched, what: str) -> List[Dict[str, str]]:
    signers: List[Signer] = getattr(vouched, "over_" + what)
    return [{"name": each.name, "key": each.hint} for each in signers]


@contextlib.contextmanager
def _fitting(bundle: Bundle, trust: Optional[Trust], options: Any, report: Dict[str, Any]) -> Iterator[Any]:
    """Yield where the files of the one target are that fits this device, and its runner; it isn't opened yet."""
    asked = [_named(bundle, options.target)] if options.target else list(bundle.targets.values())
    fits: List[Tuple[Source, Runner, List[str]]] = []
    refused: List[Problem] = []
    with tempfile.TemporaryDirectory(prefix="edgebuild-verify-") as scratch:
        for number, target in enumerate(asked):
            source = Source(target, {path: bundle.path(blob) for path, blob in target.files.items()})
            folder = Path(scratch, str(number))
            folder.mkdir()
            try:
                _vouch(bundle, target, trust, options, report)
                fits.append((source, *require_fit(source, _how(options), folder)))
            except Problem as error:
                refused.append(error)
        if not fits:
            code = REFUSED if len({each.code for each in refused}) > 1 else refused[0].code
            raise Problem(named([each.message for each in refused], " ", MAX_SAID), refused[0].hint, code)
        if len(fits) > 1:
            names = named([source.target.name for source, _, _ in fits])
            raise Problem("Several targets fit this device: %s." % names, "Choose one with --target.", USAGE)
        source, runner, doubtful = fits[0]
        report["target"] = source.target.name
        report["warnings"] += doubtful
        yield source, runner


def _how(options: Any) -> How:
    return How(options.python or "python3", options.allow_native_libraries)


def told(report: Dict[str, Any]) -> List[str]:
    """Return what people read of a report: lines in which nothing that it holds can begin another one."""
    lines = []
    if "version" in report:
        target = " for %s" % shown(report["target"]) if "target" in report else ""
        lines.append("release   %s %s%s" % (shown(report["project"]), shown(report["version"]), target))
    if "digest" in report:
        lines.append("bytes     all as released (%s)" % shown(report["digest"]))
    lines += _told_signers(report.get("signed", {}))
    if "answers" in report:
        said = report["answers"]
        share = "%.2g of what may be" % said["excess"] if said["excess"] else "not at all"
        lines.append("answers   right on %d frames; off: %s" % (said["frames"], share))
    if "latency" in report:
        inside = "inside" if report["latency"]["inside"] else "outside"
        lines.append("latency   %.3g ms: %s what was recorded" % (report["latency"]["found_ms"], inside))
    if "slot" in report:
        lines.append("current   %s" % shown(report["slot"], MAX_SAID))
    for field in ("current", "previous"):
        each = report.get(field) or {}
        if "version" in each:
            said = tuple(shown(each[name]) for name in ("project", "version", "target"))
            lines.append("%-9s %s %s for %s" % (field, *said))
    lines += _first(["warning   %s" % shown(text, MAX_SAID) for text in report["warnings"]])
    if "message" in report:
        lines.append("verify.py: %s" % shown(report["message"], MAX_SAID))
        lines += ["  how to fix it: %s" % shown(report["hint"], MAX_SAID)] if report["hint"] else []
    return lines


def _told_signers(signed: Dict[str, Any]) -> List[str]:
    lines = []
    for target, who in sorted(signed.items()):
        files = "the files of %s" % shown(target)
        for what, whole in (("index", "the release index, and so everything"), ("files", files)):
            said = [(whole, shown(each["name"]), shown(each["key"])) for each in who[what]]
            lines += ["signed    %s, by %s (key %s)" % each for each in said]
    return _first(lines)


def _first(lines: List[str]) -> List[str]:
    more = len(lines) - MAX_NAMED
    return lines[:MAX_NAMED] + (["          and %d more" % more] if more > 0 else [])


if __name__ == "__main__":
    sys.exit(main())
