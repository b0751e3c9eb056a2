"""Pictures, one file per kind; each is drawn once and serves as SVG, as PNG and inside a page."""
