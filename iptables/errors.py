"""What can go wrong between us and the kernel's packet filter, in an operator's words.

Every error carries `hint`: what to look at or to do. `str(error)` has both.
"""

from collections.abc import Sequence


class InterceptionError(Exception):
    """Something in the way of interception."""

    hint = "nodeproxy rules verify shows what is in place"

    def __init__(self, message: str, hint: str | None = None) -> None:
        if hint is not None:
            self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.hint}" if self.hint else str(self.args[0])


class NotPermittedError(InterceptionError):
    """The kernel refused: the process lacks a capability."""

    hint = (
        "run as root or with CAP_NET_ADMIN and CAP_NET_RAW in the network namespace of the node"
        " (systemd: AmbientCapabilities=, Kubernetes: hostNetwork and securityContext.capabilities)"
    )


class ProgramMissingError(InterceptionError):
    """A program that we call is not installed."""

    def __init__(self, program: str) -> None:
        package = {"ipset": "ipset", "nft": "nftables"}.get(program, "iptables")
        super().__init__(
            f"the program {program} is not installed",
            f"install it (Debian: apt-get install {package}; Fedora: dnf install {package})",
        )
        self.program = program


class KernelModuleMissingError(InterceptionError):
    """A match, target or table that the running kernel doesn't know."""

    hint = (
        "load the modules on the node: modprobe -a ip_set_hash_ipport ip_set_list_set xt_set"
        " xt_socket xt_comment xt_mark xt_multiport xt_addrtype xt_conntrack nf_nat nf_tables"
    )


class MixedBackendsError(InterceptionError):
    """iptables-nft and iptables-legacy are both in use; their order is an accident."""


class LockHeldError(InterceptionError):
    """Another program holds the xtables lock for longer than we wait."""

    hint = (
        "see who holds it: fuser -v /run/xtables.lock;"
        " in a container mount the host's /run/xtables.lock"
    )


class CommandError(InterceptionError):
    """A program failed in a way that we have no better name for."""

    def __init__(self, command: Sequence[str], code: int | None, words: str) -> None:
        end = "did not end in time" if code is None else f"failed with exit code {code}"
        super().__init__(f"{' '.join(command)} {end}: {words.strip() or 'it said nothing'}")
        self.command = tuple(command)
        self.code = code
        self.words = words


class NetlinkError(InterceptionError):
    """The kernel answered a netlink message with an error; `number` is the errno."""

    def __init__(self, what: str, number: int, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.number = number


class HostError(InterceptionError):
    """The operating system has no room for what we need: descriptors, processes, memory."""

    hint = "nodeproxy status shows open files and their limit; see ulimit -n and free memory"

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what}: {error.strerror or error}")


_PERMISSION = ("you must be root", "operation not permitted", "permission denied")
_MODULE = (
    "missing kernel module",
    "can't initialize iptables table",
    "can't initialize ip6tables table",
    "table does not exist (do you need to insmod?)",
    "couldn't load match",
    "couldn't load target",
    "cannot open session to kernel",
    "kernel and userspace incompatible",
    "protocol not supported",
    "cannot be used: kernel",
    "kernel error received: invalid argument",
)


def command_error(command: Sequence[str], code: int | None, words: str) -> InterceptionError:
    """The error for a failed command, by what it said."""
    low = words.lower()
    text = f"{' '.join(command)}: {words.strip()}"
    if any(phrase in low for phrase in _PERMISSION):
        return NotPermittedError(text)
    if any(phrase in low for phrase in _MODULE):
        return KernelModuleMissingError(text)
    if code == 4 and "lock" in low:
        return LockHeldError(text)
    return CommandError(command, code, words)
