"""How the HTML timeline looks, in light and dark."""

from __future__ import annotations

from typing import Final

STYLE: Final = """\
:root { --page: #fff; --ink: #1c2330; --soft: #5b6472; --rule: #e3e6ea; --lane: #f5f6f8;
  --pending: #c98a00; --processing: #2b7de0; --complete: #1f8a4c; --failed: #cf3a34;
  --timeout: #9a3fc4; --cancelled: #6d7683; --growth: #ffffff8c; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --ink: #e4e8ee; --soft: #9aa4b2; --rule: #2a303a; --lane: #1b2027;
    --pending: #d9a634; --processing: #4c97f0; --complete: #43b576; --failed: #f0736b;
    --timeout: #c583ea; --cancelled: #8b95a3; --growth: #0000006b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1.5rem; background: var(--page);
  color: var(--ink); font: 14px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 0; }
a { color: inherit; }
.facts, small { color: var(--soft); margin: 0 0 .75rem; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; padding: 0;
  color: var(--soft); }
.legend li { display: flex; align-items: center; gap: .4rem; }
.key { width: 1.1rem; height: .7rem; border-radius: 2px; background: var(--hue); }
.pending { --hue: var(--pending); } .processing { --hue: var(--processing); }
.complete { --hue: var(--complete); } .failed { --hue: var(--failed); }
.timeout { --hue: var(--timeout); } .cancelled { --hue: var(--cancelled); }
.key.growth { background: linear-gradient(to top right, var(--growth) 50%, transparent 50%),
  var(--processing); }
.row { display: grid; grid-template-columns: minmax(8rem, 15rem) 1fr; gap: .8rem;
  align-items: center; border-top: 1px solid var(--rule); }
.axis { border: 0; }
.label { padding: .25rem 0; min-width: 0; }
.label small { display: block; margin: 0; line-height: 1.2; }
.word { color: var(--hue); font-weight: 600; }
.track { position: relative; height: 30px; margin-right: 12px; }
.lane { background: var(--lane); border-radius: 4px; }
.track > * { position: absolute; }
.tick { bottom: 2px; padding-left: 4px; border-left: 1px solid var(--soft); color: var(--soft);
  font-size: 11px; line-height: 1; white-space: nowrap; }
.gap { top: 0; bottom: 0; text-align: center; color: var(--soft); background:
  repeating-linear-gradient(135deg, var(--rule) 0 3px, transparent 3px 7px); }
.bar { top: 5px; height: 20px; background: var(--hue); min-width: 2px; }
.bar.open { background: linear-gradient(to right, var(--hue) 60%, transparent); }
.end { top: 1px; width: 8px; height: 28px; margin-left: -4px; border-radius: 3px;
  background: var(--hue); border: 1px solid var(--page); }
.curve { left: 0; top: 5px; width: 100%; height: 20px; pointer-events: none; }
.curve path { fill: var(--growth); }
.retry, .back { bottom: -3px; margin-left: -5px; color: var(--failed); font-size: 11px;
  line-height: 1; cursor: help; text-shadow: 0 0 2px var(--page), 0 0 2px var(--page); }
.deadline { top: -2px; bottom: -2px; width: 7px; margin-left: -3px; cursor: help;
  background: linear-gradient(to right, transparent 2px, var(--timeout) 2px 4px, transparent 4px);
  -webkit-mask: repeating-linear-gradient(#000 0 4px, transparent 4px 7px);
  mask: repeating-linear-gradient(#000 0 4px, transparent 4px 7px); }
.deadline.beyond { margin-left: 3px; opacity: .55; }
.still { position: static; margin: 0; }
.deadline.still { display: inline-block; height: 14px; }
details { border-top: 1px solid var(--rule); padding: .3rem 0; }
details:first-of-type { margin-top: 1.2rem; }
summary { cursor: pointer; color: var(--soft); } summary b { color: var(--ink); }
pre, blockquote { margin: .4rem 0 .6rem; padding: .6rem .8rem; background: var(--lane);
  border-radius: 4px; white-space: pre-wrap; }
pre { font: 12px/1.5 ui-monospace, monospace; overflow-x: auto; }
blockquote { border-left: 3px solid var(--rule); max-height: 24rem; overflow-y: auto; }
@media (max-width: 720px) {
  .row { grid-template-columns: 1fr; gap: 0; padding-bottom: .3rem; }
  .axis .label { display: none; }
  .tick:nth-of-type(even) { font-size: 0; }
}
details:target { outline: 2px solid var(--processing); }
"""
