"""Style sheet of reports for light, dark, narrow and printed pages, and the script of their buttons."""

PAGE_STYLE = """
:root { --ink: #1c1917; --soft: #57534e; --paper: #fafaf9; --card: #ffffff; --line: #e0dcd8; --good: #166534;
  --goodbg: #ecfdf3; --flat: #854d0e; --flatbg: #fefce8; --bad: #991b1b; --badbg: #fef2f2; --accent: #1d4f8c;
  }
@media (prefers-color-scheme: dark) { :root { --ink: #f5f5f4; --soft: #b5afa9; --paper: #171412; --card:
  #211e1b; --line: #3d3834; --good: #86efac; --goodbg: #12291b; --flat: #fde68a; --flatbg: #2e2610; --bad:
  #fca5a5; --badbg: #331717; --accent: #93c5fd; color-scheme: dark; } img { filter: invert(1)
  hue-rotate(180deg) brightness(1.05);
  mix-blend-mode: screen; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5; font: 16px/1.5 system-ui,
  -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft, figcaption, small { color: var(--soft); font-size: .9rem; }
.verdict { border-left: 5px solid; border-radius: 6px; padding: .9rem 1.1rem; margin: 1.25rem 0; max-width:
  none; }
.verdict strong { display: block; font-size: 1.2rem; }
.gained { border-color: var(--good); background: var(--goodbg); }
.gained strong { color: var(--good); }
.flat { border-color: var(--flat); background: var(--flatbg); }
.flat strong { color: var(--flat); }
.lost { border-color: var(--bad); background: var(--badbg); }
.lost strong { color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem
  0; padding: 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem;
  }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
.facts dd small { display: block; font-weight: 400; font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; }
table.text td { text-align: left; overflow-wrap: anywhere; }
table.text th { text-align: left; white-space: nowrap; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding:
  .75rem; min-width: 0; }
figure h4 { margin: 0 0 .4rem; font-size: .95rem; }
img { display: block; width: 100%; height: auto; }
audio { width: 100%; margin-top: .5rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; }
.command { display: flex; gap: .5rem; align-items: flex-start; margin: .5rem 0; }
.command code { flex: 1; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding:
  .5rem .7rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.45
  ui-monospace, Menlo, Consolas, monospace; }
button { font: inherit; font-size: .85rem; padding: .45rem .8rem; border-radius: 6px; border: 1px solid
  var(--line); background: var(--card); color: var(--accent); cursor: pointer; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.bar { display: block; height: .55rem; border-radius: 3px; background: var(--accent); min-width: 2px; }
td.bars { width: 45%; }
@media (max-width: 44rem) { .pair { grid-template-columns: 1fr; } main { padding: 1.25rem .9rem 3rem; } h1 {
  font-size: 1.5rem; } table:not(.text) { font-size: .82rem; } th, td { padding: .4rem .3rem; } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; --good: #14532d;
  --goodbg: #fff; --flat: #713f12; --flatbg: #fff; --bad: #7f1d1d; --badbg: #fff; } img { filter: none; }
  audio, button { display: none; } figure, .verdict, tr, .command { break-inside: avoid; } h2 { break-after:
  avoid; } main { padding: 0; max-width: none; } }
"""

PAGE_SCRIPT = """
document.querySelectorAll('.command button').forEach(function (button) {
  button.addEventListener('click', function () {
    var code = button.parentElement.querySelector('code');
    function done() { button.textContent = 'Copied'; setTimeout(function () { button.textContent = 'Copy'; }, 1500); }
    function mark() { var range = document.createRange(); range.selectNodeContents(code);
      var chosen = getSelection(); chosen.removeAllRanges(); chosen.addRange(range); }
    if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).then(done, mark); } else { mark(); }
  });
});
document.querySelectorAll('audio').forEach(function (player) {
  player.addEventListener('play', function () {
    document.querySelectorAll('audio').forEach(function (other) { if (other !== player) other.pause(); });
  });
});
"""
