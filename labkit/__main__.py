"""The command line: python -m labkit. The Makefile is a thin face on it.

Exit codes: 0 passed, 1 failed, 2 could not run (one sentence says why and what to do).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from labkit import catalog, console, doctor, evidence, grade, learner, live, narrate, progress, quiz
from labkit.pcapng import BadCapture
from labkit.run import CAPTURES, capture_path
from labkit.sandbox import CannotRun


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="labkit", description="A networking lab on real sockets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, about: str, *, lab: bool = True) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        if lab:
            one.add_argument("lab", help="a lab's slug, such as tcp")
        return one

    command("list", "the labs, and how far you are", lab=False).add_argument("--json", action="store_true")
    run = command("run", "run the experiments of a lab")
    run.add_argument("--exp", metavar="NAME", help="only this experiment")
    run.add_argument("--vantage", default="client", metavar="HOST", help="whose view to record (a host, or all)")
    run.add_argument("--json", action="store_true", help="outcomes for machines")
    for name, about in (("serve", "run the lab's server on loopback"), ("connect", "run the lab's client on loopback")):
        one = command(name, about)
        one.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on")
    one = command("exercise", "run your own exercise's server on loopback, to talk to it by hand")
    one.add_argument("--file", type=Path)
    one = command("capture", "record the lab's port on loopback, live")
    one.add_argument("--out", type=Path)
    one.add_argument("--seconds", type=float)
    one = command("check", "check your exercise")
    one.add_argument("--file", type=Path, help="another file than the lab's exercise.py")
    one.add_argument("--watch", action="store_true", help="again whenever the file is saved")
    one.add_argument("--json", action="store_true")
    command("hint", "a hint for the step at which you are; ask again for more")
    one = command("quiz", "questions answered from your own capture")
    one.add_argument("--json", action="store_true", help="questions with the right answers")
    command("progress", "how far you are", lab=False).add_argument("--json", action="store_true")
    command("doctor", "what this machine can do", lab=False).add_argument("--json", action="store_true")
    command("reset", "forget your progress in a lab")
    one = command("wireshark", "open the lab's capture in Wireshark")
    one.add_argument("--exp", metavar="NAME", help="the capture of only this experiment")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    _mend_surroundings()
    options = _parser().parse_args(argv)
    began = time.time()
    try:
        return _dispatch(options)
    except (CannotRun, BadCapture) as error:
        sys.stdout.flush()
        console.complain(f"labkit: {error}")
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. {_recorded_since(began) if options.command == 'run' else ''}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The reader has gone (| head): nothing is wrong.
        return 0
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # It may be the output itself that takes no more.
        print(f"labkit: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 2


def _recorded_since(began: float) -> str:
    """What a command that was stopped leaves in the captures' folder."""
    if any(capture.stat().st_mtime >= began for capture in CAPTURES.glob("*.pcapng")):
        return "What was recorded until now is complete."
    return "Nothing was recorded; earlier captures are untouched."


