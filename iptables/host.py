"""The two things that touch the machine: running programs and opening sockets.

A `Host` stands for one network namespace: by itself the one that the process is in. Tests and
tools give another one, which enters a namespace for every program and socket; nothing else
in this package knows the difference.
"""

import functools
import shutil
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import trio

from iptables.errors import HostError, ProgramMissingError, command_error

TIMEOUT = 60.0  # seconds; giving the kernel 100,000 endpoints takes 2 to 6


class Log(Protocol):
    """What we need of a logger; structlog's have it."""

    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


class Silent:
    """A logger for those who want none."""

    def info(self, event: str, **fields: Any) -> None:
        pass

    warning = error = info


class Host:
    """This process' own network namespace."""

    def has(self, program: str) -> bool:
        return shutil.which(program) is not None

    def command(self, command: Sequence[str]) -> list[str]:
        """The argument list that runs a command here."""
        return list(command)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        return socket.socket(family, kind, protocol)

    async def run(self, *command: str, text: str | None = None, timeout: float = TIMEOUT) -> str:
        """Run a program, give it `text` on stdin, return its stdout; InterceptionError."""
        code, out, words = await self.attempt(*command, text=text, timeout=timeout)
        if code != 0:
            raise command_error(command, code, words or out)
        return out

    async def attempt(
        self, *command: str, text: str | None = None, timeout: float = TIMEOUT
    ) -> tuple[int | None, str, str]:
        """Like `run`, but a failure is returned: exit code (None: no end in time) and output."""
        if not self.has(command[0]):
            raise ProgramMissingError(command[0])
        start = functools.partial(
            trio.run_process,
            self.command(command),
            stdin=(text or "").encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        try:
            with trio.move_on_after(timeout):
                done = await start()
                return (
                    done.returncode,
                    done.stdout.decode(errors="replace"),
                    done.stderr.decode(errors="replace"),
                )
        except OSError as error:
            raise HostError(f"{command[0]} cannot be run", error) from error
        return None, "", ""
