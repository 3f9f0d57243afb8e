"""What lab/run, lab/start and lab/stop do."""

import os
import re
import signal
import sys
import time

from common import FileLock, LabError, Lockup, ROOT, STATUS_LAB, STATUS_LOCKUP, Stopped, say, state_folder
from options import Option, parse, seconds, whole_number
import client
import machine

RUN_HELP = """usage: lab/run [options] [--] COMMAND [ARGUMENT...]

Runs COMMAND on an emulated host: a Linux with a working /dev/kvm, on a CPU with AMD-V that QEMU emulates. It is how to
try Mayfly, and how its tests run Linux guests, on a machine without hardware virtualization.

COMMAND sees this machine's files at the same paths, your working directory and the usual part of your environment, and
is root. Its standard input, output and error and its exit status are lab/run's own; on a terminal it has a terminal.
What it writes is forgotten when the lab ends, except under $LAB_OUT (build/lab-out), which is the same folder outside.

  lab/run ls -l /dev/kvm                             boots a lab for one command (some seconds)
  lab/run build/release/bin/mayfly run -- uname -a   Mayfly where there is no hardware virtualization
  lab/run bash                                       look around
  lab/start; lab/run A; lab/run B; lab/stop          one boot for many commands; they may run at once

  --timeout SECONDS      kill COMMAND and all it started after that time: status 124
  --env KEY[=VALUE]      pass another environment variable (repeatable)
  --no-stdin, -n         give COMMAND an empty standard input
  --keep                 use the kept lab; start it if there is none, and leave it running
  --fresh                boot a lab for this command even when a kept one is running
  --retry-on-lockup N    when the emulated host locked up, and only then, run COMMAND again, up to N times
  --cold                 start the lab from power-on, not from a saved state
  --update               fetch the newest kernel package apt has for the lab
 of the lab, when one is started:
  --name NAME            which kept lab (default: $MAYFLY_LAB or 'default'); kept labs belong to this source tree
  --cpus N               1 to 16 (1)            --memory MIB    512 to 65536 (4096)
  --slots N              commands at once, 1 to 24 (8)
  --out DIR              the folder that is shared writable (build/lab-out)
  --idle SECONDS         a kept lab ends itself when unused that long (3600)
  --owner PID            a kept lab ends when that process does

Status: COMMAND's own (128+N when signal N ended it); 123 the emulated host locked up or was stopped; 124 --timeout;
125 the lab itself failed; 126, 127 COMMAND cannot be run, is not found. Times measured inside mean nothing but in ratio.
"""

START_HELP = """usage: lab/start [--name NAME] [--cpus N] [--memory MIB] [--slots N] [--out DIR] [--idle SECONDS]
                 [--owner PID]

Starts the lab that lab/run then uses, until lab/stop. Starting one that runs is no error. lab/run --help says more.
"""

STOP_HELP = """usage: lab/stop [--name NAME | --all]

Ends the kept lab of this source tree, with whatever runs in it; --all ends all of yours. None running is no error.
"""


def lab_name(text):
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,24}", text) or text.startswith("."):
        raise ValueError("1 to 24 of letters, digits, '_', '-', '.'")
    return text


def process(text):
    if not text.isdigit() or not os.path.exists("/proc/" + text):
        raise ValueError("the number of a running process")
    return int(text)


HELP_OPTIONS = [Option("--help"), Option("-h")]
LAB_OPTIONS = [
    Option("--name", "NAME", lab_name, os.environ.get("MAYFLY_LAB") or "default"),
    Option("--cpus", "N", whole_number(1, 16)), Option("--memory", "MIB", whole_number(512, 65536)),
    Option("--slots", "N", whole_number(1, 24)), Option("--out", "DIR"), Option("--idle", "SECONDS", seconds),
    Option("--owner", "PID", process),
    Option("--update"), Option("--cold")]
RUN_OPTIONS = HELP_OPTIONS + LAB_OPTIONS + [
    Option("--timeout", "SECONDS", seconds), Option("--env", "KEY[=VALUE]", repeat=True), Option("--no-stdin"),
    Option("-n"), Option("--keep"), Option("--fresh"), Option("--retry-on-lockup", "N", whole_number(0, 100), 0)]

