"""The program that stands in for the Claude CLI: a hand without a head.

``ScriptedClaude`` writes it, compiled, into an executable named ``claude``. It connects to the
test's process, says how it was called, and does what it is told there: write, read, exit. What
to say and when is decided by ``claude_play`` and ``claude_turn``, so this file has no JSON and no
clock, and starts almost as fast as Python itself can: nothing but modules written in C is
imported, no ``os`` (1 ms), ``socket`` or ``signal`` (10 ms together, for their enums).

Both ways a frame is one byte, its length in four, and its content. From the test: ``O`` and
``E`` write to stdout and stderr, ``I`` reads stdin from now on, ``P`` asks how far it is, ``X``
exits with a code, ``K`` dies of a signal; they are done in order. ``T`` exits at once. To the
test: ``H`` how it was called, ``I`` what came on stdin (nothing: its end), ``S`` a signal came,
``P`` an answer.

There is no ``from __future__``: that, too, is a module to be read from disk.
"""

# ruff: noqa: C901 - one loop, read from top to bottom, without a call that costs
import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import posix
import select
import sys
import termios


def main(path: str) -> None:
    """Do what the other side of the socket at ``path`` says. Does not return."""
    while True:  # a descriptor that the caller closed must not become the control channel
        spare = posix.open("/dev/null", posix.O_RDWR)
        if spare > 2:
            posix.close(spare)
            break
    heard, told = posix.pipe()
    posix.set_blocking(heard, False)
    posix.set_blocking(told, False)
    _signal.set_wakeup_fd(told)
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, lambda _number, _frame: None)
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        control.connect(path)
        _obey(control, heard)
    except OSError:
        posix.write(2, b"claude (scripted): the test that scripted this is over\n")
    posix._exit(1)


def _obey(control: _socket.socket, heard: int) -> None:
    reading = False

    def say(kind: bytes, content: bytes) -> None:
        control.sendall(kind + len(content).to_bytes(4, "big") + content)

    def hear_signals() -> None:
        try:
            for number in posix.read(heard, 64):
                say(b"S", bytes((number,)))
        except BlockingIOError:
            pass

    def read_stdin() -> None:
        nonlocal reading
        try:
            piece = b"" if posix.isatty(0) else posix.read(0, 65536)
        except OSError:
            piece = b""
        say(b"I", piece)
        if not piece:
            reading = False
            poll.unregister(0)

    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(heard, select.POLLIN)
    at_stdin = select.poll()
    at_stdin.register(0, select.POLLIN)
    inbox = bytearray()
    orders: list[tuple[int, memoryview]] = []
    written = 0
    broken = False
    say(b"H", _how_called())
    while True:
        while orders:
            kind, content = orders[0]
            if kind in b"OE" and content:
                break
            del orders[0]
            if kind in b"I":
                reading = True
                poll.register(0, select.POLLIN)
            elif kind in b"P":
                # Whatever was sent or signalled to us before the question comes before its answer.
                hear_signals()
                if reading and at_stdin.poll(0):
                    read_stdin()
                left = 0 if broken else _unread()
                say(b"P", b"%d %d %d" % (written, left, broken))
            elif kind in b"X":
                posix._exit(content[0])
            elif kind in b"K":
                if content[0] != _signal.SIGKILL:
                    _signal.signal(content[0], _signal.SIG_DFL)
                posix.kill(posix.getpid(), content[0])
        stream = 0
        if orders:
            stream = 1 if orders[0][0] in b"O" else 2
            poll.register(stream, select.POLLOUT)
        ready = {number for number, _ in poll.poll()}
        if stream:
            poll.unregister(stream)
        if heard in ready:
            hear_signals()
        if reading and 0 in ready:
            read_stdin()
        if stream in ready and stream:
            kind, content = orders[0]
            try:
                # So much can be written without blocking, so that a signal is heard meanwhile.
                count = posix.write(stream, content[: select.PIPE_BUF])
                written += count if stream == 1 else 0
            except OSError:  # nobody reads any more; the CLI goes on all the same
                count = len(content)
                broken = broken or stream == 1
            orders[0] = kind, content[count:]
        if control.fileno() in ready:
            piece = control.recv(1 << 20)
            if not piece:
                raise OSError
            inbox += piece
            while len(inbox) >= 5:
                end = 5 + int.from_bytes(inbox[1:5], "big")
                if len(inbox) < end:
                    break
                if inbox[0] in b"T":
                    posix._exit(inbox[5])
                orders.append((inbox[0], memoryview(bytes(inbox[5:end]))))
                del inbox[:end]


def _how_called() -> bytes:
    try:
        cwd = posix.getcwdb()
    except OSError:
        cwd = b""
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    argv = [each.encode(encoding, errors) for each in sys.argv[1:]]
    names = [bytes(name) for name in posix.environ]
    retries = bytes(posix.environ.get(b"CLAUDE_CODE_MAX_RETRIES", b""))
    head = [b"%d" % posix.getpid(), b"%d" % posix.getppid(), cwd, retries, b"%d" % len(argv)]
    return b"\0".join(head + argv + names)


def _unread() -> int:
    """How much of what we wrote nobody has read yet; 0 where that cannot be known."""
    try:
        if posix.fstat(1).st_mode & 0o170000 != 0o010000:  # no pipe
            return 0
        return int.from_bytes(fcntl.ioctl(1, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0
