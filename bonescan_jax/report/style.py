"""How the report looks: its colours; page.css has the rest."""

CLASS_COLOURS = {"abnormal": "#de340a", "normal": "#0072d4"}  # as in the overlays
PALETTE = ("#1f2933", "#8fb8de", "#5a9e8f", "#c9a227", "#a78bba")
