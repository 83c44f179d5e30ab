"""What a fault in reading a hostile file could do to the process that reads it."""

import ctypes
import os
import socket
import subprocess
import tempfile
from pathlib import Path

from tokenbounds.errors import MessageError

C = ctypes.CDLL(None, use_errno=True)


def fill():
    return len(bytearray(1 << 30))


def loop():
    while True:
        pass


def crash():
    ctypes.string_at(0)


def fail():
    raise ValueError("\x1b[31mnot expected\nat all")


def refuse():
    print("not an answer")
    raise MessageError("m.tbm: refused")


def connect(port):
    socket.create_connection(("127.0.0.1", port))


def connect_in_c(port):
    address = (2).to_bytes(2, "little") + port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    return C.connect(C.socket(2, 1, 0), address, 16)


def write(path):
    Path(path).write_text("written")


def write_in_c(path):
    return C.open(path.encode(), os.O_WRONLY | os.O_CREAT, 0o600)


def run():
    subprocess.run(["true"])


def work(text):
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(text)
        file.seek(0)
        return [file.read(), Path(file.name).parent == Path(os.environ["TMPDIR"])]
