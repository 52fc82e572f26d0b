"""The style of a report: one sheet for screen and print, for light and dark, for a desk and a phone."""

from __future__ import annotations

PAGE_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #57606a; --faint: #b9c0c8; --card: #f5f7f9;
  --link: #0550ae; --shade: 0, 114, 178; --series-1: #0072b2; --series-2: #c24e00; --series-3: #007a59;
  --series-4: #b3578f; --series-5: #a86f00; --series-6: #2f88bd; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e8ebee; --soft: #a4adb7; --faint: #4a535d;
  --card: #1d232a; --link: #8ec5ff; --shade: 86, 180, 233; --series-1: #6db8ee; --series-2: #ff9d5c;
  --series-3: #4fd1a9; --series-4: #e6a3c8; --series-5: #f0bd4a; --series-6: #8fd0f5; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem clamp(1rem, 4vw, 2.5rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--faint); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p, li, dd, figcaption { max-width: 44rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--paper); padding: .5rem; z-index: 1; }
.notice { border-left: 4px solid var(--series-2); padding: .4rem .8rem; background: var(--card); }
.verdict { font-size: 1.1rem; }
.missing { color: var(--soft); font-style: italic; }
.meta { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
nav ol { columns: 15rem; padding-left: 1.4rem; margin: .4rem 0; }
nav li { break-inside: avoid; }
.scroll { overflow-x: auto; margin: 1rem 0; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint); }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--faint); }
th[scope=row] { font-weight: 500; overflow-wrap: anywhere; min-width: 8rem; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.numbers td.word { text-align: left; }
.range { display: block; color: var(--soft); font-size: .85em; white-space: nowrap; }
.matrix th[scope=row] { min-width: 6.6rem; } .matrix th, .matrix td { padding: .3rem .5rem; }
.matrix td { min-width: 3.3rem; background: rgba(var(--shade), calc(var(--share, 0%) * .9)); }
.matrix td { background: color-mix(in srgb, rgb(var(--shade)) var(--share, 0%), var(--paper)); }
.matrix td.strong, .matrix td.strong .range { color: var(--paper); }
.matrices { display: flex; flex-wrap: wrap; gap: 0 2rem; }
abbr { text-decoration: underline dotted; }
figure { margin: 1rem 0; }
.chart .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
.chart svg { width: 100%; max-width: 30rem; height: auto; font-family: inherit; }
figcaption { color: var(--soft); margin-top: .4rem; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .5rem 0; }
.series-1 { color: var(--series-1); } .series-2 { color: var(--series-2); } .series-3 { color: var(--series-3); }
.series-4 { color: var(--series-4); } .series-5 { color: var(--series-5); } .series-6 { color: var(--series-6); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem;
  padding: 0; }
.gallery li { list-style: none; background: var(--card); padding: .7rem; border-radius: .4rem; }
.gallery .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: .3rem; }
.gallery img { width: 100%; height: auto; display: block; background: #000; }
.gallery p { margin: .4rem 0 0; font-size: .92rem; overflow-wrap: anywhere; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; padding: .3rem 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); padding: .7rem; font-size: .88rem; }
code { overflow-wrap: anywhere; }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #333; --faint: #999; --card: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav, .skip { display: none; }
  h2 { break-after: avoid; } figure, tr, .gallery li { break-inside: avoid; } .scroll { overflow: visible; }
  .matrix td.strong, .matrix td.strong .range { color: var(--ink); font-weight: 700; }
  table { font-size: 8pt; } th, td { padding: .15rem .4rem; } .chart .panels { grid-template-columns: 1fr 1fr; } }
"""
