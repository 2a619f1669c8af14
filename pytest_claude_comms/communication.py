"""One module asks another: a thread, a question, an answer that streams in, and its end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .answering import Answering
from .claude.command import build_command, build_environment, find_cli, find_directory
from .claude.process import ClaudeProcess
from .clock import seconds_to_us
from .errors import HistoryGone, InvalidTransition, WaitTimeout
from .polling import MessagePoller
from .stores import values

if TYPE_CHECKING:
    from .claude.outcome import StreamOutcome
    from .claude.updates import StreamUpdate
    from .clock import Handle
    from .records import Message
    from .stores.base import ConversationStore, ThreadLike

_PROMPT = "question"
_ANSWER = "answer"


class _Lost(Exception):
    """The run is over and its message still open."""


class _LostSignal:
    """Set when a run is over: ends a poller's waits if the run could not end its message."""

    def __init__(self, answering: Answering, poller: MessagePoller) -> None:
        self._answering = answering
        self._follower = poller._follower

    def set(self) -> None:
        if self._answering.lost:
            self._follower.die(_Lost())


class Reply:
    """A question that was asked, and the answer as it comes."""

    def __init__(
        self, thread_id: str, question: Message, answering: Answering, runner: Handle
    ) -> None:
        self.thread_id = thread_id
        self.question = question
        self._answering = answering
        self._runner = runner
        self._store = answering.store

    @property
    def answer(self) -> Message:
        """The answering message as it is now."""
        return self._store.get_message(self._answering.message_id)

    @property
    def outcome(self) -> StreamOutcome | None:
        """What the run came to; None until it has ended."""
        return self._answering.outcome

    @property
    def ended(self) -> bool:
        """Whether the run has ended and all that came of it is stored."""
        return self._answering.over

    def wait(self, timeout: float | None = None) -> Reply:
        """Wait for the end, of the message and of the run; returns itself.

        Raises WaitTimeout after ``timeout`` seconds, and lets them go on; RuntimeError in
        ``on_update``: it would wait for itself.
        """
        __tracebackhide__ = True
        self._refuse_on_its_thread("wait")
        for left in self._left(timeout):
            poller = MessagePoller(self._store)
            with self._unless_lost(poller):
                try:
                    poller.wait(self._answering.message_id, left)
                    break
                except WaitTimeout as error:
                    self._explain(error)
                    raise
                except HistoryGone as gone:
                    self._raise_unless_trimmed(gone)
                except _Lost:
                    break
        self._settle_if_lost()
        # What is left is the end of the process, and that is bounded.
        self._runner.join()
        return self

    def _left(self, timeout: float | None) -> Iterator[float | None]:
        """How much patience is left, for one wait after the other."""
        clock = self._store.clock
        began = clock.monotonic()
        yield timeout
        while True:
            yield None if timeout is None else max(0.0, timeout - (clock.monotonic() - began))

    @contextmanager
    def _unless_lost(self, poller: MessagePoller) -> Iterator[None]:
        """Let the poller's wait end with _Lost when nobody will end the message any more."""
        signal = _LostSignal(self._answering, poller)
        self._answering.tell_when_over(signal)
        try:
            yield
        finally:
            self._answering.forget(signal)

    def _settle_if_lost(self) -> None:
        if self._answering.lost:
            self._answering.settle_lost()

    def _refuse_on_its_thread(self, what: str) -> None:
        if self._answering.is_on_my_thread:
            raise RuntimeError(
                f"{what}() in on_update would wait for the run that calls on_update; return from "
                "it first, or end the run with cancel()"
            )

    def _raise_unless_trimmed(self, gone: HistoryGone) -> None:
        # Trimmed, the history still has what the answer has come to; else it is another store.
        if gone.since is None:
            raise gone

    def _explain(self, error: WaitTimeout) -> None:
        if not self._answering.over:
            error.add_hint("its run goes on: give ask_module a timeout=, or end it by cancel()")

    def cancel(self) -> Message:
        """Make the answer ``cancelled`` and end the run; returns the answer.

        Returns when the process and what it started are gone. The answer keeps all the text that
        came; one that has ended already stays what it is. In ``on_update`` it returns at once:
        the run ends when that has returned.
        """
        self._answering.cancel()  # the run itself: it may have text that is not stored yet
        if self._answering.is_on_my_thread:
            return self.answer
        self._runner.join()
        return self._cancelled()

    def _cancelled(self) -> Message:
        answer = self.answer
        if answer.status.is_terminal:
            return answer
        with suppress(InvalidTransition):  # a run that was lost has noted nothing
            return self._store.update_message(answer, status="cancelled")
        return self.answer

    def _abandon(self) -> None:
        """As ``cancel``, for one who is on the way out with an error and must not get another."""
        self._answering.cancel()
        with suppress(Exception):
            self.cancel()

    async def wait_async(self, timeout: float | None = None) -> Reply:
        """As ``wait``, for asyncio. Cancelling the task that awaits it leaves the run alone."""
        self._refuse_on_its_thread("wait_async")
        for left in self._left(timeout):
            poller = MessagePoller(self._store)
            with self._unless_lost(poller):
                try:
                    await poller.wait_async(self._answering.message_id, left)
                    break
                except WaitTimeout as error:
                    self._explain(error)
                    raise
                except HistoryGone as gone:
                    self._raise_unless_trimmed(gone)
                except _Lost:
                    break
        self._settle_if_lost()
        await self._ended_async()
        return self

    async def cancel_async(self) -> Message:
        """As ``cancel``, for asyncio."""
        self._answering.cancel()
        if self._answering.is_on_my_thread:
            return self.answer
        await self._ended_async()
        return self._cancelled()

    async def _abandon_async(self) -> None:
        self._answering.cancel()
        with suppress(Exception):
            await self.cancel_async()

    async def _ended_async(self) -> None:
        wakeup = self._store.clock.async_wakeup()
        self._answering.tell_when_over(wakeup)
        try:
            while not self._answering.over:
                await wakeup.wait(None, why="the end of Claude's process")
        finally:
            self._answering.forget(wakeup)

    def __repr__(self) -> str:
        return f"<Reply {self._answering.message_id!r} in thread {self.thread_id!r}>"