def _mend_surroundings() -> None:
    """Whatever started us: children are waited for, output is seen line by line, closed streams are /dev/null."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _dispatch(options: argparse.Namespace) -> int:
    if options.command in ("list", "progress"):
        return _list(options.json)
    if options.command == "doctor":
        if options.json:
            print(json.dumps(doctor.as_json(), indent=1))
            return 0
        return doctor.report()
    lab = catalog.lab(options.lab)
    match options.command:
        case "run":
            vantage = None if options.vantage == "all" else options.vantage
            return narrate.run_lab(lab, options.exp, as_json=options.json, vantage=vantage)
        case "serve" | "connect":
            return _module("servers" if options.command == "serve" else "clients", lab, options.arguments)
        case "exercise":
            return _exercise(lab, options.file)
        case "capture":
            out = options.out or capture_path(lab.slug, "live")
            count = live.capture(lab.port, out, console.say, options.seconds)
            console.say(f"{count} packets in {out}")
            return 0
        case "check":
            return _check(lab, options)
        case "hint":
            return grade.hint(lab)
        case "quiz":
            return _quiz(lab, options.json)
        case "reset":
            progress.reset(lab.slug)
            console.say(f"Progress in {lab.slug} is forgotten. Your exercise.py is as you left it.")
            return 0
    return _wireshark(lab, options.exp)


def _list(as_json: bool) -> int:
    notes = progress.load()
    if as_json:
        rows = [{"lab": lab.slug, "number": lab.number, "title": lab.title, "progress": notes.get(lab.slug, {})}
                for lab in catalog.labs()]  # fmt: skip
        print(json.dumps(rows, indent=1))
        return 0
    console.heading("The labs")
    for lab in catalog.labs():
        console.say(f"  {lab.number:02}  {lab.slug:10} {lab.title}")
        console.say(console.style(f"      {'':10} {progress.summary(notes.get(lab.slug, {}))}", "dim"))
    console.say("\nRun one with `make <lab>`, for example `make tcp`.")
    return 0


def _module(package: str, lab: catalog.Lab, arguments: list[str]) -> int:
    """Run servers.<slug> or clients.<slug> as `python -m` would."""
    sys.argv = [f"{package}.{lab.slug}", *arguments]
    try:
        runpy.run_module(f"{package}.{lab.slug}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    return 0


def _exercise(lab: catalog.Lab, file: Path | None) -> int:
    check = lab.module("check")
    role = getattr(check, "BY_HAND", None)
    if role is None:
        raise CannotRun(f"The exercise of {lab.slug} is not a server; there is nothing to talk to by hand.")
    exercise = file or lab.folder / "exercise.py"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", lab.port))
            except OSError as error:
                raise CannotRun(
                    f"Port {lab.port} of this machine: {error.strerror}. Does another server run?"
                ) from None
    console.say(f"Running {os.path.relpath(exercise)} on 127.0.0.1 port {lab.port}. Ctrl-C stops.")
    command = [sys.executable, "-m", "labkit.learner", str(lab.folder / "check.py"), role, str(exercise)]
    for number in (signal.SIGINT, signal.SIGTERM):  # A script's & has SIGINT ignored, which children inherit.
        signal.signal(number, signal.default_int_handler)
    process = subprocess.Popen([*command, "127.0.0.1", str(lab.port)], cwd=catalog.ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:  # Only now, after a moment: where all of us got the signal, it ends by itself.
        return 0
    finally:
        if process.poll() is None:
            learner.end(process.pid)
            process.wait()


def _check(lab: catalog.Lab, options: argparse.Namespace) -> int:
    own = options.file is None
    exercise: Path = (options.file or lab.folder / "exercise.py").resolve()
    if options.json:
        steps, verdicts = grade.grade(lab, exercise)
        print(
            json.dumps(
                [{**v, "title": steps[v["step"]].title, "name": steps[v["step"]].name} for v in verdicts], indent=1
            )
        )
        states = [verdict["state"] for verdict in verdicts]
        return 1 if "failed" in states else 0 if states == ["passed"] * len(steps) else 2
    if not options.watch:
        return grade.report(lab, exercise, own=own)

    def again() -> None:
        try:
            grade.report(lab, exercise, own=own)
        except CannotRun as error:
            print(f"labkit: {error}", file=sys.stderr)

    grade.watch([exercise], again)
    return 0


def _quiz(lab: catalog.Lab, as_json: bool) -> int:
    capture = capture_path(lab.slug)
    if not capture.is_file():
        raise narrate.no_such_capture(lab, capture)
    if as_json:
        print(json.dumps(quiz.as_json(lab, capture), indent=1))
        return 0
    return quiz.ask(lab, capture)


def _wireshark(lab: catalog.Lab, experiment: str | None) -> int:
    capture = capture_path(lab.slug, lab.experiment(experiment).name if experiment else "")
    if not capture.is_file():
        raise narrate.no_such_capture(lab, capture)
    if (path := shutil.which("wireshark")) is None:
        as_text = f" As text: tshark -r {os.path.relpath(capture)}" if shutil.which("tshark") else ""
        raise CannotRun(f"Wireshark is not installed: sudo apt install wireshark.{as_text}")
    return subprocess.call([path, *evidence.NO_GUESS, str(capture)])


if __name__ == "__main__":
    sys.exit(main())
