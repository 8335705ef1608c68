"""How the report looks: its colours; page.css has the rest."""

CLASS_COLOURS = {"abnormal": "#de340a", "normal": "#0072d4"}  # as in the overlays
PALETTE = ("#1f2933", "#8fb8de", "#5a9e8f", "#c9a227", "#a78bba")
# Of runs: each 4.5 : 1 or more against paper, and neighbours differ in colour and in dashes.
RUN_COLOURS = ("#0b6fa4", "#c2410c", "#1f2933", "#0f766e", "#7c3aed")
RUN_DASHES = ("", "7 3", "2 3", "10 3 2 3")
