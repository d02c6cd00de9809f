"""The panels of the page, one module each: `layout()` and `register(app, services)`."""
