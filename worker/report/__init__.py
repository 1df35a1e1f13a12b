"""The evaluation as a page and as a picture."""