def ask_module(
    store: ConversationStore,
    questioner: str,
    responder: str | os.PathLike[str],
    prompt: str,
    *,
    timeout: float | None = None,
    stall_timeout: float | None = None,
    wait: bool = True,
    thread: ThreadLike | None = None,
    title: str = "",
    resume: str | None = None,
    fork_session: bool = False,
    session_id: str | None = None,
    system_prompt: str | None = None,
    append_system_prompt: str | None = None,
    model: str | None = None,
    allowed_tools: Sequence[str] = (),
    disallowed_tools: Sequence[str] = (),
    permission_mode: str | None = None,
    max_turns: int | None = None,
    partial_messages: bool = True,
    command: Sequence[str] = ("claude",),
    extra_args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    max_retries: int | None = None,
    api_timeout: float | None = None,
    grace: float = 5.0,
    metadata: Mapping[str, Any] | None = None,
    on_update: Callable[[StreamUpdate], object] | None = None,
) -> Reply:
    """Ask the module in the directory ``responder`` and keep the exchange in ``store``.

    The question becomes a message of ``questioner``, the answer one of the responder (named as
    its directory), in a new thread or in ``thread``. The CLI runs in that directory and its text
    streams into the answer, whose status follows the run. ``timeout`` (seconds from now) and
    ``stall_timeout`` (seconds after the CLI's last line; it may take up to a quarter more until it
    passes) are the answer's own deadlines; when one passes, or when anybody sets the answer
    ``cancelled``, the run is ended: SIGTERM, ``grace`` seconds, SIGKILL, then everything that it
    started.

    ``wait=False`` returns once the question is stored and Claude has started (a scripted one on a
    fake clock: when it first waits, or has ended). ``resume`` goes on with a session
    (``answer.metadata["session_id"]``). ``env`` is added to the environment that
    :func:`~pytest_claude_comms.claude.command.build_environment` describes. What the run cost and
    used is in the answer's metadata. ``on_update`` gets each step of the run, as it comes, on the
    run's own thread, which it should not hold up: what tool is used, say, which no message keeps.
    What it raises, ``pytest.fail()`` too, is reported and does not end the run; ``reply.cancel()``
    in it does.

    Raises ClaudeNotFound and ModuleDirectoryNotFound before anything is stored, another
    ClaudeError if the CLI cannot be started (the answer is ``failed`` then), StoreError. A run
    that fails is no error: look at ``reply.answer.status`` and ``reply.outcome``.
    """
    __tracebackhide__ = True
    if not hasattr(store, "create_thread"):
        raise TypeError(f"store must be a store, not {store!r}; open one with open_store(url)")
    questioner = values.text(questioner, "questioner")
    prompt = values.text(prompt, "prompt")
    if not prompt.strip():
        raise ValueError("the prompt is empty, which the CLI refuses")
    # All that the store would refuse of the answer, before the question is in it.
    grace_us = seconds_to_us(grace, "grace")
    timeout_us = None if timeout is None else seconds_to_us(timeout, "timeout")
    stall_us = None if stall_timeout is None else seconds_to_us(stall_timeout, "stall_timeout")
    title = values.text(title, "title")
    extra = values.metadata(metadata)
    directory = values.text(find_directory(responder), "responder")
    if on_update is not None and not callable(on_update):
        raise TypeError(f"on_update must be callable, not {on_update!r}")
    environment = build_environment(
        os.environ, extra=env, max_retries=max_retries, api_timeout=api_timeout
    )
    words = build_command(
        command,
        model=model,
        system_prompt=system_prompt,
        append_system_prompt=append_system_prompt,
        allowed_tools=allowed_tools,
        disallowed_tools=disallowed_tools,
        resume=resume,
        session_id=session_id,
        fork_session=fork_session,
        max_turns=max_turns,
        permission_mode=permission_mode,
        partial_messages=partial_messages,
        extra_args=extra_args,
    )
    words[0] = find_cli(words[0], environment)
    name = values.text(os.path.basename(os.path.realpath(directory)) or directory, "responder")
    deadlines = {"timeout": timeout, "stall_timeout": stall_timeout}
    _check_keeps(store, title if thread is None else None, deadlines)
    if thread is None:
        thread_id = store.create_thread(title, modules=[questioner, name]).thread_id
    else:
        thread_id = store.get_thread(thread).thread_id
    question = store.get_message(
        store.add_message(thread_id, questioner, prompt, message_type=_PROMPT)
    )

    def make_process(on_output: Callable[[], object]) -> ClaudeProcess:
        return ClaudeProcess(
            prompt,
            cwd=directory,
            command=words,
            env=environment,
            clock=store.clock,
            on_output=on_output,
            grace=grace,
            in_turn=True,
        )

    # Known beforehand: an interrupt may come when it is stored and before anybody is told so.
    answer_id = secrets.token_hex(8)
    reply: Reply | None = None
    answering: Answering | None = None
    try:
        began_us = store.clock.monotonic_us()
        store.add_message(
            thread_id,
            name,
            message_type=_ANSWER,
            status="pending",
            timeout=timeout,
            stall_timeout=stall_timeout,
            metadata={
                **extra,
                "question_id": question.message_id,
                "directory": directory,
            },
            message_id=answer_id,
        )
        answering = Answering(
            store,
            answer_id,
            make_process,
            began_us=began_us,
            stall_us=stall_us,
            timeout_us=timeout_us,
            grace_us=grace_us,
            on_update=on_update,
        )
        runner = store.clock.spawn(answering.run)
        reply = Reply(thread_id, question, answering, runner)
        answering.wait_started()
        if wait:
            reply.wait()
        return reply  # in here: until it has been handed over, an interrupt is ours
    except BaseException as error:
        # Also Ctrl-C: who asked is gone, so nobody waits for the answer. What ends the run must
        # not replace the error; on a fake clock that has stopped the run has ended with it.
        if answering is not None:
            answering.cancel()
        if reply is not None:
            reply._abandon()
        else:
            _settle_unstarted(store, answer_id, error)
        raise


