"""How a report looks: in light and in dark, on a telephone and on a wide screen."""

from typing import Final

STYLE: Final = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #17202a; --quiet: #5b6673; --rule: #dfe3e8;
  --kept: #0b7a75; --rejected: #d9730d; --failed: #8b3a4a; --shade: rgba(217, 115, 13, .09); --line: #17202a;
  --alarm: #fde8e8; --alarm-ink: #8f1d1d; --notice: #fff4dd; --notice-ink: #6b4a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1b2129; --ink: #e8ecf1; --quiet: #9aa6b3; --rule: #303944;
    --kept: #36b8ac; --rejected: #f09a47; --failed: #d77a8b; --shade: rgba(240, 154, 71, .10); --line: #e8ecf1;
    --alarm: #4a1d20; --alarm-ink: #ffc9c9; --notice: #3d3113; --notice-ink: #ffdf9e;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; }
header, main { max-width: 1240px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 24px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 0 0 10px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
h4 { font-size: .94rem; font-weight: 600; margin: 0 0 8px; }
.scroll + h3, .pairs + h3 { margin-top: 26px; }
p { margin: 0 0 10px; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88em; }
code, bdi { overflow-wrap: anywhere; }
.quiet { color: var(--quiet); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 20px; margin: 16px 0; }
.box { border-radius: 10px; padding: 12px 16px; margin: 12px 0; }
.alarm { background: var(--alarm); color: var(--alarm-ink); }
.notice { background: var(--notice); color: var(--notice-ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 0 0 14px; }
.tile { border-left: 4px solid var(--quiet); padding: 2px 12px; }
.tile-kept { border-color: var(--kept); }
.tile-rejected { border-color: var(--rejected); }
.tile-failed { border-color: var(--failed); }
.tile dt { color: var(--quiet); }
.tile dd { margin: 0; display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; }
.tile b { font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); }
.funnel-bar { display: block; width: 100%; height: 14px; border-radius: 7px; background: var(--rule); margin: 0 0 18px; }
.fill-kept { fill: var(--kept); }
.fill-rejected { fill: var(--rejected); }
.fill-failed { fill: var(--failed); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: min-content; font-size: .94rem; }
caption { text-align: left; color: var(--quiet); padding: 0 0 6px; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--quiet); font-weight: 600; }
tbody th { font-weight: 400; min-width: 9.5em; }
td:not(.number) { min-width: 5em; }
td:last-child:not(.number) { min-width: 12em; }
tbody tr:last-child > * { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; padding-right: 18px; }
.verdict { font-size: 1.05rem; }
.chart { margin: 14px 0 6px; }
.flags, .axis { position: relative; height: 1.6em; font-size: .85rem; }
.plot { position: relative; border-bottom: 1px solid var(--quiet); }
.plot svg { display: block; width: 100%; height: 220px; overflow: visible; }
.shade { fill: var(--shade); }
.threshold { stroke: var(--line); stroke-width: 2; stroke-dasharray: 6 4; }
.flag, .tick { position: absolute; white-space: nowrap; }
.flag { font-weight: 600; }
.tick { color: var(--quiet); padding-top: 2px; font-variant-numeric: tabular-nums; }
.at-middle { transform: translateX(-50%); }
.at-right { transform: translateX(-100%); }
.legend { font-size: .9rem; display: flex; flex-wrap: wrap; gap: 4px 8px; align-items: center; }
.key { width: 12px; height: 12px; border-radius: 3px; display: inline-block; }
.key-kept { background: var(--kept); }
.key-rejected { background: var(--rejected); }
.galleries { display: grid; grid-template-columns: minmax(0, 1fr); gap: 20px 32px; margin-top: 16px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)); gap: 14px 12px; }
figure { margin: 0; min-width: 0; }
.frame { height: 132px; display: flex; align-items: center; justify-content: center; background: var(--page);
  border-radius: 8px; overflow: hidden; }
.frame img { display: block; max-width: 100%; max-height: 132px; width: auto; height: auto; }
.missing { color: var(--quiet); font-size: .85rem; text-align: center; padding: 8px; }
.blurred { filter: blur(14px); }
.frame:hover .blurred, .frame:focus .blurred { filter: none; }
figcaption { font-size: .82rem; line-height: 1.35; padding-top: 6px; display: grid; gap: 1px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 14px; }
.pair { border: 1px solid var(--rule); border-left-width: 4px; border-radius: 8px; padding: 8px; }
.pair-duplicate { border-left-color: var(--rejected); }
.pair-apart { border-left-color: var(--kept); }
.both { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 4px 6px; }
.named { min-width: 0; display: grid; gap: 1px; align-content: start; }
.pair .name { color: var(--quiet); }
.similarity { font-size: .94rem; }
.pair-duplicate .similarity { color: var(--rejected); }
.pair-apart .similarity { color: var(--kept); }
.line, .none { grid-column: 1 / -1; margin: 0; }
.line { display: flex; gap: 6px; align-items: center; justify-content: center; padding: 4px 0; }
.line::before, .line::after { content: ""; flex: 1; border-top: 3px dashed var(--line); }
.pair .frame { height: 112px; }
.pair .frame img { max-height: 112px; }
.groups { display: grid; grid-template-columns: minmax(0, 1fr); gap: 22px 32px; margin: 0 0 16px; }
.group .figures { grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 12px 8px; }
.group figcaption { grid-template-columns: minmax(0, 1fr); overflow-wrap: anywhere; }
.group .badge, .pair .badge { font-size: .76rem; padding: 0 4px; justify-self: start; }
.group .frame { height: 96px; }
.group .frame img { max-height: 96px; }
.badge { justify-self: start; border: 1px solid; border-radius: 4px; padding: 0 6px; font-weight: 600; }
.badge-kept { color: var(--kept); }
.badge-rejected { color: var(--rejected); }
.badge-failed { color: var(--failed); }
table .badge { font-size: .82rem; }
figcaption .name, figcaption .text { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical;
  overflow: hidden; }
figcaption .name { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
figcaption .text { color: var(--quiet); }
details { border-top: 1px solid var(--rule); padding: 8px 0; }
summary { cursor: pointer; font-weight: 600; }
summary code { font-weight: 600; }
pre { overflow: auto; max-height: 480px; background: var(--page); border-radius: 8px; padding: 12px; margin: 8px 0 0; }
:focus-visible { outline: 3px solid var(--kept); outline-offset: 2px; }
@media (min-width: 1000px) {
  .galleries, .groups { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (max-width: 480px) {
  section { padding: 14px; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
  .group .figures { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .plot svg { height: 160px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