PASSED = re.compile(r"(PATH|HOME|USER|LOGNAME|SHELL|TERM|COLORTERM|NO_COLOR|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|CI|"
                    r"EDITOR|PAGER|MAYFLY_\w+|LAB_\w+)")


def kept_state(name):
    try:
        lab_name(name)
    except ValueError as error:
        raise LabError("the lab's name ($MAYFLY_LAB) wants %s, not '%s'" % (error, name)) from None
    # The tree's own path keeps apart the labs of two clones.
    tree = "%08x" % (hash_text(ROOT) & 0xFFFFFFFF)
    return os.path.join(state_folder(), "%s-%s" % (tree, name))


def hash_text(text):
    value = 2166136261  # FNV-1a
    for byte in os.fsencode(text):
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


def settings_of(options):
    out = os.path.abspath(options["--out"] or os.path.join(ROOT, "build", "lab-out"))
    os.makedirs(out, exist_ok=True)
    if not os.access(out, os.W_OK):
        say("nothing can be written to %s; --out names another folder for results" % out)
    return machine.Settings(options["--cpus"] or 1, options["--memory"] or 4096, options["--slots"] or 8, out)


def environment_of(options, out):
    passed = {key: value for key, value in os.environ.items() if PASSED.fullmatch(key)}
    passed.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    for entry in options["--env"]:
        key, equals, value = entry.partition("=")
        if equals:
            passed[key] = value
        elif key in os.environ:
            passed[key] = os.environ[key]
    passed.update(LAB_OUT=out, MAYFLY_IN_LAB="1")
    return passed


def prepare(options, settings):
    """What a lab starts from: the files of its image, and the saved host (or None)."""
    import image  # what these import would cost each command in a kept lab more than the command
    import saved
    files = image.prepare(options["--update"])
    return files, None if options["--cold"] else saved.prepare(settings, files)


def everyone_waits():
    """Held while labs are looked for, started or cleared away."""
    return FileLock(os.path.join(state_folder(), "lock"))


def start_kept(options):
    """Starts the kept lab unless it runs. Returns (its state folder, whether it ran already)."""
    state = kept_state(options["--name"])
    with everyone_waits():
        if machine.alive(state):
            check_same(options, state)
            return state, True
        machine.remove_rubbish(state_folder())
        settings = settings_of(options)
        files, saved = prepare(options, settings)
        machine.start_keeper(state, settings, files, saved, owner=options["--owner"] or 0, restarts=True,
                             idle_limit=options["--idle"] or 3600)
    return state, False


def check_same(options, state):
    """A kept lab is not what it was asked to be: better said than silently used."""
    info = machine.read_info(state) or {}
    for name, key in (("--cpus", "cpus"), ("--memory", "memory"), ("--slots", "slots"), ("--out", "out")):
        wanted = os.path.abspath(options[name]) if name == "--out" and options[name] else options[name]
        if wanted and key in info and info[key] != wanted:
            raise LabError("the lab '%s' is running with %s %s; lab/stop it first, or give another --name"
                           % (options["--name"], name, info[key]))


def run_here(arguments):
    """Inside a lab there is no need of another."""
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from error


def run_once(options, arguments, directory):
    """Boots a lab, runs the command, ends the lab."""
    state = os.path.join(state_folder(), "once-%d" % os.getpid())
    with everyone_waits():
        machine.remove_rubbish(state_folder())
        settings = settings_of(options)
        files, saved = prepare(options, settings)
        keeper = machine.start_keeper(state, settings, files, saved, owner=os.getpid())
    try:
        return client.run_command(state, arguments, environment_of(options, settings.out), directory,
                                  options["--timeout"], use_stdin(options), forget_files=False)
    finally:
        for number in client.FORWARDED:
            signal.signal(number, signal.SIG_IGN)
        machine.tell_until_listening(state, "stop")
        os.waitpid(keeper, 0)


