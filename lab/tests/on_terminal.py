#!/usr/bin/env python3
"""Runs a command on a terminal of 31 rows and 97 columns, and plays a dialogue with it.

usage: on_terminal.py 'EXPECTED=>SENT' ... -- COMMAND...

For each pair: waits until EXPECTED has been printed, then types SENT (escapes such as \\x03 work), or with "RESIZE"
changes the size to 40 by 120. Prints all that the command printed; the status is the command's, or 1 when it hung.
"""

import codecs
import fcntl
import os
import pty
import select
import struct
import sys
import termios

split = sys.argv.index("--")
dialogue = [pair.split("=>", 1) for pair in sys.argv[1:split]]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[split + 1], sys.argv[split + 1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
shown, searched = b"", 0
while True:
    ready, _, _ = select.select([terminal], [], [], 300)
    if not ready:
        print("hung; so far:", shown.decode(errors="replace"))
        sys.exit(1)
    try:
        got = os.read(terminal, 65536)
    except OSError:
        break
    if not got:
        break
    shown += got
    while dialogue and (at := shown.find(dialogue[0][0].encode(), searched)) >= 0:
        searched = at + len(dialogue[0][0])
        sent = dialogue.pop(0)[1]
        if sent == "RESIZE":
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        else:
            os.write(terminal, codecs.decode(sent, "unicode_escape").encode("latin-1"))
print(shown.decode(errors="replace"), end="")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
