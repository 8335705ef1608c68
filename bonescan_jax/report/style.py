"""How the report looks: its colours; page.css has the rest."""

CLASS_COLOURS = {"abnormal": "#de340a", "normal": "#0072d4"}  # as in the overlays
PALETTE = ("#1f2933", "#3b82b8", "#2f7f6f", "#8a6d00", "#7c5fa0")
# Of runs: each 4.5 : 1 or more against paper. A line differs from the next in colour and in dashes.
RUN_COLOURS = ("#0b6fa4", "#c2410c", "#1f2933", "#0f766e", "#7c3aed")
DASHES = ("", "7 3", "2 3", "10 3 2 3")