def run_in_kept(state, options, arguments, directory):
    info = wait_for_info(state)
    return client.run_command(state, arguments, environment_of(options, info["out"]), directory,
                              options["--timeout"], use_stdin(options), forget_files=True)


def wait_for_info(state):
    while machine.alive(state):
        info = machine.read_info(state)
        if info:
            return info
        time.sleep(0.01)
    raise LabError("the lab ended")


def working_directory():
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise LabError("the working directory is gone") from None


def use_stdin(options):
    return not (options["--no-stdin"] or options["-n"])


def run(arguments):
    options, command = parse(arguments, RUN_OPTIONS)
    if options["--help"] or options["-h"]:
        print(RUN_HELP, end="")
        return 0
    if not command:
        raise LabError("no command given (lab/run --help)")
    if os.environ.get("MAYFLY_IN_LAB"):
        run_here(command)
    if options["--keep"] and options["--fresh"]:
        raise LabError("--keep and --fresh exclude each other")
    attempts = options["--retry-on-lockup"]
    while True:
        try:
            return run_somewhere(options, command, working_directory())
        except Stopped:
            say("the lab was stopped while the command ran")
            return STATUS_LOCKUP
        except Lockup as lockup:
            again = attempts > 0 and not (lockup.input_used and use_stdin(options))
            then = "starting afresh" if again or lockup.kept else "giving up"
            say("the emulated host locked up (%s); %s" % (lockup, then))
            say("its console is in " + os.path.join(lockup.out, machine.CONSOLE_COPY))
            if not again:
                if attempts:
                    say("not running the command again: its standard input is used up")
                return STATUS_LOCKUP
            attempts -= 1
            say("running the command again")


def run_somewhere(options, command, directory):
    """In the kept lab if there is one to use, or else in one for this command."""
    state = kept_state(options["--name"])
    if options["--keep"]:
        state, _ = start_kept(options)
    kept = not options["--fresh"] and machine.alive(state)
    out = wait_for_info(state)["out"] if kept else settings_of(options).out
    try:
        if not kept:
            return run_once(options, command, directory)
        check_same(options, state)
        return run_in_kept(state, options, command, directory)
    except Lockup as lockup:
        lockup.kept, lockup.out = kept, out
        raise


def start(arguments):
    options, rest = parse(arguments, HELP_OPTIONS + LAB_OPTIONS)
    if options["--help"] or options["-h"]:
        print(START_HELP, end="")
        return 0
    if rest:
        raise LabError("lab/start takes no command (lab/run does)")
    state, ran = start_kept(options)
    begin = time.monotonic()
    try:
        client.run_command(state, ["true"], {"PATH": os.defpath}, "/", 0, False, False)
    except (LabError, Lockup, Stopped) as error:
        machine.tell(state, "stop")
        raise LabError("the lab did not start: %s" % error) from None
    say("'%s' is up%s" % (options["--name"], " already" if ran else " after %.1f s" % (time.monotonic() - begin)))
    return 0


def stop(arguments):
    options, rest = parse(arguments, HELP_OPTIONS + [LAB_OPTIONS[0], Option("--all")])
    if options["--help"] or options["-h"]:
        print(STOP_HELP, end="")
        return 0
    if rest:
        raise LabError("unexpected '%s' (lab/stop --help)" % rest[0])
    folder = state_folder()
    states = [kept_state(options["--name"])]
    if options["--all"]:
        states = [os.path.join(folder, name) for name in os.listdir(folder)
                  if os.path.isdir(os.path.join(folder, name))]
    for state in states:
        if machine.alive(state):
            machine.tell_until_listening(state, "stop")
            machine.wait_until_gone(state)
    with everyone_waits():
        machine.remove_rubbish(folder)
    return 0


def open_missing_streams():
    """Nothing of ours may become number 0, 1 or 2, should the caller have closed it."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)


def main(action):
    open_missing_streams()
    try:
        sys.exit(action(sys.argv[1:]))
    except (LabError, OSError) as error:
        say(str(error))
        sys.exit(STATUS_LAB)
    except KeyboardInterrupt:
        sys.exit(130)