def _check_keeps(
    store: ConversationStore, title: str | None, deadlines: Mapping[str, float | None]
) -> None:
    """Ask a store of others whether it can keep all of it, before any of it is stored."""
    check = getattr(store, "check_asking", None)
    if check is not None:
        given = [name for name, seconds in deadlines.items() if seconds is not None]
        check(title=title, deadlines=given)


def _settle_unstarted(store: ConversationStore, answer_id: str, error: BaseException) -> None:
    """There is no run, or nobody knows of it: the answer is ended here."""
    with suppress(Exception):
        if isinstance(error, Exception):
            text = f"the run did not start: {error}"
            store.update_message(answer_id, status="failed", error=text)
        else:
            store.update_message(answer_id, status="cancelled")


async def ask_module_async(
    store: ConversationStore,
    questioner: str,
    responder: str | os.PathLike[str],
    prompt: str,
    *,
    wait: bool = True,
    **options: Any,
) -> Reply:
    """As :func:`ask_module`, with the same options, for asyncio.

    Cancelling the task cancels the answer and ends the run.
    """
    reply = ask_module(store, questioner, responder, prompt, wait=False, **options)
    if wait:
        try:
            await reply.wait_async()
        except GeneratorExit:  # nobody runs this coroutine any more, so it cannot wait
            reply._answering.cancel()
            raise
        except BaseException:
            await reply._abandon_async()
            raise
    return reply
