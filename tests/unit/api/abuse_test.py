#!/usr/bin/python3
"""Clients of mayfly-vmm's control socket that mean harm: each is refused or served, others are answered meanwhile, and the
process's memory stays bounded. Usage: abuse_test.py MAYFLY-VMM"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading

DEADLINE_S = 120
# What all connections together may hold: 256 of them with a body of 51200 bytes and a head of 8192, parsed JSON of that, and answers.
MOST_GROWTH_KIB = 64 << 10
CONNECTIONS = 256
GIB = 1 << 30


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE_S)
    client.connect(path)
    return client


def request(method, target, body=b"", length=None):
    length = len(body) if length is None else length
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode() + body


def status_of(client):
    return int(client.recv(65536).split(b" ", 2)[1])


def ask(path, *words, **more):
    with connect(path) as client:
        client.sendall(request(*words, **more))
        return status_of(client)


def ignore_errors():
    return contextlib.suppress(BrokenPipeError, ConnectionResetError)


# ---- What they do: each returns nothing, or says what was wrong. What is in `held` stays until others were served ----


def a_gibibyte_of_body(path, held):
    """Sends on for as long as it is let."""
    with connect(path) as client:
        client.sendall(request("PUT", "/machine-config", length=GIB))
        block = bytes(1 << 20)
        with ignore_errors():
            for _ in range(GIB // len(block)):
                client.sendall(block)
        with ignore_errors():
            if (status := status_of(client)) != 413:
                return f"answered {status}, not 413"


def a_head_without_end(path, held):
    with connect(path) as client:
        with ignore_errors():
            client.sendall(b"GET / HTTP/1.1\r\n")
            for number in range(1 << 20):
                client.sendall(b"X-%d: %d\r\n" % (number, number))
        with ignore_errors():
            if (status := status_of(client)) not in (400, 431):
                return f"answered {status}, not 431"


def nesting(path, held):
    for text in (b"[" * 51200, b'{"a":' * 10000, b"[" * 25600 + b"]" * 25600):
        if (status := ask(path, "PUT", "/mmds", body=text)) != 400:
            return f"answered {status}, not 400"


def many_small_values(path, held):
    """Of what JSON can be in a body, this takes the most memory."""
    clients = [held.enter_context(connect(path)) for _ in range(CONNECTIONS // 2)]
    for client in clients:
        client.sendall(request("PUT", "/mmds", body=b'{"a":[' + b"{}," * 17000 + b"{}]}"))
    statuses = {status_of(client) for client in clients}
    if statuses != {204}:
        return f"answered {statuses}"


def bodies_that_never_end(path, held):
    for _ in range(CONNECTIONS):
        held.enter_context(connect(path)).sendall(request("PUT", "/mmds", body=b" " * 51000, length=51200))


def clients_that_never_read(path, held):
    for _ in range(CONNECTIONS):
        client = held.enter_context(connect(path))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                client.sendall(request("GET", "/vm/config") * 64)


def a_thousand_clients(path, held):
    statuses, lock = [], threading.Lock()

    def one():
        # A connection may have to give way to others before it has asked; then it asks again.
        for _ in range(100):
            with ignore_errors(), contextlib.suppress(IndexError, ValueError, BlockingIOError):
                status = ask(path, "GET", "/version")
                with lock:
                    statuses.append(status)
                return

    threads = [threading.Thread(target=one) for _ in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if statuses != [200] * 1000:
        return f"{statuses.count(200)} of 1000 were answered"


ABUSES = (a_gibibyte_of_body, a_head_without_end, nesting, many_small_values, bodies_that_never_end, clients_that_never_read, a_thousand_clients)


def most_memory_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s*(\d+) kB", f.read())[1])


def main():
    vmm = sys.argv[1]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "api.sock")
        told, tell = os.pipe()
        # What was freed is given back soon, also under the address sanitizer.
        options = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
        process = subprocess.Popen([vmm, "--api-sock", path, "--notify-fd", str(tell), "--level", "Off"], pass_fds=[tell],
                                   stdin=subprocess.DEVNULL, env=dict(os.environ, ASAN_OPTIONS=options))
        try:
            assert os.read(told, 64) == b"socket\n"
            assert ask(path, "GET", "/") == 200
            before = most_memory_kib(process.pid)
            for abuse in ABUSES:
                with contextlib.ExitStack() as held:
                    wrong = abuse(path, held)
                    if (status := ask(path, "GET", "/")) != 200:
                        wrong = f"somebody else was answered {status}"
                grown = most_memory_kib(process.pid) - before
                if grown > MOST_GROWTH_KIB:
                    wrong = wrong or f"memory grew by {grown} KiB"
                print(f"{'FAILED' if wrong else 'ok':8}{abuse.__name__.replace('_', ' ')}: {wrong or f'{grown} KiB more than at first'}", flush=True)
                failed += bool(wrong)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
