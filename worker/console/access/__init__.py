"""Who gets into the console, and as whom."""
