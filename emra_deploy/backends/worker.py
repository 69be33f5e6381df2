"""The process behind `emra_deploy.backends.isolated`: owns a backend and answers requests.

Messages are JSON over a socket; pictures and labels are in shared memory. When the other end closes the socket, this
process ends.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.shared_memory import place
from emra_deploy.errors import EmraError


def main(socket: int, memory: int) -> None:
    """Serve until the other end closes the socket.

    Args:
        socket: Descriptor of the socket.
        memory: Descriptor of the shared memory.
    """
    # Libraries print to standard output, which belongs to the user.
    os.dup2(2, 1)
    connection = Connection(socket)
    served: Backend | None = None
    try:
        while True:
            asked = json.loads(connection.recv_bytes())
            try:
                if served is None:
                    served, answer = _open(asked)
                else:
                    answer = _run(served, memory, asked)
            except EmraError as error:
                answer = {"error": error.to_dict()}
            except Exception:
                answer = {"bug": traceback.format_exc()}
            connection.send_bytes(json.dumps(answer).encode())
    except (EOFError, OSError):
        return


def _open(asked: dict[str, Any]) -> tuple[Backend, dict[str, Any]]:
    from emra_deploy.backends.opening import open_backend

    logging.basicConfig(level=logging.WARNING, format="emra: %(levelname)s: %(message)s")
    logging.getLogger("emra_deploy").setLevel(asked["log"])
    backend = open_backend(asked["path"], LoadOptions(**asked["options"]))
    return backend, {
        "name": backend.name,
        "input_shape": backend.input_shape,
        "facts": backend.describe(),
        "manifest": backend.manifest.to_json(),
    }


def _run(backend: Backend, memory: int, asked: dict[str, Any]) -> dict[str, Any]:
    _, height, width = backend.input_shape
    shape = (asked["count"], height, width, 3)
    # Unmapped with the last array that refers to it, which an error's traceback may keep alive for a while.
    space: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(memory, asked["size"]), np.uint8)
    size = int(np.prod(shape))
    outputs = backend.run(space[:size].reshape(shape))
    offsets = place([size, *(value.nbytes for value in outputs.values())])
    answer = []
    for (name, value), offset in zip(outputs.items(), offsets[1:-1], strict=True):
        content = np.ascontiguousarray(value)
        space[offset : offset + content.nbytes] = content.reshape(-1).view(np.uint8)
        answer.append([name, str(content.dtype), list(content.shape), offset])
    return {"outputs": answer}
