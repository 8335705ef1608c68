"""How the report looks: its colours and its style sheet."""

CLASS_COLOURS = {"abnormal": "#de340a", "normal": "#0072d4"}  # as in the overlays
PALETTE = ("#1f2933", "#8fb8de", "#5a9e8f", "#c9a227", "#a78bba")

STYLE = """
:root { color: #1f2933; background: #fff; font: 16px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", "DejaVu Sans", sans-serif; }
body { margin: 0; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; font-weight: 600; margin: 0; }
h1 em { font-style: normal; color: #0b6fa4; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid #d5dbe1; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.note, figcaption { color: #5b6772; font-size: .875rem; }
.missing { color: #5b6772; font-style: italic; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem;
  margin: .75rem 0; display: block; overflow-x: auto; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid #e6eaee;
  white-space: nowrap; }
th:first-child { text-align: left; }
thead th { font-weight: 600; color: #3e4c59; vertical-align: bottom; white-space: normal;
  line-height: 1.3; }
thead th[colspan] { text-align: center; border-left: 1px solid #e6eaee; }
thead tr:nth-child(2) th:first-child { text-align: right; }
tbody th { font-weight: 400; }
tr.selected { background: #eef5fa; }
tr.selected th, tr.selected td { font-weight: 600; }
small { color: #0b6fa4; font-weight: 400; margin-left: .4em; }
.settings { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr));
  gap: .75rem 1.5rem; margin: 0; }
dt { color: #5b6772; font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr));
  gap: 1.5rem; }
.charts figure { max-width: 35rem; }
figure { margin: 0; }
.chart { width: 100%; height: auto; font-size: 12px; fill: #5b6772; }
.chart-title { font-size: 14px; font-weight: 600; fill: #1f2933; }
.grid { stroke: #e6eaee; } .axis { stroke: #9aa5b1; }
.line { fill: none; stroke-linejoin: round; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(28rem, 1fr));
  gap: 1.5rem; }
.pictures img { width: 100%; border: 1px solid #e6eaee; }
pre { font-size: .8rem; background: #f6f8fa; padding: 1rem; overflow-x: auto; }
summary { cursor: pointer; }
@media print { main { max-width: none; padding: 0; } figure, table { break-inside: avoid; } }
"""
