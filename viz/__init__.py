"""Results in, Plotly figures out: pure functions that know no torch and no Dash.

Every figure function takes `dark`, shows every number with its unit, and identifies tokens and
heads by their indices, never by their text. Text that comes from a prompt or a vocabulary is
escaped, so that a figure shows it literally.
"""
