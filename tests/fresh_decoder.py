"""Decoding in a process that has only ever decoded: one for all tests, since it takes seconds to start.

The process reads a line with a JSON list of messages' paths and answers with a line of what `digests` says of each.
"""

import hashlib
import json
import subprocess
import sys


def digests(model):
    """SHA-256 of every parameter and buffer by name, and of a smoothing head's alphas and values if there is one."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found = {name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest() for name, value in tensors}
    head = getattr(model, "smoothing_head", None)
    if head is not None:
        alphas = str(head.alphas).encode()
        found["smoothing head"] = hashlib.sha256(alphas + head.values().tobytes()).hexdigest()
    return found


class FreshDecoder:
    """A child process, started when it is first asked."""

    def __init__(self, folder):
        self._folder, self._child = folder, None

    def __call__(self, paths):
        """The digests of the models that messages decode to; both sides work in `folder`, which is empty."""
        if self._child is None:
            command = [sys.executable, __file__]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self._folder
            )
        self._child.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        assert answer, "the process that decodes has ended; its error is above"
        return json.loads(answer)

    def close(self):
        """End the process."""
        if self._child is not None:
            self._child.kill()  # it has nothing to save, and its libraries take seconds to shut down
            self._child.communicate()
            self._child = None


def _serve():
    from tokenbounds.messages.decode import decode_message

    for line in sys.stdin:
        print(json.dumps([digests(decode_message(path)) for path in json.loads(line)]), flush=True)


if __name__ == "__main__":
    _serve()
