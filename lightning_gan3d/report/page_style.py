"""The style sheet of a report: light, dark, narrow and on paper."""

STYLE = """\
:root { --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d8dbe0; --panel: #f6f7f9;
  --good: #1a7340; --bad: #b3261e; --unsure: #8a5a00; --link: #0b5cad; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #15181d; --text: #e3e6ea; --soft: #a2abb6; --line: #3a4049; --panel: #1d2127;
    --good: #63c98a; --bad: #ff8a80; --unsure: #e8b44c; --link: #7cb8f5; }
}
* { box-sizing: border-box; }
html { background: var(--page); color: var(--text); -webkit-text-size-adjust: 100%;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
body { margin: 0; }
main { max-width: 76rem; margin: 0 auto; padding: 0.5rem 1rem 3rem; }
nav { position: sticky; top: 0; z-index: 2; background: var(--page); padding: 0.5rem 1rem;
  border-bottom: 1px solid var(--line); overflow-x: auto; white-space: nowrap; font-size: 0.9rem; }
nav a { margin-right: 0.9rem; }
a { color: var(--link); }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 0.5rem; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 0.5rem; padding-top: 0.3rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.2rem 0 0.4rem; overflow-wrap: anywhere; }
h3 small { font-weight: normal; color: var(--soft); }
h2 { scroll-margin-top: 3rem; }
p { max-width: 48rem; margin: 0.4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.93rem;
  margin: 0.6rem 0; }
th, td { padding: 0.4rem 0.7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { white-space: nowrap; border-bottom: 2px solid var(--line); color: var(--ink, inherit); }
tbody th { text-align: left; font-weight: 600; min-width: 8.5rem; max-width: 20rem;
  overflow-wrap: break-word; }
tbody tr:hover { background: var(--panel); }
td small, th small { display: block; font-weight: normal; font-size: 0.78rem; color: var(--soft); }
td.value { white-space: nowrap; }
td.value small { white-space: normal; min-width: 4.5rem; }
table.words td { text-align: left; max-width: 22rem; overflow-wrap: break-word; }
table.words thead th { text-align: left; }
.gap { color: var(--unsure); }
.dot { display: inline-block; width: 0.65em; height: 0.65em; border-radius: 50%;
  background: var(--ink); margin-right: 0.4em; }
.notes { font-size: 0.82rem; color: var(--soft); max-width: 60rem; overflow-wrap: anywhere; }
.statements { list-style: none; padding: 0; max-width: 60rem; }
.statements li { padding: 0.45rem 0 0.45rem 0.8rem; border-left: 4px solid var(--line);
  margin: 0.4rem 0; overflow-wrap: anywhere; }
.statements .mark { font-weight: 700; font-size: 0.78rem; text-transform: uppercase;
  letter-spacing: 0.03em; margin-right: 0.3rem; }
.holds { border-color: var(--good) !important; } .holds .mark { color: var(--good); }
.fails { border-color: var(--bad) !important; } .fails .mark { color: var(--bad); }
.open { border-color: var(--unsure) !important; } .open .mark { color: var(--unsure); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem 1.5rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure.wide { grid-column: 1 / -1; }
figure img { width: 100%; height: auto; display: block; }
figure.wide img { min-width: 34rem; max-width: 60rem; }
figcaption { font-size: 0.85rem; color: var(--soft); overflow-wrap: anywhere; max-width: 60rem; }
details { font-size: 0.85rem; color: var(--soft); max-width: 60rem; }
summary { cursor: pointer; }
dl { margin: 0.4rem 0; }
dt { font-weight: 600; color: var(--text); }
dd { margin: 0 0 0.3rem 1rem; overflow-wrap: anywhere; }
.facts { font-size: 0.85rem; display: grid; grid-template-columns: minmax(6rem, max-content) 1fr;
  gap: 0.15rem 1rem; }
.facts dd { margin: 0; }
footer { margin-top: 2.5rem; font-size: 0.82rem; color: var(--soft); }
@media (max-width: 40rem) {
  main { padding: 0.3rem 0.7rem 2rem; }
  th, td { padding: 0.35rem 0.3rem; }
  table { font-size: 0.8rem; }
  tbody th { min-width: 6.5rem; max-width: 8.5rem; position: sticky; left: 0;
    background: var(--page); }
  td.value small { min-width: 0; }
  .dot { margin-right: 0.2em; }
  .facts { grid-template-columns: 1fr; } .facts dd { margin-bottom: 0.4rem; }
}
@media print {
  nav { display: none; }
  main { max-width: none; padding: 0; }
  html { font-size: 11px; }
  h2, h3 { break-after: avoid; }
  tr, li, dt { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; }
  figure.wide img { min-width: 0; }
  .plots { grid-template-columns: 1fr 1fr; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
