"""A picture of what happened when: threads as one HTML file that needs nothing else.

No script, no network: the page says so itself (Content-Security-Policy), so that even text that
got past the escaping could do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Final

from .. import render
from ..records import Change, ConversationThread, Message
from ..status import MessageStatus
from .history import TRIMMED
from .safety import clean, safe
from .timeline_scale import Scale
from .timeline_style import STYLE

if TYPE_CHECKING:
    from .history import ThreadHistory

_MOST_POINTS: Final = 200
"""Steps of a growth curve: more cannot be told apart in a lane."""
_MOST_MARKS: Final = 60
_MOST_TEXT: Final = 4_000
_SHOWN: Final = (
    MessageStatus.PENDING,
    MessageStatus.PROCESSING,
    MessageStatus.COMPLETE,
    MessageStatus.FAILED,
    MessageStatus.TIMEOUT,
    MessageStatus.CANCELLED,
)


def page(title: str, threads: list[ThreadHistory]) -> str:
    """One self-contained HTML page: a lane for each message, coloured by its statuses over time,
    with its growth, the retries of its run and its deadline; details under each picture."""
    body = "\n".join(_thread(each) for each in threads) or "<p>There is no thread yet.</p>"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_line(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_line(title)}</h1>\n{_legend()}\n{body}\n</body>\n</html>\n"
    )


def _line(text: str) -> str:
    """Text of one line, for an element or a quoted attribute."""
    return escape(clean(text), quote=True)


def _text(text: str) -> str:
    return escape(safe(text), quote=True)


def _legend() -> str:
    swatches = "".join(
        f'<li><i class="key {status}"></i>{status}</li>' for status in map(str, _SHOWN)
    )
    return (
        f'<ul class="legend">{swatches}'
        '<li><i class="key growth"></i>characters so far</li>'
        '<li><b class="retry still">▲</b>asked the API again</li>'
        '<li><b class="deadline still"></b>deadline</li></ul>'
    )


def _thread(history: ThreadHistory) -> str:
    thread = history.thread
    by_message: dict[str, list[Change]] = {each.message_id: [] for each in history.messages}
    for change in history.changes:
        by_message.setdefault(change.message_id, []).append(change)
    scale = Scale.of(_spans(history, by_message))
    lanes = "\n".join(
        _lane(message, by_message[message.message_id], scale) for message in history.messages
    )
    details = "\n".join(
        _details(message, by_message[message.message_id], scale.start)
        for message in history.messages
    )
    count = len(history.messages)
    facts = [
        f"thread {thread.thread_id}",
        f"{count:,} message{'' if count == 1 else 's'}",
        f"from {render.instant(scale.start)}",
        scale.length,
    ]
    return (
        f"<section>\n<h2>{_line(thread.title or 'Untitled')}</h2>\n"
        f'<p class="facts">{_line(" · ".join(facts))}{_modules(thread)}</p>\n'
        f'<div class="chart">\n{_axis(scale)}\n{lanes}\n</div>\n{details}\n</section>'
    )


def _modules(thread: ConversationThread) -> str:
    return f" · between {_line(', '.join(thread.modules))}" if thread.modules else ""


def _spans(
    history: ThreadHistory, by_message: dict[str, list[Change]]
) -> list[tuple[datetime, datetime | None]]:
    """When each message was under way; None where it still is."""
    spans: list[tuple[datetime, datetime | None]] = [
        (history.thread.created_at, history.thread.created_at)
    ]
    for message in history.messages:
        changes = by_message[message.message_id]
        last = max([message.updated_at, *(change.at for change in changes[-1:])])
        spans.append((message.created_at, last))
        if not message.status.is_terminal:
            spans.append((last, None))
    return spans


# -- the picture


def _axis(scale: Scale) -> str:
    ticks = "".join(
        f'<span class="tick" style="left:{place:.3f}%">{_line(label)}</span>'
        for place, label in scale.ticks()
    )
    return (
        '<div class="row axis"><div class="label"></div>'
        f'<div class="track">{ticks}{_breaks(scale, "gap named")}</div></div>'
    )


def _breaks(scale: Scale, kind: str) -> str:
    return "".join(
        f'<span class="{kind}" style="left:{left:.3f}%;width:{right - left:.3f}%" '
        f'title="nothing happened for {render.span(seconds)}">'
        f"{'⋯' if kind.endswith('named') else ''}</span>"
        for left, right, seconds in scale.breaks()
    )


def _lane(message: Message, changes: Sequence[Change], scale: Scale) -> str:
    label = (
        f'<div class="label" title="{_line(_hover(message))}">'
        f'<a href="#m{message.revision}">{_line(message.module_name)}</a> '
        f'<span class="word {message.status}">{message.status}</span>'
        f"<small>{_line(message.message_type)} · {render.characters(len(message.content))}"
        "</small></div>"
    )
    parts = [
        _breaks(scale, "gap"),
        *_bars(message, changes, scale),
        _growth(message, changes, scale),
        *_marks(changes, scale),
        _deadline(message, scale),
    ]
    return f'<div class="row">{label}<div class="track lane">{"".join(parts)}</div></div>'


def _hover(message: Message) -> str:
    lines = [
        f"message {message.message_id}",
        f"{message.status}, last change {render.instant(message.updated_at)}",
        f"created {render.instant(message.created_at)}",
    ]
    if message.error:
        lines.append(f"error: {render.shorten(message.error)}")
    return " — ".join(lines)


def _bars(message: Message, changes: Sequence[Change], scale: Scale) -> list[str]:
    """One for each status that it has been in."""
    if not changes:
        return []
    begun = [
        change
        for place, change in enumerate(changes)
        if place == 0 or change.status is not changes[place - 1].status
    ]
    bars = []
    for place, change in enumerate(begun):
        following = begun[place + 1] if place + 1 < len(begun) else None
        left = scale.place(change.at)
        since = _since(change.at, scale)
        if change.status.is_terminal:
            why = f": {render.shorten(change.error)}" if change.error else ""
            bars.append(
                f'<span class="end {change.status}" style="left:{left:.3f}%" '
                f'title="{_line(f"{since} {render.what_changed(change)}{why}")}"></span>'
            )
            continue
        right = 100.0 if following is None else scale.place(following.at)
        until = "until now" if following is None else f"for {_for(change, following)}"
        is_open = "" if following else " open"
        bars.append(
            f'<span class="bar {change.status}{is_open}" '
            f'style="left:{left:.3f}%;width:{max(right - left, 0.0):.3f}%" '
            f'title="{_line(f"{since} {change.status} {until}, {message.module_name}")}"></span>'
        )
    return bars


def _since(at: datetime, scale: Scale) -> str:
    return f"+{render.span((at - scale.start).total_seconds())}"


def _for(first: Change, then: Change) -> str:
    return render.span((then.at - first.at).total_seconds())


def _growth(message: Message, changes: Sequence[Change], scale: Scale) -> str:
    most = max((change.content_length for change in changes), default=0)
    if not most or (len(changes) < 2 and message.status.is_terminal):
        return ""
    step = -(-len(changes) // _MOST_POINTS)
    kept = [*changes[:-1:step], changes[-1]]
    points = [(scale.place(change.at), 30 - 28 * change.content_length / most) for change in kept]
    # The curve is a staircase: between two changes nothing is known to have grown.
    path = f"M{points[0][0]:.2f},30" + "".join(f"H{x:.2f}V{y:.2f}" for x, y in points)
    if not message.status.is_terminal:
        path += "H100"
    return (
        '<svg class="curve" viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{path}V30Z"/></svg>'
    )


def _marks(changes: Sequence[Change], scale: Scale) -> list[str]:
    """What is worth a look: retries of the API, and text that was taken back."""
    marks = []
    for place, change in enumerate(changes):
        metadata = change.metadata or {}
        if metadata.get("retry") is not None and not change.status.is_terminal:
            marks.append(("retry", "▲", change, _retry_words(metadata["retry"])))
        elif place and change.content_length < changes[place - 1].content_length:
            lost = changes[place - 1].content_length - change.content_length
            marks.append(("back", "◂", change, f"{render.characters(lost)} taken back"))
    return [
        f'<b class="{kind}" style="left:{scale.place(change.at):.3f}%" '
        f'title="{_line(f"{_since(change.at, scale)} {words}")}">{sign}</b>'
        for kind, sign, change, words in marks[:_MOST_MARKS]
    ]


def _retry_words(retry: object) -> str:
    if not isinstance(retry, dict):
        return "asked the API again"
    facts = [retry.get("error_status"), retry.get("error")]
    why = ", ".join(str(fact) for fact in facts if fact is not None)
    attempt = retry.get("attempt")
    number = f"attempt {attempt} of {retry.get('max_retries')}" if attempt is not None else ""
    return render.shorten("asked the API again " + "; ".join(filter(None, [number, why])))


def _deadline(message: Message, scale: Scale) -> str:
    # Of one that ended otherwise it says no more what was going to happen.
    if message.deadline_at is None or (
        message.status.is_terminal and message.status is not MessageStatus.TIMEOUT
    ):
        return ""
    beyond = message.deadline_at > scale.end
    place = 100.0 if beyond else scale.place(message.deadline_at)
    words = f"deadline {_since(message.deadline_at, scale)}" + (", beyond this" if beyond else "")
    kind = "deadline beyond" if beyond else "deadline"
    return f'<b class="{kind}" style="left:{place:.3f}%" title="{_line(words)}"></b>'


# -- the words under it


def _details(message: Message, changes: Sequence[Change], start: datetime) -> str:
    deadline = "none" if message.deadline_at is None else render.instant(message.deadline_at)
    lines = [
        f"message   {clean(message.message_id)}",
        f"status    {message.status}",
        f"deadline  {deadline}",
    ]
    if message.error:
        lines.append(f"error     {clean(message.error)}")
    lines += ["", *render.history(changes, start)]
    if changes and changes[0].previous is not None:
        lines.append(TRIMMED)
    text = message.content[:_MOST_TEXT]
    left = len(message.content) - len(text)
    more = f"\n<i>… and {render.characters(left)} more</i>" if left else ""
    quote = f'<blockquote dir="auto">{_text(text)}{more}</blockquote>' if text else ""
    return (
        f'<details id="m{message.revision}"><summary><b>{_line(message.module_name)}</b> '
        f'<span class="word {message.status}">{message.status}</span> '
        f"{_line(render.shorten(message.content, 90))}</summary>\n"
        f"<pre>{escape(chr(10).join(lines))}</pre>\n{quote}</details>"
    )
