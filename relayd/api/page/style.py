"""The style of the page: light and dark, telephone and desk, screen and paper."""

from typing import Final

STYLE: Final = """
:root{--bg:#f7f8fa;--card:#fff;--ink:#17202b;--soft:#566173;--line:#d9dee6;--accent:#2457b8;
--good:#18703c;--warn:#8a5300;--bad:#b3261e;--fill:#2457b81f}
@media (prefers-color-scheme:dark){:root{--bg:#10141a;--card:#191f28;--ink:#e8ecf2;--soft:#a3afc0;
--line:#303948;--accent:#8ab4ff;--good:#6fd394;--warn:#f0b35a;--bad:#ff8f86;--fill:#8ab4ff26}}
*{box-sizing:border-box}
body{margin:0;overflow-wrap:anywhere;background:var(--bg);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:12px}
header{max-width:1080px;margin:0 auto;padding:12px 12px 0;color:var(--soft);display:flex;
font-variant-numeric:tabular-nums;flex-wrap:wrap;gap:4px 16px;justify-content:space-between}
header a{color:inherit}nav{display:flex;flex-wrap:wrap;gap:4px 16px}
a{color:var(--accent)}
a:focus-visible,input:focus-visible,button:focus-visible{outline:3px solid var(--accent);
outline-offset:2px}
h1{font-size:22px;line-height:1.3;margin:4px 0 6px;font-weight:650}
h2{font-size:14px;margin:0 0 8px;color:var(--soft);font-weight:600}
h3{font-size:14px;margin:12px 0 4px;font-weight:600}h3 code{font-weight:400}
.spoken{position:absolute;width:1px;height:1px;margin:0;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}
.skip{position:absolute;left:-999px}
.skip:focus{left:8px;top:8px;background:var(--card);padding:8px}
.state{border-left:6px solid var(--good);background:var(--card);padding:10px 14px;
border-radius:6px;margin-bottom:12px}
.state.warn{border-color:var(--warn)}.state.bad{border-color:var(--bad)}
.state p{margin:0}.badge::before{content:"\\25cf\\00a0"}.badge{font-weight:650;color:var(--good)}
.warn .badge{color:var(--warn)}.bad .badge{color:var(--bad)}
.grid,.column{display:grid;grid-template-columns:minmax(0,1fr);gap:12px;align-content:start}
.grid{margin-bottom:12px}
@media (min-width:720px){.grid{grid-template-columns:repeat(2,minmax(0,1fr))}}
.figures{display:grid;gap:12px;margin-bottom:12px;grid-template-columns:repeat(2,minmax(0,1fr))}
@media (min-width:720px){.figures{grid-template-columns:repeat(4,minmax(0,1fr))}}
section.card,.figure{background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:10px 14px;min-width:0}
.figure .value{font-size:24px;font-weight:650;font-variant-numeric:tabular-nums;margin:0}
.note{color:var(--soft);margin:0;font-size:13px}
.figure svg{display:block;width:100%;height:44px;margin:6px 0 3px}
svg .area{fill:var(--fill)}svg .curve{fill:none;stroke:var(--accent);stroke-width:1.5;
vector-effect:non-scaling-stroke}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);font-size:13px}
th,td{text-align:left;padding:3px 10px 3px 0;vertical-align:top}
th[scope=row]{color:inherit;font-size:inherit;font-weight:400}
td.t{white-space:nowrap;color:var(--soft)}td.n,th.n{text-align:right;white-space:nowrap}
tr+tr td,tr+tr th{border-top:1px solid var(--line)}
code{font:13px/1.4 ui-monospace,monospace;background:var(--fill);border-radius:4px;padding:1px 5px;
overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(90px,max-content) 1fr;gap:4px 14px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.todo{color:var(--soft)}.trouble{color:var(--bad);font-weight:600}
form{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 10px;align-items:end}
label{display:block;color:var(--soft);font-size:13px}
input[type=search],input[type=text]{font:inherit;padding:6px 8px;border:1px solid var(--soft);
border-radius:4px;background:var(--bg);color:var(--ink);width:100%;max-width:280px}
button{font:inherit;padding:6px 12px;border:1px solid var(--soft);border-radius:4px;
background:var(--bg);color:var(--ink);cursor:pointer}
.scroll{overflow-x:auto}
.lists{margin:8px 0 12px}
.lists [aria-current]{color:inherit;font-weight:650;text-decoration:none}
ul{margin:0;padding-left:18px}footer{max-width:1080px;margin:0 auto;padding:0 12px 16px;
color:var(--soft);font-size:13px}
.stale main{filter:grayscale(1)}.stale .value,.stale h1{color:var(--soft)}
.stale svg{opacity:.5}.stale #age{color:var(--bad);font-weight:650}
@media (min-width:720px){td.n+td:not(.n),th.n+th:not(.n){padding-left:14px}}
@media (max-width:719px){.folding tr:first-child{display:none}
.folding tr{display:flex;flex-wrap:wrap;gap:0 12px;padding:6px 0;border-top:1px solid var(--line)}
.folding tr td,.folding tr th{border:0;padding:0;text-align:left}
.folding th{flex-basis:100%}
.folding td::before{content:attr(data-name)":\\00a0";color:var(--soft)}}
@media (forced-colors:active){svg .curve{stroke:CanvasText}svg .area{fill:none}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--accent:#000;
--good:#000;--warn:#000;--bad:#000;--fill:#0001}form,.skip,nav{display:none}
section.card,.figure{break-inside:avoid}}
"""
